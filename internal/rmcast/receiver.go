package rmcast

import (
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/parity"
)

// Stream is a stream as its receiver sees it.
type Stream struct {
	Publisher ID
	Name      string // of the publisher's member
	ID        uint32
	Subject   string
	Class     Class
	From      uint64  // the first message that this member gets
	Next      uint64  // the next message when this member began to get it: "now"
	Values    *Values // of class LastValue: Deliver is called without packets when there is something new to read
	Lent      bool    // all that get it give each packet back (Packet.Release); the sink's to set, of none with Values
	Data      any     // the sink's own
}

// rx is the receiving half of a stream: it puts packets in order, knows what is missing and asks for it.
type rx struct {
	n   *Node
	m   *member
	st  *Stream
	key *buskey.Stream

	store           store  // [first, next of the store): delivered ones are kept for others
	next            uint64 // all packets before are in ready or delivered
	delivered       uint64 // all packets before were taken by the sink
	high            uint64 // all packets before are known to have been sent
	leapt, leaptMsg uint64 // where the stream began here, or the last leap ended, and the message that begins there
	highMsg         uint64 // the message that begins at high, 0 if a packet before it is here to tell
	gaps            []gap  // what is missing in [next, high), in order
	ready           []Packet
	undelivered     int // bytes in the store from delivered on
	paused          bool
	company         company
	vain            int  // NACKs since a packet came
	fec             bool // it is repaired by parity packets
	parityKey       *buskey.Stream
	parities        map[uint64]*parityRows // by block

	told    uint64    // delivered, as the publisher knows
	since   int       // bytes delivered since
	answer  bool      // it asked
	begun   bool      // a packet has come
	replies allowance // confirmations with nothing new
	ackAt   time.Time
	nackAt  time.Time // of the first gap due; zero: no gap
	mark    uint64    // the last round of repairs to the group that came
	peer    int       // whom to ask next
	tailAt  time.Time // when to tell others again what is here
	tails   int
	relay   relay
	loose   loose
	cur     Cursor // of streams with values
	main    *rx    // of which this is a snapshot
	awaits  uint32 // the snapshot
	had     uint32 // the last one that was complete
	via     via
	word    word      // where it has got to, as its publisher has signed
	noRows  time.Time // until then no parity packets are taken: they were forged

	within time.Duration // to confirm
	ending bool
	end    uint64
	dirty  bool
}

type gap struct {
	from, to uint64 // [from, to)
	due      time.Time
	nacks    int       // for it
	putOff   int       // how often others' NACKs put that off, since the last one
	tries    int       // of these, those since one was answered
	told     bool      // of by word only: nothing after it has come
	since    time.Time // when it was asked for first
	asked    time.Time
}

func newRx(n *Node, m *member, a announce) *rx {
	st := &Stream{Publisher: m.ID, Name: m.Name, ID: a.stream, Subject: a.subject, Class: a.class, From: a.fromMessage, Next: a.nextMessage}
	r := &rx{n: n, m: m, st: st, key: m.bus.Stream(m.suite, uint64(m.ID), a.stream)}
	r.next, r.delivered, r.high, r.told = a.from, a.from, a.from, a.from
	r.leapt, r.leaptMsg = a.from, a.fromMessage
	r.store.first, r.store.next = a.from, a.from
	return r
}

// fresh reports whether a packet is worth opening.
func (r *rx) fresh(seq uint64) bool { return seq >= r.next && !r.store.has(seq) }

// accept takes an opened packet; in is where it is lent.
func (r *rx) accept(now time.Time, seq uint64, plain []byte, in *block) {
	r.undelivered += len(plain) + slotCost
	if r.vain = 0; !r.begun {
		r.begun, r.m.unbegun = true, 0
	}
	if plain[0]&flagConfirm != 0 {
		r.soon(now)
	}
	if r.st.Class == BestEffort {
		r.acceptLoose(seq, plain, in)
		return
	}
	r.store.put(seq, plain).in = in
	in.hold()
	switch {
	case seq == r.high:
		r.high++
		if seq == r.next {
			r.readyNext()
			return
		}
	case seq > r.high:
		r.miss(now, r.high, seq)
		r.high = seq + 1
	default:
		r.fill(now, seq)
	}
	r.advance()
}

// takes reports whether a packet this far ahead is within bounds.
func (r *rx) takes(seq uint64) bool {
	if seq == r.next || r.st.Class == BestEffort {
		return true // it makes room
	}
	return seq-r.delivered < maxAhead && r.undelivered < r.n.cfg.Ahead && (seq <= r.high || len(r.gaps) < maxGaps)
}

// miss notes that [from, to) is missing. It is asked for after a random pause: the packets may be on their way, and
// another receiver may ask first.
func (r *rx) miss(now time.Time, from, to uint64) {
	due := now.Add(r.n.backoff())
	r.gaps = append(r.gaps, gap{from: from, to: to, due: due})
	if r.nackAt.IsZero() || due.Before(r.nackAt) {
		r.nackAt = due
	}
	r.n.wake(r.nackAt)
}

