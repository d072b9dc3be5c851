package rmcast

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// Where UDP does not reach a member, an edge does: a connection over TCP that carries the same datagrams, sealed as they are. And
// where neither of two can dial the other, a third member that has an edge to both passes them on. To the rest of a Node these are addresses like
// others: a member whose path changes has another address, and what was lost meanwhile is asked for. So numbers and NACKs do the resuming.
//
// Datagrams that a third passes on begin with who shall have them and who sent them, and come and go by edges only: who is at
// the other end of an edge is known.
//
//	0      1      9        17
//	+------+------+--------+----------+
//	| type | to 8 | from 8 | datagram |
//	+------+------+--------+----------+

// TypeVia is such a datagram.
const TypeVia = 0x4a

const viaHeader = 17

// Records of this file, between.go and paths.go; older members pass them over.
const (
	recProbe  = 30 // [stamp 4]: to be answered where it came from
	recProbed = 31 // [stamp 4]
	recHold   = 32 // dial me: somebody wants to reach you by way of me
	recSeek   = 33 // [epoch]: do you reach it?
	recFound  = 34 // [epoch]: yes, just now
)

// Bounds and times of edges.
const (
	// maxFar is how many members are sought by way of others at a time, farTries how often each.
	maxFar   = 256
	farTries = 8
	farEvery = time.Second
	// mostBetween is how many members may be asked to be between two others, askedAtOnce how many of them at a time.
	mostBetween = 16
	askedAtOnce = 3
	// seekFirst is how soon more of them are asked, twice each, doubling to seekLast; foundWithin how long ago one must have heard who is sought.
	seekFirst   = 150 * time.Millisecond
	seekLast    = 10 * time.Second
	foundWithin = time.Second
	// edgeIdle is after how long without anything an edge ends that nothing needs; edgeStranger, if its other end does not become a member.
	edgeIdle     = time.Minute
	edgeStranger = 10 * time.Second
	// dialAfter is how many hellos a seed or half-known member leaves unanswered before it is dialled.
	dialAfter = 3
	// dialFirst doubles to dialLast: how often one is dialled that cannot be reached otherwise.
	dialFirst = time.Second
	dialLast  = 30 * time.Second
	// dialling is how long a dialling may take.
	dialling  = 8 * time.Second
	holdEvery = 300 * time.Millisecond
	sweep     = time.Second
)

// Edges makes and ends connections over TCP: Config.Edges. What is sent to EdgeAddr of a member goes by them. Its methods are called with the Node's
// lock held and must not wait; they call no method of the Node themselves.
type Edges interface {
	// Dial begins to make an edge to who listens at an address, and is or should be a member, 0: anyone. EdgeUp or EdgeFailed follow.
	Dial(id ID, addr netip.AddrPort)
	// Hang ends the edge to a member. EdgeDown follows.
	Hang(id ID)
}

// edgePrefix is the network of EdgeAddr: 100::/64, which nothing is ever sent to (RFC 6666).
var edgePrefix = [8]byte{1}

// EdgeAddr is the address that stands for the edge to a member.
func EdgeAddr(id ID) netip.AddrPort {
	var a [16]byte
	copy(a[:], edgePrefix[:])
	binary.BigEndian.PutUint64(a[8:], uint64(id))
	return netip.AddrPortFrom(netip.AddrFrom16(a), 1)
}

// EdgeID returns the member whose edge an address stands for.
func EdgeID(a netip.AddrPort) (ID, bool) {
	if a.Addr().Is4() || !a.IsValid() {
		return 0, false
	}
	b := a.Addr().As16()
	return ID(binary.BigEndian.Uint64(b[8:])), [8]byte(b[:8]) == edgePrefix
}

func isEdge(a netip.AddrPort) bool {
	_, is := EdgeID(a)
	return is
}

