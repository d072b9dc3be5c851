package ipam

import (
	"net/netip"
	"testing"
	"time"
)

// TestSharesComeToRest: hosts that join find shares, also when there are more hosts than addresses; then nothing more is
// written or asked, and who needs an address all the same gets one of the last.
func TestSharesComeToRest(t *testing.T) {
	for name, c := range map[string]struct {
		subnet string
		hosts  int
		share  uint64 // that every host has
	}{
		"few":      {"10.40.0.0/20", 4, 500},
		"many":     {"10.40.0.0/20", 50, 1},
		"too many": {"10.40.0.0/27", 50, 0},
		"smallest": {"10.40.0.0/29", 5, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, c.hosts, func(t *testing.T, l *lab) {
				const vni = 9
				for i, h := range l.hosts {
					l.check(h.JoinNetwork(vni, netip.MustParsePrefix(c.subnet), i == 0))
				}
				later(10 * time.Second)
				busy := func() (n uint64) {
					for _, h := range l.hosts {
						h.mu.Lock()
						sp := h.scopes[vni].spaces[0]
						n += sp.ring.Serial(h.id) + h.counts.AsksSent
						if free := sp.pool.Available(sp.ring.Owned(h.id)); free < c.share {
							t.Errorf("host %s has %d addresses, want at least %d", h.id.Short(), free, c.share)
						}
						h.mu.Unlock()
					}
					return n
				}
				before := busy()
				later(time.Minute)
				if n := busy() - before; n != 0 {
					t.Errorf("%d books written and asks sent in an idle minute", n)
				}
				last := l.hosts[len(l.hosts)-1]
				if _, err := last.Allocate(t.Context(), vni, "needed", netip.Addr{}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
