package link

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

var (
	relayR = ident.HostID{'R'}
	epA    = netip.MustParseAddrPort("192.0.2.1:6783")
	epB    = netip.MustParseAddrPort("192.0.2.2:6783")
)

// world drives the two ends of one link over an underlay that passes or drops by address.
type world struct {
	t     *testing.T
	now   time.Time
	ends  [2]*end
	queue []delivery
	next  uint32
	// pass decides whether a packet of end i to address a gets through.
	pass func(i int, a Addr) bool
	// from gives the address under which end i is seen when it sends to a.
	from func(i int, a Addr) Addr
	loss float64
	rng  *rand.Rand

	limit int // what interfaces say of the path, 0: not told
	width int // longer packets vanish, 0: none
	long  int // packets of a stated length that were sent
	pings int
}

type end struct {
	link  *Link
	env   Env
	held  map[uint32]bool // sessions this end has keys for
	epoch int             // counts restarts
}

type delivery struct {
	at time.Time
	do func()
}

const oneWay = 10 * time.Millisecond

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: time.Unix(1000, 0), rng: rand.New(rand.NewPCG(1, 2))}
	w.pass = func(int, Addr) bool { return true }
	w.from = func(i int, a Addr) Addr {
		if a.IsRelay() {
			return a
		}
		return Direct([]netip.AddrPort{epA, epB}[i])
	}
	for i := range w.ends {
		w.ends[i] = &end{link: New(w.now), held: map[uint32]bool{}}
	}
	w.ends[0].link.SetCandidates([]netip.AddrPort{epB})
	w.ends[1].link.SetCandidates([]netip.AddrPort{epA})
	return w
}

func (w *world) send(i int, a Addr, deliver func(from Addr)) {
	if !w.pass(i, a) || w.rng.Float64() < w.loss {
		return
	}
	from, epoch := w.from(i, a), w.ends[1-i].epoch
	w.queue = append(w.queue, delivery{at: w.now.Add(oneWay), do: func() {
		if w.ends[1-i].epoch == epoch {
			deliver(from)
		}
	}})
}

func (w *world) act(i int, out Out) {
	me, other := w.ends[i], w.ends[1-i]
	for _, s := range out.Release {
		delete(me.held, s)
	}
	for _, a := range out.Hellos {
		w.send(i, a, func(from Addr) { // the responder's half
			w.next++
			id := w.next
			other.held[id] = true
			w.act(1-i, other.link.Established(w.now, id, false, from))
			w.send(1-i, from, func(back Addr) { // the initiator's half
				me.held[id] = true
				w.act(i, me.link.Established(w.now, id, true, back))
			})
		})
	}
	if w.limit > 0 && out.Changed && me.link.Use() != 0 {
		w.act(i, me.link.SetLimit(w.now, w.limit))
	}
	for _, p := range out.Pings {
		w.pings++
		if p.Size > 0 {
			w.long++
		}
		if w.width > 0 && p.Size > w.width {
			continue
		}
		s := me.link.Use()
		w.send(i, p.To, func(from Addr) {
			if !other.held[s] {
				return
			}
			w.act(1-i, other.link.Received(w.now, s, from))
			w.send(1-i, from, func(Addr) {
				if me.held[s] {
					w.act(i, me.link.Pong(w.now, p.ID))
				}
			})
		})
	}
}

// run lets time pass until cond holds, at most for d.
func (w *world) run(d time.Duration, cond func() bool) (time.Duration, bool) {
	start := w.now
	for w.now.Sub(start) < d {
		if cond() {
			return w.now.Sub(start), true
		}
		w.now = w.now.Add(5 * time.Millisecond)
		for {
			i := slices.IndexFunc(w.queue, func(q delivery) bool { return !q.at.After(w.now) })
			if i < 0 {
				break
			}
			q := w.queue[i]
			w.queue = slices.Delete(w.queue, i, i+1)
			q.do()
		}
		if w.now.UnixMilli()%100 < 5 {
			for i, e := range w.ends {
				w.act(i, e.link.Tick(w.now, e.env))
			}
		}
	}
	return d, cond()
}

func (w *world) bothUp() bool {
	return w.ends[0].link.Up(w.now) && w.ends[1].link.Up(w.now)
}

func (w *world) must(d time.Duration, what string, cond func() bool) {
	w.t.Helper()
	took, ok := w.run(d, cond)
	if !ok {
		w.t.Fatalf("%s: not within %v; a: %s, b: %s", what, d, describe(w.ends[0].link), describe(w.ends[1].link))
	}
	w.t.Logf("%s: after %v", what, took)
}

func describe(l *Link) string {
	return fmt.Sprintf("state %d addr %v use %d misses %d reason %q", l.state, l.addr, l.use, l.misses, l.reason)
}

func (w *world) direct() bool {
	return w.bothUp() && !w.ends[0].link.Addr().IsRelay() && !w.ends[1].link.Addr().IsRelay()
}

func (w *world) relayed() bool {
	return w.bothUp() && w.ends[0].link.Addr().IsRelay() && w.ends[1].link.Addr().IsRelay()
}

