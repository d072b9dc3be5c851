package rmcast

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/subject"
)

// The simulator joins Nodes by a network that loses, repeats, delays and reorders packets, alone and in bursts, cuts
// hosts off from each other, in one direction, for multicast only; it stops nodes for a while and kills them for good.
// Time is what it says. Everything follows from a seed.

// simNet is the world.
type simNet struct {
	rnd    *rand.Rand
	now    time.Time
	events events
	serial uint64
	nodes  []*simNode // those that were killed, too
	keys   *buskey.Bus
	err    error

	loss, dup     float64
	delay, jitter time.Duration
	burst         bool // nearly everything is lost
	multicast     bool
	deaf          map[[2]int]bool // the second does not hear the first's multicast
	cut           map[[2]int]bool // the second gets nothing of the first
	count         simCounts
	tap           func(group bool, size int) // sees what is sent
	sees          func(from int, pkt []byte) // sees each copy that is
}

type simCounts struct {
	Packets, Dropped, Doubled, GroupPackets      int
	Messages, Delivered, Lost, LostTold          int
	Crashes, Pauses, Cuts, Bursts, Deaf, Refused int
	Repairs, PeerRepairs, Suppressed, Fragments  int
	Relayed                                      int
}

func (c *simCounts) add(o simCounts) {
	c.Packets += o.Packets
	c.Dropped += o.Dropped
	c.Doubled += o.Doubled
	c.GroupPackets += o.GroupPackets
	c.Messages += o.Messages
	c.Delivered += o.Delivered
	c.Lost += o.Lost
	c.LostTold += o.LostTold
	c.Crashes += o.Crashes
	c.Pauses += o.Pauses
	c.Cuts += o.Cuts
	c.Bursts += o.Bursts
	c.Deaf += o.Deaf
	c.Refused += o.Refused
	c.Repairs += o.Repairs
	c.PeerRepairs += o.PeerRepairs
	c.Suppressed += o.Suppressed
	c.Fragments += o.Fragments
	c.Relayed += o.Relayed
}

type event struct {
	at     time.Time
	serial uint64
	do     func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any     { o := *e; x := o[len(o)-1]; *e = o[:len(o)-1]; return x }

func (s *simNet) after(d time.Duration, do func()) {
	s.serial++
	heap.Push(&s.events, event{s.now.Add(d), s.serial, do})
}

// run lets time pass up to an end.
func (s *simNet) run(until time.Time) {
	for len(s.events) > 0 && s.err == nil && !s.events[0].at.After(until) {
		e := heap.Pop(&s.events).(event)
		s.now = e.at
		e.do()
	}
	if s.now.Before(until) {
		s.now = until
	}
}

func (s *simNet) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at %v: "+format, append([]any{s.now.Sub(simStart)}, args...)...)
	}
}

// simNode is a process that takes part. It is Wire and Sink of its Node.
type simNode struct {
	s        *simNet
	index    int
	id       ID
	addr     netip.AddrPort
	n        *Node
	want     []Interest
	up       bool
	paused   bool
	queue    []func() // what its socket holds meanwhile
	tickAt   time.Time
	pubs     []*simPub
	heard    map[streamKey]*simSub
	slow     float64 // how often it takes nothing
	lossless bool
}

// simPub is a stream and what was sent on it.
type simPub struct {
	node *simNode
	tx   *Sender
	subj string
	sent uint64
}

// simSub is what one node got of one stream.
type simSub struct {
	st    *Stream
	cur   Cursor
	next  uint64 // of messages
	ended bool
}

var simStart = time.Unix(1_000_000_000, 0)

func newSim(seed uint64) *simNet {
	tok := ident.Token{Secret: ident.Secret{1}}
	k, err := buskey.New(tok, "sim")
	if err != nil {
		panic(err)
	}
	return &simNet{
		rnd: rand.New(rand.NewPCG(seed, 7)), now: simStart, keys: k, deaf: map[[2]int]bool{}, cut: map[[2]int]bool{},
		delay: 200 * time.Microsecond, jitter: 100 * time.Microsecond, multicast: true,
	}
}

