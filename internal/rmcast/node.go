// Package rmcast is reliable multicast between the members of a bus: many small messages from one to many, in order, none
// twice, and none lost without a word.
//
// A Sender packs the messages of a stream, keeps what it sent, and sends again what is asked for. The receiving half puts
// packets in order and asks for what is missing; any member that has it can answer. A Node is one member: it knows
// the others, who of them wants what and who hears whose multicast, and drives the streams. What is old and good in it is
// from SRM (Floyd et al. 1995: any member repairs, random back-off, heartbeats that show the tail), NORM (RFC 5740) and Aeron
// (packets as the unit, status messages, room).
//
// It is a core: packets and now go in, packets and deliveries come out through Wire and Sink. A Node belongs to one
// goroutine at a time; a Sender has a lock of its own.
package rmcast

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/island"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/subject"
)

// ID names a member: the epoch of its process, 64 random bits, never 0.
type ID uint64

// String returns 16 hexadecimal digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// host is the id in the form that package island knows.
func (id ID) host() (h ident.HostID) {
	for i := range 8 {
		h[i] = byte(id >> (56 - 8*i))
	}
	return h
}

// Wire sends datagrams: buf holds one or more of segment bytes each (the last may be shorter), for the bus's group and for
// each address. buf is the caller's again when it returns. It is called with the locks of its caller held.
type Wire interface {
	Send(buf []byte, segment int, group bool, to []netip.AddrPort)
}

// Sink takes what a Node finds. It is called with the Node's lock held (Deliver for streams of its own: the Sender's).
type Sink interface {
	// Begin tells of a stream that is received from now on.
	Begin(st *Stream)
	// Deliver takes packets of a stream in order. False: there is no room; the same come again after Resume.
	Deliver(st *Stream, ps []Packet) bool
	// End tells that a stream will not go on: its publisher has closed it, or is forgotten. rest is what Deliver had no
	// room for; it does not come again.
	End(st *Stream, rest []Packet)
	// Event tells of members.
	Event(e Event)
}

// State of a member.
type State byte

// The states.
const (
	Alive State = iota
	Suspected
	Unreachable
)

// Member is another member as this one knows it.
type Member struct {
	ID    ID
	Name  string
	Addr  netip.AddrPort
	State State
	// Hear: we hear its multicast. Hears: it hears ours.
	Hear, Hears bool
}

// EventKind says what happened.
type EventKind byte

// The events.
const (
	Joined EventKind = iota
	SuspectedNow
	UnreachableNow
	Rejoined
	Left
	MulticastUp   // we hear its multicast
	MulticastDown // we don't any more
)

// Event is news of a member.
type Event struct {
	Kind   EventKind
	Member Member
}

// Config of a Node.
type Config struct {
	Self      ID
	Name      string
	Keys      []*buskey.Bus // the first is ours, all are believed
	Suite     seal.Suite
	Seeds     []netip.AddrPort
	Multicast bool // there is a group to send to
	Datagram  int  // UDP payload to fill
	Room      int  // bytes that others may send us beyond what we confirmed: what the socket holds
	History   int  // bytes kept of each received stream, for others and for later subscriptions
	Ahead     int  // bytes of a stream that may wait for a gap or for the sink
	Wire      Wire
	Sink      Sink
	Rand      *rand.Rand
	Nonces    io.Reader // crypto/rand
}

// NodeStats count what a Node did; each drop has a name.
type NodeStats struct {
	Data, Control, Hellos                                      uint64
	Duplicates, Ahead, UnknownStream, UnknownMember            uint64
	Short, Forged, Replayed, OtherVersion, Malformed, NoType   uint64
	MembersFull, StreamsFull                                   uint64
	Nacks, NacksHeard, Suppressed, PeerNacks, PeerRepairs, Own uint64
	LostRanges, Relayed                                        uint64
}

type streamKey struct {
	origin ID
	id     uint32
}

// Node is one member of a bus.
type Node struct {
	cfg   Config
	ctl   *buskey.Control
	Stats NodeStats

	members    []*member // in the order they came
	byID       map[ID]*member
	answered   map[ID]*candidate
	candidates []*candidate // whom we were told of, or seeds
	number     uint64       // of our hellos
	mouth      *island.Mouth
	mouthAt    time.Time
	ear        *island.Ear
	earAt      time.Time

	senders    []*Sender
	nextStream uint32
	streams    map[streamKey]*rx
	order      []*rx
	dirty      []*rx
	last       *rx  // of the packet before
	ending     bool // some stream has ended
	byGroup    bool // the packet at hand came by multicast

	interests []Interest
	version   uint32
	wants     subject.Trie[ID] // of the others' interests

	slab     slab
	plain    []byte // control and hello packets are opened here
	sealed   []byte
	groupOut []byte // records for all
	out      train  // repairs for others
	ranges   []Range
	next     time.Time
	closed   bool
}

