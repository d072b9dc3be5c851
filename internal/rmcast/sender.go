package rmcast

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/parity"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/subject"
)

// Flow says for whom a sender waits.
type Flow byte

// The choices.
const (
	// FlowSlowest waits for the slowest receiver that still speaks.
	FlowSlowest Flow = iota
	// FlowNone waits for nobody: a receiver that cannot follow is told what it lost.
	FlowNone
)

// Errors of Send.
var (
	ErrWouldBlock = errors.New("receivers are behind by a whole window")
	ErrTooLarge   = errors.New("message too large")
	ErrEnded      = errors.New("the stream has ended")
)

// SenderConfig are the settings of a stream.
type SenderConfig struct {
	Subject string
	Class   Class
	Window  int           // bytes kept for repairs and late joiners; the sender is ahead of the slowest by less
	Keep    time.Duration // how long packets that all have are kept
	Flow    Flow
	Fanout  int // how many copies leave a member for one packet; 0: DefaultFanout
	// NoParity has packets sent again as they were, whatever is lost.
	NoParity bool
	parity   bool // parity packets, whatever is lost: for tests
	// Hub has one member, the lowest epoch, pass all packets on: two hops to everyone, and what it passes on for several publishers can
	// be gathered.
	Hub bool
	// Confirm is how long receivers may take to confirm, so that it can wait for data that goes the same way; heartbeats begin after twice that. 0: 20 ms.
	Confirm time.Duration
	// Dealt says that SendDealt tells who of each queue group has a message.
	Dealt bool
}

// target is one receiver of a stream.
type target struct {
	id        ID
	addr      netip.AddrPort
	hears     bool      // our multicast
	interests []uint32  // that brought it here
	known     bool      // has answered the announcement
	live      bool      // is waited for
	awaited   time.Time // until then it is also waited for if it has not answered the announcement; zero: not
	silent    bool      // when it was last waited for it confirmed nothing, nor has it since
	gone      bool      // unreachable
	ended     bool      // knows the end

	from, fromMessage uint64
	now, nowMessage   uint64 // what came next when it came: "from now" begins there, however late the announcement
	acked             uint64 // all packets before are there
	ackedAt           int64  // when it last confirmed more; nanoseconds
	room              int    // bytes it takes beyond
	snap              wanted
	leaping           bool // it is to go on behind the snapshot
	heard             time.Time
	owed              time.Time // since when it has not confirmed the tail; zero: it has
	announceAt        time.Time
	announcePause     time.Duration
	skipAt            time.Time
	relaying
	islanding
	bucket   int // bytes of repairs it may still have
	share    int // of these, bytes that all get
	sampled  uint64
	marked   allowance
	remarks  allowance
	filled   time.Time
	sentMark uint64 // s.bytesSent when the bucket was filled last
	castMark uint64 // and s.bytesCast
}

