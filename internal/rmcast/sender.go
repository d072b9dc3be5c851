package rmcast

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/buskey"
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
	Window  int           // bytes kept for repairs and late joiners; the sender is ahead of the slowest by less
	Keep    time.Duration // how long packets that all have are kept
	Flow    Flow
	Fanout  int // how many copies leave a member for one packet; 0: DefaultFanout
}

// target is one receiver of a stream.
type target struct {
	id        ID
	addr      netip.AddrPort
	hears     bool     // our multicast
	interests []uint32 // that brought it here
	known     bool     // has answered the announcement
	live      bool     // is waited for
	gone      bool     // unreachable
	ended     bool     // knows the end

	from, fromMessage uint64
	acked             uint64 // all packets before are there
	room              int    // bytes it takes beyond
	heard             time.Time
	owed              time.Time // since when it has not confirmed the tail; zero: it has
	announceAt        time.Time
	announcePause     time.Duration
	skipAt            time.Time
	relaying
	bucket   int // bytes of repairs it may still have
	filled   time.Time
	sentMark uint64 // s.bytesSent when the bucket was filled last
}

// Sender is the sending half of a stream. Its methods lock it, so that whoever publishes waits for no reader of the node.
type Sender struct {
	mu   sync.Mutex
	id   uint32
	self ID
	cfg  SenderConfig
	key  *buskey.Stream
	ctl  *buskey.Control
	wire Wire
	// local takes packets for this process's own subscriptions, in order; nil: there are none.
	local func(ps []Packet)
	// moved is called, with the lock held, when there may be room again or a confirmation came; it must not block.
	moved func()

	store                   store
	slab                    slab
	limit                   int    // bytes of plaintext a packet may have
	cur                     []byte // the packet being filled, in the slab
	begins                  int    // messages that begin in it
	message                 uint64 // number of the next message
	sent                    uint64 // packets before are on their way
	total                   uint64 // bytes of all closed packets, with slotCost each
	edge                    uint64 // of total: beyond it Send would block
	blocked                 bool   // it did
	confirmEvery, confirmAt uint64 // of total: packets that ask to be confirmed
	ended                   bool

	queues []queue
	turn   int // which member of a queue group is next

	targets     []*target
	groupOf     int // how many are served by multicast
	copies      []netip.AddrPort
	copiesUntil time.Time // then relays must have confirmed again
	congestion  int
	slowStart   bool
	cutAt       time.Time
	minAcked    uint64
	bytesSent   uint64
	sentAt      time.Time // the last data
	beatAt      time.Time
	beatPause   time.Duration
	beaten      time.Time
	urgent      bool // the next heartbeat goes to all that are behind
	out         train
	scratch     []byte
	localQueue  []Packet
	Stats       SenderStats
}

// queue is one queue group that wants the stream, and its members.
type queue struct {
	hash    uint32
	members []ID
}

// SenderStats count what a sender did. Read them with Snapshot.
type SenderStats struct {
	Messages, Packets, Bytes uint64
	Repairs, RepairBytes     uint64
	Nacks, NackedPackets     uint64
	Beats, Skips             uint64
	RefusedRepairs           uint64 // over a receiver's budget
	BadNacks                 uint64 // for what was never sent
}

func newSender(n *Node, id uint32, cfg SenderConfig) *Sender {
	if cfg.Window == 0 {
		cfg.Window = DefaultWindow
	}
	cfg.Window = min(max(cfg.Window, 256<<10), maxWindow)
	if cfg.Fanout <= 0 {
		cfg.Fanout = DefaultFanout
	}
	cfg.Fanout = min(cfg.Fanout, maxFanout)
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeep
	}
	s := &Sender{
		id: id, self: n.cfg.Self, cfg: cfg, key: n.cfg.Keys[0].Stream(n.cfg.Suite, uint64(n.cfg.Self), id), ctl: n.ctl, wire: n.cfg.Wire,
		limit: n.cfg.Datagram - buskey.Header - buskey.Tag, message: 1, sent: 1, congestion: firstCongestion, slowStart: true,
		moved: func() {},
	}
	s.store.first, s.store.next = 1, 1
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
	number, err = s.send(subj, headers, payload)
	full = s.store.next-s.sent >= MaxTrain
	s.mu.Unlock()
	return number, full, err
}

