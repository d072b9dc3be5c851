package rmcast

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// Members that pass on what two others send each other, which have no other way: how they are found, and what they do.

// far is a member that is known by name only: whoever told of it reaches it, we don't.
type far struct {
	id    ID
	at    time.Time
	tries int
	by    ID // who says that it reaches it; 0: nobody yet
}

// forward takes a datagram that is for us by way of another, or is to be passed on to another.
func (n *Node) forward(now time.Time, by ID, pkt []byte) {
	e := n.edges
	if len(pkt) <= viaHeader {
		n.Stats.Short++
		return
	}
	to, from := ID(binary.BigEndian.Uint64(pkt[1:])), ID(binary.BigEndian.Uint64(pkt[9:]))
	switch {
	case to == n.cfg.Self:
		inner := pkt[viaHeader:]
		if from == 0 || from == n.cfg.Self || inner[0] == TypeVia || inner[0] == TypeBundle {
			n.Stats.Malformed++
			return
		}
		e.over = by
		n.take(now, EdgeAddr(from), false, inner)
		e.over = 0
	case from != by: // two between would be one too many, and nobody speaks for another
		n.Stats.Malformed++
	case e.byID[to] != nil:
		n.Stats.Forwarded++
		e.roads.pass(pkt, to)
	default:
		n.Stats.NoWay++
		// It may be near, and need not know yet that it is wanted.
		if m := n.byID[to]; m != nil && m.State != Unreachable && m.Path == ByUDP && !now.Before(m.holdAt) {
			m.holdAt = now.Add(holdEvery)
			n.say(m, func(b []byte) []byte { b, at := record(b, recHold); return done(b, at) })
		}
	}
}

// hold makes an edge to a member that passes others' datagrams on to us.
func (n *Node) hold(now time.Time, m *member) {
	if n.edges.byID[m.ID] == nil {
		n.dial(now, m, true)
	}
}

// told takes another's word that there is a member.
func (e *edges) told(now time.Time, id ID, addr netip.AddrPort) {
	if !unicastTo(addr) {
		e.seek(now, id)
		return
	}
	for _, c := range e.n.candidates {
		if c.addr == addr {
			c.id = id
		}
	}
}

// seek has a member sought by way of others.
func (e *edges) seek(now time.Time, id ID) {
	if e.n.byID[id] != nil || len(e.far) >= maxFar || !e.n.seeks() || slices.ContainsFunc(e.far, func(f *far) bool { return f.id == id }) {
		return
	}
	e.far = append(e.far, &far{id: id, at: now})
	e.n.wake(now)
}

// between returns the members that may pass datagrams on between us and another, in an order that both of us find. One whose edge has just ended comes last.
func (n *Node) between(now time.Time, id ID) []*member {
	var ms []*member
	for _, o := range n.members {
		if o.ID != id && o.State == Alive && o.Path != ByMember {
			ms = append(ms, o)
		}
	}
	order := func(o *member) uint64 {
		x := (uint64(id) ^ uint64(n.cfg.Self) + uint64(o.ID)) * 0x9e3779b97f4a7c15
		return (x ^ x>>29) * 0xbf58476d1ce4e5b9
	}
	ended := func(o *member) byte { return flag(n.edges.byID[o.ID] == nil && now.Sub(o.endedAt) < suspectRest, 1) }
	slices.SortFunc(ms, func(a, b *member) int {
		return cmp.Or(cmp.Compare(ended(a), ended(b)), cmp.Compare(order(a), order(b)), cmp.Compare(a.ID, b.ID))
	})
	return ms[:min(len(ms), mostBetween)]
}

// greet says hello to a far member, by way of who reaches it.
func (e *edges) greet(now time.Time, f *far) {
	o := e.n.byID[f.by]
	switch {
	case o == nil:
	case e.byID[o.ID] == nil:
		e.n.dial(now, o, true)
	default:
		e.roads.set(f.id, o.ID)
		e.n.sendHello(EdgeAddr(f.id), false, hello{})
	}
}

// askOthers asks some members whether they reach one; turn says which of those that might.
func (n *Node) askOthers(now time.Time, id ID, turn int) {
	ms := n.between(now, id)
	for i := range min(askedAtOnce, len(ms)) {
		n.say(ms[(turn*askedAtOnce+i)%len(ms)], func(b []byte) []byte {
			b, at := record(b, recSeek)
			return done(u64(b, uint64(id)), at)
		})
	}
}

// sought takes the question of a member whether we reach another. It asks again: then that one may have answered.
func (n *Node) sought(now time.Time, m *member, id ID) {
	t := n.byID[id]
	if t == nil || t.State == Unreachable || t.Path == ByMember || t.gone {
		return
	}
	if now.Sub(t.lastByPath()) > foundWithin {
		if now.Sub(t.asked) > askEvery {
			n.ask(now, t, recPing)
		}
		return
	}
	if !n.mayPong(now, m) {
		return
	}
	n.say(m, func(b []byte) []byte {
		b, at := record(b, recFound)
		return done(u64(b, uint64(id)), at)
	})
}

// found takes the word of a member that it reaches another, which is sought.
func (n *Node) found(now time.Time, o *member, id ID) {
	e := n.edges
	if m := n.byID[id]; m != nil {
		switch {
		case !m.searches(now) || m.awaits != 0 || o.Path == ByMember:
		case e.byID[o.ID] != nil:
			n.setPath(now, m, ByMember, o.ID)
		default:
			m.awaits = o.ID
			n.dial(now, o, true)
		}
		return
	}
	for _, f := range e.far {
		if f.id == id && (f.by == 0 || e.byID[f.by] == nil) {
			f.by, f.at = o.ID, now.Add(farEvery)
			e.greet(now, f)
		}
	}
}

// carries reports whether members are reached by way of one.
func (e *edges) carries(id ID) bool {
	return slices.ContainsFunc(e.n.members, func(m *member) bool { return m.Path == ByMember && m.Via == id })
}

// learn notes by whom a newcomer's datagram was passed on: so is the answer.
func (e *edges) learn(id ID) {
	if e != nil && e.over != 0 && e.byID[id] == nil {
		e.roads.set(id, e.over)
	}
}

// unanswered dials who says hello, is answered, and does not hear it.
func (e *edges) unanswered(id ID, from netip.AddrPort, c *candidate) {
	if e != nil && c.tries >= dialAfter && c.tries%dialAfter == 0 && unicastTo(from) && e.byID[id] == nil {
		e.dials.Dial(id, from)
	}
}
