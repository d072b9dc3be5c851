//go:build hostile

package test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestBusHostileLoad: what TestBusHostile's liar costs as fast as all go, on two processors that 51 processes share with whatever else this machine
// does: 5 % of the others' rate at most. The rate is counted by the processor time that they had or left unused, and each storm is compared with
// the times before and after it, in which the liar sends as much to nobody; of these ratios the median counts. What a stranger takes who sends
// the same packets, with a bit changed so that they are nobody's, is printed beside it: that is the price of being sent anything at all. It runs by
// make bus-hostile, see docs/roadmap.md.
func TestBusHostileLoad(t *testing.T) {
	const receivers, window = 49, 4 << 20
	rounds, d := times(21, 31), time.Duration(times(2, 4))*time.Second
	c := crowdOf(t, "counter", receivers, 8192)
	liar := c.liar()
	idle := c.heap()
	c.pub.Send(fmt.Sprint("stream load.x 0 ", window))
	rig.Pause(t, 2*time.Second)
	all := append([]*rig.Process{c.pub, liar}, c.subs...)
	measure := func(what string) float64 {
		t.Helper()
		liar.Send(what)
		liar.ExpectLine("^"+what, 5*time.Second)
		rig.Pause(t, 300*time.Millisecond)
		start, had := time.Now(), processorTime(t, all)
		mean, _ := rateOver(t, c.subs, d)
		return mean * time.Since(start).Seconds() / (processorTime(t, all) - had).Seconds()
	}
	before := measure("burn")
	var storms, strangers []float64
	for range rounds {
		storm, between, stranger := measure("storm"), measure("burn"), measure("noise")
		after := measure("burn")
		storms, strangers = append(storms, 2*storm/(before+between)), append(strangers, 2*stranger/(between+after))
		before = after
	}
	median := func(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }
	t.Logf("the others have %.3f of their rate (median of %.3f), and %.3f when it is a stranger (median of %.3f)", median(storms), storms, median(strangers), strangers)
	if kept := median(storms); kept < 0.95 {
		t.Errorf("the others have %.3f of their rate", kept)
	}
	c.unharmed(liar, idle, 1.25*window)
}

// processorTime is what processes have had of all processors, and what nobody has had.
func processorTime(t *testing.T, of []*rig.Process) time.Duration {
	t.Helper()
	sum, err := rig.IdleTime()
	for _, p := range of {
		if err != nil {
			break
		}
		var used time.Duration
		used, err = p.CPU()
		sum += used
	}
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
