package link

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/wire"
)

const (
	ethernet = 1500 - 28
	jumbo    = 9000 - 28
)

// sizeWorld is a world whose underlay drops what is longer than its width, saying nothing.
func sizeWorld(t *testing.T, limit, width int) *world {
	w := newWorld(t)
	w.limit, w.width = limit, width
	return w
}

func TestLengthBeginsAtTheFloor(t *testing.T) {
	w := sizeWorld(t, jumbo, jumbo)
	if _, ok := w.run(5*time.Second, w.bothUp); !ok {
		t.Fatal("link is not up")
	}
	l := New(w.now)
	l.Established(w.now, 1, true, Direct(epB))
	out := l.SetLimit(w.now, jumbo)
	if l.Payload() != wire.MinPath {
		t.Errorf("payload %d before any answer, want %d", l.Payload(), wire.MinPath)
	}
	if len(out.Pings) != 1 || out.Pings[0].Size != jumbo {
		t.Errorf("pings %+v, want one of %d bytes at once", out.Pings, jumbo)
	}
	if d, ok := w.run(time.Second, func() bool { return w.ends[0].link.Payload() == jumbo }); !ok {
		t.Errorf("payload %d after %v on a path that takes all", w.ends[0].link.Payload(), d)
	}
}

// TestLengthOfNarrowPaths: the search ends close to the truth, never above it.
func TestLengthOfNarrowPaths(t *testing.T) {
	for _, width := range []int{wire.MinPath, 1300, 1400, ethernet, 4000, 8900, jumbo} {
		for _, limit := range []int{wire.MinPath, ethernet, jumbo} {
			w := sizeWorld(t, limit, width)
			best := min(width, limit)
			_, ok := w.run(20*time.Second, func() bool {
				for _, e := range w.ends {
					if got := e.link.Payload(); got > max(best, wire.MinPath) {
						t.Fatalf("width %d, limit %d: payload %d is too long", width, limit, got)
					}
				}
				return w.bothUp() && w.ends[0].link.Payload() > best-probeClose && w.ends[1].link.Payload() > best-probeClose
			})
			if !ok {
				t.Errorf("width %d, limit %d: payload %d after 20 s", width, limit, w.ends[0].link.Payload())
			}
		}
	}
}

// TestLengthFollowsThePath: while there is traffic a path that becomes narrower is noticed within 4 s, and stays up; one
// that becomes wider within the raise timer.
func TestLengthFollowsThePath(t *testing.T) {
	w := sizeWorld(t, ethernet, ethernet)
	l := w.ends[0].link
	if _, ok := w.run(5*time.Second, func() bool { return l.Payload() == ethernet }); !ok {
		t.Fatalf("payload %d", l.Payload())
	}
	traffic := func() { w.ends[0].env.Sent += 10; w.ends[1].env.Sent += 10 } // each 5 ms
	w.width = wire.MinPath
	if _, ok := w.run(4*time.Second, func() bool { traffic(); return l.Payload() == wire.MinPath }); !ok {
		t.Fatalf("payload %d on a path of %d", l.Payload(), w.width)
	}
	w.run(20*time.Second, func() bool {
		traffic()
		if !w.bothUp() || l.Payload() > wire.MinPath {
			t.Fatalf("up %v with payload %d", w.bothUp(), l.Payload())
		}
		return false
	})
	w.width = ethernet
	if _, ok := w.run(raiseAfter+time.Minute, func() bool { return l.Payload() == ethernet }); !ok {
		t.Errorf("payload %d on a path that became wide", l.Payload())
	}
}

// TestLengthSurvivesLoss: a fifth of all packets lost must not look like a narrow path for long.
func TestLengthSurvivesLoss(t *testing.T) {
	w := sizeWorld(t, ethernet, ethernet)
	w.loss = 0.2
	l := w.ends[0].link
	good := 0
	const steps = 12000
	for range steps {
		w.run(5*time.Millisecond, func() bool { return false })
		w.ends[0].env.Sent++
		if l.Payload() == ethernet {
			good++
		}
	}
	if good < steps*3/4 {
		t.Errorf("the full length was used %d of %d times", good, steps)
	}
}

func TestIdleLinksAskNothing(t *testing.T) {
	w := sizeWorld(t, ethernet, ethernet)
	w.run(5*time.Second, func() bool { return w.ends[0].link.Payload() == ethernet && w.ends[1].link.Payload() == ethernet })
	before := w.long
	w.run(5*time.Minute, func() bool { return false })
	if w.long != before {
		t.Errorf("%d long packets in 5 idle minutes", w.long-before)
	}
}

func TestLengthOfRelayedPaths(t *testing.T) {
	l, now := New(time.Unix(0, 0)), time.Unix(0, 0)
	l.Established(now, 1, true, Via(ident.HostID{1}))
	l.SetLimit(now, ethernet-wire.RelayTotal)
	if want := wire.MinPath - wire.RelayTotal; l.Payload() != want {
		t.Errorf("payload %d through a relay, want %d", l.Payload(), want)
	}
	// Another path: nothing learnt of the first one holds.
	l.Received(now, 1, Direct(netip.AddrPortFrom(epA.Addr(), 1)))
	l.addr = Direct(epA)
	l.SetLimit(now, ethernet)
	if l.Payload() != wire.MinPath {
		t.Errorf("payload %d on a new path, want %d", l.Payload(), wire.MinPath)
	}
}