// fill takes a packet out of the gaps.
func (r *rx) fill(now time.Time, seq uint64) {
	i, _ := slices.BinarySearchFunc(r.gaps, seq, func(g gap, q uint64) int {
		if g.to <= q {
			return -1
		}
		return 1
	})
	if i >= len(r.gaps) || seq < r.gaps[i].from {
		return
	}
	switch g := &r.gaps[i]; {
	case g.to-g.from == 1:
		r.gaps = slices.Delete(r.gaps, i, i+1)
	case seq == g.from:
		g.from++
		for ; i < len(r.gaps) && r.gaps[i].told && r.gaps[i].tries == 0; i++ { // they come: what was told had overtaken them
			r.gaps[i].due = now.Add(toldWait)
		}
	case seq == g.to-1:
		g.to--
	default:
		rest := *g
		g.to, rest.from = seq, seq+1
		r.gaps = slices.Insert(r.gaps, i+1, rest)
	}
}

// advance hands what is in order to ready.
func (r *rx) advance() {
	for r.next < r.high && r.store.has(r.next) {
		r.readyNext()
	}
}

// readyNext makes the next packet ready, which is here.
func (r *rx) readyNext() {
	r.ready = append(r.ready, r.store.packet(r.next))
	r.next++
}

// leap gives up what is missing before seq; message is the one that begins there.
func (r *rx) leap(seq, message uint64) {
	if seq <= r.next {
		return
	}
	if seq > r.high {
		r.high = seq
	}
	for q := r.next; q < min(seq, r.store.next); q++ {
		if r.store.has(q) {
			r.ready = append(r.ready, r.store.packet(q))
		}
	}
	if r.store.next < seq {
		r.store.dropTo(seq)
	}
	r.ready = append(r.ready, Packet{Gone: message})
	r.next = seq
	r.leapt, r.leaptMsg = seq, message
	for len(r.gaps) > 0 && r.gaps[0].to <= seq {
		r.gaps = slices.Delete(r.gaps, 0, 1)
	}
	if len(r.gaps) > 0 && r.gaps[0].from < seq {
		r.gaps[0].from = seq
	}
	r.advance()
}

// tail learns that all packets before next were sent, and which message begins there.
func (r *rx) tail(now time.Time, next, message uint64) {
	if r.st.Class == BestEffort {
		r.tailLoose(now, next, message)
		return
	}
	if next > r.high {
		r.miss(now, r.high, next)
		if g := &r.gaps[len(r.gaps)-1]; !r.n.byGroup {
			g.told, g.due = true, g.due.Add(toldWait)
		}
		r.high = next
		r.highMsg = message
		r.keepWord(next)
	}
}

// deliver hands over what is ready; the stream is paused if the sink does not take it.
func (r *rx) deliver(now time.Time) {
	news := len(r.ready) > 0
	if len(r.ready) > 0 {
		if r.st.Values != nil || r.main != nil {
			r.learn()
		} else if !r.n.cfg.Sink.Deliver(r.st, r.ready) {
			r.paused = true
			return
		}
		for i := range r.ready {
			if r.ready[i].Plain != nil {
				size := len(r.ready[i].Plain) + slotCost
				r.since += size
				r.undelivered -= size
			}
			r.ready[i].Release()
		}
		clear(r.ready)
		r.ready = r.ready[:0]
	}
	r.paused = false
	r.delivered = r.next
	if r.st.Values != nil || r.main != nil {
		r.learnt(news)
	}
	if len(r.parities) > 0 {
		r.forgetRows()
	}
	block, _ := blockOf(r.next) // may be rebuilt as long as all of it that came is here
	for r.store.bytes-r.undelivered > r.n.cfg.History && r.store.first < min(r.delivered, block*parity.Packets) {
		r.store.dropFirst()
	}
	if r.delivered != r.told && r.ackAt.IsZero() {
		r.confirmLater(now)
	}
	if r.since >= r.n.cfg.Room/4 {
		r.soon(now)
	}
}

// confirm tells the publisher what is here, if it is time.
func (r *rx) confirm(now time.Time) {
	if !r.answer && (r.ackAt.IsZero() || now.Before(r.ackAt)) {
		return
	}
	if r.delivered != r.told { // should this be lost it may be asked for again
		r.replies = allowance{}
	}
	r.answer, r.ackAt, r.since, r.told = false, time.Time{}, 0, r.delivered
	if r.m.State == Unreachable {
		return
	}
	s := status{
		stream: r.st.ID, next: r.delivered, room: uint32(r.n.cfg.Room), flags: flag(r.m.hear, flagHears),
		island: r.n.island, via: r.viaID(),
	}
	s.flags |= flag(now.Before(r.noRows), flagNoRows)
	if r.finished() {
		s.flags |= flagEnded
	}
	r.n.say(r.m, s.append)
}

