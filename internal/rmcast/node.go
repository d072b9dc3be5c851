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
	"slices"
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
	// Signs says that it signs all it says, with Key; Denied that its streams are not taken (Config.Takes).
	Signs, Denied bool
	Key           buskey.Public
	// Hear: we hear its multicast. Hears: it hears ours.
	Hear, Hears bool
	// Voice is the group, 0 or 1, by which its multicast comes, when it is heard.
	Voice byte
	// Path is how our packets reach it beside multicast; Via the member that passes them on, of ByMember. Why says why it cannot be
	// reached, as far as that is known.
	Path Path
	Via  ID
	Why  string
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
	PathChanged   // Member.Path is another, or Member.Voice
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
	View      int  // members to seek while nothing is published; 0: DefaultView
	Wire      Wire
	Edges     Edges // nil: members are reached by UDP only
	Sink      Sink
	Rand      *rand.Rand
	Nonces    io.Reader // crypto/rand
	// Sign signs all that this member says; Self is its epoch then. nil: nothing is signed, and Self is odd.
	Sign *buskey.Identity
	// Takes, if not nil, says whose streams are taken. It must always say the same of the same member.
	Takes func(m Member) bool
	// Wants, if not nil, is told what a member subscribes to, before that member hears that it is known. The slice is not to be changed. It
	// is called with the Node's lock held.
	Wants func(m Member, all []Interest)
	// Groups, if not nil, is the Wire's second group.
	Groups Groups
}

// NodeStats count what a Node did; each drop has a name.
type NodeStats struct {
	Data, Control, Hellos                                      uint64
	Duplicates, Ahead, UnknownStream, UnknownMember            uint64
	Short, Forged, Replayed, OtherVersion, Malformed, NoType   uint64
	MembersFull, StreamsFull                                   uint64
	Unsigned                                                   uint64 // in the name of a member that signs, and not signed by it
	Unchecked                                                  uint64 // the same, perhaps: too many came that were not signed
	Untrusted                                                  uint64 // streams announced by who is not taken from
	Nacks, NacksHeard, Suppressed, PeerNacks, PeerRepairs, Own uint64
	LostRanges, Relayed, ValuesForgotten                       uint64
	Implausible                                                uint64 // claims of a stream that no publisher can keep
	Unanswered                                                 uint64 // questions of a member beyond what it may ask
	Unheeded                                                   uint64 // NACKs of one that has sent too many for nothing that is kept; moves of one that moves all the time
	PassedOver                                                 uint64 // packets of best-effort streams that did not come, or too late
	IslandRelayed, IslandNacks, IslandRepairs                  uint64 // by multicast for a publisher that is not heard here
	EdgesUp, EdgesFailed, PathChanges, Forwarded               uint64
	NoEdge, NoWay                                              uint64 // datagrams by an edge that has ended; for a member that has none to here
	Parity, Rebuilt                                            uint64 // parity packets taken, packets made from them
	VoiceChanges                                               uint64 // from one group to the other
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
	departed   []departed   // the last that are gone
	candidates []*candidate // whom we were told of, or seeds
	number     uint64       // of our hellos
	mouth      *island.Mouth
	mouthAt    time.Time
	ear        *island.Ear
	earAt      time.Time
	island     ID           // the name of ours; 0 without multicast
	deafSince  [2]time.Time // when by each group that came last of which nothing came any more
	lower      int          // members with lower epochs that are heard
	watchedAt  time.Time
	around     uint32 // circle, if it is known
	aroundOK   bool
	voice      voice

	edges *edges // nil: none

	senders    []*Sender
	nextStream uint32
	streams    map[streamKey]*rx
	order      []*rx
	dirty      []*rx
	last       *rx // of the packet before
	batch      uint64
	ending     bool   // some stream has ended
	byGroup    bool   // the packet at hand came by multicast
	counter    uint64 // of the control packet at hand

	interests []Interest
	grouped   []Interest // of these, those of queue groups
	version   uint32
	wants     subject.Trie[ID] // of the others' interests

	slab     slab
	lent     blocks
	plain    []byte // control and hello packets are opened here
	greeting []byte // a hello that is to be sent: records in plain may still have to be read
	sealed   []byte
	groupOut []byte    // records for all
	spoken   []*member // those with records to send
	out      train     // repairs for others
	ranges   []Range
	marks    []*Sender // repairs to the group whose end is to be marked
	next     time.Time
	closed   bool

	from        netip.AddrPort // of the datagram at hand
	said        said           // the signed control packet at hand
	forgedUntil time.Time      // grows with what was found forged: mayCheck
}