func TestDirect(t *testing.T) {
	w := newWorld(t)
	w.must(2*time.Second, "direct", w.direct)
	w.must(2*time.Second, "round trip measured", func() bool { return w.ends[0].link.RTT() > 0 })
	if r := w.ends[0].link.Reason(); r != "" {
		t.Errorf("a direct path has the reason %q", r)
	}
}

func TestRelayAndBack(t *testing.T) {
	w := newWorld(t)
	for _, e := range w.ends {
		e.env.Relays = []ident.HostID{relayR}
	}
	blocked := true
	w.pass = func(_ int, a Addr) bool { return a.IsRelay() || !blocked }
	w.must(3*time.Second, "relayed", w.relayed)
	if w.ends[0].link.Reason() == "" {
		t.Error("a relayed path gives no reason")
	}
	blocked = false
	w.must(5*time.Second, "direct again", w.direct)
	blocked = true
	w.must(8*time.Second, "relayed again", w.relayed)
}

func TestOneWayBlockIsNoPath(t *testing.T) {
	w := newWorld(t)
	w.must(2*time.Second, "direct", w.direct)
	for _, e := range w.ends {
		e.env.Relays = []ident.HostID{relayR}
	}
	w.pass = func(i int, a Addr) bool { return a.IsRelay() || i == 1 } // a to b is lost, b to a passes
	w.must(12*time.Second, "relayed", w.relayed)
}

func TestRoaming(t *testing.T) {
	w := newWorld(t)
	w.ends[0].env.NATed = true
	w.must(2*time.Second, "direct", w.direct)
	moved := Direct(netip.MustParseAddrPort("198.51.100.7:40001"))
	w.from = func(i int, a Addr) Addr {
		if i == 0 {
			return moved
		}
		return Direct(epB)
	}
	w.pass = func(i int, a Addr) bool { return i == 0 || a == moved } // the old mapping is gone
	w.must(3*time.Second, "b sends to the new endpoint", func() bool { return w.ends[1].link.Addr() == moved })
}

// TestRebind: both ends are behind NATs that let in only what was asked for, and the first one's gives it a new
// endpoint. The first end hears of that from a third host.
func TestRebind(t *testing.T) {
	w := newWorld(t)
	old, moved := Direct(epA), Direct(netip.MustParseAddrPort("198.51.100.7:40001"))
	seen := old
	asked := map[Addr]bool{} // by end 1: what its NAT lets in
	punched := false         // end 0 has sent from where it is seen now
	w.from = func(i int, a Addr) Addr {
		switch {
		case a.IsRelay():
			return a
		case i == 0:
			return seen
		}
		return Direct(epB)
	}
	w.pass = func(i int, a Addr) bool {
		switch {
		case a.IsRelay():
			return true
		case i == 0:
			punched = true
			return asked[seen]
		}
		asked[a] = true
		return a == seen && punched
	}
	for _, e := range w.ends {
		e.env = Env{NATed: true, Relays: []ident.HostID{relayR}}
	}
	w.must(5*time.Second, "direct", w.direct)
	w.run(10*time.Second, func() bool { return false })

	seen, punched = moved, false
	w.act(0, w.ends[0].link.Doubt(w.now, w.ends[0].env))
	w.must(500*time.Millisecond, "relayed", w.relayed)
	w.ends[1].link.SetCandidates([]netip.AddrPort{moved.AP})
	w.must(5*time.Second, "direct again", func() bool { return w.direct() && w.ends[1].link.Addr() == moved })
}

// TestDoubtOfAGoodPath: asking changes nothing where the path answers.
func TestDoubtOfAGoodPath(t *testing.T) {
	w := newWorld(t)
	w.must(2*time.Second, "direct", w.direct)
	for _, e := range w.ends {
		e.env.Relays = []ident.HostID{relayR}
	}
	w.run(time.Second, func() bool { return false })
	w.act(0, w.ends[0].link.Doubt(w.now, w.ends[0].env))
	w.run(5*time.Second, func() bool { return false })
	if l := w.ends[0].link; !w.direct() || l.state != stateUp || l.Reason() != "" {
		t.Errorf("a doubt that was not founded left %s", describe(l))
	}
}

// TestWithdrawnEndpointIsLeft: the other host no longer names the endpoint in use.
func TestWithdrawnEndpointIsLeft(t *testing.T) {
	w := newWorld(t)
	w.must(2*time.Second, "direct", w.direct)
	w.run(10*time.Second, func() bool { return false })
	moved := netip.MustParseAddrPort("198.51.100.7:40001")
	w.pass = func(i int, a Addr) bool { return i == 1 || a.AP == moved }
	w.ends[0].link.SetCandidates([]netip.AddrPort{moved})
	w.must(400*time.Millisecond, "at the new endpoint", func() bool { return w.ends[0].link.Addr() == Direct(moved) })
}