// SendAll takes messages on the stream's subject until one would block, and returns how many were taken.
func (s *Sender) SendAll(payloads [][]byte) (n int, full bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range payloads {
		if _, err = s.send("", nil, p); err != nil {
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

func (s *Sender) send(subj string, headers, payload []byte) (uint64, error) {
	if s.ended {
		return 0, ErrEnded
	}
	if s.total+uint64(len(s.cur)) >= s.edge {
		s.blocked = true
		return 0, ErrWouldBlock
	}
	number := s.message
	if subj == "" && len(headers) == 0 {
		if size := len(payload); size+3 <= s.limit-len(s.cur) && s.cur != nil {
			s.cur = append(binary.AppendUvarint(s.cur, uint64(size)<<2|recordPlain), payload...)
			s.begins++
			s.message++
			s.Stats.Messages++
			return number, nil
		}
		return number, s.sendLong(recordPlain, nil, payload)
	}
	if len(headers) > MaxHeaders-1 {
		return 0, ErrTooLarge
	}
	s.scratch = appendExtra(s.scratch[:0], subj, headers)
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
		if prefix+size <= s.limit-packetHeader-s.queueBytes() || s.limit-len(s.cur) < 64 {
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

func (s *Sender) queueBytes() int {
	if len(s.queues) == 0 {
		return 0
	}
	return 1 + 12*len(s.queues)
}

// open begins a packet if none is begun.
func (s *Sender) open() {
	if s.cur == nil {
		s.turn++
		s.openSame()
	}
}

func (s *Sender) openSame() {
	b := s.slab.room(s.limit)
	b = append(b, flag(len(s.queues) > 0, flagQueues))
	b = u64(b, s.message)
	b = append(b, 0, 0)
	if len(s.queues) > 0 {
		b = append(b, byte(len(s.queues)))
		for _, q := range s.queues {
			b = u64(u32(b, q.hash), uint64(q.members[s.turn%len(q.members)]))
		}
	}
	s.cur = b
}

// close ends the packet being filled. A full one is padded to full length: packets of one length share a system call.
func (s *Sender) close(full bool) {
	if s.cur == nil {
		return
	}
	if rest := s.limit - len(s.cur); full && rest > 0 {
		s.cur = append(s.cur, 0|recordNext)
		clear(s.cur[len(s.cur):s.limit])
		s.cur = s.cur[:s.limit]
	}
	binary.BigEndian.PutUint16(s.cur[9:], uint16(s.begins))
	s.slab.took(len(s.cur))
	if s.total += uint64(len(s.cur) + slotCost); s.total >= s.confirmAt {
		s.cur[0] |= flagConfirm
		s.confirmAt = s.total + s.confirmEvery
	}
	seq := s.store.next
	for s.store.first < s.sent && (s.store.bytes+len(s.cur) > s.cfg.Window || s.store.next-s.store.first >= maxSlots) {
		s.store.dropFirst()
	}
	s.store.put(seq, s.cur).end = s.total
	s.cur, s.begins = nil, 0
}

// closeInside goes to the next packet within a message: whoever has its beginning has the rest.
func (s *Sender) closeInside() {
	s.close(true)
	s.openSame()
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
	s.mu.Unlock()
}

// Waiting reports whether something was taken that has not left.
func (s *Sender) Waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur != nil || s.sent < s.store.next
}

// Gathered returns how many full packets wait, and how many ever left.
func (s *Sender) Gathered() (packets int, sent uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.store.next - s.sent), s.sent
}

func (s *Sender) flush(now time.Time) {
	s.close(false)
	s.flushClosed(now)
}

func (s *Sender) flushClosed(now time.Time) {
	if s.sent == s.store.next {
		return
	}
	at := nanos(now)
	group := s.groupOf >= 2
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
		s.local(s.localQueue)
		clear(s.localQueue)
		s.localQueue = s.localQueue[:0]
	}
	s.sentAt = now
	s.beatPause = beatFirst
	if b := now.Add(beatFirst); s.beatAt.IsZero() || s.beatAt.After(b) {
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
