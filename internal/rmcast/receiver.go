package rmcast

import (
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
)

// Stream is a stream as its receiver sees it.
type Stream struct {
	Publisher ID
	Name      string // of the publisher's member
	ID        uint32
	Subject   string
	From      uint64 // the first message that this member gets
	Next      uint64 // the next message when this member began to get it: "now"
	Data      any    // the sink's own
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
	leapt, leaptMsg uint64 // where the last leap ended, and the message that begins there
	highMsg         uint64 // the message that begins at high, 0 if a packet before it is here to tell
	gaps            []gap  // what is missing in [next, high), in order
	ready           []Packet
	undelivered     int // bytes in the store from delivered on
	paused          bool

	told   uint64 // delivered, as the publisher knows
	since  int    // bytes delivered since
	answer bool   // it asked
	ackAt  time.Time
	nackAt time.Time // of the first gap due; zero: no gap
	peer   int       // whom to ask next
	tailAt time.Time // when to tell others again what is here
	tails  int
	relay  relay
	ending bool
	end    uint64
	dirty  bool
}

type gap struct {
	from, to uint64 // [from, to)
	due      time.Time
	tries    int
}

func newRx(n *Node, m *member, a announce) *rx {
	st := &Stream{Publisher: m.ID, Name: m.Name, ID: a.stream, Subject: a.subject, From: a.fromMessage, Next: a.nextMessage}
	r := &rx{n: n, m: m, st: st, key: m.bus.Stream(m.suite, uint64(m.ID), a.stream)}
	r.next, r.delivered, r.high, r.told = a.from, a.from, a.from, a.from
	r.store.first, r.store.next = a.from, a.from
	return r
}

// fresh reports whether a packet is worth opening.
func (r *rx) fresh(seq uint64) bool { return seq >= r.next && !r.store.has(seq) }

// accept takes an opened packet.
func (r *rx) accept(now time.Time, seq uint64, plain []byte) {
	r.undelivered += len(plain) + slotCost
	r.answer = r.answer || plain[0]&flagConfirm != 0
	r.store.put(seq, plain)
	switch {
	case seq == r.high:
		r.high++
		if seq == r.next {
			r.ready = append(r.ready, Packet{Seq: seq, Plain: plain})
			r.next++
			return
		}
	case seq > r.high:
		r.miss(now, r.high, seq)
		r.high = seq + 1
	default:
		r.fill(seq)
	}
	r.advance()
}

// takes reports whether a packet this far ahead is within bounds.
func (r *rx) takes(seq uint64) bool {
	if seq == r.next {
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
func (r *rx) fill(seq uint64) {
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
		r.ready = append(r.ready, Packet{Seq: r.next, Plain: r.store.at(r.next).plain})
		r.next++
	}
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
			r.ready = append(r.ready, Packet{Seq: q, Plain: r.store.at(q).plain})
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
	if next > r.high {
		r.miss(now, r.high, next)
		r.high = next
		r.highMsg = message
	}
}

// deliver hands over what is ready and reports whether the sink took it.
func (r *rx) deliver(now time.Time) {
	if len(r.ready) > 0 {
		if !r.n.cfg.Sink.Deliver(r.st, r.ready) {
			r.paused = true
			return
		}
		for i := range r.ready {
			if r.ready[i].Plain != nil {
				size := len(r.ready[i].Plain) + slotCost
				r.since += size
				r.undelivered -= size
			}
		}
		clear(r.ready)
		r.ready = r.ready[:0]
	}
	r.paused = false
	r.delivered = r.next
	for r.store.bytes-r.undelivered > r.n.cfg.History && r.store.first < r.delivered {
		r.store.dropFirst()
	}
	if r.delivered != r.told && r.ackAt.IsZero() {
		r.ackAt = now.Add(ackDelay)
		r.n.wake(r.ackAt)
	}
	if r.since >= r.n.cfg.Room/4 {
		r.answer = true
	}
}

// confirm tells the publisher what is here, if it is time.
func (r *rx) confirm(now time.Time) {
	if !r.answer && (r.ackAt.IsZero() || now.Before(r.ackAt)) {
		return
	}
	r.answer, r.ackAt, r.since, r.told = false, time.Time{}, 0, r.delivered
	if r.m.State == Unreachable {
		return
	}
	s := status{stream: r.st.ID, next: r.delivered, room: uint32(r.n.cfg.Room), flags: flag(r.m.hear, flagHears)}
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
	packets, tries := 0, 0
	soon := now.Add(backoffLeast)
	next := now.Add(nackMax)
	for i := range r.gaps {
		g := &r.gaps[i]
		if g.due.After(soon) {
			next = earlier(next, g.due)
			continue
		}
		if len(rs) == maxNackRanges || packets >= maxNackPackets {
			next = earlier(next, now.Add(backoffMost))
			break
		}
		for from := g.from; from < g.to && len(rs) < maxNackRanges && packets < maxNackPackets; {
			count := min(g.to-from, uint64(maxNackPackets-packets))
			rs = append(rs, Range{from, uint16(count)})
			packets += int(count)
			from += count
		}
		g.tries++
		tries = max(tries, g.tries)
		pause := min(r.again()<<min((g.tries-1)/3, 4), max(nackMax, 2*r.m.rtt))
		g.due = now.Add(pause + r.n.backoff())
		next = earlier(next, g.due)
	}
	r.nackAt = next
	if len(rs) == 0 {
		return
	}
	r.n.Stats.Nacks++
	r.n.nack(r, rs, tries)
}

// heardNack puts off asking for what another has just asked for: the repair will come here, too.
func (r *rx) heardNack(now time.Time, rs []Range) {
	for _, x := range rs {
		for i := range r.gaps {
			g := &r.gaps[i]
			if g.from >= x.From && g.to <= x.From+uint64(x.Count) && g.tries < peerAfter {
				if due := now.Add(r.again() + r.n.backoff()); due.After(g.due) {
					g.due = due
					r.n.Stats.Suppressed++
				}
			}
		}
	}
}

// orphaned gives up what a publisher that is gone has left behind and nobody has.
func (r *rx) orphaned() {
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