// TestTwoAddressesDoNotChase: both ends have two endpoints that work, and each hears the other from
// the one it does not use.
func TestTwoAddressesDoNotChase(t *testing.T) {
	w := newWorld(t)
	six := [2]netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:6783"), netip.MustParseAddrPort("[2001:db8::2]:6783")}
	w.from = func(i int, a Addr) Addr {
		if a.AP.Addr().Is6() {
			return Direct(six[i])
		}
		return Direct([]netip.AddrPort{epA, epB}[i])
	}
	w.ends[0].link.SetCandidates([]netip.AddrPort{epB, six[1]})
	w.ends[1].link.SetCandidates([]netip.AddrPort{six[0], epA})
	w.must(2*time.Second, "direct", w.direct)
	sent := 0
	w.pass = func(int, Addr) bool { sent++; return true }
	moves := 0
	last := [2]Addr{w.ends[0].link.Addr(), w.ends[1].link.Addr()}
	w.run(time.Minute, func() bool {
		for i, e := range w.ends {
			if e.link.Addr() != last[i] {
				last[i] = e.link.Addr()
				moves++
			}
		}
		return false
	})
	if sent > 200 || moves > 4 {
		t.Fatalf("%d packets and %d moves in a quiet minute", sent, moves)
	}
}

func TestRestartOfOneEnd(t *testing.T) {
	w := newWorld(t)
	w.must(2*time.Second, "direct", w.direct)
	w.ends[1] = &end{link: New(w.now), held: map[uint32]bool{}, epoch: 1}
	w.ends[1].link.SetCandidates([]netip.AddrPort{epA})
	w.must(3*time.Second, "direct with the new run", func() bool {
		return w.direct() && w.ends[0].held[w.ends[1].link.Use()] && w.ends[1].held[w.ends[0].link.Use()]
	})
}

func TestRestartUnseenIsFound(t *testing.T) {
	w := newWorld(t)
	w.must(2*time.Second, "direct", w.direct)
	w.ends[1] = &end{link: New(w.now), held: map[uint32]bool{}, epoch: 1} // knows no endpoint: only a can find it
	w.must(12*time.Second, "found again", func() bool {
		return w.direct() && w.ends[1].held[w.ends[0].link.Use()]
	})
}

func TestStaysUpUnderLoss(t *testing.T) {
	w := newWorld(t)
	w.must(2*time.Second, "direct", w.direct)
	w.loss = 0.10
	if took, down := w.run(10*time.Minute, func() bool { return !w.bothUp() }); down {
		t.Fatalf("down after %v of 10 %% loss", took)
	}
}

func TestRekey(t *testing.T) {
	w := newWorld(t)
	w.must(2*time.Second, "direct", w.direct)
	first := w.ends[0].link.Use()
	w.must(200*time.Second, "another session", func() bool {
		return w.ends[0].link.Use() != first && w.ends[1].link.Use() != first
	})
	down := false
	w.run(10*time.Minute, func() bool { down = down || !w.bothUp(); return down })
	if down {
		t.Fatal("a rekey took the link down")
	}
	if n := len(w.ends[0].held); n > maxSessions {
		t.Fatalf("%d sessions held", n)
	}
}

func TestSpentKeyIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.must(2*time.Second, "direct", w.direct)
	first := w.ends[0].link.Use()
	w.ends[0].env.Spent = true
	w.must(2*time.Second, "another session", func() bool { return w.ends[0].link.Use() != first })
}

func TestUnreachableBacksOff(t *testing.T) {
	w := newWorld(t)
	hellos := 0
	w.pass = func(int, Addr) bool { hellos++; return false }
	w.run(time.Minute, func() bool { return false })
	if hellos < 20 || hellos > 60 {
		t.Fatalf("%d handshakes in a minute by two ends, want about one in 4 s each", hellos)
	}
}

// TestAnyInput drives a link with arbitrary inputs: it must keep its bounds and never panic.
func TestAnyInput(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		l, now := New(time.Unix(0, 0)), time.Unix(0, 0)
		addr := func() Addr {
			if r.IntN(3) == 0 {
				return Via(ident.HostID{byte(r.IntN(3) + 1)})
			}
			return Direct(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(20))}), 1))
		}
		for range 500 {
			now = now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
			switch r.IntN(6) {
			case 0:
				l.Established(now, r.Uint32()%50+1, r.IntN(2) == 0, addr())
			case 1:
				l.Received(now, r.Uint32()%50+1, addr())
			case 2:
				l.Pong(now, r.Uint64()%l.nextID)
				if l.use != 0 {
					l.SetLimit(now, 1200+r.IntN(300))
				}
			case 3:
				l.Doubt(now, Env{Relays: []ident.HostID{{1}, {2}}})
				l.SetCandidates([]netip.AddrPort{addr().AP, addr().AP, addr().AP, addr().AP, addr().AP, addr().AP})
			default:
				l.Tick(now, Env{Relays: []ident.HostID{{1}, {2}, {3}}, NATed: r.IntN(2) == 0, Sent: r.Uint64()})
			}
			if len(l.sessions) > maxSessions || len(l.pings) > maxPingsOpen || len(l.direct) > maxDirect {
				t.Fatalf("seed %d: a table outgrew its bound", seed)
			}
			if l.use != 0 && !slices.ContainsFunc(l.sessions, func(s session) bool { return s.local == l.use }) {
				t.Fatalf("seed %d: sends in a session that ended", seed)
			}
		}
	}
}