// Sender is the sending half of a stream. Its methods lock it, so that whoever publishes waits for no reader of the node.
type Sender struct {
	mu   sync.Mutex
	id   uint32
	self ID
	cfg  SenderConfig
	key  *buskey.Stream
	ctl  *buskey.Control
	sign *buskey.Identity // nil: it does not sign
	wire Wire
	// local takes packets for this process's own subscriptions, in order, and reports whether there is one; nil: there are none.
	local func(ps []Packet) bool
	// moved is called, with the lock held, when there may be room again or a confirmation came; it must not block.
	moved func()

	store                   store
	slab                    slab
	full                    []slabOf // slabs in which no packet begins any more, oldest first
	lent                    uint64   // packets before may be read by others for ever
	limit                   int      // bytes of plaintext a packet may have
	cur                     []byte   // the packet being filled, in the slab
	begins                  int      // messages that begin in it
	message                 uint64   // number of the next message
	sent                    uint64   // packets before are on their way
	byTrain                 uint64   // those before left in full trains, or before one
	total                   uint64   // bytes of all closed packets, with slotCost each
	edge                    uint64   // of total: beyond it Send would block
	blocked                 bool     // it did
	confirmEvery, confirmAt uint64   // of total: packets that ask to be confirmed
	ended                   bool

	values   *Values   // of class LastValue
	snapshot *snapshot // what it is, or nil

	wild      bool // of a pattern
	queues    []queue
	turn      uint32 // counts what was dealt
	shift     uint32 // counts what tables named that have no room for all
	inTurn    int    // how many of each group a packet names; 0: none
	dealsEach bool   // messages say who has them
	routes    map[string][]queue
	deals     []byte

	targets     []*target
	byID        map[ID]*target
	groupOf     int    // how many are served by multicast
	twice       [3]int // how many that hear us would hear a relay, too, by the group by which that comes here
	copies      []netip.AddrPort
	copiesUntil time.Time // then relays must have confirmed again
	judgedAt    time.Time // relays and their islands
	againAt     time.Time // when somebody may have a part again
	arrangedAt  time.Time
	unarranged  bool // changes wait for it
	pacedAt     time.Time
	unpaced     bool
	told        int // how many receivers there were when they were told
	congestion  int
	slowStart   bool
	cutAt       time.Time
	minAcked    uint64
	needed      uint64 // packets before are confirmed by all receivers by multicast that are waited for, but one
	confirming  int    // how many these are
	bytesSent   uint64
	bytesCast   uint64    // of repairs to the group, as they were asked for
	alone       []uint64  // packets of the NACK at hand that are for one alone
	sentAt      time.Time // the last data
	began       time.Time
	beatAt      time.Time
	beatPause   time.Duration
	beaten      time.Time
	urgent      bool   // the next heartbeat goes to all that are behind
	marks       uint64 // heartbeats to the group
	unmarked    bool   // one is to follow repairs
	asksLate    bool   // somebody does not know of the last one
	castAt      time.Time
	bus         *buskey.Bus
	suite       seal.Suite
	parityKey   *buskey.Stream // made when it is needed
	byParity    bool           // repairs to the group are gathered
	rowsFrom    time.Time      // until then no parity packets are sent: somebody forges them; zero: nobody does
	batch       *buskey.Batch  // what is signed together, made when it is needed
	blocks      map[uint64]*repairBlock
	pending     []uint64 // blocks of which something is asked for
	sampled     uint64   // packets when byParity was decided last
	askedFor    int      // different packets since
	askers      int      // by how many
	samples     uint64   // how often that was decided
	rowSpace    []byte
	out         train
	scratch     []byte
	localQueue  []Packet
	Stats       SenderStats
}

// SenderStats count what a sender did. Read them with Snapshot.
type SenderStats struct {
	Messages, Packets, Bytes uint64
	Repairs, RepairBytes     uint64
	Nacks, NackedPackets     uint64
	Beats, Skips             uint64
	RefusedRepairs           uint64 // over a receiver's budget
	BadNacks                 uint64 // for what was never sent
	LateNacks                uint64 // of NackedPackets: confirmed while the NACK was on its way
	Parity                   uint64 // of Repairs
}

func newSender(n *Node, id uint32, cfg SenderConfig) *Sender {
	if cfg.Window == 0 {
		cfg.Window = DefaultWindow
	}
	cfg.Window = min(max(cfg.Window, 256<<10), maxWindow)
	if cfg.Fanout <= 0 {
		cfg.Fanout = DefaultFanout
	}
	cfg.Fanout, cfg.Confirm = min(cfg.Fanout, maxFanout), min(cfg.Confirm, maxConfirm)
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeep
	}
	if cfg.Class == BestEffort {
		cfg.Flow, cfg.Keep = FlowNone, 1 // nobody asks for what was sent
	}
	s := &Sender{
		id: id, self: n.cfg.Self, cfg: cfg, key: n.cfg.Keys[0].Stream(n.cfg.Suite, uint64(n.cfg.Self), id), ctl: n.ctl, wire: n.cfg.Wire,
		limit: n.cfg.Datagram - buskey.Header - buskey.Tag - parity.Overhead, message: 1, sent: 1, congestion: firstCongestion, slowStart: true,
		moved: func() {}, byID: map[ID]*target{}, bus: n.cfg.Keys[0], suite: n.cfg.Suite, blocks: map[uint64]*repairBlock{}, byParity: cfg.parity,
		wild: subject.IsPattern(cfg.Subject), turn: uint32(n.cfg.Self) ^ uint32(n.cfg.Self>>32) + id,
	}
	if s.sign = n.cfg.Sign; s.sign != nil {
		s.limit -= 1 + buskey.ProofMost
	}
	s.store.first, s.store.next = 1, 1
	if cfg.Class == LastValue {
		s.values = newValues(min(cfg.Window, MaxValues), true)
	}
	s.pace()
	return s
}