// New makes a member that knows nobody. Its first packets leave with the first Tick.
func New(cfg Config, now time.Time) (*Node, error) {
	switch {
	case cfg.Self == 0 || len(cfg.Keys) == 0:
		return nil, errors.New("rmcast: a member needs an epoch and a key")
	case len(cfg.Name) > 255:
		return nil, errors.New("rmcast: the name is longer than 255 bytes")
	}
	if cfg.Datagram == 0 {
		cfg.Datagram = DefaultDatagram
	}
	cfg.Datagram = min(max(cfg.Datagram, MinDatagram), MaxDatagram)
	if cfg.History == 0 {
		cfg.History = DefaultHistory
	}
	if cfg.Ahead == 0 {
		cfg.Ahead = 2 * DefaultWindow
	}
	cfg.Room = min(max(cfg.Room, 64<<10), cfg.Ahead/2)
	n := &Node{
		cfg: cfg, byID: map[ID]*member{}, answered: map[ID]*candidate{}, streams: map[streamKey]*rx{},
		mouth: island.NewMouth(cfg.Rand.Uint64() >> 1), mouthAt: now, ear: island.NewEar(), earAt: now.Add(time.Second), next: now,
		plain: make([]byte, 0, MaxDatagram),
	}
	var err error
	if n.ctl, err = cfg.Keys[0].Control(cfg.Suite, uint64(cfg.Self)); err != nil {
		return nil, err
	}
	for _, s := range cfg.Seeds {
		n.candidates = append(n.candidates, &candidate{addr: s, seed: true, at: now, pause: helloEvery})
	}
	return n, nil
}

func (n *Node) wake(at time.Time) { n.next = earlier(n.next, at) }

func (n *Node) backoff() time.Duration {
	return backoffLeast + time.Duration(n.cfg.Rand.Int64N(int64(backoffMost-backoffLeast)))
}

// Packet takes a datagram from an address; group says that it came by multicast. After the last of a batch call Done.
// pkt is the caller's again when Packet returns.
func (n *Node) Packet(now time.Time, from netip.AddrPort, group bool, pkt []byte) {
	if len(pkt) == 0 {
		n.Stats.Short++
		return
	}
	switch pkt[0] {
	case TypeData:
		n.data(now, group, pkt)
	case TypeControl:
		n.control(now, from, group, pkt)
	case TypeHello:
		n.hello(now, from, group, pkt)
	default:
		n.Stats.NoType++
	}
}

// Done ends a batch: deliveries, confirmations and answers leave. It returns when Tick is to be called.
func (n *Node) Done(now time.Time) time.Time {
	for _, r := range n.dirty {
		r.dirty = false
		r.passOn()
		r.deliver(now)
		r.confirm(now)
	}
	n.dirty = n.dirty[:0]
	n.reap()
	n.unload(netip.AddrPort{})
	n.flush()
	return n.next
}

func (n *Node) touch(r *rx) {
	if !r.dirty {
		r.dirty = true
		n.dirty = append(n.dirty, r)
	}
}

// data takes a packet of a stream.
func (n *Node) data(now time.Time, group bool, pkt []byte) {
	stream, epoch, seq, ok := buskey.ParseHeader(pkt)
	if !ok {
		n.Stats.Short++
		return
	}
	r := n.last
	if r == nil || r.m.ID != ID(epoch) || r.st.ID != stream {
		if r = n.streams[streamKey{ID(epoch), stream}]; r == nil {
			if ID(epoch) == n.cfg.Self {
				n.Stats.Own++
			} else {
				n.Stats.UnknownStream++
			}
			return
		}
		n.last = r
	}
	if !r.fresh(seq) {
		n.Stats.Duplicates++
		return
	}
	if !r.takes(seq) {
		n.Stats.Ahead++
		return
	}
	room := n.slab.room(len(pkt))
	plain, err := r.key.Open(room, seq, pkt)
	if err != nil {
		n.Stats.Forged++
		return
	}
	if _, _, err := Begins(plain); err != nil {
		n.Stats.Malformed++
		return
	}
	n.slab.took(len(plain))
	plain = plain[:len(plain):len(plain)]
	n.Stats.Data++
	n.heard(now, r.m, group)
	r.m.busyAt = now
	r.accept(now, seq, plain)
	r.pass(now, pkt)
	n.touch(r)
}

