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

// TestLengthFollowsThePath: while there is traffic a path that becomes narrower is noticed, and stays up; one that becomes
// wider within the raise timer.
func TestLengthFollowsThePath(t *testing.T) {
	w := sizeWorld(t, ethernet, ethernet)
	l := w.ends[0].link
	if _, ok := w.run(5*time.Second, func() bool { return l.Payload() == ethernet }); !ok {
		t.Fatalf("payload %d", l.Payload())
	}
	traffic := func() { w.ends[0].env.Sent += 10; w.ends[1].env.Sent += 10 } // each 5 ms
	w.width = wire.MinPath
	if _, ok := w.run(holeFound, func() bool { traffic(); return l.Payload() == wire.MinPath }); !ok {
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

// holeFound is how long a path may swallow what is long, on a round trip of 20 ms.
const holeFound = 1300 * time.Millisecond

// TestBlackHole: whenever a path begins to swallow long packets, in either direction or both, and whether frames go there all
// the time or now and then: the length in use is one that passes soon after the first frame was lost.
func TestBlackHole(t *testing.T) {
	for _, limit := range []int{ethernet, jumbo} {
		for _, every := range []time.Duration{5 * time.Millisecond, 333 * time.Millisecond, time.Second, 7 * time.Second} {
			for phase := range 40 {
				w := sizeWorld(t, limit, limit)
				if _, ok := w.run(5*time.Second, func() bool {
					return w.ends[0].link.Payload() == limit && w.ends[1].link.Payload() == limit
				}); !ok {
					t.Fatalf("payload %d", w.ends[0].link.Payload())
				}
				var last time.Time
				traffic := func() {
					if w.now.Sub(last) >= every {
						last = w.now
						w.ends[0].env.Sent++
					}
				}
				w.run(8*time.Second+time.Duration(phase)*25*time.Millisecond, func() bool { traffic(); return false })
				w.width = 1300
				last = time.Time{} // a frame that is lost
				took, ok := w.run(holeFound, func() bool { traffic(); return w.ends[0].link.Payload() <= 1300 })
				if !ok {
					t.Fatalf("limit %d, a frame each %v, phase %d: payload %d after %v", limit, every, phase, w.ends[0].link.Payload(), took)
				}
				// The rest is found in peace: close to the truth, never above it, the link up all the time.
				if _, ok := w.run(30*time.Second, func() bool {
					traffic()
					if got := w.ends[0].link.Payload(); got > 1300 || !w.bothUp() || w.ends[0].link.misses > 0 {
						t.Fatalf("payload %d, up %v, %d misses", got, w.bothUp(), w.ends[0].link.misses)
					}
					return w.ends[0].link.Payload() > 1300-probeClose
				}); !ok {
					t.Errorf("limit %d: payload %d in the end", limit, w.ends[0].link.Payload())
				}
			}
		}
	}
}

// TestOutageIsNoBlackHole: a path that carries nothing for a moment keeps its length.
func TestOutageIsNoBlackHole(t *testing.T) {
	for phase := range 20 {
		w := sizeWorld(t, ethernet, ethernet)
		l := w.ends[0].link
		if _, ok := w.run(5*time.Second, func() bool { return l.Payload() == ethernet }); !ok {
			t.Fatalf("payload %d", l.Payload())
		}
		check := func() bool {
			w.ends[0].env.Sent++
			if l.Payload() != ethernet {
				t.Fatalf("phase %d: payload %d", phase, l.Payload())
			}
			return false
		}
		w.run(time.Duration(phase)*50*time.Millisecond, check)
		w.pass = func(int, Addr) bool { return false }
		w.run(1200*time.Millisecond, check)
		w.pass = func(int, Addr) bool { return true }
		w.run(3*time.Second, check)
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

// TestIdleLinksAskNothing: and want no more than a Tick a second; those in use ask about twice a second, however much they carry.
func TestIdleLinksAskNothing(t *testing.T) {
	w := sizeWorld(t, ethernet, ethernet)
	w.run(5*time.Second, func() bool { return w.ends[0].link.Payload() == ethernet && w.ends[1].link.Payload() == ethernet })
	before := w.long
	w.run(5*time.Minute, func() bool { return false })
	if w.long != before || !w.ends[0].link.Idle() {
		t.Errorf("%d long packets in 5 idle minutes; idle: %v", w.long-before, w.ends[0].link.Idle())
	}
	w.run(time.Minute, func() bool { w.ends[0].env.Sent += 100; return false })
	if n := w.long - before; n < 60 || n > 150 || w.ends[0].link.Idle() {
		t.Errorf("%d long packets in a busy minute; idle: %v", n, w.ends[0].link.Idle())
	}
	w.run(stillBusy+time.Second, w.ends[0].link.Idle)
	if !w.ends[0].link.Idle() {
		t.Error("not idle when the traffic has ended")
	}
}

// TestQuietLinksAskSeldom: every 5 s, less often where the host has many, but never so seldom that a packet filter on the way forgets.
func TestQuietLinksAskSeldom(t *testing.T) {
	for _, c := range []struct{ told, want time.Duration }{
		{0, 5 * time.Second}, {time.Second, 5 * time.Second}, {10 * time.Second, 10 * time.Second}, {time.Hour, 15 * time.Second},
	} {
		w := sizeWorld(t, ethernet, ethernet)
		for _, e := range w.ends {
			e.env.Quiet = c.told
		}
		w.run(20*time.Second, func() bool { return false })
		before := w.pings
		const minutes = 10
		w.run(minutes*time.Minute, func() bool { return false })
		if n, want := w.pings-before, 2*int(minutes*time.Minute/c.want); n < want-2 || n > want+20 { // a few more with each new key
			t.Errorf("told %v: both ends ask %d times in %d minutes, want %d", c.told, n, minutes, want)
		}
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