// OnMoved sets what is called, with the sender's lock held, when room or confirmations may have come; it must not block.
func (s *Sender) OnMoved(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved = f
}

// Send takes a message: it is in a packet when Send returns, and leaves with Flush, or by itself when a train is full.
// ready reports that packets wait for Flush. subj is empty for the stream's own.
func (s *Sender) Send(subj string, headers, payload []byte) (number uint64, full bool, err error) {
	s.mu.Lock()
	number, err = s.send(subj, headers, payload, nil)
	full = s.store.next-s.sent >= MaxTrain
	s.mu.Unlock()
	return number, full, err
}

// SendAll takes messages on the stream's subject until one would block, and returns how many were taken.
func (s *Sender) SendAll(payloads [][]byte) (n int, full bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(payloads) {
		if k := s.fill(payloads[n:]); k > 0 {
			n += k
			continue
		}
		if _, err = s.send("", nil, payloads[n], nil); err != nil {
			break
		}
		n++
		if s.store.next-s.sent >= MaxTrain {
			full = true
			break
		}
	}
	return n, full, err
}

// fill puts messages into the packet being filled, as send would, as long as they fit, and returns how many did.
func (s *Sender) fill(payloads [][]byte) (n int) {
	if s.cur == nil || s.ended || s.total >= s.edge || s.values != nil || s.dealsEach { // each value is kept by send
		return 0
	}
	cur, room := s.cur, s.edge-s.total
	for _, p := range payloads {
		size := len(p)
		if size+3 > s.limit-len(cur) || uint64(len(cur)) >= room {
			break
		}
		if v := size<<2 | recordPlain; v < 1<<14 && v >= 1<<7 {
			cur = append(cur, byte(v)|0x80, byte(v>>7))
		} else {
			cur = binary.AppendUvarint(cur, uint64(v))
		}
		cur = append(cur, p...)
		n++
	}
	s.cur = cur
	s.begins += n
	s.message += uint64(n)
	s.Stats.Messages += uint64(n)
	return n
}

func (s *Sender) send(subj string, headers, payload, deals []byte) (uint64, error) {
	if s.ended {
		return 0, ErrEnded
	}
	if s.total+uint64(len(s.cur)) >= s.edge {
		s.blocked = true
		return 0, ErrWouldBlock
	}
	if s.values != nil {
		if err := s.keep(subj, headers, payload); err != nil {
			return 0, err
		}
	}
	number := s.message
	if s.dealsEach {
		deals = s.deal(subj)
	}
	if subj == "" && len(headers) == 0 && len(deals) == 0 {
		if size := len(payload); size+3 <= s.limit-len(s.cur) && s.cur != nil {
			s.cur = append(binary.AppendUvarint(s.cur, uint64(size)<<2|recordPlain), payload...)
			s.begins++
			s.message++
			s.Stats.Messages++
			return number, nil
		}
		return number, s.sendLong(recordPlain, nil, payload)
	}
	if len(headers) > MaxHeaders {
		return 0, ErrTooLarge
	}
	s.scratch = appendExtra(s.scratch[:0], subj, headers, deals)
	return number, s.sendLong(recordExtra, s.scratch, payload)
}