// control takes records of another member.
func (n *Node) control(now time.Time, from netip.AddrPort, group bool, pkt []byte) {
	_, epoch, _, ok := buskey.ParseHeader(pkt)
	if !ok {
		n.Stats.Short++
		return
	}
	m := n.byID[ID(epoch)]
	if m == nil {
		if ID(epoch) != n.cfg.Self {
			n.Stats.UnknownMember++
		}
		return
	}
	plain, err := m.ctl.Open(n.plain, pkt)
	switch {
	case errors.Is(err, buskey.ErrReplay):
		n.Stats.Replayed++
		return
	case err != nil:
		n.Stats.Forged++
		return
	}
	n.Stats.Control++
	n.byGroup = group
	m.believed = true
	if !group && m.Addr != from {
		m.Addr = from
		n.retarget(now, m)
	}
	n.heard(now, m, group)
	if eachRecord(plain, func(kind byte, r reader) { n.record(now, m, kind, r) }) != nil {
		n.Stats.Malformed++
	}
}

func (n *Node) record(now time.Time, m *member, kind byte, r reader) {
	if n.byID[m.ID] != m {
		return // it said goodbye in the record before
	}
	switch kind {
	case recPing, recPong:
		if p := r.ping(); !r.bad {
			n.ping(now, m, kind, p)
		}
	case recState:
		n.state(now, m, &r)
	case recPeers:
		for len(r.b) > 0 && !r.bad {
			if id, addr := r.peer(); !r.bad && id != n.cfg.Self && n.byID[id] == nil {
				n.candidate(now, addr)
			}
		}
	case recLeave:
		n.forget(now, m, Left)
	case recAnnounce:
		if a := r.announce(); !r.bad {
			n.announced(now, m, a)
		}
	case recHeartbeat:
		if h := r.heartbeat(); !r.bad {
			n.heartbeat(now, m, h)
		}
	case recStatus:
		if s := r.status(); !r.bad {
			m.busyAt = now
			n.hears(now, m, s.flags&flagHears != 0)
			if tx := n.sender(s.stream); tx != nil {
				tx.status(now, m.ID, s)
				n.wake(now.Add(beatFirst))
			}
		}
	case recNack:
		n.ranges = n.ranges[:0]
		origin, stream, rs := r.nack(n.ranges)
		if n.ranges = rs; !r.bad {
			n.nacked(now, m, origin, stream, rs)
		}
	case recSkip:
		stream, first, message := r.u32(), r.u64(), r.u64()
		if x := n.streams[streamKey{m.ID, stream}]; x != nil && !r.bad && first > x.next {
			n.Stats.LostRanges++
			x.leap(first, message)
			x.answer = true
			n.touch(x)
		}
	case recRelay:
		if stream, plan, ids := r.u32(), r.u32(), r.ids(); !r.bad {
			n.relayFor(now, m, stream, plan, ids)
		}
	case recRelayed:
		if stream, plan, ids := r.u32(), r.u32(), r.ids(); !r.bad {
			if tx := n.sender(stream); tx != nil {
				tx.relayed(now, m.ID, plan, ids)
			}
		}
	case recTail:
		origin, stream, next, message := ID(r.u64()), r.u32(), r.u64(), r.u64()
		if x := n.streams[streamKey{origin, stream}]; x != nil && !r.bad {
			x.tail(now, next, message)
		}
	}
	if r.bad {
		n.Stats.Malformed++
	}
}

// announced begins to receive a stream that its publisher offers.
func (n *Node) announced(now time.Time, m *member, a announce) {
	k := streamKey{m.ID, a.stream}
	r := n.streams[k]
	if r == nil {
		if a.from == 0 || a.next < a.from || subject.CheckPattern(a.subject) != nil || !n.interested(a.subject) {
			return // we have just lost interest; or it makes no sense
		}
		if m.streams >= MaxStreams {
			n.Stats.StreamsFull++
			return
		}
		m.streams++
		r = newRx(n, m, a)
		n.streams[k] = r
		n.order = append(n.order, r)
		n.cfg.Sink.Begin(r.st)
	}
	r.tail(now, a.next, a.nextMessage)
	r.answer = true
	n.touch(r)
}

func (n *Node) interested(subj string) bool {
	for i := range n.interests {
		if subject.Overlap(n.interests[i].Pattern, subj) {
			return true
		}
	}
	return false
}

func (n *Node) heartbeat(now time.Time, m *member, h heartbeat) {
	r := n.streams[streamKey{m.ID, h.stream}]
	if r == nil {
		if h.flags&flagAnswer != 0 { // an end that we had already, or a stream that we know nothing of
			s := status{stream: h.stream, next: h.next, room: uint32(n.cfg.Room), flags: flagUnknown}
			if h.flags&flagEnd != 0 {
				s.flags = flagEnded
			}
			n.say(m, s.append)
		}
		return
	}
	r.tail(now, h.next, h.nextMessage)
	if h.flags&flagEnd != 0 {
		r.ending, r.end, n.ending = true, h.next, true
	}
	if h.flags&flagAnswer != 0 {
		r.answer = true
	}
	// It serves us by multicast, we lack something, and all we have heard for a while came by unicast.
	if h.flags&flagByGroup != 0 && h.next > r.next && m.Hear && now.Sub(m.lastGroup) > deafAfter {
		n.deaf(now, m)
	}
	n.touch(r)
}

