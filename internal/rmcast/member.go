package rmcast

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/subject"
)

// member is another member: one that has named our epoch, and so lives now.
type member struct {
	Member
	bus   *buskey.Bus // under whose key it speaks
	suite seal.Suite
	ctl   *buskey.Control
	signs *buskey.Verifier // checks what it says; nil: it does not sign
	standing

	helloNumber uint64
	lastBeacon  uint64 // its number
	believed    bool   // it believes in us
	helloAt     time.Time
	hellos      int
	last        time.Time     // anything authentic
	busyAt      time.Time     // a stream between us moved
	jitter      time.Duration // so that two do not ask each other at once
	lastGroup   time.Time     // anything by its multicast
	groupRun    int           // packets by multicast since it was last deaf to us
	doubtAt     time.Time     // when that seemed over
	doubts      int           // how often
	deafUntil   time.Time
	hear        bool // we hear its multicast
	asked       time.Time
	rtt         time.Duration
	orphan      time.Time

	interests  []Interest // what it wants
	grouped    []Interest // of these, those of queue groups
	version    uint32     // of that
	parts      [][]Interest
	partsOf    uint32
	has        uint32 // version of ours that it has
	stateAt    time.Time
	statePause time.Duration
	streams    int
	crowd      int    // receivers of its streams, of which we are one
	granted    uint64 // the last batch in which it was allowed an answer
	replies    allowance
	unbegun    int // answers about streams of which nothing has come, since one began
	pongs      allowance
	strays     allowance
	moves      allowance

	paths
	voices

	peersAt    time.Time // when it may be told again whom we know
	peersPause time.Duration

	out    []byte // records for it
	listed bool
}

func (m *member) wants(subj string) bool {
	for i := range m.interests {
		if subject.Overlap(m.interests[i].Pattern, subj) {
			return true
		}
	}
	return false
}

// heard notes a sign of life.
func (n *Node) heard(now time.Time, m *member, group bool) {
	m.last = now
	if group {
		m.lastGroup = now
		m.groupRun++
	}
	if m.State == Alive {
		return
	}
	was := m.State
	m.State = Alive
	m.Why = ""
	m.orphan = time.Time{}
	if was == Unreachable {
		n.event(Rejoined, m)
		n.retarget(now, m)
		n.refreshQueues()
		n.introduce(now, m)
		m.stateAt, m.statePause = now, stateAgain
		for _, r := range n.order {
			if r.m == m {
				r.answer = true
				n.touch(r)
			}
		}
		n.wake(now)
	}
}

func (n *Node) event(k EventKind, m *member) {
	n.aroundOK = false
	n.cfg.Sink.Event(Event{k, n.shown(m)})
}

// hears takes a member's word of whether it hears our multicast.
func (n *Node) hears(now time.Time, m *member, yes bool) {
	m.says = yes
	if yes = yes && n.hasVoice(); m.Hears != yes && n.turns(now, m) {
		n.reaches(now, m, yes)
	}
}

// reaches notes whether our multicast reaches a member.
func (n *Node) reaches(now time.Time, m *member, yes bool) {
	if m.Hears == yes {
		return
	}
	if m.Hears = yes; !yes {
		m.lost = now
	}
	n.retarget(now, m)
	n.place(now, m)
}

// deaf notes that a member's multicast does not reach us any more. What was missed meanwhile is asked for anew, for it comes another way from now on. And
// whose multicast has not come since may have gone the same way: they are not known to be of our island before they are heard again, and those for
// whom it is the same shall hear us.
func (n *Node) deaf(now time.Time, m *member) {
	n.deafSince[m.Voice] = m.lastGroup
	m.groupRun, m.deafUntil = 0, now.Add(deafHold)
	m.runs[m.Voice] = 0
	n.setHear(now, m, false)
	n.nameIsland()
	n.speak(now)
	for _, r := range n.order {
		if r.m == m {
			r.anew(now)
		}
	}
}

func (n *Node) setHear(now time.Time, m *member, yes bool) {
	if m.hear == yes {
		return
	}
	m.hear, m.Hear = yes, yes
	n.place(now, m)
	if yes {
		for _, r := range n.order {
			if r.m == m {
				r.via.m = nil // the publisher itself is heard
			}
		}
		n.event(MulticastUp, m)
	} else {
		n.event(MulticastDown, m)
	}
	n.ask(now, m, recPing)
}

// stampUnit is what stamps of pings count.
const stampUnit = 100 * time.Microsecond

func stamp(now time.Time) uint32 { return uint32(now.UnixNano()/int64(stampUnit)) | 1 }

// ask sends a ping or a pong: state versions and whether we hear the other's multicast.
func (n *Node) ask(now time.Time, m *member, kind byte) {
	st := uint32(0)
	if kind == recPing {
		st = stamp(now)
	}
	n.tell(now, m, kind, st)
}

func (n *Node) tell(now time.Time, m *member, kind byte, stamp uint32) {
	n.say(m, ping{kind, n.version, m.version, m.hear, n.edges != nil && m.noUDP(now), n.circle(), stamp, m.comesBy(now)}.append)
	m.shown = m.comesBy(now)
	m.asked, m.jitter = now, time.Duration(n.cfg.Rand.Int64N(int64(pingRest/8)))
}

