package bus

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/udp"
)

// gate is a socket that can be shut: then nothing leaves by it.
type gate struct {
	udp.Conn
	shut *atomic.Bool
}

func (g gate) WriteBatch(ms []udp.Message) (int, error) {
	if g.shut.Load() {
		return len(ms), nil
	}
	return g.Conn.WriteBatch(ms)
}

// gated gives a member such a socket.
func gated(shut *atomic.Bool) func(*Config) {
	return func(c *Config) { c.socket = func(u udp.Conn) udp.Conn { return gate{u, shut} } }
}

func shutGate() *atomic.Bool {
	var b atomic.Bool
	b.Store(true)
	return &b
}

// pathOf is how a bus reaches a member of a name.
func pathOf(b *Bus, name string) (m Member) {
	for _, m = range b.Members() {
		if m.Name == name {
			return m
		}
	}
	return Member{Path: -1}
}

// expect reads messages that are numbered, all of them, and returns the longest pause between two.
func expect(t *testing.T, s *Subscription, messages int) (longest time.Duration) {
	next, last := uint64(0), time.Time{}
	for m, err := range s.Messages(within(t)) {
		if err != nil {
			t.Error(err)
			return 0
		}
		if n := binary.BigEndian.Uint64(m.Payload); n != next {
			t.Errorf("message %d, expected %d", n, next)
			return 0
		}
		if now := time.Now(); !last.IsZero() {
			longest, last = max(longest, now.Sub(last)), now
		} else {
			last = now
		}
		if next++; next == uint64(messages) {
			return longest
		}
	}
	t.Errorf("%d messages of %d", next, messages)
	return 0
}

func sendNumbered(t *testing.T, p *Publisher, from, to int) {
	t.Helper()
	buf := make([]byte, 64)
	for i := from; i < to; i++ {
		binary.BigEndian.PutUint64(buf, uint64(i))
		check(t, p.Send(t.Context(), buf))
	}
}

// TestByTCP: no UDP at all, in neither direction: members meet by TCP, get everything, and say so.
func TestByTCP(t *testing.T) {
	w := newWorld(t, false)
	const messages = 50_000
	a := w.join(gated(shutGate()))
	p := must(a.Publisher("x"))(t)
	var wg sync.WaitGroup
	for range 2 {
		s := must(w.join(gated(shutGate())).Subscribe("x", WithSlow(SlowBlock)))(t)
		wg.Go(func() { expect(t, s, messages) })
	}
	check(t, p.Ready(within(t), 2))
	sendNumbered(t, p, 0, messages)
	check(t, p.Wait(within(t), All))
	wg.Wait()
	for _, name := range []string{"m2", "m3"} {
		if m := pathOf(a, name); m.Path != PathTCP || m.State != Alive || !m.Addr.IsValid() || !m.Addr.Addr().IsLoopback() {
			t.Errorf("%+v", m)
		}
	}
	if st := a.Stats(); st.Edges != 2 || st.EdgeBytes == 0 || st.Dropped["tcp_handshake"] != 0 {
		t.Errorf("%+v", st)
	}
	if a.conn.LocalAddr().Port() != a.Addr().Port() {
		t.Error("another port")
	}
}