// noNonces is a source of zeros: what is sealed under them is not secret here.
type noNonces struct{}

func (noNonces) Read(b []byte) (int, error) { clear(b); return len(b), nil }

var _ io.Reader = noNonces{}

func (s *simNet) join(want ...Interest) *simNode {
	i := len(s.nodes)
	x := &simNode{
		s: s, index: i, id: ID(s.rnd.Uint64() | 1), up: true, want: want, heard: map[streamKey]*simSub{},
		addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 7000),
	}
	s.nodes = append(s.nodes, x)
	cfg := Config{
		Self: x.id, Name: fmt.Sprintf("n%d", i), Keys: []*buskey.Bus{s.keys}, Suite: seal.SuiteAES, Multicast: true, Datagram: 600,
		Room: 256 << 10, History: 64 << 10, Ahead: 4 << 20, Wire: x, Sink: x, Rand: rand.New(rand.NewPCG(s.rnd.Uint64(), 1)), Nonces: noNonces{},
	}
	for _, o := range s.nodes[:i] {
		if o.up && len(cfg.Seeds) < 2 {
			cfg.Seeds = append(cfg.Seeds, o.addr)
		}
	}
	var err error
	if x.n, err = New(cfg, s.now); err != nil {
		panic(err)
	}
	x.n.Interests(s.now, want)
	x.arm(s.now)
	return x
}

// arm sees to it that the node ticks at a time.
func (x *simNode) arm(at time.Time) {
	if at.Before(x.s.now) {
		at = x.s.now
	}
	if !x.tickAt.IsZero() && !at.Before(x.tickAt) {
		return
	}
	x.tickAt = at
	x.s.after(at.Sub(x.s.now), func() {
		if x.tickAt.Equal(at) {
			x.tickAt = time.Time{}
			x.act(func() { x.arm(x.n.Tick(x.s.now)) })
		}
	})
}

// act runs something in the process, now or when it goes on.
func (x *simNode) act(f func()) {
	switch {
	case !x.up:
	case x.paused:
		if len(x.queue) < 400 {
			x.queue = append(x.queue, f)
		}
	default:
		f()
	}
}

// Send implements Wire.
func (x *simNode) Send(buf []byte, segment int, group bool, to []netip.AddrPort) {
	for len(buf) > 0 {
		n := min(segment, len(buf))
		pkt := bytes.Clone(buf[:n])
		buf = buf[n:]
		if x.s.tap != nil {
			for range to {
				x.s.tap(false, n)
			}
			if group {
				x.s.tap(true, n)
			}
		}
		if group {
			x.s.count.GroupPackets++
			for _, o := range x.s.nodes {
				if o != x && x.s.multicast && !x.s.deaf[[2]int{x.index, o.index}] {
					x.s.carry(x, o, true, pkt)
				}
			}
		}
		for _, a := range to {
			for _, o := range x.s.nodes {
				if o.addr == a {
					x.s.carry(x, o, false, pkt)
				}
			}
		}
	}
}

func (s *simNet) carry(from, to *simNode, group bool, pkt []byte) {
	s.count.Packets++
	if s.sees != nil {
		s.sees(from.index, pkt)
	}
	if s.cut[[2]int{from.index, to.index}] || s.rnd.Float64() < s.loss || s.burst && s.rnd.Float64() < 0.9 {
		s.count.Dropped++
		return
	}
	times := 1
	if s.rnd.Float64() < s.dup {
		s.count.Doubled++
		times = 2
	}
	for range times {
		d := s.delay
		if s.jitter > 0 {
			d += time.Duration(s.rnd.Int64N(int64(s.jitter)))
		}
		s.after(d, func() {
			to.act(func() {
				to.n.Packet(s.now, from.addr, group, pkt)
				to.arm(to.n.Done(s.now))
			})
		})
	}
}