// nack asks for packets: the publisher, and after some tries, or when it is gone, others that want the stream.
func (n *Node) nack(r *rx, rs []Range, tries int) {
	gone := r.m.State == Unreachable
	if !gone && (tries <= peerAfter || tries%2 == 0) {
		if r.m.Hears && n.cfg.Multicast && len(n.members) > 1 {
			n.groupOut = appendNack(n.groupOut, r.m.ID, r.st.ID, rs)
			n.flushGroup(controlRoom)
			return
		}
		n.say(r.m, func(b []byte) []byte { return appendNack(b, r.m.ID, r.st.ID, rs) })
		return
	}
	if p := n.peerOf(r); p != nil {
		n.Stats.PeerNacks++
		n.say(p, func(b []byte) []byte { return appendNack(b, r.m.ID, r.st.ID, rs) })
	}
}

// peerOf returns another member that gets the stream, a different one each time.
func (n *Node) peerOf(r *rx) *member {
	for range n.members {
		r.peer++
		m := n.members[r.peer%len(n.members)]
		if m != r.m && m.State != Unreachable && m.wants(r.st.Subject) {
			return m
		}
	}
	return nil
}

// nacked answers a NACK: for a stream of ours, for another's that we have, or it is a sign to keep still.
func (n *Node) nacked(now time.Time, m *member, origin ID, stream uint32, rs []Range) {
	if origin == n.cfg.Self {
		if tx := n.sender(stream); tx != nil {
			tx.nack(now, m.ID, rs)
		}
		return
	}
	r := n.streams[streamKey{origin, stream}]
	if r == nil {
		return
	}
	n.Stats.NacksHeard++
	if n.byGroup && r.m.State != Unreachable { // it came by multicast, to the publisher
		r.heardNack(now, rs)
		return
	}
	n.unload(netip.AddrPort{})
	for _, x := range rs {
		for seq := x.From; seq < x.From+uint64(x.Count); seq++ {
			if !r.store.has(seq) || seq >= r.store.next {
				continue
			}
			p := r.store.at(seq)
			if at := nanos(now); at-p.repaired < int64(repairHold) {
				continue
			} else if p.repaired = at; !n.out.fits(len(p.plain) + buskey.Header + buskey.Tag) {
				n.unload(m.Addr)
			}
			var err error
			if n.out.buf, err = r.key.Seal(n.out.buf, TypeData, seq, p.plain); err == nil {
				n.out.added(len(p.plain) + buskey.Header + buskey.Tag)
				n.Stats.PeerRepairs++
			}
		}
	}
	n.unload(m.Addr)
}

func (n *Node) unload(to netip.AddrPort) {
	if n.out.n > 0 && to.IsValid() {
		n.cfg.Wire.Send(n.out.buf, n.out.seg, false, []netip.AddrPort{to})
	}
	n.out.reset()
}

// reap forgets streams that have ended.
func (n *Node) reap() {
	if !n.ending {
		return
	}
	for i := 0; i < len(n.order); i++ {
		if r := n.order[i]; r.finished() && r.told == r.delivered && !r.answer {
			n.drop(r)
			i--
		}
	}
}

// drop forgets a stream.
func (n *Node) drop(r *rx) {
	delete(n.streams, streamKey{r.m.ID, r.st.ID})
	for i := range n.order {
		if n.order[i] == r {
			n.order = append(n.order[:i], n.order[i+1:]...)
			break
		}
	}
	if n.last == r {
		n.last = nil
	}
	r.m.streams--
	n.cfg.Sink.End(r.st, r.ready)
}

// Resume tries again to deliver what the sink had no room for. It returns when Tick is to be called.
func (n *Node) Resume(now time.Time) time.Time {
	for _, r := range n.order {
		if r.paused {
			r.answer = true
			n.touch(r)
		}
	}
	return n.Done(now)
}

// Kept gives the packets of a stream that were delivered and are still kept, oldest first.
func (n *Node) Kept(st *Stream) []Packet {
	r := n.streams[streamKey{st.Publisher, st.ID}]
	if r == nil {
		return nil
	}
	var ps []Packet
	for seq := r.store.first; seq < r.delivered; seq++ {
		if r.store.has(seq) {
			ps = append(ps, Packet{Seq: seq, Plain: r.store.at(seq).plain})
		}
	}
	return ps
}

// Streams returns the streams that are received.
func (n *Node) Streams() []*Stream {
	sts := make([]*Stream, len(n.order))
	for i, r := range n.order {
		sts[i] = r.st
	}
	return sts
}
