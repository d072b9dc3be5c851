package rmcast

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// simEdges are the connections over TCP of a simulated world, and what keeps UDP from some of its nodes. A history without them is what it
// was before there were any: they draw from a source of their own.
type simEdges struct {
	s      *simNet
	up     []*simEdge
	udp    map[[2]int]bool // the second gets nothing of the first by UDP, but multicast
	tcp    map[[2]int]bool // nothing passes by TCP between two, in the order of their numbers; an edge holds it back
	nat    map[int]bool    // who is behind a NAT: only what it sent to can answer, and nobody can dial it
	shut   map[int]bool    // nobody can dial it
	asked  map[[2]int]bool // the first has sent to the second
	rate   map[[2]int]int  // bytes a second that a connection carries, if it is slow
	counts simEdgeCounts
}

type simEdgeCounts struct{ Up, Ended, Refused, Datagrams, Blocked, Held, Full int }

// simEdge is one connection.
type simEdge struct {
	a, b  *simNode
	held  []func()
	ended bool
	until map[int]time.Time // when what is queued by one end has left, if it is slow
}

// simQueue is what may wait in a slow connection, in bytes.
const simQueue = 128 << 10

func newSimWithEdges(seed uint64) *simNet {
	s := newSim(seed)
	e := &simEdges{s: s, udp: map[[2]int]bool{}, tcp: map[[2]int]bool{}, nat: map[int]bool{}, shut: map[int]bool{}, asked: map[[2]int]bool{}, rate: map[[2]int]int{}}
	s.edges = e
	s.drop = func(from, to *simNode, group bool, _ []byte) bool {
		if group {
			return e.nat[from.index] || e.nat[to.index]
		}
		e.asked[[2]int{from.index, to.index}] = true
		drop := e.udp[[2]int{from.index, to.index}] || e.nat[to.index] && (e.nat[from.index] || !e.asked[[2]int{to.index, from.index}])
		if drop {
			e.counts.Blocked++
		}
		return drop
	}
	return s
}

func order(a, b *simNode) [2]int { return [2]int{min(a.index, b.index), max(a.index, b.index)} }

// block has UDP between two nodes dropped, both ways, or lets it pass again.
func (e *simEdges) block(a, b *simNode, yes bool) {
	e.udp[[2]int{a.index, b.index}] = yes
	e.udp[[2]int{b.index, a.index}] = yes
}

// hinder stops TCP between two nodes, or lets it go on.
func (e *simEdges) hinder(a, b *simNode, yes bool) {
	e.tcp[order(a, b)] = yes
	if x := e.between(a, b); x != nil && !yes {
		held := x.held
		x.held = nil
		for _, f := range held {
			f()
		}
	}
}

func (e *simEdges) between(a, b *simNode) *simEdge {
	for _, x := range e.up {
		if order(x.a, x.b) == order(a, b) {
			return x
		}
	}
	return nil
}

// dialler is the Edges of a node.
type dialler struct{ x *simNode }

func (d dialler) Dial(id ID, addr netip.AddrPort) {
	x, s := d.x, d.x.s
	e := s.edges
	refuse := func(after time.Duration, why string, self bool) {
		s.after(after, func() {
			e.counts.Refused++
			x.learn(func() { x.arm(x.n.EdgeFailed(s.now, id, addr, why, self)) })
		})
	}
	o := s.at[addr]
	switch {
	case o == x:
		refuse(s.delay, "self", true)
		return
	case o == nil || e.nat[o.index] || e.shut[o.index] || e.tcp[order(x, o)]:
		refuse(2*time.Second, "timeout", false)
		return
	case !o.up:
		refuse(2*s.delay, "connection refused", false)
		return
	}
	s.after(4*s.delay, func() {
		if !x.up || !o.up {
			refuse(0, "reset", false)
			return
		}
		if e.between(x, o) == nil {
			e.counts.Up++
			e.up = append(e.up, &simEdge{a: x, b: o})
		}
		x.learn(func() { x.arm(x.n.EdgeUp(s.now, o.id, addr)) })
		o.learn(func() { o.arm(o.n.EdgeUp(s.now, x.id, x.addr)) })
	})
}

func (d dialler) Hang(id ID) {
	for _, o := range d.x.s.nodes {
		if o.id == id {
			d.x.s.edges.end(d.x.s.edges.between(d.x, o))
		}
	}
}