// New makes a member that knows nobody. Its first packets leave with the first Tick.
func New(cfg Config, now time.Time) (*Node, error) {
	switch {
	case cfg.Self == 0 || len(cfg.Keys) == 0:
		return nil, errors.New("rmcast: a member needs an epoch and a key")
	case len(cfg.Name) > 255:
		return nil, errors.New("rmcast: the name is longer than 255 bytes")
	case cfg.Sign == nil && buskey.Signs(uint64(cfg.Self)) || cfg.Sign != nil && cfg.Self != ID(cfg.Sign.Epoch()):
		return nil, errors.New("rmcast: the epoch is not that of the signing key, or is even without one")
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
	if cfg.View == 0 {
		cfg.View = DefaultView
	}
	n := &Node{
		cfg: cfg, byID: map[ID]*member{}, answered: map[ID]*candidate{}, streams: map[streamKey]*rx{},
		mouth: island.NewMouth(cfg.Rand.Uint64() >> 1), mouthAt: now, ear: island.NewEar(), earAt: now.Add(time.Second), next: now, batch: 1,
		plain: make([]byte, 0, MaxDatagram), voice: voice{usable: flag(cfg.Multicast, 1)},
	}
	var err error
	if n.ctl, err = cfg.Keys[0].Control(cfg.Suite, uint64(cfg.Self)); err != nil {
		return nil, err
	}
	if cfg.Edges != nil {
		n.edges = newEdges(n, cfg.Edges)
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
	if n.edges != nil {
		if n.edges.over = 0; isEdge(from) { // no datagram comes from there
			n.Stats.Forged++
			return
		}
	}
	n.take(now, from, group, pkt)
}

// take is Packet for what came by an edge, too.
func (n *Node) take(now time.Time, from netip.AddrPort, group bool, pkt []byte) {
	if len(pkt) == 0 {
		n.Stats.Short++
		return
	}
	if n.from = from; n.edges != nil {
		n.edges.from = from
	}
	switch pkt[0] {
	case TypeData:
		n.data(now, group, pkt)
	case TypeParity:
		n.parity(now, group, pkt)
	case TypeControl:
		n.control(now, from, group, pkt)
	case TypeHello:
		n.hello(now, from, group, pkt)
	case TypeBundle:
		n.bundle(now, from, group, pkt)
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
	n.unload(nil, false)
	for _, tx := range n.marks {
		tx.mark(now)
	}
	n.marks = n.marks[:0]
	n.flush()
	n.batch++
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
	lent := r.st.Lent
	var room []byte
	if lent {
		room = n.lent.room(len(pkt))
	} else {
		room = n.slab.room(len(pkt))
	}
	plain, err := r.key.Open(room, seq, pkt)
	if err != nil {
		n.Stats.Forged++
		return
	}
	if _, _, err := Begins(plain); err != nil {
		n.Stats.Malformed++
		return
	}
	if r.m.signs != nil && !n.signed(now, r.m, pkt, plain) {
		return
	}
	var in *block
	if lent {
		in = n.lent.took(len(plain))
	} else {
		n.slab.took(len(plain))
	}
	plain = plain[:len(plain):len(plain)]
	n.Stats.Data++
	if group && r.via.m != nil {
		r.via.at, r.via.behind = now, time.Time{}
		n.heard(now, r.m, false) // it says nothing of the publisher's multicast
	} else {
		n.heard(now, r.m, group)
	}
	if n.edges != nil {
		n.metData(now, r.m, group)
	}
	if r.within < lazy {
		r.m.busyAt = now
	}
	r.accept(now, seq, plain, in)
	r.pass(now, group, seq, pkt)
	if len(r.parities) > 0 {
		block, _ := blockOf(seq)
		r.rebuild(now, block)
	}
	n.touch(r)
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
	if n.streams[streamKey{r.m.ID, r.st.ID}] != r {
		return // with the stream that it is a snapshot of
	}
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
	if r.main != nil {
		return
	}
	for _, o := range slices.Clone(n.order) { // a snapshot of nothing
		if o.main == r {
			n.dirty = slices.DeleteFunc(n.dirty, func(d *rx) bool { return d == o })
			n.drop(o)
		}
	}
	n.cfg.Sink.End(r.st, r.ready)
	for i := range r.ready {
		r.ready[i].Release()
	}
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

// Kept gives the packets of a stream that were delivered and are still kept, oldest first. Who takes one holds or keeps it before the node is used again.
func (n *Node) Kept(st *Stream) []Packet {
	r := n.streams[streamKey{st.Publisher, st.ID}]
	if r == nil || r.st.Class != Reliable {
		return nil
	}
	var ps []Packet
	for seq := r.store.first; seq < r.delivered; seq++ {
		if r.store.has(seq) {
			p := r.store.at(seq)
			ps = append(ps, Packet{Seq: seq, Plain: p.plain, in: p.in})
		}
	}
	return ps
}

// Streams returns the streams that are received.
func (n *Node) Streams() []*Stream {
	sts := make([]*Stream, 0, len(n.order))
	for _, r := range n.order {
		if r.main == nil {
			sts = append(sts, r.st)
		}
	}
	return sts
}
