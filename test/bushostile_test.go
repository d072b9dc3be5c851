//go:build hostile

package test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestBusHostile: a member that has the bus's key and sends lies all the time (busHostile) takes little of the rate that the others have, as fast as it
// goes: 5 % at most. All of them share the processors, with whatever else this machine does, so the rate is counted by the processor time that they
// had or left unused; and each storm is compared with the times before and after it, in which the liar sends as much to nobody. Of these ratios
// the median counts. It runs by make bus-hostile, see docs/roadmap.md.
func TestBusHostile(t *testing.T) {
	const receivers, window = 49, 4 << 20
	rounds, d := times(15, 21), time.Duration(times(1, 4))*time.Second
	c := crowdOf(t, "counter", receivers, 8192)
	h := c.u.Host("liar")
	c.u.Queue(h)
	liar := busMemberOf(c.program, h, "hostile", c.token, c.hosts[0].IP)
	liar.ExpectLine("^subscribed$", 30*time.Second)
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
	burns, storms, kept := []float64{measure("burn")}, []float64{}, []float64{}
	for i := range rounds {
		storms, burns = append(storms, measure("storm")), append(burns, measure("burn"))
		kept = append(kept, 2*storms[i]/(burns[i]+burns[i+1]))
	}
	liar.Send("calm")
	t.Logf("messages a second of processor time: storms %.0f, between them %.0f", storms, burns)
	median := slices.Sorted(slices.Values(kept))[rounds/2]
	t.Logf("the others have %.3f of their rate (median of %.3f)", median, kept)
	if median < 0.95 {
		t.Errorf("the others have %.3f of their rate", median)
	}
	if grown := c.heap() - idle; grown > 1.25*window {
		t.Errorf("the publisher's heap grew by %.0f bytes with a window of %d", grown, window)
	}
	if lost := slices.Max(tallyOf(t, c.subs).lost); lost > 0 {
		t.Errorf("a receiver lost messages %v times", lost)
	}
	liar.CloseStdin()
	c.end()
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