// Begin implements Sink.
func (x *simNode) Begin(st *Stream) {
	k := streamKey{st.Publisher, st.ID}
	if o := x.heard[k]; o != nil {
		x.s.fail("%d begins %v/%d twice", x.index, st.Publisher, st.ID)
	}
	sub := &simSub{st: st}
	start := uint64(1<<64 - 1)
	for i := range x.want {
		if subject.Overlap(x.want[i].Pattern, st.Subject) {
			start = min(start, from(&x.want[i], st.Publisher, st.From, st.Next))
		}
	}
	sub.next = start
	sub.cur.Start(start)
	x.heard[k] = sub
}

// Deliver implements Sink: nothing twice, nothing out of order, nothing missing without a word, and as it was sent.
func (x *simNode) Deliver(st *Stream, ps []Packet) bool {
	if x.s.rnd.Float64() < x.slow {
		x.s.count.Refused++
		return false
	}
	sub := x.heard[streamKey{st.Publisher, st.ID}]
	if sub == nil {
		return true
	}
	lost := func(from, to uint64) {
		if to < from {
			return
		}
		if from != sub.next {
			x.s.fail("%d of %v: told of loss %d-%d, expected %d", x.index, st.Publisher, from, to, sub.next)
		}
		if x.lossless {
			x.s.fail("%d of %v: lost %d-%d without need", x.index, st.Publisher, from, to)
		}
		x.s.count.Lost += int(to - from + 1)
		x.s.count.LostTold++
		sub.next = to + 1
	}
	for _, p := range ps {
		if p.Plain == nil {
			lost(sub.cur.Gone(p.Gone))
			continue
		}
		from, to, err := sub.cur.Open(p.Seq, p.Plain)
		if err != nil {
			x.s.fail("%d: open: %v", x.index, err)
			return true
		}
		lost(from, to)
		var m Message
		for {
			ok, err := sub.cur.Next(&m)
			if err != nil {
				x.s.fail("%d: packet %d: %v", x.index, p.Seq, err)
				return true
			}
			if !ok {
				break
			}
			if m.Number != sub.next {
				x.s.fail("%d of %v: message %d, expected %d", x.index, st.Publisher, m.Number, sub.next)
			}
			if want := simPayload(st.Publisher, st.ID, m.Number); !bytes.Equal(want, m.Payload) {
				x.s.fail("%d of %v: message %d is another: %d bytes, want %d", x.index, st.Publisher, m.Number, len(m.Payload), len(want))
			}
			sub.next++
			x.s.count.Delivered++
		}
	}
	return true
}

// End implements Sink.
func (x *simNode) End(st *Stream, rest []Packet) {
	slow := x.slow
	x.slow = 0
	x.Deliver(st, rest)
	x.slow = slow
	if sub := x.heard[streamKey{st.Publisher, st.ID}]; sub != nil {
		sub.ended = true
	}
}

// Event implements Sink.
func (x *simNode) Event(Event) {}

// simPayload is what message number says: its length and bytes follow from who sent it and its number.
func simPayload(id ID, stream uint32, number uint64) []byte {
	mix := (uint64(id) ^ uint64(stream)<<40 ^ number) * 0x9e3779b97f4a7c15
	mix = (mix ^ mix>>31) * 0xbf58476d1ce4e5b9
	size := 16 + int(mix>>57)
	switch {
	case number%997 == 0:
		size = 60_000
	case number%61 == 0:
		size = 3000
	case number%17 == 0:
		size = 0
	}
	out := make([]byte, size)
	for i := range out {
		out[i] = byte(mix>>(i%8*8)) ^ byte(i)
	}
	return out
}

func (x *simNode) publish(subj string, cfg SenderConfig) *simPub {
	cfg.Subject = subj
	p := &simPub{node: x, subj: subj, tx: x.n.NewSender(x.s.now, cfg, nil)}
	x.pubs = append(x.pubs, p)
	x.arm(x.s.now)
	return p
}

