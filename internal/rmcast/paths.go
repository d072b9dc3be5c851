package rmcast

import (
	"net/netip"
	"time"
)

// Path says how a member's packets reach it, beside multicast.
type Path byte

// The paths.
const (
	ByUDP    Path = iota
	ByTCP         // an edge
	ByMember      // another member, Via, passes them on: it has an edge to both
)

// A path is tried by asking: who is silent where something should come is sent pings by the path in use, and if none is answered the
// path is given up. UDP that was given up is probed, by probes that are answered where they came from, and taken again when several in a row
// have been answered, later each time that it did not hold.
const (
	// quietUrgent is how long a path may be silent while something is due by it, quietBusy while streams run but come otherwise, by
	// multicast say, quietRest else.
	quietUrgent = 250 * time.Millisecond
	quietBusy   = 5 * time.Second
	quietRest   = time.Minute
	// askEvery is how often a silent one is asked then; deadUDP and deadEdge how long it may leave that unanswered, deadRest while nothing is urgent.
	askEvery    = 60 * time.Millisecond
	askRestless = 400 * time.Millisecond
	deadUDP     = 250 * time.Millisecond
	deadMember  = 600 * time.Millisecond
	deadEdge    = 3 * time.Second
	deadRest    = 2 * time.Second
	// saidFor is how long its word counts that it does not hear us.
	saidFor = 2 * time.Second
	// neededFor is how long a path is urgent by which a member was told of the streams of another.
	neededFor = time.Second
	// probeFirst is when UDP is probed after it was given up, and the pause while answers come; it doubles to probeLast while none do.
	probeFirst = 500 * time.Millisecond
	probeLast  = 10 * time.Second
	probeGood  = 4
	// backAfter is how long UDP is not taken again; it doubles with each time that it did not hold, which is forgotten after steady.
	backAfter = 3 * time.Second
	backMost  = 5 // doublings
	steady    = 5 * time.Minute
)

// paths is a member's part in this.
type paths struct {
	udp     netip.AddrPort // where it is by UDP, as far as is known
	udpAt   time.Time      // when something came from there
	listens netip.AddrPort // where it should be dialled, if not there
	pathAt  time.Time      // when something came by its edge, or by another member

	pathOwes time.Time // since when the path in use owes an answer; zero: it does not
	askedAt  time.Time
	gone     bool      // it does not answer: another is sought
	saidAt   time.Time // it said that it does not hear us
	neededAt time.Time // it was told of the streams of another, who is gone
	why      string    // why there is no edge

	dialAt, dialling time.Time
	dialPause        time.Duration
	refused          bool      // it cannot be dialled
	awaits           ID        // who is to be between, when there is an edge to that one
	seekAt           time.Time // when others are asked whether they reach it
	seekPause        time.Duration
	seeks            int // how often they were
	holdAt           time.Time
	endedAt          time.Time // when an edge to it ended

	since      time.Time // of the path
	told       Path      // what was told of it last
	toldVia    ID
	fell       int    // how often UDP was given up
	stamp      uint32 // of a probe
	good       int    // how many in a row were answered
	probeAt    time.Time
	probePause time.Duration
}

// searches reports whether another path than that in use is sought: it does not answer, says that it does not hear us, or does not come to know us.
func (m *member) searches(now time.Time) bool {
	return m.gone || now.Sub(m.saidAt) < saidFor || !m.believed && m.hellos > dialAfter
}

// noUDP reports whether a member is to be told that we do not hear it by UDP.
func (m *member) noUDP(now time.Time) bool {
	if m.Path != ByUDP {
		return m.good == 0 && now.Sub(m.udpAt) >= quietUrgent
	}
	return m.gone || !m.pathOwes.IsZero() && now.Sub(m.pathOwes) > deadUDP/2
}

