package rmcast

import (
	"bytes"
	"container/heap"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
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
	deaf          map[[2]int]bool                                      // the second does not hear the first's multicast
	islands       int                                                  // multicast passes within each of so many, if more than one
	crossed       map[byte]int                                         // datagrams from one island to another, by type
	drop          func(from, to *simNode, group bool, pkt []byte) bool // decides of a copy before chance does
	cut           map[[2]int]bool                                      // the second gets nothing of the first
	service       time.Duration                                        // what a packet takes of the one processor that all share
	free          time.Time                                            // when that is done with what came before
	count         simCounts
	tap           func(group bool, size int)                  // sees what is sent
	sees          func(from int, pkt []byte)                  // sees each copy that is
	leaves        func(from *simNode, pkt []byte, copies int) // sees each datagram that is sent
	arrives       func(from, to *simNode, pkt []byte)         // and each that comes to a node that is up
	view          int
	gather        [2]time.Duration // how long data and control wait for others
	got           func(x *simNode, st *Stream, number uint64)
	alone         bool // nobody who joins is told of others
	adapt         func(x *simNode, cfg *Config)
	at            map[netip.AddrPort]*simNode
	filled        map[*block]int                  // bytes of lent packets, since it was used anew
	edges         *simEdges                       // nil: there is UDP only
	signs         func(i int) bool                // which members sign; nil: none
	takes         func(x *simNode, m Member) bool // whose streams a member takes; nil: all
}

type simCounts struct {
	Packets, Dropped, Doubled, GroupPackets      int
	Messages, Delivered, Lost, LostTold          int
	Crashes, Pauses, Cuts, Bursts, Deaf, Refused int
	Repairs, PeerRepairs, Suppressed, Fragments  int
	Relayed, Missed                              int
	IslandRelayed, IslandRepairs, RelaysKilled   int
	Parity, Rebuilt                              int
	Reused                                       int // blocks of packets that are lent
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
	c.Missed += o.Missed
	c.IslandRelayed += o.IslandRelayed
	c.IslandRepairs += o.IslandRepairs
	c.RelaysKilled += o.RelaysKilled
	c.Parity += o.Parity
	c.Rebuilt += o.Rebuilt
	c.Reused += o.Reused
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
	gatherer *Gatherer
	gatherAt time.Time
	lent     []simLent
}

var simStart = time.Unix(1_000_000_000, 0)

func newSim(seed uint64) *simNet {
	tok := ident.Token{Secret: ident.Secret{1}}
	k, err := buskey.New(tok, "sim")
	if err != nil {
		panic(err)
	}
	return &simNet{
		rnd: rand.New(rand.NewPCG(seed, 7)), now: simStart, keys: k, filled: map[*block]int{}, deaf: map[[2]int]bool{}, at: map[netip.AddrPort]*simNode{}, cut: map[[2]int]bool{},
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
	var sign *buskey.Identity
	if s.signs != nil && s.signs(i) {
		sign = simIdentity(s.keys, uint64(x.id))
		x.id = ID(sign.Epoch())
	}
	cfg := Config{
		Self: x.id, Name: fmt.Sprintf("n%d", i), Keys: []*buskey.Bus{s.keys}, Suite: seal.SuiteAES, Multicast: true, Datagram: 600,
		Room: 256 << 10, History: 64 << 10, Ahead: 4 << 20, View: s.view, Wire: x, Sink: x, Rand: rand.New(rand.NewPCG(s.rnd.Uint64(), 1)), Nonces: noNonces{}, Sign: sign,
	}
	if s.takes != nil {
		cfg.Takes = func(m Member) bool { return s.takes(x, m) }
	}
	s.at[x.addr] = x
	for _, o := range s.nodes[:i] {
		if s.alone {
			break
		}
		if o.up && len(cfg.Seeds) < 2 {
			cfg.Seeds = append(cfg.Seeds, o.addr)
		}
	}
	if s.edges != nil {
		cfg.Edges = dialler{x}
	}
	if s.gather != [2]time.Duration{} {
		x.gatherer = NewGatherer(x, func() time.Time { return s.now }, s.gather[0], s.gather[1], DefaultDatagram)
		cfg.Wire = gathering{x}
	}
	if s.adapt != nil {
		s.adapt(x, &cfg)
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

// gathering is the Wire of a node that lets datagrams wait for others.
type gathering struct{ x *simNode }

func (g gathering) Send(buf []byte, segment int, group bool, to []netip.AddrPort) {
	g.x.gatherer.Send(buf, segment, group, to)
	g.x.armGatherer()
}

func (x *simNode) armGatherer() {
	if at := x.gatherer.Next(); !at.IsZero() && !at.Equal(x.gatherAt) {
		x.gatherAt = at
		x.s.after(at.Sub(x.s.now), func() {
			x.gatherAt = time.Time{}
			x.act(func() {
				x.gatherer.Flush(x.s.now)
				x.armGatherer()
			})
		})
	}
}

// act runs something in the process, now or when it goes on, if its socket holds that much.
func (x *simNode) act(f func()) {
	if !x.paused || len(x.queue) < 400 {
		x.learn(f)
	}
}

// learn is act of what does not get lost: a connection's begin and end.
func (x *simNode) learn(f func()) {
	switch {
	case !x.up:
	case x.paused:
		x.queue = append(x.queue, f)
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
		if x.s.leaves != nil {
			x.s.leaves(x, pkt, len(to)+int(flag(group, 1)))
		}
		if group {
			x.s.count.GroupPackets++
			every := max(1, x.s.islands)
			for i := x.s.island(x); i < len(x.s.nodes); i += every {
				o := x.s.nodes[i]
				if o != x && x.s.multicast && !x.s.deaf[[2]int{x.index, o.index}] {
					x.s.carry(x, o, true, pkt)
				}
			}
		}
		for _, a := range to {
			if id, is := EdgeID(a); is {
				x.s.edges.carry(x, id, pkt)
			} else if o := x.s.at[a]; o != nil {
				x.s.carry(x, o, false, pkt)
			}
		}
	}
}

// island is where a node is.
func (s *simNet) island(x *simNode) int { return x.index % max(1, s.islands) }

func (s *simNet) carry(from, to *simNode, group bool, pkt []byte) {
	s.count.Packets++
	if s.crossed != nil && s.island(from) != s.island(to) {
		s.crossed[pkt[0]]++
	}
	if s.sees != nil {
		s.sees(from.index, pkt)
	}
	if s.drop != nil && s.drop(from, to, group, pkt) || s.cut[[2]int{from.index, to.index}] || s.rnd.Float64() < s.loss || s.burst && s.rnd.Float64() < 0.9 {
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
		if s.service > 0 {
			s.free = maxTime(s.free, s.now.Add(d)).Add(s.service)
			d = s.free.Sub(s.now)
		}
		s.after(d, func() {
			to.act(func() {
				if s.arrives != nil {
					s.arrives(from, to, pkt)
				}
				to.n.Packet(s.now, from.addr, group, pkt)
				to.arm(to.n.Done(s.now))
			})
		})
	}
}

func (x *simNode) kill() {
	x.up = false
	x.queue = nil
	x.s.count.Crashes++
	x.s.edges.killed(x)
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