func (n *Node) ping(now time.Time, m *member, kind byte, p ping) {
	if kind == recPong && p.stamp != 0 {
		rtt := time.Duration(stamp(now)-p.stamp) * stampUnit
		switch {
		case rtt > maxRTT:
		case m.rtt == 0:
			m.rtt = rtt
		default:
			m.rtt += (rtt - m.rtt) / 8
		}
	}
	if !n.overtaken(m) {
		n.hears(now, m, p.hears)
		m.reaches = p.groups
		n.place(now, m)
	}
	if p.noUDP && n.edges != nil && !n.byGroup {
		n.notHeard(now, m, n.edges.over)
	}
	if p.circle != n.circle() && !now.Before(m.peersAt) { // it knows others than we do
		n.tellPeers(m)
		m.peersPause = min(max(peersFirst, 2*m.peersPause), peersLast)
		m.peersAt = now.Add(m.peersPause)
	}
	if p.yours <= n.version {
		m.has = max(m.has, p.yours)
	}
	if kind == recPing && n.mayPong(now, m) { // a pong is never answered: two that lack something of each other would not stop
		n.tell(now, m, recPong, p.stamp)
	}
}

// circle is a number for the set of members that this one can reach, itself included.
func (n *Node) circle() uint32 {
	if n.aroundOK {
		return n.around
	}
	x := uint64(n.cfg.Self)
	for _, m := range n.members {
		if m.State != Unreachable {
			x ^= uint64(m.ID)
		}
	}
	n.around, n.aroundOK = uint32(x^x>>32), true
	return n.around
}

// say puts a record into the next packet for a member.
func (n *Node) say(m *member, appendTo func([]byte) []byte) {
	before := len(m.out)
	m.out = appendTo(m.out)
	if len(m.out) > controlRoom && before > 0 {
		rest := slices.Clone(m.out[before:])
		n.sealed = sealControl(n.sealed[:0], n.ctl, n.cfg.Sign, m.ID, m.out[:before])
		n.cfg.Wire.Send(n.sealed, len(n.sealed), false, []netip.AddrPort{m.Addr})
		m.out = append(m.out[:0], rest...)
	}
	if !m.listed {
		m.listed = true
		n.spoken = append(n.spoken, m)
	}
}

// flush sends what was said.
func (n *Node) flush() {
	for i, m := range n.spoken {
		n.spoken[i] = nil
		m.listed = false
		if n.byID[m.ID] == m {
			n.sealed = sealControl(n.sealed[:0], n.ctl, n.cfg.Sign, m.ID, m.out)
			n.cfg.Wire.Send(n.sealed, len(n.sealed), false, []netip.AddrPort{m.Addr})
		}
		if m.out = m.out[:0]; cap(m.out) > 256 {
			m.out = nil // there may be thousands
		}
	}
	n.spoken = n.spoken[:0]
	n.flushGroup(0)
}

func (n *Node) flushGroup(over int) {
	if len(n.groupOut) > over {
		n.sealed = sealControl(n.sealed[:0], n.ctl, n.cfg.Sign, forAll, n.groupOut)
		n.groupOut = n.groupOut[:0]
		n.cfg.Wire.Send(n.sealed, len(n.sealed), true, nil)
	}
}

// forget removes a member and what came from it.
func (n *Node) forget(now time.Time, m *member, why EventKind) {
	i := slices.Index(n.members, m)
	if i < 0 {
		return
	}
	for _, r := range slices.Clone(n.order) {
		if r.m == m {
			r.orphaned()
			r.deliver(now)
			n.drop(r)
		}
	}
	n.dirty = slices.DeleteFunc(n.dirty, func(r *rx) bool { return r.m == m })
	n.members = slices.Delete(n.members, i, i+1)
	delete(n.byID, m.ID)
	n.aroundOK = false
	n.unserved(now, m)
	for j := range m.interests {
		n.wants.Remove(m.interests[j].Pattern, subject.Entry[ID]{Value: m.ID})
	}
	for _, tx := range n.senders {
		tx.removeTarget(now, m.ID)
	}
	n.refreshQueues()
	if why == Left {
		n.event(Left, m)
	}
}

// Members returns the others, in the order they came.
func (n *Node) Members() []Member {
	ms := make([]Member, len(n.members))
	for i, m := range n.members {
		ms[i] = n.shown(m)
	}
	return ms
}

// goodbyes is how often a member says that it leaves: there is nobody to repeat it later.
const goodbyes = 3

// Leave confirms what was received and says goodbye. The Node must not be used after it.
func (n *Node) Leave(now time.Time) {
	members := n.members
	if n.edges != nil { // those that others pass it on to come first: who passes it on may leave at once
		members = slices.Clone(members)
		slices.SortStableFunc(members, func(a, b *member) int { return int(flag(b.Path == ByMember, 1)) - int(flag(a.Path == ByMember, 1)) })
	}
	for range goodbyes {
		for _, r := range n.order {
			r.answer = true
			r.confirm(now)
		}
		for _, m := range members {
			if m.State != Unreachable {
				n.say(m, func(b []byte) []byte { b, at := record(b, recLeave); return done(b, at) })
			}
		}
		n.flush()
	}
	n.closed = true
}

// hearing asks the ear once a second whom it hears.
func (n *Node) hearing(now time.Time) {
	heard, _ := n.ear.Tick(now)
	in := make(map[ident.HostID]bool, len(heard))
	for _, h := range heard {
		in[h.Host] = true
	}
	for _, m := range n.members {
		// Where packets come by multicast all the time, beacons lost among them mean nothing.
		busy := now.Sub(m.lastGroup) < busyFor && (m.hear || m.groupRun >= hearAgain)
		n.setHear(now, m, (in[m.ID.host()] || busy) && m.groupRun >= 2 && now.After(m.deafUntil))
		n.place(now, m)
	}
	n.nameIsland()
	n.weigh(now)
}