// edges is what a Node knows of them; nil: it has none.
type edges struct {
	n       *Node
	dials   Edges
	roads   *roads
	byID    map[ID]*edge
	list    []*edge // the same, in the order they came
	far     []*far
	sweepAt time.Time
	from    netip.AddrPort // of the datagram at hand
	over    ID             // who has passed it on; 0: nobody
}

// edge is a connection that is there.
type edge struct {
	id      ID
	listens netip.AddrPort // where the other end should be reached
	at      time.Time      // when something came by it
}

func newEdges(n *Node, dials Edges) *edges {
	e := &edges{n: n, dials: dials, byID: map[ID]*edge{}, roads: newRoads(n.cfg.Wire, n.cfg.Self)}
	n.cfg.Wire = e.roads
	return e
}

// EdgeUp tells that there is an edge to a member now. listens is where it should be reached, zero if that is not known. It returns when Tick is to be called.
func (n *Node) EdgeUp(now time.Time, id ID, listens netip.AddrPort) time.Time {
	e := n.edges
	if e == nil || n.closed || id == n.cfg.Self || id == 0 {
		return n.next
	}
	if !unicastTo(listens) {
		listens = zeroAddr
	}
	if e.byID[id] == nil {
		x := &edge{id: id, listens: listens, at: now}
		e.byID[id] = x
		e.list = append(e.list, x)
	}
	n.Stats.EdgesUp++
	e.roads.set(id, id)
	if m := n.byID[id]; m != nil {
		m.dialling = time.Time{}
		// Should it end before anything has come by it, the next one is not made at once, nor the one after that.
		m.dialPause = max(m.dialPause, dialFirst)
		m.dialAt = now.Add(m.dialPause)
		m.dialPause = min(2*m.dialPause, dialLast)
		if listens != zeroAddr {
			m.listens = listens
		}
		if m.Path == ByMember || m.searches(now) || m.Path == ByUDP && m.noUDP(now) {
			n.setPath(now, m, ByTCP, 0)
		}
	} else {
		n.sendHello(EdgeAddr(id), false, hello{to: id}) // the handshake has named its epoch
	}
	for _, m := range n.members { // it was to be between
		if m.awaits == id {
			n.setPath(now, m, ByMember, id)
		}
	}
	for _, f := range e.far {
		if f.by == id {
			e.greet(now, f)
		}
	}
	n.wake(now)
	return n.Done(now)
}

// EdgeDown tells that there is none any more.
func (n *Node) EdgeDown(now time.Time, id ID) time.Time {
	e := n.edges
	if e == nil || n.closed || e.byID[id] == nil {
		return n.next
	}
	delete(e.byID, id)
	e.list = slices.DeleteFunc(e.list, func(x *edge) bool { return x.id == id })
	e.roads.unset(id)
	if m := n.byID[id]; m != nil {
		m.endedAt = now
	}
	for _, m := range slices.Clone(n.members) {
		if m.Path == ByTCP && m.ID == id || m.Path == ByMember && m.Via == id {
			n.lost(now, m, "the connection has ended")
		}
	}
	n.wake(now)
	return n.Done(now)
}

// EdgeFailed tells that nothing came of a Dial, and why; self: this process itself is there.
func (n *Node) EdgeFailed(now time.Time, id ID, addr netip.AddrPort, why string, self bool) time.Time {
	e := n.edges
	if e == nil || n.closed {
		return n.next
	}
	n.Stats.EdgesFailed++
	for _, c := range n.candidates {
		if c.addr == addr {
			c.self = c.self || self
			if c.id != 0 {
				e.seek(now, c.id)
			}
		}
	}
	for _, m := range n.members {
		if !m.dialling.IsZero() && (m.ID == id || m.dialAddr() == addr) {
			m.dialling, m.why = time.Time{}, why
			m.dialAt = now.Add(spread(n.cfg.Rand, 2*m.dialPause))
			m.dialPause = min(2*m.dialPause, dialLast)
			m.refused = true
		}
		if m.awaits == id && id != 0 {
			m.awaits, m.seekAt = 0, now
		}
	}
	n.wake(now)
	return n.Done(now)
}