// sendLong puts a message of head and payload into a packet, or into several.
func (s *Sender) sendLong(kind byte, head, payload []byte) error {
	size := len(head) + len(payload)
	if size > MaxMessage || s.cfg.Window < 4*size && size > s.limit {
		return ErrTooLarge
	}
	const prefix = 4 // of a record: the longest varint used
	if s.cur != nil && prefix+size > s.limit-len(s.cur) {
		// A message that fits a packet is not cut in two; a longer one uses what is left of this one if that is much.
		if prefix+size <= s.limit-packetHeader-s.tableBytes() || s.limit-len(s.cur) < 64 {
			s.close(true)
		}
	}
	s.open()
	s.message++
	s.begins++
	s.Stats.Messages++
	if prefix+size <= s.limit-len(s.cur) {
		s.cur = binary.AppendUvarint(s.cur, uint64(size)<<2|uint64(kind))
		s.cur = append(append(s.cur, head...), payload...)
		return nil
	}
	part := s.limit - len(s.cur) - prefix - firstHeader
	s.cur = binary.AppendUvarint(s.cur, uint64(part+firstHeader)<<2|recordFirst)
	s.cur = append(s.cur, kind)
	s.cur = binary.BigEndian.AppendUint32(s.cur, uint32(size))
	h := min(part, len(head))
	s.cur = append(s.cur, head[:h]...)
	s.cur = append(s.cur, payload[:part-h]...)
	head, payload = head[h:], payload[part-h:]
	for len(head)+len(payload) > 0 {
		s.closeInside()
		part := min(s.limit-len(s.cur)-prefix, len(head)+len(payload))
		s.cur = binary.AppendUvarint(s.cur, uint64(part)<<2|recordNext)
		h := min(part, len(head))
		s.cur = append(s.cur, head[:h]...)
		s.cur = append(s.cur, payload[:part-h]...)
		head, payload = head[h:], payload[part-h:]
	}
	return nil
}

// open begins a packet if none is begun.
func (s *Sender) open() {
	if s.cur == nil {
		b := s.space()
		b = append(b, flag(s.inTurn > 0, flagQueues))
		b = u64(b, s.message)
		b = append(b, 0, 0)
		if s.inTurn > 0 {
			b = s.appendTable(b)
		}
		s.cur = b
	}
}

// close ends the packet being filled. A full one is padded to full length: packets of one length share a system call.
func (s *Sender) close(full bool) {
	if s.cur == nil {
		return
	}
	length, proof := s.limit, s.proofRoom()
	if proof > 0 {
		length++ // a proof is behind what ends the records
	}
	if rest := length - len(s.cur); (full || proof > 0) && rest > 0 {
		if s.cur = append(s.cur, 0|recordNext); full {
			clear(s.cur[len(s.cur):length])
			s.cur = s.cur[:length]
		}
	}
	binary.BigEndian.PutUint16(s.cur[9:], uint16(s.begins))
	s.slab.took(len(s.cur) + proof)
	if s.total += uint64(len(s.cur) + slotCost); s.total >= s.confirmAt {
		s.cur[0] |= flagConfirm
		s.confirmAt = s.total + s.confirmEvery
	}
	seq := s.store.next
	confirmed := s.sent
	if s.edge != math.MaxUint64 { // somebody is waited for: the packets of a long message may cost more than its bytes, and than what is free for it
		confirmed = min(confirmed, s.minAcked)
	}
	for s.store.first < confirmed && s.store.bytes+len(s.cur) > s.cfg.Window || s.store.first < s.sent && s.store.next-s.store.first >= maxSlots {
		s.store.dropFirst()
	}
	s.store.put(seq, s.cur).end = s.total
	if s.inTurn > 0 {
		s.turn += uint32(s.begins)
	}
	s.cur, s.begins = nil, 0
}

// closeInside goes to the next packet within a message: whoever has its beginning has the rest.
func (s *Sender) closeInside() {
	s.close(true)
	s.open()
}

// Flush sends what was taken.
func (s *Sender) Flush(now time.Time) {
	s.mu.Lock()
	s.flush(now)
	s.mu.Unlock()
}

// FlushFull sends the packets that are full, and leaves the one being filled.
func (s *Sender) FlushFull(now time.Time) {
	s.mu.Lock()
	s.flushClosed(now)
	s.byTrain = s.sent
	s.mu.Unlock()
}

