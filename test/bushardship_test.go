package test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// tally is what receivers have got at one time.
type tally struct {
	got, lost, at []float64 // at: in seconds
}

func tallyOf(t *testing.T, of []*rig.Process) (a tally) {
	t.Helper()
	for _, s := range of {
		s.Send("count")
	}
	for _, s := range of {
		v := fields(t, s.ExpectLine("^count ", 20*time.Second), 1)
		a.got, a.lost, a.at = append(a.got, v[0]), append(a.lost, v[1]), append(a.at, v[2]/1e6)
	}
	return a
}

// rate is what the receivers of a tally got since, in messages a second: the mean, and that of the slowest.
func (a tally) rate(now tally) (mean, least float64) {
	least = 1e12
	for i := range a.got {
		r := (now.got[i] - a.got[i]) / (now.at[i] - a.at[i])
		mean, least = mean+r/float64(len(a.got)), min(least, r)
	}
	return mean, least
}

// rateOver is what receivers get in a time.
func rateOver(t *testing.T, of []*rig.Process, d time.Duration) (mean, least float64) {
	t.Helper()
	before := tallyOf(t, of)
	rig.Pause(t, d)
	return before.rate(tallyOf(t, of))
}

// heap returns the publisher's live heap in bytes.
func (c *busCrowd) heap() float64 {
	c.t.Helper()
	c.pub.Send("heap")
	return fields(c.t, c.pub.ExpectLine("^heap ", 20*time.Second), 1)[0]
}

// TestBusHardship: of fifty receivers, each a process in a namespace of its own, one is stopped, and reads one message a second later: the
// others keep 98 % of their rate, none of them loses anything, the publisher's memory stays within its window, and
// the one is told what it lost within a second of going on.
func TestBusHardship(t *testing.T) {
	// A socket holds some 5,000 packets, or five seconds of this; the window one and a half.
	const receivers, window, rate = 50, 2 << 20, 20_000
	d := time.Duration(times(12, 60)) * time.Second
	c := crowdOf(t, "counter", receivers, 1024)
	bad, others := c.subs[0], c.subs[1:]
	idle := c.heap()
	c.pub.Send(fmt.Sprint("stream load.x ", rate, " ", window))
	rig.Eventually(t, 20*time.Second, func() error { // it has come up to the rate
		if mean, _ := rateOver(t, others, time.Second); mean < 0.98*rate || mean > 1.02*rate {
			return fmt.Errorf("%.0f messages a second, want %d", mean, rate)
		}
		return nil
	})
	before, least := rateOver(t, others, d/2)
	t.Logf("undisturbed: %.0f messages a second, %.0f at the slowest", before, least)

	told := func(what string, goOn func()) {
		t.Helper()
		had := bad.Count("^lost")
		at := time.Now()
		goOn()
		rig.Eventually(t, time.Second, func() error {
			if bad.Count("^lost") == had {
				return fmt.Errorf("%s: not told of any loss", what)
			}
			return nil
		})
		t.Logf("%s: told after %v", what, time.Since(at).Round(time.Millisecond))
	}
	check := func(what string) {
		t.Helper()
		mean, least := rateOver(t, others, d)
		grown := c.heap() - idle
		t.Logf("%s: %.3f of the rate, %.3f at the slowest; the publisher's heap grew by %.2f windows", what, mean/before, least/before, grown/window)
		if mean < 0.98*before {
			t.Errorf("%s: the others have %.3f of their rate", what, mean/before)
		}
		if grown > 1.5*window {
			t.Errorf("%s: the publisher's heap grew by %.0f bytes with a window of %d", what, grown, window)
		}
	}
	bad.Signal(syscall.SIGSTOP)
	check("one stopped")
	told("it goes on", func() { bad.Signal(syscall.SIGCONT) })

	bad.Send("slow")
	check("one slow")
	told("it reads again", func() { bad.Send("fast") })
	if lost := slices.Max(tallyOf(t, others).lost); lost > 0 {
		t.Errorf("another lost messages %v times", lost)
	}
	c.end()
}