// met notes by which path a member's datagram came.
func (n *Node) met(now time.Time, m *member, from netip.AddrPort) {
	if n.edges == nil {
		if m.Addr != from && n.turns(now, m) {
			m.Addr = from
			n.retarget(now, m)
		}
		return
	}
	if isEdge(from) {
		if n.edges.over != 0 && m.Path == ByMember && m.Via != n.edges.over && (m.gone || n.cfg.Self < m.ID) {
			n.setPath(now, m, ByMember, n.edges.over) // its way works; of two that do the lower epoch takes the other's
		}
		if n.edges.over == 0 {
			m.dialAt, m.dialPause = time.Time{}, dialFirst // the edge is good for something
		}
		if n.byPath(m) {
			m.pathAt = now
			m.answers()
			n.tellPath(m)
		}
		return
	}
	moved := m.udp != from
	if moved && !n.turns(now, m) {
		return
	}
	m.udp, m.udpAt = from, now
	if m.Path != ByUDP {
		return
	}
	if m.answers(); moved || m.Addr != from {
		m.Addr = from
		n.retarget(now, m)
	}
}

// byPath reports whether the datagram at hand came by the path to a member that is in use, an edge or another member. What comes by
// another way says nothing of it.
func (n *Node) byPath(m *member) bool {
	return m.Path == ByTCP && n.edges.over == 0 || m.Path == ByMember && n.edges.over == m.Via
}

// answers notes that the path in use is alive.
func (m *member) answers() { m.pathOwes, m.gone, m.awaits = time.Time{}, false, 0 }

// lastByPath is when something came by the path in use.
func (m *member) lastByPath() time.Time {
	if m.Path == ByUDP {
		return m.udpAt
	}
	return m.pathAt
}

// tellPath tells of a path that is another than was told.
func (n *Node) tellPath(m *member) {
	if m.told != m.Path || m.toldVia != m.Via {
		m.told, m.toldVia = m.Path, m.Via
		n.event(PathChanged, m)
	}
}

// metData is met for a packet of its streams: that may have come from anyone.
func (n *Node) metData(now time.Time, m *member, group bool) {
	switch from := n.edges.from; {
	case group:
	case from == m.udp:
		if m.udpAt = now; m.Path == ByUDP {
			m.pathOwes = time.Time{}
		}
	case m.Path != ByUDP && from == m.Addr && n.byPath(m):
		m.pathAt, m.pathOwes = now, time.Time{}
	}
}

// newcomer notes by which path a member came.
func (n *Node) newcomer(now time.Time, m *member, from netip.AddrPort) {
	e := n.edges
	if e == nil {
		return
	}
	m.since, m.probePause = now, probeFirst
	if !isEdge(from) {
		m.udp, m.udpAt = from, now
		if x := e.byID[m.ID]; x != nil {
			m.listens = x.listens
		}
		return
	}
	m.pathAt, m.probeAt = now, now.Add(probeFirst)
	if x := e.byID[m.ID]; x != nil {
		m.Path, m.listens = ByTCP, x.listens
	} else {
		m.Path, m.Via = ByMember, e.roads.of(m.ID)
	}
	m.told, m.toldVia = m.Path, m.Via // by the event that it has joined
	n.Stats.PathChanges++
}

// setPath takes another path to a member.
func (n *Node) setPath(now time.Time, m *member, p Path, via ID) {
	if m.Path == p && m.Via == via && !m.gone {
		return
	}
	if m.Path == ByUDP && p != ByUDP {
		if now.Sub(m.since) > steady {
			m.fell = 0
		}
		m.fell++
		m.good, m.stamp, m.probePause = 0, 0, probeFirst
		m.probeAt = now.Add(probeFirst)
	}
	m.Path, m.Via, m.since = p, via, now
	m.pathOwes, m.gone, m.awaits = time.Time{}, false, 0
	switch p {
	case ByUDP:
		m.Addr, m.udpAt = m.udp, now
	case ByTCP:
		m.Addr, m.pathAt = EdgeAddr(m.ID), now
		n.edges.roads.set(m.ID, m.ID)
	case ByMember:
		m.Addr = EdgeAddr(m.ID)
		n.edges.roads.set(m.ID, via)
		m.pathOwes, m.askedAt = now, now // it has to show that it works
	}
	n.Stats.PathChanges++
	if p != ByMember {
		n.tellPath(m)
	}
	n.retarget(now, m)
	n.ask(now, m, recPing)
	if !m.believed {
		n.introduce(now, m)
	}
	for _, r := range n.order {
		if r.m == m {
			r.answer = true
			n.touch(r)
			if len(r.gaps) > 0 { // what was asked for in vain
				for i := range r.gaps {
					r.gaps[i].due = now
				}
				r.nackAt = now
			}
		}
	}
	n.wake(now)
}

