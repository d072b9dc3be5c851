package rmcast

import (
	"io"
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

	helloNumber uint64
	beacon      uint64 // number of the last
	believed    bool   // it believes in us
	helloAt     time.Time
	hellos      int
	last        time.Time // anything authentic
	busyAt      time.Time // a stream between us moved
	pingAt      time.Time
	lastGroup   time.Time // anything by its multicast
	groupRun    int       // packets by multicast since it was last deaf to us
	deafUntil   time.Time
	hear        bool // we hear its multicast
	asked       time.Time
	rtt         time.Duration
	orphan      time.Time

	interests  []Interest // what it wants
	version    uint32     // of that
	parts      [][]Interest
	partsOf    uint32
	has        uint32 // version of ours that it has
	stateAt    time.Time
	statePause time.Duration
	streams    int

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

// candidate is an address where a member may be, or an epoch that was answered lately.
type candidate struct {
	addr  netip.AddrPort
	seed  bool // asked for ever
	self  bool // it is ours
	at    time.Time
	pause time.Duration
	tries int
}

const candidateTries = 6

// AddSeed has an address asked, from now on and for ever, whenever no member is there.
func (n *Node) AddSeed(now time.Time, addr netip.AddrPort) {
	for _, c := range n.candidates {
		if c.addr == addr {
			c.seed = true
			return
		}
	}
	n.candidates = append(n.candidates, &candidate{addr: addr, seed: true, at: now, pause: helloEvery})
	n.wake(now)
}

// candidate has an address asked that another member knows.
func (n *Node) candidate(now time.Time, addr netip.AddrPort) {
	if len(n.candidates) >= MaxMembers || !addr.IsValid() || addr.Port() == 0 || !addr.Addr().IsValid() || addr.Addr().IsMulticast() || addr.Addr().IsUnspecified() ||
		slices.ContainsFunc(n.candidates, func(c *candidate) bool { return c.addr == addr }) {
		return
	}
	n.candidates = append(n.candidates, &candidate{addr: addr, at: now, pause: helloEvery})
	n.wake(now)
}

var zeroAddr netip.AddrPort

func (n *Node) sendHello(to netip.AddrPort, group bool, h hello) {
	n.number++
	h.epoch, h.suite, h.name = n.cfg.Self, n.cfg.Suite, n.cfg.Name
	if !h.beacon {
		h.number = n.number
	}
	var nonce [24]byte
	if _, err := io.ReadFull(n.cfg.Nonces, nonce[:]); err != nil {
		return // without a nonce nothing is said
	}
	n.sealed = n.cfg.Keys[0].SealHello(n.sealed[:0], TypeHello, &nonce, h.append(n.plain[:0]))
	if group {
		n.cfg.Wire.Send(n.sealed, len(n.sealed), true, nil)
		return
	}
	n.cfg.Wire.Send(n.sealed, len(n.sealed), false, []netip.AddrPort{to})
}

// hello takes a hello. From one that nobody has introduced it costs this AEAD check and, if it is authentic, an answer.
func (n *Node) hello(now time.Time, from netip.AddrPort, group bool, pkt []byte) {
	var (
		plain []byte
		bus   *buskey.Bus
		err   error
	)
	for _, k := range n.cfg.Keys {
		if plain, err = k.OpenHello(n.plain, pkt); err == nil {
			bus = k
			break
		}
	}
	if err != nil {
		n.Stats.Forged++
		return
	}
	h, err := decodeHello(plain)
	switch {
	case err == errVersion: //nolint:errorlint // it is returned as it is
		n.Stats.OtherVersion++
		return
	case err != nil:
		n.Stats.Malformed++
		return
	}
	n.Stats.Hellos++
	if h.epoch == n.cfg.Self {
		for _, c := range n.candidates {
			c.self = c.self || !group && c.addr == from
		}
		return
	}
	m := n.byID[h.epoch]
	if m == nil {
		n.stranger(now, from, group, bus, h)
		return
	}
	if h.beacon {
		// Beacons have numbers of their own, and only their multicast tells something.
		if h.number <= m.beacon {
			n.Stats.Replayed++
			return
		}
		m.beacon = h.number
		if group {
			n.ear.Beacon(now, m.ID.host(), h.number)
			n.heard(now, m, true)
		}
		if !m.believed {
			n.introduce(now, m)
		}
		return
	}
	if h.number <= m.helloNumber {
		n.Stats.Replayed++
		return
	}
	m.helloNumber = h.number
	if !group && m.Addr != from {
		m.Addr = from
		n.retarget(now, m)
	}
	n.heard(now, m, group)
	if h.to == n.cfg.Self && h.known {
		m.believed = true
	} else if h.to == n.cfg.Self || h.to == 0 {
		n.introduce(now, m)
	}
}

// stranger answers who is not known, so that it names our epoch; when it does, it is a member.
func (n *Node) stranger(now time.Time, from netip.AddrPort, group bool, bus *buskey.Bus, h hello) {
	if h.to != n.cfg.Self {
		if h.to != 0 {
			return
		}
		c := n.answered[h.epoch]
		if c == nil {
			if len(n.answered) >= maxAnswered {
				for id, o := range n.answered {
					if now.Sub(o.at) > time.Second {
						delete(n.answered, id)
					}
				}
				if len(n.answered) >= maxAnswered {
					return
				}
			}
			c = &candidate{}
			n.answered[h.epoch] = c
		}
		if c.tries > 0 && now.Sub(c.at) < helloEvery*3/4 {
			return
		}
		c.at, c.tries = now, c.tries+1
		n.sendHello(from, false, hello{to: h.epoch})
		return
	}
	if len(n.members) >= MaxMembers {
		n.Stats.MembersFull++
		return
	}
	ctl, err := bus.Control(h.suite, uint64(h.epoch))
	if err != nil {
		return
	}
	delete(n.answered, h.epoch)
	m := &member{
		Member: Member{ID: h.epoch, Name: h.name, Addr: from}, bus: bus, suite: h.suite, ctl: ctl, helloNumber: h.number,
		believed: h.known, last: now, pingAt: now.Add(pingRest), stateAt: now, statePause: stateAgain,
	}
	n.members = append(n.members, m)
	n.byID[m.ID] = m
	n.heard(now, m, group)
	n.introduce(now, m)
	n.tellPeers(m)
	for _, o := range n.members {
		o.peersPause = 0
	}
	n.mouth.News()
	n.mouthAt = now
	n.event(Joined, m)
	n.ask(now, m, recPing)
	n.wake(now)
}

// introduce names a member's epoch to it: from then on it believes in us.
func (n *Node) introduce(now time.Time, m *member) {
	if m.hellos > 0 && now.Sub(m.helloAt) < helloEvery/2 {
		return
	}
	m.helloAt, m.hellos = now, m.hellos+1
	n.sendHello(m.Addr, false, hello{to: m.ID, known: true})
}

// tellPeers tells a newcomer whom we know.
func (n *Node) tellPeers(to *member) {
	const most = 36 // of 26 bytes
	var b []byte
	at, count := 0, 0
	for _, m := range n.members {
		if m == to || m.State == Unreachable {
			continue
		}
		if count == 0 {
			b, at = record(b[:0], recPeers)
		}
		b = appendPeer(b, m.ID, m.Addr)
		if count++; count == most {
			n.say(to, func(o []byte) []byte { return append(o, done(b, at)...) })
			count = 0
		}
	}
	if count > 0 {
		n.say(to, func(o []byte) []byte { return append(o, done(b, at)...) })
	}
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

func (n *Node) event(k EventKind, m *member) { n.cfg.Sink.Event(Event{k, m.Member}) }

// hears notes whether a member hears our multicast.
func (n *Node) hears(now time.Time, m *member, yes bool) {
	if m.Hears != yes {
		m.Hears = yes
		n.retarget(now, m)
	}
}

// deaf notes that a member's multicast does not reach us any more.
func (n *Node) deaf(now time.Time, m *member) {
	m.groupRun, m.deafUntil = 0, now.Add(deafHold)
	n.setHear(now, m, false)
}

func (n *Node) setHear(now time.Time, m *member, yes bool) {
	if m.hear == yes {
		return
	}
	m.hear, m.Hear = yes, yes
	if yes {
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
	n.say(m, ping{kind, n.version, m.version, m.hear, n.circle(), stamp}.append)
	m.pingAt = now.Add(pingRest + time.Duration(n.cfg.Rand.Int64N(int64(pingRest/8))))
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
	n.hears(now, m, p.hears)
	if p.circle != n.circle() && !now.Before(m.peersAt) { // it knows others than we do
		n.tellPeers(m)
		m.peersPause = min(max(peersFirst, 2*m.peersPause), peersLast)
		m.peersAt = now.Add(m.peersPause)
	}
	if p.yours <= n.version {
		m.has = max(m.has, p.yours)
	}
	if kind == recPing { // a pong is never answered: two that lack something of each other would not stop
		n.tell(now, m, recPong, p.stamp)
	}
}

// circle is a number for the set of members that this one can reach, itself included.
func (n *Node) circle() uint32 {
	x := uint64(n.cfg.Self)
	for _, m := range n.members {
		if m.State != Unreachable {
			x ^= uint64(m.ID)
		}
	}
	return uint32(x ^ x>>32)
}

// say puts a record into the next packet for a member.
func (n *Node) say(m *member, appendTo func([]byte) []byte) {
	before := len(m.out)
	m.out = appendTo(m.out)
	if len(m.out) > controlRoom && before > 0 {
		rest := slices.Clone(m.out[before:])
		n.sealed = n.ctl.Seal(n.sealed[:0], TypeControl, m.out[:before])
		n.cfg.Wire.Send(n.sealed, len(n.sealed), false, []netip.AddrPort{m.Addr})
		m.out = append(m.out[:0], rest...)
	}
	if !m.listed {
		m.listed = true
	}
}

// flush sends what was said.
func (n *Node) flush() {
	for _, m := range n.members {
		if m.listed {
			m.listed = false
			n.sealed = n.ctl.Seal(n.sealed[:0], TypeControl, m.out)
			m.out = m.out[:0]
			n.cfg.Wire.Send(n.sealed, len(n.sealed), false, []netip.AddrPort{m.Addr})
		}
	}
	n.flushGroup(0)
}

func (n *Node) flushGroup(over int) {
	if len(n.groupOut) > over {
		n.sealed = n.ctl.Seal(n.sealed[:0], TypeControl, n.groupOut)
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
		ms[i] = m.Member
	}
	return ms
}

// goodbyes is how often a member says that it leaves: there is nobody to repeat it later.
const goodbyes = 3

// Leave confirms what was received and says goodbye. The Node must not be used after it.
func (n *Node) Leave(now time.Time) {
	for range goodbyes {
		for _, r := range n.order {
			r.answer = true
			r.confirm(now)
		}
		for _, m := range n.members {
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
		n.setHear(now, m, in[m.ID.host()] && m.groupRun >= 2 && now.After(m.deafUntil))
	}
}
