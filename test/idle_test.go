package test

import (
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestIdleDaemon: half a minute after traffic has stopped a daemon uses less than half a percent of a core, members of groups
// attached.
func TestIdleDaemon(t *testing.T) {
	const (
		maxCPU  = 0.005 // of one core, each
		measure = 10 * time.Second
	)
	_, h := cloud(t, 2)
	a, b := startAgent(t, h[0], "a"), startAgent(t, h[1], "b")
	converse(t, "239.6.6.6", a, b)
	ping := h[0].RunWith([]string{"--name", "ping"}, "ping", "-n", "-q", "-i", "0.002", "-c", "1000", b.ip4())
	if code := ping.Wait(30 * time.Second); code != 0 {
		t.Fatalf("ping to %s: exit %d", b.ip4(), code)
	}

	rig.Pause(t, 30*time.Second) // links are asked seldom again, and what the start stirred up has settled
	cpu := func(h *rig.Host) time.Duration {
		c, err := h.Daemon().CPU()
		if err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		return c
	}
	before, start := []time.Duration{cpu(h[0]), cpu(h[1])}, time.Now()
	rig.Pause(t, measure)
	for i, h := range h {
		if share := float64(cpu(h)-before[i]) / float64(time.Since(start)); share > maxCPU {
			t.Errorf("%s idles with %.2f %% of a core, want at most %.2f %%", h.Name, 100*share, 100*maxCPU)
		} else {
			t.Logf("%s idles with %.2f %% of a core", h.Name, 100*share)
		}
	}
}