// TestUDPEnds: UDP ends in mid-stream, in one direction or both, and comes again: nothing is lost, nobody is without messages for a second, and
// events tell which path is used.
func TestUDPEnds(t *testing.T) {
	for _, which := range []string{"both", "publisher", "subscriber"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false)
			var from, to atomic.Bool
			a := w.join(gated(&from))
			p := must(a.Publisher("x"))(t)
			b := w.join(gated(&to))
			s := must(b.Subscribe("x", WithSlow(SlowBlock)))(t)
			other := must(w.join().Subscribe("x", WithSlow(SlowBlock)))(t)
			check(t, p.Ready(within(t), 2))
			const rate, seconds = 1000, 8
			var wg sync.WaitGroup
			var longest [2]time.Duration
			for i, s := range []*Subscription{s, other} {
				wg.Go(func() { longest[i] = expect(t, s, rate*seconds) })
			}
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			sent := 0
			until := func(end int) {
				for ; sent < end; sent += rate / 100 {
					sendNumbered(t, p, sent, sent+rate/100)
					<-tick.C
				}
			}
			until(rate)
			from.Store(which != "subscriber")
			to.Store(which != "publisher")
			until(3 * rate)
			if m := pathOf(a, "m2"); m.Path != PathTCP {
				t.Errorf("UDP is dead: %+v", m)
			}
			if m := pathOf(a, "m3"); which == "subscriber" && m.Path != PathUDP {
				t.Errorf("UDP to another works: %+v", m)
			}
			from.Store(false)
			to.Store(false)
			until(rate * seconds)
			check(t, p.Wait(within(t), All))
			wg.Wait()
			t.Logf("without messages: %v, the other %v", longest[0], longest[1])
			if longest[0] >= time.Second || which == "subscriber" && longest[1] >= time.Second/2 {
				t.Errorf("without messages: %v, the other %v", longest[0], longest[1])
			}
			await(t, a, "UDP again", func() bool { return pathOf(a, "m2").Path == PathUDP })
			await(t, b, "UDP again", func() bool { return pathOf(b, "m1").Path == PathUDP })
			told := 0
			for e := range a.Events(within(t)) {
				if e.Kind == PathChanged && e.Member.Name == "m2" {
					if told++; (e.Member.Path == PathTCP) != (told%2 == 1) {
						t.Errorf("%+v", e)
					}
					if e.Member.Path == PathUDP {
						break
					}
				}
			}
		})
	}
}

// TestBetween: two that UDP does not reach, neither of which listens, reach each other by way of a third, and say so.
func TestBetween(t *testing.T) {
	w := newWorld(t, false)
	const messages = 20_000
	m := w.join()
	dials := func(c *Config) { c.TCP = TCPDial }
	a := w.join(gated(shutGate()), dials)
	b := w.join(gated(shutGate()), dials)
	s := must(b.Subscribe("x", WithSlow(SlowBlock)))(t)
	p := must(a.Publisher("x"))(t)
	check(t, p.Ready(within(t), 1))
	if o := pathOf(a, "m3"); o.Path != PathMember || o.Via != "m1" {
		t.Errorf("%+v", o)
	}
	var wg sync.WaitGroup
	wg.Go(func() { expect(t, s, messages) })
	sendNumbered(t, p, 0, messages)
	check(t, p.Wait(within(t), All))
	wg.Wait()
	if st := m.Stats(); st.Forwarded == 0 || st.Edges != 2 {
		t.Errorf("%+v", st)
	}
}

// TestTCPOff: who uses no TCP listens on no port, and is not dialled with success; one that listens nowhere dials.
func TestTCPOff(t *testing.T) {
	w := newWorld(t, false)
	a := w.join(func(c *Config) { c.TCP = TCPOff })
	if a.edges != nil {
		t.Error("there are edges")
	}
	shut := shutGate()
	b := w.join(gated(shut), func(c *Config) { c.TCP = TCPDial })
	await(t, b, "a dial that fails", func() bool { return b.Stats().Dropped["tcp_dial_failed"] > 0 })
	if n := len(a.Members()) + len(b.Members()); n != 0 {
		t.Errorf("%d members met without UDP and TCP", n)
	}
	shut.Store(false)
	await(t, b, "a member by UDP", func() bool { return pathOf(b, "m1").Path == PathUDP })

	// A port that another process keeps is no error.
	c := w.join(func(c *Config) { c.Listen = int(w.taken(t)) })
	await(t, c, "a member by UDP", func() bool { return len(c.Members()) > 0 })
}

// taken returns a port whose TCP half is taken.
func (w *world) taken(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	check(t, err)
	t.Cleanup(func() { ln.Close() })
	return netip.MustParseAddrPort(ln.Addr().String()).Port()
}