// lost gives up the path in use.
func (n *Node) lost(now time.Time, m *member, why string) {
	if !m.gone {
		m.gone = true
		m.seekAt, m.seekPause, m.seeks = now, 0, 0
		m.probeAt, m.probePause = now, probeFirst // UDP may be back by now
	}
	if why != "" {
		m.why = why
	}
	switch {
	case m.Path == ByUDP && n.edges.byID[m.ID] != nil:
		n.setPath(now, m, ByTCP, 0)
		return
	case m.Path == ByTCP && n.edges.byID[m.ID] != nil:
		n.edges.dials.Hang(m.ID) // the other end is stuck, or the way to it
		return
	case m.Path == ByTCP:
		m.refused = false // it could be dialled, or could dial
	}
	n.search(now, m)
}

// search looks for another path: an edge, or a member between.
func (n *Node) search(now time.Time, m *member) {
	if n.edges.byID[m.ID] != nil {
		n.setPath(now, m, ByTCP, 0)
		return
	}
	n.dial(now, m, false)
	slow := !m.dialling.IsZero() && now.Sub(m.dialling) > deadMember
	if (m.refused || slow) && !now.Before(m.seekAt) {
		n.askOthers(now, m.ID, m.seeks/2)
		if m.seeks++; m.seeks%2 == 1 {
			m.seekPause = min(max(seekFirst, 2*m.seekPause), seekLast)
		}
		m.seekAt, m.awaits = now.Add(m.seekPause), 0
	}
	if next := m.seekAt; next.After(now) {
		n.wake(next)
	}
	if m.dialling.IsZero() && m.dialAt.After(now) {
		n.wake(m.dialAt)
	} else if !m.dialling.IsZero() && !slow {
		n.wake(m.dialling.Add(deadMember + time.Millisecond))
	}
}

// watchPath sees to it that the path to a member works, and takes UDP again when it does.
func (n *Node) watchPath(now time.Time, m *member) {
	if m.Path != ByUDP {
		n.probe(now, m)
		if m.Path == ByMember && !m.gone {
			n.dial(now, m, false) // with growing pauses: a hole in a firewall may have been made
		}
	}
	if m.searches(now) {
		n.search(now, m)
		if !m.gone {
			return
		}
	}
	heard := m.lastByPath()
	silent := now.Sub(heard)
	if m.pathOwes.IsZero() {
		if silent < quietUrgent || !n.quietTooLong(now, m, silent) { // what becomes urgent has timers of its own
			n.wake(heard.Add(quietRest))
			return
		}
		m.pathOwes, m.askedAt = now, time.Time{}
	}
	urgent := n.urgent(now, m)
	every, dead := askEvery, deadUDP
	switch {
	case !urgent:
		every, dead = askRestless, deadRest
	case m.Path == ByTCP:
		every = askRestless
	case m.Path == ByMember:
		dead = deadMember
	}
	if m.Path == ByTCP { // it tells itself when it ends; what it holds may take a while to come through
		dead = deadEdge
	}
	if m.State == Unreachable {
		every = pingBusy
		if now.Sub(m.orphan) > time.Minute {
			every = pingRest
		}
	}
	if now.Sub(m.askedAt) >= every {
		m.askedAt = now
		n.ask(now, m, recPing)
	}
	if now.Sub(m.pathOwes) >= max(dead, 2*m.rtt) && !m.gone {
		n.lost(now, m, "")
	}
	n.wake(now.Add(every))
}

// urgent reports whether something of a member is due.
func (n *Node) urgent(now time.Time, m *member) bool {
	return m.last.Sub(m.busyAt) < busyFor && now.Sub(m.last) >= quietUrgent || now.Sub(m.neededAt) < neededFor || n.owes(now, m) || n.lacks(m)
}

// need has the path to a member tried that is told of the streams of another, who is gone: it does not answer to that, and what comes of it by
// multicast keeps it alive where nothing else passes.
func (n *Node) need(now time.Time, m *member) {
	if n.edges != nil {
		m.neededAt = now
		n.wake(now)
	}
}