// EdgePacket takes a datagram that came by the edge of a member. After the last of a batch call Done.
func (n *Node) EdgePacket(now time.Time, id ID, pkt []byte) {
	e := n.edges
	if e == nil || e.byID[id] == nil {
		n.Stats.NoEdge++
		return
	}
	e.byID[id].at = now
	if len(pkt) > 0 && pkt[0] == TypeVia {
		n.forward(now, id, pkt)
		return
	}
	e.over = 0
	n.take(now, EdgeAddr(id), false, pkt)
}

// dial begins to make an edge to a member, if it is time to.
func (n *Node) dial(now time.Time, m *member, soon bool) {
	addr := m.dialAddr()
	switch {
	case !m.dialling.IsZero() && now.Sub(m.dialling) < dialling, !soon && now.Before(m.dialAt):
		return
	case !unicastTo(addr):
		m.refused = true
		return
	}
	m.dialPause = max(m.dialPause, dialFirst)
	m.dialling = now
	n.edges.dials.Dial(m.ID, addr)
}

// dialAddr is where a member should listen.
func (m *member) dialAddr() netip.AddrPort {
	if m.listens != zeroAddr {
		return m.listens
	}
	return m.udp
}

// where is the address of a member to tell others, zero: there is none that they could reach.
func (n *Node) where(m *member) netip.AddrPort {
	switch {
	case n.edges == nil:
		return m.Addr
	case m.udp != zeroAddr:
		return m.udp
	}
	return m.listens
}

// isAt reports whether an address is one of a member's.
func (m *member) isAt(a netip.AddrPort) bool { return m.Addr == a || m.udp == a || m.listens == a }

// tick seeks far members and ends edges that nothing needs.
func (e *edges) tick(now time.Time) {
	n := e.n
	for i := 0; i < len(e.far); i++ {
		f := e.far[i]
		if n.byID[f.id] != nil || f.tries >= farTries {
			e.far = slices.Delete(e.far, i, i+1)
			i--
			continue
		}
		if now.Before(f.at) {
			n.wake(f.at)
			continue
		}
		f.at = now.Add(farEvery)
		f.tries++
		e.greet(now, f)
		n.askOthers(now, f.id, f.tries/2)
	}
	if now.Before(e.sweepAt) {
		return
	}
	e.sweepAt = now.Add(sweep)
	for _, x := range slices.Clone(e.list) {
		m, idle := n.byID[x.id], now.Sub(x.at)
		switch {
		case m == nil && idle < edgeStranger:
		case m != nil && (m.Path == ByTCP || idle < edgeIdle || e.carries(x.id)):
		default:
			e.dials.Hang(x.id)
		}
	}
	e.roads.keep(func(id ID) bool {
		return n.byID[id] != nil || e.byID[id] != nil || n.answered[id] != nil || slices.ContainsFunc(e.far, func(f *far) bool { return f.id == id })
	})
}

// edgeRoom is how far a publisher is ahead at most of one that it reaches by TCP, in bytes: less than its connection's queue holds, or what has no room there
// would be sent again.
const edgeRoom = 1 << 20

// roomBy is the room that a receiver has by the path that it is reached by.
func (t *target) roomBy(room int) int {
	if isEdge(t.addr) {
		return min(room, edgeRoom)
	}
	return room
}

// plainAddr is an address as others may use it: zero if it stands for an edge.
func plainAddr(a netip.AddrPort) netip.AddrPort {
	if isEdge(a) {
		return zeroAddr
	}
	return a
}

// shown is a member as others see it: with an address that is one.
func (n *Node) shown(m *member) Member {
	o := m.Member
	if isEdge(o.Addr) {
		o.Addr = n.where(m)
	}
	return o
}

// NameOf returns the name of a member; its number, if it is not known.
func (n *Node) NameOf(id ID) string {
	if m := n.byID[id]; m != nil {
		return m.Name
	}
	return id.String()
}
