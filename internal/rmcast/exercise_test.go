package rmcast

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// exercise is the broadcast exercise known as Gossip Glomers 3d and 3e: 25 members, a hop takes 100 ms, 100 operations a second for 20 s, at
// members drawn at random, half of them messages to all and half reads, which are answered on the spot.
type exercise struct {
	*simNet
	pubs      []*simPub
	began     map[exerciseKey]time.Time
	lacks     map[exerciseKey]int
	latencies []time.Duration // of messages: until the last member has it
	datagrams int
}

type exerciseKey struct {
	publisher ID
	number    uint64
}

const (
	exerciseNodes = 25
	exerciseRate  = 100
	exerciseFor   = 20 * time.Second
)

func newExercise(t *testing.T, cfg SenderConfig, data, control time.Duration) *exercise {
	t.Helper()
	e := &exercise{simNet: newSim(3), began: map[exerciseKey]time.Time{}, lacks: map[exerciseKey]int{}}
	e.multicast, e.delay, e.jitter = false, 100*time.Millisecond, 0
	e.gather = [2]time.Duration{data, control}
	for range exerciseNodes {
		e.join(Interest{ID: 1, Pattern: "x"})
	}
	e.run(e.now.Add(3 * time.Second))
	for _, x := range e.nodes {
		e.pubs = append(e.pubs, x.publish("x", cfg))
	}
	e.run(e.now.Add(10 * time.Second))
	for _, p := range e.pubs {
		if n := len(p.tx.Receivers()); n != exerciseNodes-1 {
			t.Fatalf("%d receivers", n)
		}
	}
	for _, x := range e.nodes {
		x.lossless = true
	}
	e.got = func(_ *simNode, st *Stream, number uint64) {
		k := exerciseKey{st.Publisher, number}
		if e.lacks[k]--; e.lacks[k] == 0 {
			e.latencies = append(e.latencies, e.now.Sub(e.began[k]))
		}
	}
	e.leaves = func(_ *simNode, _ []byte, copies int) { e.datagrams += copies }
	return e
}

// operate runs the operations.
func (e *exercise) operate() {
	all := int(exerciseRate * exerciseFor.Seconds())
	for _, op := range e.rnd.Perm(all) {
		if op < all/2 {
			p := e.pubs[e.rnd.IntN(len(e.pubs))]
			k := exerciseKey{p.node.id, p.sent + 1}
			e.began[k], e.lacks[k] = e.now, exerciseNodes-1
			if _, _, err := p.tx.Send("", nil, simPayload(p.node.id, p.tx.ID(), p.sent+1)); err != nil {
				e.fail("%v", err)
			}
			p.sent++
			p.tx.Flush(e.now)
			p.node.arm(e.now.Add(beatFirst))
		}
		e.run(e.now.Add(time.Second / exerciseRate))
	}
	e.run(e.now.Add(1500 * time.Millisecond))
}

func (e *exercise) report(t *testing.T, what string) (each float64, median, most time.Duration) {
	t.Helper()
	each = float64(e.datagrams) / (exerciseRate * exerciseFor.Seconds())
	slices.Sort(e.latencies)
	if len(e.latencies) != len(e.began) {
		t.Errorf("%s: %d of %d messages reached everyone", what, len(e.latencies), len(e.began))
	}
	if len(e.latencies) > 0 {
		median, most = e.latencies[len(e.latencies)/2], e.latencies[len(e.latencies)-1]
	}
	t.Logf("%s: %.2f datagrams an operation, everyone has a message after %v (median), %v (most); %d messages", what, each, median, most, len(e.began))
	return each, median, most
}

