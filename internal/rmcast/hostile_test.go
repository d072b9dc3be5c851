package rmcast

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/seal"
)

// simLiar has the key of a member, and writes its packets itself, from a socket of its own. They push those of the member out of the others'
// replay windows: it says nothing any more that they believe.
type simLiar struct {
	s      *simNet
	of     *simNode
	pub    *simPub
	ctl    *buskey.Control
	addr   netip.AddrPort
	next   uint64
	greedy bool // it asks for what is kept, and does no more than that
	sent   int
}

func newSimLiar(t *testing.T, of *simNode, pub *simPub) *simLiar {
	t.Helper()
	l := &simLiar{s: of.s, of: of, pub: pub, addr: netip.AddrPortFrom(of.addr.Addr(), of.addr.Port()+1)}
	var err error
	if l.ctl, err = l.s.keys.Control(seal.SuiteAES, uint64(of.id)); err != nil {
		t.Fatal(err)
	}
	var space []byte
	for range 100_000 { // what the member has numbered by then
		space = l.ctl.Seal(space[:0], TypeControl, nil)
	}
	return l
}

// lies is a packet of them: it asks for all that may be kept, for what was never sent and what never will be, says that it has what does not
// exist, and claims streams that cannot be and streams that could.
func (l *simLiar) lies() (b []byte) {
	pub := l.pub.node.id
	if l.greedy {
		l.next += 3000
		return appendNack(nil, pub, l.pub.tx.ID(), l.next, []Range{{l.pub.tx.sent - 500, 500}})
	}
	for stream := uint32(1); stream <= 3; stream++ {
		l.next += 1000
		for _, from := range []uint64{0, 1, l.next % 100_000, l.pub.tx.sent - 500, 1 << 62, math.MaxUint64 - 70_000} {
			b = appendNack(b, pub, stream, l.next, []Range{{from, math.MaxUint16}})
		}
		b = status{stream: stream, next: 1 << 62, room: math.MaxUint32, flags: flagHears}.append(b)
		b = appendTail(b, pub, stream, 1<<63, 1<<63)
	}
	b = heartbeat{stream: 9, next: math.MaxUint64, first: 3, nextMessage: 1, flags: flagAnswer, receivers: math.MaxUint32, within: math.MaxUint32, mark: math.MaxUint64}.append(b)
	b = heartbeat{stream: 10, next: 200_000, first: 3, nextMessage: 1, flags: flagAnswer, mark: l.next}.append(b)
	b = announce{stream: 11, from: 1, fromMessage: 1, next: 1 << 63, nextMessage: 1 << 63, subject: "x"}.append(b)
	b = announce{stream: 12, from: 1, fromMessage: 1, next: 200_000, nextMessage: 1 << 40, subject: "x"}.append(b)
	return ping{kind: recPing, mine: 1, hears: true, stamp: uint32(l.next)}.append(b)
}

// give has a packet come to a node.
func (l *simLiar) give(to *simNode, group bool, pkt []byte) {
	l.sent++
	l.s.after(l.s.delay, func() {
		to.act(func() {
			to.n.Packet(l.s.now, l.addr, group, pkt)
			to.arm(to.n.Done(l.s.now))
		})
	})
}

// blow sends one packet to the publisher, or to the group.
func (l *simLiar) blow(group bool) {
	pkt := l.ctl.Seal(nil, TypeControl, l.lies())
	for _, o := range l.s.nodes {
		if o != l.of && (group || o == l.pub.node) {
			l.give(o, group, pkt)
		}
	}
}

// storm sends a thousand packets a second to the publisher, and fifty to the group.
func (l *simLiar) storm(until time.Time) {
	l.blow(false)
	if l.next%60_000 == 0 {
		l.blow(true)
	}
	if l.s.now.Before(until) {
		l.s.after(time.Millisecond, func() { l.storm(until) })
	}
}