func (r *rx) finished() bool { return r.ending && r.delivered >= r.end }

// again is how long an answer to a NACK may take.
func (r *rx) again() time.Duration { return max(nackAgain, 2*r.m.rtt+backoffMost) }

// ask sends a NACK for what is due.
func (r *rx) ask(now time.Time) {
	if r.nackAt.IsZero() {
		return
	}
	if len(r.gaps) == 0 {
		r.nackAt = time.Time{}
		return
	}
	if now.Before(r.nackAt) {
		return
	}
	var space [maxNackRanges]Range
	rs := space[:0]
	packets, nacks, tries, unheard := 0, 0, 0, false
	soon := now.Add(backoffLeast)
	next := now.Add(nackMax)
	r.dueByBlock(now, soon)
	block, spare := uint64(0), 0 // parity packets of the block at hand that are here stand for as many packets
	for i := range r.gaps {
		g := &r.gaps[i]
		if b, _ := blockOf(g.from); r.fec && b != block {
			block, spare = b, r.rowsHeld(b)
		}
		if g.due.After(soon) {
			next = earlier(next, g.due)
			continue
		}
		if len(rs) == maxNackRanges || packets >= maxNackPackets {
			next = earlier(next, now.Add(backoffMost))
			break
		}
		to := g.to
		if last, _ := blockOf(to - 1); spare > 0 && last == block {
			less := min(to-g.from, uint64(spare))
			to, spare = to-less, spare-int(less)
		}
		if to == g.from {
			g.due = now.Add(r.again())
			next = earlier(next, g.due)
			continue
		}
		for from := g.from; from < to && len(rs) < maxNackRanges && packets < maxNackPackets; {
			count := min(to-from, uint64(maxNackPackets-packets))
			rs = append(rs, Range{from, uint16(count)})
			packets += int(count)
			from += count
		}
		if g.nacks == 0 {
			g.since = now
		}
		g.nacks++
		g.tries++
		g.asked, g.putOff = now, 0
		nacks, tries = max(nacks, g.nacks), max(tries, g.tries)
		unheard = unheard || g.nacks > peerAnyway && now.Sub(g.since) > unheardAfter
		pause := min(r.again()<<min(g.tries-1, 5), max(nackMax, 2*r.m.rtt))
		g.due = now.Add(r.vainly(pause) + r.n.backoff())
		next = earlier(next, g.due)
	}
	r.nackAt = next
	if len(rs) == 0 {
		return
	}
	r.vain++
	r.n.Stats.Nacks++
	r.n.nack(r, rs, nacks, tries > peerAfter || unheard)
}

// anew has what was asked for in vain asked for as if for the first time.
func (r *rx) anew(now time.Time) {
	if r.vain = 0; len(r.gaps) == 0 {
		return
	}
	for i := range r.gaps {
		r.gaps[i].due, r.gaps[i].nacks, r.gaps[i].tries = now, 0, 0
	}
	r.nackAt = now
	r.n.wake(now)
}

// heardNack puts off asking for what another has just asked for: the repair will come here, too.
func (r *rx) heardNack(now time.Time, rs []Range) {
	asked, lacked := 0, 0
	for _, x := range rs {
		asked += int(x.Count)
		for i := range r.gaps {
			if from, to := max(r.gaps[i].from, x.From), min(r.gaps[i].to, x.From+uint64(x.Count)); from < to {
				lacked += int(to - from)
			}
		}
	}
	r.company.heard(asked, lacked)
	if lacked == 0 || asked > lacked+putOffStray && asked > 8*lacked {
		return
	}
	for _, x := range rs {
		for i := range r.gaps {
			g := &r.gaps[i]
			if g.from < x.From || g.to > x.From+uint64(x.Count) || g.tries >= peerAfter || g.putOff >= putOffMost {
				continue
			}
			if due := now.Add(r.again() + r.n.backoff()); due.After(g.due) {
				g.due = due
				g.putOff++
				r.n.Stats.Suppressed++
			}
		}
	}
}

// orphaned gives up what a publisher that is gone has left behind and nobody has.
func (r *rx) orphaned() {
	r.complete()
	if r.next >= r.high {
		return
	}
	message := r.highMsg
	if r.store.has(r.high - 1) {
		if first, count, err := Begins(r.store.at(r.high - 1).plain); err == nil {
			message = first + uint64(count)
		}
	}
	r.leap(r.high, message)
}

// held is the first message after what was delivered.
func (r *rx) held() uint64 {
	if r.delivered > r.store.first && r.store.has(r.delivered-1) {
		if first, count, err := Begins(r.store.at(r.delivered - 1).plain); err == nil {
			return first + uint64(count)
		}
	}
	if r.delivered == r.leapt {
		return r.leaptMsg
	}
	return 0
}