// Waiting reports whether something was taken that has not left.
func (s *Sender) Waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur != nil || s.sent < s.store.next
}

// Gathered returns how many full packets wait, how many ever left, and how many of these by themselves, a train being full.
func (s *Sender) Gathered() (packets int, sent, byTrain uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.store.next - s.sent), s.sent, s.byTrain
}

func (s *Sender) flush(now time.Time) {
	s.close(false)
	s.flushClosed(now)
}

func (s *Sender) flushClosed(now time.Time) {
	if s.sent == s.store.next {
		return
	}
	if s.sign != nil {
		s.prove()
	}
	at := nanos(now)
	group := s.groupOf >= 2
	if now.Sub(maxTime(s.sentAt, s.began)) >= s.relayFor() { // relays have forgotten
		s.sentAt = now
		s.relays(now)
	}
	if !now.Before(s.copiesUntil) {
		s.copyTo(now)
	}
	for ; s.sent < s.store.next; s.sent++ {
		p := s.store.at(s.sent)
		p.at = at
		s.Stats.Packets++
		s.Stats.Bytes += uint64(len(p.plain))
		s.bytesSent += uint64(len(p.plain))
		if s.local != nil {
			s.localQueue = append(s.localQueue, Packet{Seq: s.sent, Plain: p.plain})
		}
		if group || len(s.copies) > 0 {
			s.load(s.sent, p.plain, group, s.copies)
		}
	}
	s.unload(group, s.copies)
	if s.local != nil {
		if s.local(s.localQueue) {
			s.lent = s.sent
		}
		clear(s.localQueue)
		s.localQueue = s.localQueue[:0]
	}
	s.sentAt = now
	s.beatPause = s.beatFirst()
	if b := now.Add(s.beatPause); s.beatAt.IsZero() || s.beatAt.After(b) || s.cfg.Confirm > 0 {
		s.beatAt = b
	}
}

// load seals a packet into the train, which leaves first when the packet does not fit.
func (s *Sender) load(seq uint64, plain []byte, group bool, to []netip.AddrPort) {
	size := len(plain) + buskey.Header + buskey.Tag
	if !s.out.fits(size) {
		s.unload(group, to)
	}
	var err error
	if s.out.buf, err = s.key.Seal(s.out.buf, TypeData, seq, plain); err == nil {
		s.out.added(size)
	}
}

func (s *Sender) unload(group bool, to []netip.AddrPort) {
	if s.out.n > 0 {
		s.wire.Send(s.out.buf, s.out.seg, group, to)
	}
	s.out.reset()
}

// End says that nothing more will come: receivers forget the stream when they have it all.
func (s *Sender) End(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush(now)
	s.ended = true
	s.beatAt, s.beatPause = now, beatFirst
}

// Ended reports whether the stream has ended and every receiver that can be reached has confirmed it.
func (s *Sender) Ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended && !slices.ContainsFunc(s.targets, func(t *target) bool { return !t.gone && (!t.known || t.acked < s.sent || !t.ended) })
}

// Next returns the number that the next message will have.
func (s *Sender) Next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.message
}

// Confirmed returns the receivers that have everything before a Mark, and those that have not. Who joined after it is neither.
func (s *Sender) Confirmed(upTo uint64) (have, lack []ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.targets {
		if t.from > upTo {
			continue
		}
		if t.known && t.acked >= upTo {
			have = append(have, t.id)
		} else {
			lack = append(lack, t.id)
		}
	}
	return have, lack
}

// Mark flushes, asks receivers to confirm soon, and returns what Confirmed takes.
func (s *Sender) Mark(now time.Time) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush(now)
	s.beatAt, s.beatPause, s.urgent = now, beatFirst, true
	return s.sent
}

// Receivers returns who gets the stream.
func (s *Sender) Receivers() []ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]ID, 0, len(s.targets))
	for _, t := range s.targets {
		if t.known && !t.gone {
			ids = append(ids, t.id)
		}
	}
	return ids
}

// Snapshot returns the counters.
func (s *Sender) Snapshot() SenderStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Stats
}
