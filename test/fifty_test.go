package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestFiftyHosts: fifty hosts know each other within 30 s of the last start, stay under 40 MB each, and idle: all together
// use less than a third of a core.
func TestFiftyHosts(t *testing.T) {
	const (
		n       = 50
		maxRSS  = 40 << 20
		maxCPU  = 1.0 / 3 // of one core, all together
		measure = 10 * time.Second
	)
	w := rig.New(t)
	u := w.Cloud()
	hosts := make([]*rig.Host, n)
	for i := range hosts {
		hosts[i] = u.Host(fmt.Sprintf("h%02d", i+1))
	}
	rig.MulticastProbe(t, hosts[0], hosts[1])
	hosts[0].Up()
	for _, h := range hosts[1:] {
		h.Launch(hosts[0].Endpoint())
	}
	rig.AllKnowAll(t, 30*time.Second, hosts...)

	first, last := startAgent(t, hosts[0], "first"), startAgent(t, hosts[n-1], "last")
	converse(t, "239.50.50.50", first, last)

	cpu := func() (sum time.Duration) {
		for _, h := range hosts {
			c, err := h.Daemon().CPU()
			if err != nil {
				t.Fatalf("%s: %v", h.Name, err)
			}
			sum += c
		}
		return sum
	}
	rig.Pause(t, 30*time.Second) // address shares have found their owners, the cluster idles
	before, start := cpu(), time.Now()
	rig.Pause(t, measure)
	if share := float64(cpu()-before) / float64(time.Since(start)); share > maxCPU {
		t.Errorf("%d idle hosts use %.2f of a core, want less than %.2f", n, share, maxCPU)
	} else {
		t.Logf("%d idle hosts use %.3f of a core", n, share)
	}
	var most int64
	for _, h := range hosts {
		rss, err := h.Daemon().RSS()
		if err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		most = max(most, rss)
		if rss > maxRSS {
			t.Errorf("%s uses %d MB, want less than %d", h.Name, rss>>20, maxRSS>>20)
		}
	}
	t.Logf("the largest host uses %d MB", most>>20)
}