// TestBroadcastExercise: at most 12.1 datagrams an operation, of all kinds, with the median of latencies at most 110 ms and the highest at most 210 ms; with
// batches at most 2, under 0.7 s and under 1.3 s. With a partition for five of the seconds nothing is lost.
func TestBroadcastExercise(t *testing.T) {
	const batch = 240 * time.Millisecond
	for _, c := range []struct {
		what          string
		cfg           SenderConfig
		data, control time.Duration
		each          float64
		median, most  time.Duration
	}{
		{"at once", SenderConfig{Fanout: exerciseNodes - 1, Confirm: 2 * time.Second}, 0, 3 * time.Second, 12.1, 110 * time.Millisecond, 210 * time.Millisecond},
		{"batches", SenderConfig{Hub: true, Confirm: time.Minute}, batch, batch, 2, 700 * time.Millisecond, 1300 * time.Millisecond},
	} {
		e := newExercise(t, c.cfg, c.data, c.control)
		e.operate()
		each, median, most := e.report(t, c.what)
		if each > c.each || median > c.median || most > c.most || e.err != nil {
			t.Errorf("%s: %.2f datagrams an operation, median %v, most %v, %v", c.what, each, median, most, e.err)
		}

		e = newExercise(t, c.cfg, c.data, c.control)
		e.after(7*time.Second, func() {
			for a := range e.nodes {
				for b := range e.nodes {
					if (a < exerciseNodes/2) != (b < exerciseNodes/2) {
						e.cut[[2]int{a, b}] = true
					}
				}
			}
		})
		e.after(12*time.Second, func() { clear(e.cut) })
		e.operate()
		if err := e.converge(20 * time.Second); err != nil {
			t.Errorf("%s, partition: %v", c.what, err)
		}
		e.report(t, c.what+", partition")
	}
}

// TestGatherer: what waits for one address leaves as one datagram, alone as it was; what does not wait takes along what does; none is longer than allowed.
func TestGatherer(t *testing.T) {
	var sent [][]byte
	now := simStart
	g := NewGatherer(wireFunc(func(buf []byte, segment int, group bool, to []netip.AddrPort) {
		for rest := buf; len(rest) > 0; rest = rest[min(segment, len(rest)):] {
			for range len(to) + int(flag(group, 1)) {
				sent = append(sent, bytes.Clone(rest[:min(segment, len(rest))]))
			}
		}
	}), func() time.Time { return now }, 0, time.Second, 600)
	a, b := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:1")
	control, data := append([]byte{TypeControl}, make([]byte, 99)...), append([]byte{TypeData}, make([]byte, 199)...)
	takes := func(what string, sizes ...int) {
		t.Helper()
		var got []int
		for _, s := range sent {
			got = append(got, len(s))
		}
		if !slices.Equal(got, sizes) {
			t.Errorf("%s: datagrams of %v bytes, want %v", what, got, sizes)
		}
		sent = nil
	}
	g.Send(control, len(control), false, []netip.AddrPort{a})
	takes("control waits")
	g.Send(data, len(data), true, []netip.AddrPort{a, b})
	takes("data does not, and takes it along", 200, 1+2+100+2+200, 200)
	g.Send(control, len(control), false, []netip.AddrPort{b})
	now = now.Add(time.Second)
	if g.Next().IsZero() || g.Next().After(now) {
		t.Errorf("due at %v", g.Next())
	}
	g.Flush(now)
	takes("one alone", 100)
	for range 7 {
		g.Send(control, len(control), false, []netip.AddrPort{b})
	}
	takes("a full one leaves", 1+5*102)
	g.Send(append([]byte{TypeHello}, 1, 2), 3, false, []netip.AddrPort{b})
	takes("hellos do not wait", 3)
	now = now.Add(time.Second)
	g.Flush(now)
	takes("the rest", 1+2*102)
	if !g.Next().IsZero() || len(g.waiting) > 0 {
		t.Error("something still waits")
	}
}

type wireFunc func(buf []byte, segment int, group bool, to []netip.AddrPort)

func (f wireFunc) Send(buf []byte, segment int, group bool, to []netip.AddrPort) {
	f(buf, segment, group, to)
}