// end ends a connection; both hear of it.
func (e *simEdges) end(x *simEdge) {
	if x == nil || x.ended {
		return
	}
	x.ended = true
	e.counts.Ended++
	e.up = slices.DeleteFunc(e.up, func(o *simEdge) bool { return o == x })
	for i, n := range []*simNode{x.a, x.b} {
		o := []*simNode{x.b, x.a}[i]
		e.s.after(e.s.delay, func() { n.learn(func() { n.arm(n.n.EdgeDown(e.s.now, o.id)) }) })
	}
}

// killed ends the connections of a node.
func (e *simEdges) killed(x *simNode) {
	if e == nil {
		return
	}
	for _, o := range slices.Clone(e.up) {
		if o.a == x || o.b == x {
			e.end(o)
		}
	}
}

// carry takes a datagram for a member: in order, none lost while the connection lasts.
func (e *simEdges) carry(x *simNode, id ID, pkt []byte) {
	s := e.s
	for _, o := range s.nodes {
		if o.id != id {
			continue
		}
		c := e.between(x, o)
		if c == nil {
			return
		}
		e.counts.Datagrams++
		s.count.Packets++
		if s.sees != nil {
			s.sees(x.index, pkt)
		}
		delay := s.delay
		if rate := e.rate[order(x, o)]; rate > 0 {
			at := maxTime(c.until[x.index], s.now).Add(time.Duration(len(pkt)) * time.Second / time.Duration(rate))
			if wait := at.Sub(s.now); wait > simQueue*time.Second/time.Duration(rate) {
				e.counts.Full++
				return
			}
			if c.until == nil {
				c.until = map[int]time.Time{}
			}
			c.until[x.index] = at
			delay += at.Sub(s.now)
		}
		give := func() {
			s.after(delay, func() {
				if !c.ended {
					o.act(func() {
						o.n.EdgePacket(s.now, x.id, pkt)
						o.arm(o.n.Done(s.now))
					})
				}
			})
		}
		if !e.tcp[order(x, o)] && !s.cut[[2]int{x.index, o.index}] {
			give()
		} else if len(c.held) < 2000 {
			e.counts.Held++
			c.held = append(c.held, give)
			if !e.tcp[order(x, o)] { // a cut of all there is, which ends by itself
				s.after(300*time.Millisecond, func() { e.hinder(x, o, false) })
			}
		}
	}
}

// needs reports whether a history must not kill a node: the one that everybody can dial.
func (e *simEdges) needs(x *simNode) bool { return e != nil && x.index == 0 }

// faults are those of a history with edges: UDP that does not pass from the start, or ceases to, NATs, connections that end or get stuck.
func (e *simEdges) faults(seed uint64, end time.Time) {
	if e == nil {
		return
	}
	s, own := e.s, rand.New(rand.NewPCG(seed, 13))
	long := end.Sub(s.now)
	at := func() time.Duration { return time.Duration(own.Int64N(int64(long))) }
	brief := func() time.Duration { return time.Duration(100+own.IntN(4000)) * time.Millisecond }
	some := func() *simNode { return s.nodes[own.IntN(len(s.nodes))] }
	for range 1 + own.IntN(3) {
		a, b := some(), some()
		both, back, d := own.IntN(3) > 0, own.IntN(2) == 0, brief()
		s.after(at(), func() {
			e.udp[[2]int{a.index, b.index}] = true
			if both {
				e.block(a, b, true)
			}
			if back {
				s.after(d, func() { e.block(a, b, false) })
			}
		})
	}
	if own.IntN(3) == 0 { // a firewall: nothing by UDP for one
		a := some()
		s.after(at(), func() {
			for _, o := range s.nodes {
				e.block(a, o, true)
			}
		})
	}
	for range own.IntN(4) {
		k, d := own.IntN(64), brief()
		stuck := own.IntN(2) == 0
		s.after(at(), func() {
			if len(e.up) == 0 {
				return
			}
			x := e.up[k%len(e.up)]
			if !stuck {
				e.end(x)
				return
			}
			e.hinder(x.a, x.b, true)
			s.after(d, func() { e.hinder(x.a, x.b, false) })
		})
	}
	for _, x := range s.nodes {
		x.lossless = false
	}
}

// pathTo is how one node reaches another.
func (x *simNode) pathTo(o *simNode) (Path, *Member) {
	if m := x.n.byID[o.id]; m != nil {
		return m.Path, &m.Member
	}
	return 255, nil
}