// quietTooLong reports whether a path has been silent for longer than it should.
func (n *Node) quietTooLong(now time.Time, m *member, silent time.Duration) bool {
	_, _, every := n.lives(m)
	switch {
	case silent >= quietRest:
		return true
	case silent >= quietBusy && now.Sub(m.busyAt) < busyFor:
		return true
	case now.Sub(m.last) >= every+every/8+pingBusy: // it was asked, and has not answered
		return true
	}
	return n.urgent(now, m)
}

// owes reports whether a member has not confirmed what it was sent for longer than it may take.
func (n *Node) owes(now time.Time, m *member) bool {
	for _, tx := range n.senders {
		if tx.overdue(now, m.ID) {
			return true
		}
	}
	return false
}

func (s *Sender) overdue(now time.Time, id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.target(id)
	switch {
	case t == nil || t.gone || s.cfg.Confirm >= lazy:
		return false
	case !t.known:
		return t.announcePause > 4*announceFirst
	case t.owed.IsZero():
		return false
	}
	return now.Sub(maxTime(t.owed, t.heard)) >= max(quietUrgent, 3*s.within())
}

// lacks reports whether something of a member's streams has been asked for in vain.
func (n *Node) lacks(m *member) bool {
	for _, r := range n.order {
		if r.m == m && len(r.gaps) > 0 && r.gaps[0].tries > peerAfter && r.vain <= vainAfter {
			return true
		}
	}
	return false
}

// probe asks by UDP, while another path is in use.
func (n *Node) probe(now time.Time, m *member) {
	to := m.udp
	if to == zeroAddr {
		to = m.listens
	}
	if to == zeroAddr {
		return
	}
	if now.Before(m.probeAt) {
		n.wake(m.probeAt)
		return
	}
	if m.stamp != 0 { // the one before is unanswered
		m.good = 0
		m.probePause = min(2*m.probePause, probeLast)
	}
	m.stamp = stamp(now)
	m.probeAt = now.Add(m.probePause)
	n.wake(m.probeAt)
	n.probeTo(recProbe, m, to, m.stamp)
}

func (n *Node) probeTo(kind byte, m *member, to netip.AddrPort, stamp uint32) {
	b, at := record(nil, kind) // what is being read may be in n.plain
	n.sealed = sealControl(n.sealed[:0], n.ctl, n.cfg.Sign, m.ID, done(u32(b, stamp), at))
	n.cfg.Wire.Send(n.sealed, len(n.sealed), false, []netip.AddrPort{to})
}

// probed takes a probe, which is answered where it came from, or the answer to one.
func (n *Node) probed(now time.Time, m *member, kind byte, stamp uint32) {
	from := n.edges.from
	if n.byGroup || isEdge(from) || stamp == 0 {
		return
	}
	if kind == recProbe {
		if !n.mayPong(now, m) {
			return
		}
		n.probeTo(recProbed, m, from, stamp)
		if m.Path != ByUDP { // it is time to find the same
			m.probePause = probeFirst
			m.probeAt = earlier(m.probeAt, now.Add(probeFirst/2))
			n.wake(m.probeAt)
		}
		return
	}
	if m.Path == ByUDP || stamp != m.stamp {
		return
	}
	m.stamp, m.probePause = 0, probeFirst
	m.probeAt = earlier(m.probeAt, now.Add(probeFirst))
	n.wake(m.probeAt)
	if m.good++; m.gone || m.good >= probeGood && now.Sub(m.since) >= backAfter<<min(max(m.fell-1, 0), backMost) {
		n.setPath(now, m, ByUDP, 0)
	}
}

// notHeard takes a member's word that it does not hear us by UDP. by is who passed that on.
func (n *Node) notHeard(now time.Time, m *member, by ID) {
	if m.Path != ByUDP {
		m.good = 0
		return
	}
	switch {
	case n.edges.byID[m.ID] != nil:
		n.setPath(now, m, ByTCP, 0)
	case by != 0:
		n.setPath(now, m, ByMember, by)
		m.answers()
	default:
		m.saidAt = now
		n.wake(now)
	}
}

// whyNot says why a member cannot be reached, as far as that is known.
func (n *Node) whyNot(m *member) string {
	switch {
	case n.edges == nil || m.why == "" && !m.refused:
		return "no answer"
	case m.why == "":
		return "no answer by UDP, and no address to dial"
	}
	return "no answer by UDP; by TCP: " + m.why
}