// send sends up to n messages and returns how many were taken.
func (p *simPub) send(n int) int {
	x := p.node
	sent := 0
	for range n {
		pl := simPayload(x.id, p.tx.ID(), p.sent+1)
		number, full, err := p.tx.Send("", nil, pl)
		if errors.Is(err, ErrWouldBlock) {
			break
		}
		if err != nil || number != p.sent+1 {
			x.s.fail("send %d: %d, %v", p.sent+1, number, err)
			break
		}
		p.sent++
		sent++
		x.s.count.Messages++
		if len(pl) > 600 {
			x.s.count.Fragments++
		}
		if full {
			p.tx.FlushFull(x.s.now)
		}
	}
	p.tx.Flush(x.s.now)
	x.arm(x.s.now.Add(beatFirst))
	return sent
}

// pump sends now and then until a time.
func (p *simPub) pump(until time.Time, every time.Duration, most int) {
	p.node.s.after(time.Duration(p.node.s.rnd.Int64N(int64(every)))+time.Microsecond, func() {
		if !p.node.up || !p.node.s.now.Before(until) {
			return
		}
		p.node.act(func() { p.send(1 + p.node.s.rnd.IntN(most)) })
		p.pump(until, every, most)
	})
}

func (x *simNode) kill() {
	x.up = false
	x.queue = nil
	x.s.count.Crashes++
}

func (x *simNode) pause(d time.Duration) {
	x.s.count.Pauses++
	x.paused = true
	x.s.after(d, func() {
		x.paused = false
		q := x.queue
		x.queue = nil
		for _, f := range q {
			x.act(f)
		}
		if x.up {
			x.arm(x.n.Tick(x.s.now))
		}
	})
}

// calm ends all faults.
func (s *simNet) calm() {
	s.loss, s.dup, s.burst = 0, 0, false
	s.jitter = 100 * time.Microsecond
	clear(s.cut)
	for _, x := range s.nodes {
		x.slow = 0
	}
}

// settled says what is not as it must be when the faults are over, or nil.
func (s *simNet) settled() error {
	for _, x := range s.nodes {
		if !x.up {
			continue
		}
		for _, o := range s.nodes {
			if o == x {
				continue
			}
			for _, p := range o.pubs {
				if !slices.ContainsFunc(x.want, func(i Interest) bool { return subject.Overlap(i.Pattern, p.subj) }) {
					continue
				}
				sub := x.heard[streamKey{o.id, p.tx.ID()}]
				if o.up {
					if sub == nil {
						return fmt.Errorf("%d does not get %s of %d", x.index, p.subj, o.index)
					}
					if sub.next != p.sent+1 {
						return fmt.Errorf("%d has %s of %d up to %d of %d", x.index, p.subj, o.index, sub.next-1, p.sent)
					}
					continue
				}
				if sub == nil {
					continue
				}
				// Of one that is dead all that live have as much, or were told.
				for _, y := range s.nodes {
					if other := y.heard[streamKey{o.id, p.tx.ID()}]; y.up && other != nil && other.next > sub.next {
						return fmt.Errorf("%d has %s of the dead %d up to %d, %d up to %d", x.index, p.subj, o.index, sub.next-1, y.index, other.next-1)
					}
				}
			}
		}
	}
	return nil
}

// converge lets time pass until all is settled, at most for d.
func (s *simNet) converge(d time.Duration) error {
	end := s.now.Add(d)
	var err error
	for s.now.Before(end) && s.err == nil {
		s.run(s.now.Add(50 * time.Millisecond))
		if err = s.settled(); err == nil {
			break
		}
	}
	for _, x := range s.nodes {
		s.count.PeerRepairs += int(x.n.Stats.PeerRepairs)
		s.count.Suppressed += int(x.n.Stats.Suppressed)
		s.count.Relayed += int(x.n.Stats.Relayed)
		for _, p := range x.pubs {
			s.count.Repairs += int(p.tx.Snapshot().Repairs)
		}
	}
	return errors.Join(s.err, err)
}