// TestHostileStorms: whoever has the key may lie again and again, or ask for all that is kept, and need answer nothing. Each time that costs the others what
// it cost them before, a part of the datagrams that they get of it themselves, and when it is over nothing of it stays: neither what they send
// each other, nor connections, nor memory.
func TestHostileStorms(t *testing.T) {
	const receivers, storms = 16, 6
	s := newSimWithEdges(receivers)
	s.join()
	for range receivers + 1 {
		s.join(Interest{ID: 1, Pattern: "x", Mode: FromNow})
	}
	p := s.nodes[0].publish("x", SenderConfig{Window: 1 << 20})
	s.run(s.now.Add(12 * time.Second))
	l := newSimLiar(t, s.nodes[receivers+1], p)
	for _, x := range s.nodes[:receivers+1] {
		x.lossless = true
	}
	sent, messages := 0, uint64(0) // by all others, of the publisher
	s.leaves = func(from *simNode, _ []byte, copies int) {
		if from != l.of {
			sent += copies
		}
	}
	run := func(d time.Duration) {
		sent, messages = 0, p.sent
		for end := s.now.Add(d); s.now.Before(end); s.run(s.now.Add(4 * time.Millisecond)) {
			p.send(10)
		}
		messages = p.sent - messages
	}
	const d = 2 * time.Second
	run(time.Second)
	run(d)
	calm, rate := sent, messages
	ups, before := 0, [2]int{}
	for i := range storms {
		l.sent, l.greedy = 0, i%2 == 1
		up := s.edges.counts.Up
		l.storm(s.now.Add(d))
		run(d)
		more, made := sent-calm, s.edges.counts.Up-up
		ups += made
		t.Logf("storm %d: %d datagrams of the liar come, and the others send %d, %d more than in peace; %d of %d messages, %d connections", i, l.sent, sent, more, messages, rate, made)
		most := l.sent * 2 / 3
		if i == 0 { // for half a second it counts as a receiver as others are
			most += 3 * l.sent // and has its share of repairs
		}
		if more > most {
			t.Errorf("storm %d: the others send %d datagrams for %d of the liar", i, more, l.sent)
		}
		if was := before[i%2]; i > 2 && more > was+was/5 {
			t.Errorf("storm %d: the others send %d datagrams more, in storm %d %d", i, more, i-2, was)
		}
		before[i%2] = more
		if messages < rate*95/100 {
			t.Errorf("storm %d: %d messages, in peace %d", i, messages, rate)
		}
		run(8 * time.Second) // it is taken for gone
		run(d)
		t.Logf("after it: %d datagrams in place of %d", sent, calm)
		if sent > calm+calm/10 {
			t.Errorf("after storm %d the others send %d datagrams, before the first %d", i, sent, calm)
		}
	}
	if ups > 2*receivers {
		t.Errorf("%d connections to one that says nothing", ups)
	}
	for _, x := range s.nodes[1 : receivers+1] {
		for _, r := range x.n.order {
			if len(r.gaps) > maxGaps || r.store.bytes > 2<<20 {
				t.Errorf("%d keeps %d gaps, %d bytes", x.index, len(r.gaps), r.store.bytes)
			}
		}
	}
	st, n := p.tx.Snapshot(), p.node.n.Stats
	t.Logf("publisher: %d repairs of %d packets, %d refused, %d bad NACKs; %d claims not believed, %d questions not answered, %d words not heeded",
		st.Repairs, st.Packets, st.RefusedRepairs, st.BadNacks, n.Implausible, n.Unanswered, n.Unheeded)
	if st.RefusedRepairs == 0 || st.BadNacks == 0 || n.Implausible == 0 || n.Unanswered == 0 || n.Unheeded == 0 {
		t.Error("something of this is not counted")
	}
	if s.err != nil {
		t.Error(s.err)
	}
}

// TestAnswersRarer: a member that asks again and again about streams of which nothing comes is answered at once, then ever more rarely; and at once again
// when a stream of it has begun.
func TestAnswersRarer(t *testing.T) {
	s, p := quiet(t, 3, SenderConfig{})
	x := s.nodes[1]
	l := newSimLiar(t, s.nodes[2], p)
	sent := 0
	s.leaves = func(from *simNode, _ []byte, copies int) {
		if from == x {
			sent += copies
		}
	}
	run := func(d time.Duration, asks bool) int {
		sent = 0
		for end := s.now.Add(d); s.now.Before(end); s.run(s.now.Add(10 * time.Millisecond)) {
			if asks {
				l.give(x, false, l.ctl.Seal(nil, TypeControl, heartbeat{stream: 9, next: 1, first: 1, nextMessage: 1, flags: flagAnswer}.append(nil)))
			}
		}
		return sent
	}
	const d = 20 * time.Second
	calm := run(d, false)
	first := run(time.Second, true)
	run(time.Minute, true)
	late := run(d, true) - calm
	t.Logf("%d answers in the first second, %d in %v after a minute", first, late, d)
	if first < answerBurst || late > int(d/(answerSlow*answerEvery))+5 {
		t.Errorf("%d answers in the first second, %d in %v after a minute", first, late, d)
	}
	of := x.n.byID[p.node.id]
	of.unbegun = 3 * answerBurst
	p.node.publish("x", SenderConfig{}).send(1)
	if run(time.Second, false); of.unbegun != 0 {
		t.Errorf("a stream has begun, and its publisher is still one that asks in vain: %d", of.unbegun)
	}
}

// TestOthersNacks: that another asks by the group, for everything or for just what one lacks, and does so again and again, keeps nobody from asking.
func TestOthersNacks(t *testing.T) {
	for name, asked := range map[string]func(lost uint64) Range{
		"for everything": func(lost uint64) Range { return Range{max(lost, 200) - 199, 1000} },
		"for the same":   func(lost uint64) Range { return Range{lost, 1} },
	} {
		s, p := quiet(t, 5, SenderConfig{})
		x, l := s.nodes[2], newSimLiar(t, s.nodes[4], p)
		s.drop = func(_, to *simNode, _ bool, pkt []byte) bool { return to == x && pkt[0] == TypeData }
		lost := p.tx.sent
		p.send(1)
		s.run(s.now.Add(time.Millisecond))
		s.drop = nil
		p.send(1)       // this shows the gap
		for range 500 { // more often than anyone waits before it asks
			l.give(x, true, l.ctl.Seal(nil, TypeControl, appendNack(nil, p.node.id, p.tx.ID(), 0, []Range{asked(lost)})))
			s.run(s.now.Add(400 * time.Microsecond))
		}
		if sub := s.sub(2); sub.next != p.sent+1 {
			t.Errorf("%s: after 200 ms it has up to %d of %d, NACKs: %d", name, sub.next-1, p.sent, x.n.Stats.Nacks)
		}
	}
}
