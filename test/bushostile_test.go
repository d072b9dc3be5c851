package test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// liar starts a member that has the bus's key (busHostile), on a host of its own.
func (c *busCrowd) liar() *rig.Process {
	c.t.Helper()
	h := c.u.Host("liar")
	c.u.Queue(h)
	liar := busMemberOf(c.program, h, "hostile", c.token, c.hosts[0].IP)
	liar.ExpectLine("^subscribed$", 30*time.Second)
	return liar
}

// TestBusHostile: a member that has the bus's key and sends lies all the time (busHostile), a thousand packets a second to the publisher
// and fifty to all, takes no more than 5 % of the rate that 49 others have, of none of them: neither the first time nor after it has been
// doing so for long. Nobody loses anything, and the publisher's memory stays within its window.
func TestBusHostile(t *testing.T) {
	const receivers, window, rate = 49, 2 << 20, 20_000
	d := time.Duration(times(5, 30)) * time.Second
	c := crowdOf(t, "counter", receivers, 8192)
	liar := c.liar()
	idle := c.heap()
	c.pub.Send(fmt.Sprint("stream load.x ", rate, " ", window))
	rig.Eventually(t, 20*time.Second, func() error { // it has come up to the rate
		if mean, _ := rateOver(t, c.subs, time.Second); mean < 0.98*rate || mean > 1.02*rate {
			return fmt.Errorf("%.0f messages a second, want %d", mean, rate)
		}
		return nil
	})
	for i := range 4 {
		liar.Send("storm")
		liar.ExpectLine("^storm", 5*time.Second)
		mean, least := rateOver(t, c.subs, d)
		t.Logf("storm %d: %.3f of the rate, %.3f at the slowest", i, mean/rate, least/rate)
		if least < 0.95*rate {
			t.Errorf("storm %d: the others have %.3f of the rate, the slowest %.3f", i, mean/rate, least/rate)
		}
		if i == 1 {
			liar.Send("calm")
			rig.Pause(t, 2*time.Second)
		}
	}
	c.unharmed(liar, idle, 1.5*window)
}

// unharmed ends a run with a liar: nobody has lost anything, and the publisher's heap has grown by no more than most bytes.
func (c *busCrowd) unharmed(liar *rig.Process, idle, most float64) {
	c.t.Helper()
	liar.Send("calm")
	if grown := c.heap() - idle; grown > most {
		c.t.Errorf("the publisher's heap grew by %.0f bytes, at most %.0f should be", grown, most)
	}
	if lost := slices.Max(tallyOf(c.t, c.subs).lost); lost > 0 {
		c.t.Errorf("a receiver lost messages %v times", lost)
	}
	liar.CloseStdin()
	c.end()
}
