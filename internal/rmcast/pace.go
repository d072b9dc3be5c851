package rmcast

import (
	"math"
	"net/netip"
	"slices"
	"sort"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/parity"
)

// setTarget adds a receiver or changes what is known about it. interests are the ids of its subscriptions that want the
// stream, start says from where a new one gets it.
func (s *Sender) setTarget(now time.Time, id ID, addr netip.AddrPort, hears, gone bool, interests []Interest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.target(id)
	ids := make([]uint32, len(interests))
	for i := range interests {
		ids[i] = interests[i].ID
	}
	switch {
	case len(interests) == 0:
		if t != nil {
			s.targets = slices.DeleteFunc(s.targets, func(o *target) bool { return o == t })
			delete(s.byID, id)
			s.arrange(now)
		}
		return
	case t != nil && slices.ContainsFunc(ids, func(i uint32) bool { return slices.Contains(t.interests, i) }):
		t.interests = ids
	default: // new, or all its subscriptions are: it starts anew
		if t == nil {
			t = &target{id: id, bucket: repairBurst, share: shareBurst}
			s.targets = append(s.targets, t)
			s.byID[id] = t
		}
		t.interests = ids
		t.from, t.fromMessage = s.start(interests)
		t.now, t.nowMessage = s.store.next, s.message
		if s.values != nil {
			s.restart(now, t)
		}
		t.acked = t.from
		s.await(now, t)
		t.filled, t.sentMark, t.castMark = now, s.bytesSent, s.bytesCast
	}
	t.addr, t.hears = addr, hears
	t.room = t.roomBy(t.room)
	if t.gone && !gone { // it is back: it says itself what it has
		if s.values != nil { // it may have forgotten all of it
			acked := t.acked
			s.restart(now, t)
			t.acked = acked
		}
		s.await(now, t)
	}
	if t.gone = gone; gone {
		t.live, t.awaited = false, time.Time{}
	}
	if t.known {
		s.beatAt, s.beatPause = now, beatFirst
	}
	s.arrange(now)
}

// await has the stream announced to a receiver, which is waited for from now on, not from its answer on: what it is to have, at worst the
// oldest that is kept, must not leave the window meanwhile. Who does not answer in time is not waited for.
func (s *Sender) await(now time.Time, t *target) {
	t.known, t.live = false, false
	t.announceAt, t.announcePause = now, announceFirst
	if t.silent { // it has been waited for in vain, and has confirmed nothing since
		t.awaited = time.Time{}
		return
	}
	t.awaited = now.Add(s.patience(t))
	if s.cfg.Flow == FlowSlowest { // pace finds the same, but of very many receivers only later
		s.minAcked = min(s.minAcked, t.acked)
		s.edge = min(s.edge, s.endOf(t.acked-1)+uint64(min(s.congestion, s.cfg.Window*5/8)))
	}
}

// removeTarget forgets a receiver.
func (s *Sender) removeTarget(now time.Time, id ID) {
	s.setTarget(now, id, netip.AddrPort{}, false, true, nil)
}

func (s *Sender) target(id ID) *target {
	return s.byID[id]
}

// start finds from where interests want the stream: the packet, and the first message that counts.
func (s *Sender) start(interests []Interest) (seq, message uint64) {
	s.close(false) // what is begun belongs to those who are here already
	message = s.message
	if s.cfg.Class == BestEffort || s.cfg.Class == LastValue {
		return s.store.next, message
	}
	for i := range interests {
		message = min(message, from(&interests[i], s.self, s.oldest(), s.message))
	}
	if message >= s.message {
		return s.store.next, s.message
	}
	// The last packet whose first message is not after it: there it begins.
	n := sort.Search(int(s.store.next-s.store.first), func(i int) bool {
		first, _, err := Begins(s.store.at(s.store.first + uint64(i)).plain)
		return err == nil && first > message
	})
	seq = s.store.first + uint64(max(n, 1)-1)
	return seq, message
}

// from is the message at which an interest begins in a stream of origin that keeps [oldest, next).
func from(i *Interest, origin ID, oldest, next uint64) uint64 {
	switch i.Mode {
	case FromLast:
		return max(oldest, next-min(i.N, next))
	case FromNumber:
		if i.Epoch == origin && i.N < next {
			return max(i.N, oldest)
		}
	case FromOldest:
		return oldest
	}
	return next
}

// StartOf is the first message that an interest gets of a stream that is received from a message on, and of which next is the
// newest: where it names a message that is not kept any more, what lies between is lost.
func StartOf(i *Interest, origin ID, oldest, next uint64) uint64 {
	if i.Mode == FromNumber && i.Epoch == origin && i.N < next {
		return max(i.N, 1)
	}
	return from(i, origin, oldest, next)
}

// oldest is the first message that begins in what is kept.
func (s *Sender) oldest() uint64 {
	if s.store.first < s.store.next {
		if first, _, err := Begins(s.store.at(s.store.first).plain); err == nil {
			return first
		}
	}
	return s.message
}

// arrange decides who is served how.
func (s *Sender) arrange(now time.Time) {
	if s.arrangeLater(now) {
		return
	}
	s.groupOf = 0
	for _, t := range s.targets {
		if t.hears && !t.gone {
			s.groupOf++
		}
	}
	s.plan(now)
	s.copyTo(now)
	s.pace()
}

func (s *Sender) byGroup(t *target) bool { return t.hears && s.groupOf >= 2 }

// endOf returns where a packet ends in the bytes of the stream; what is forgotten counts as ending where the kept begin.
func (s *Sender) endOf(seq uint64) uint64 {
	switch {
	case seq >= s.store.next:
		return s.total
	case seq >= s.store.first:
		return s.store.at(seq).end
	case s.store.first < s.store.next:
		p := s.store.at(s.store.first)
		return p.end - uint64(len(p.plain)+slotCost)
	}
	return s.total
}

// pace sets how far the sender may be ahead.
func (s *Sender) pace() {
	edge, ahead := uint64(math.MaxUint64), s.cfg.Window*5/8
	s.minAcked = s.sent
	needed := [2]uint64{math.MaxUint64, math.MaxUint64}
	s.confirming = 0
	if s.cfg.Flow == FlowSlowest {
		for _, t := range s.targets {
			s.neededBy(t, &needed)
			room := min(s.congestion, s.cfg.Window*5/8)
			switch {
			case t.live:
				room = min(room, t.room)
			case t.awaited.IsZero():
				continue
			}
			s.minAcked = min(s.minAcked, t.acked)
			edge = min(edge, s.endOf(t.acked-1)+uint64(room))
			ahead = min(ahead, room)
		}
	}
	if s.needed = needed[1]; s.needed == math.MaxUint64 {
		s.needed = 0
	}
	if edge > s.edge {
		s.blocked = false
	}
	s.edge, s.confirmEvery = edge, uint64(ahead/4)
}

// status takes a receiver's word of what it has.
func (s *Sender) status(now time.Time, id ID, st status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.target(id)
	if t == nil {
		return
	}
	if st.next > s.sent {
		return // never sent
	}
	t.heard = now
	if st.flags&flagUnknown != 0 {
		// It has forgotten the stream, or never had it: it is told again, and goes on after what it confirmed.
		if t.known {
			if t.acked > t.from {
				if t.from = max(t.acked, s.store.first); t.from < s.store.next {
					t.fromMessage, _, _ = Begins(s.store.at(t.from).plain)
				} else {
					t.fromMessage = s.message - uint64(s.begins)
				}
			}
			t.now, t.nowMessage = t.from, t.fromMessage
			if s.values != nil {
				s.restart(now, t)
			}
			s.await(now, t)
			s.pace()
		}
		return
	}
	if st.next == 0 {
		return
	}
	if !t.known || !t.live {
		t.known, t.live, t.silent, t.awaited = true, !t.gone, false, time.Time{}
		s.arrange(now)
	}
	if st.flags&flagNoRows != 0 {
		s.noRows(now)
	}
	t.ended = t.ended || s.ended && st.flags&flagEnded != 0
	if st.next > t.acked {
		t.acked, t.ackedAt = st.next, nanos(now)
	}
	t.room = t.roomBy(int(min(st.room, maxWindow)))
	if t.acked == s.sent {
		t.owed = time.Time{}
	} else {
		t.owed = now
	}
	s.islander(now, t, st.island, st.via)
	s.repace(now)
	s.moved()
}

// grow widens the congestion window by what the slowest has confirmed; shrink narrows it after loss.
func (s *Sender) grow(confirmed int) {
	if !s.slowStart {
		confirmed /= 8
	}
	s.congestion = min(s.congestion+confirmed, maxWindow)
}

func (s *Sender) shrink(now time.Time) {
	if now.Sub(s.cutAt) < cutEvery {
		return
	}
	s.cutAt, s.slowStart = now, false
	s.congestion = max(s.congestion-s.congestion/8, leastCongestion)
	s.pace()
}

// nack sends again what a receiver lacks, or tells it that it is gone.
// It reports whether a round of repairs to the group is to be marked, and whether any of it is kept.
func (s *Sender) nack(now time.Time, id ID, mark uint64, rs []Range) (unmarked, sense bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.target(id)
	if t == nil {
		return false, false
	}
	if s.Stats.Nacks++; s.cfg.Class == BestEffort {
		s.Stats.BadNacks++
		return false, false
	}
	s.refill(now, t)
	s.sample()
	repairs := s.Stats.Repairs
	at := nanos(now)
	group := s.byGroup(t)
	to := []netip.AddrPort(nil)
	if !group {
		to = []netip.AddrPort{t.addr}
	}
	skip := false
	recent := 0     // packets that are not for it alone: those say nothing of what the others can take
	var mask uint32 // of the block at hand
	var block uint64
asked:
	for _, r := range rs {
		s.Stats.NackedPackets += uint64(r.Count)
		if r.From >= s.sent || r.From == 0 {
			s.Stats.BadNacks++
			continue
		}
		late := s.late(at, t, r)
		sense = sense || late > 0
		r.From, r.Count = r.From+uint64(late), r.Count-late
		skip = skip || r.Count > 0 && r.From < s.store.first
		for seq := max(r.From, s.store.first); seq < min(r.From+uint64(r.Count), s.sent); seq++ {
			p := s.store.at(seq)
			sense = true
			if group && s.onItsWay(at, p, mark) {
				s.wantsMark(now, t)
				continue
			}
			size := len(p.plain) + buskey.Header + buskey.Tag
			lone := group && s.isAlone(t, seq, size)
			if lone && p.wasCopied(at, t) {
				continue
			}
			if (lone || group && !s.byParity) && s.rowsOnTheirWay(at, t, seq, mark) { // the last ones, if it has ended
				s.wantsMark(now, t)
				continue
			}
			if t.bucket < size {
				s.Stats.RefusedRepairs++
				break asked
			}
			t.bucket -= size
			t.repaired++
			if lone {
				s.alone = append(s.alone, seq)
				continue
			}
			recent += int(flag(at-p.at < int64(2*time.Second), 1))
			b, place := blockOf(seq)
			if group && !s.byParity {
				s.counted(t, int(flag(p.round == 0, 1)))
			}
			if group && s.byParity && t.from <= b*parity.Packets {
				if b != block && mask != 0 {
					s.asks(now, t, block, mask, mark)
					mask = 0
				}
				block = b
				mask |= 1 << place
				continue
			}
			if group {
				s.repaired(at, p)
				s.cast(t, size)
			}
			s.Stats.Repairs++
			s.Stats.RepairBytes += uint64(size)
			s.load(seq, p.plain, group, to)
		}
	}
	if mask != 0 {
		s.asks(now, t, block, mask, mark)
	}
	s.unload(group, to)
	if recent > len(s.alone) && t.live {
		s.shrink(now)
	}
	alone := len(s.alone) > 0
	if alone {
		s.repairAlone(at, t)
	}
	if (alone || !group && s.Stats.Repairs > repairs) && t.marked.take(now, repairedEvery, repairedBurst) {
		h := s.heartbeat(flagRepaired)
		h.flags &^= flagEnd // which is to be answered
		s.control(t, h.append(nil))
	}
	if skip && now.Sub(t.skipAt) >= ackDelay {
		if t.skipAt = now; s.values != nil {
			s.leapFor(now, t)
			return s.unmarked, sense
		}
		s.Stats.Skips++
		s.control(t, appendSkip(nil, s.id, s.store.first, s.oldest()))
	}
	return s.unmarked, sense
}

// late returns how many of the packets that are asked for the receiver has confirmed meanwhile: NACKs to the group wait in another queue than
// confirmations. Only for a while, in case it has forgotten what it confirmed.
func (s *Sender) late(at int64, t *target, r Range) uint16 {
	if r.From >= t.acked || at-t.ackedAt >= int64(markTrust) {
		return 0
	}
	n := uint16(min(t.acked-r.From, uint64(r.Count)))
	s.Stats.LateNacks += uint64(n)
	return n
}

// soon returns when a tick is due after a NACK.
func (s *Sender) soon(now time.Time) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = now.Add(time.Hour)
	if len(s.pending) > 0 {
		next = now.Add(parityGather)
	}
	if s.asksLate {
		next = earlier(next, s.castAt.Add(remarkAfter))
	}
	return next
}

func (s *Sender) control(to *target, records []byte) {
	s.scratch = sealControl(s.scratch[:0], s.ctl, s.sign, to.id, records)
	s.wire.Send(s.scratch, len(s.scratch), false, []netip.AddrPort{to.addr})
}

// tick lets time pass: announcements, heartbeats, patience. It returns when to call again.
func (s *Sender) tick(now time.Time) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = now.Add(time.Hour)
	owed, changed := false, false
	for _, t := range s.targets {
		if t.gone {
			continue
		}
		if !t.known {
			switch {
			case t.awaited.IsZero():
			case now.Before(t.awaited):
				next = earlier(next, t.awaited)
			default:
				t.awaited, t.silent, changed = time.Time{}, true, true
			}
			if !now.Before(t.announceAt) {
				s.announce(t)
				t.announceAt = now.Add(t.announcePause)
				if t.awaited.IsZero() || len(s.targets) > crowd { // what is waited for is said again soon
					t.announcePause = min(2*t.announcePause, announceLast)
				}
			}
			next = earlier(next, t.announceAt)
			continue
		}
		if t.acked >= s.sent && (!s.ended || t.ended) {
			t.owed = time.Time{}
			continue
		}
		owed = true
		if t.owed.IsZero() {
			t.owed = now
		}
		since := t.owed
		if t.heard.After(since) {
			since = t.heard
		}
		if t.live {
			if until := since.Add(s.patience(t)); !now.Before(until) {
				t.live, t.silent, changed = false, true, true
			} else {
				next = earlier(next, until)
			}
		}
	}
	if changed {
		s.arrange(now) // who is silent passes nothing on, and is not waited for
		s.moved()
	}
	next = earlier(next, s.relays(now))
	next = earlier(next, s.together(now))
	if !now.Before(s.rowsFrom) {
		s.rowsFrom = time.Time{}
	}
	s.sample()
	if len(s.pending) > 0 {
		next = earlier(next, s.answer(now))
	}
	if s.asksLate {
		next = earlier(next, s.remark(now))
	}
	if !owed {
		s.beatAt = time.Time{}
	} else if s.beatAt.IsZero() {
		s.beatAt, s.beatPause = now.Add(s.beatFirst()), s.beatFirst()
	}
	if s.blocked && owed {
		s.beatAt = earlier(s.beatAt, maxTime(s.sentAt, s.beaten).Add(s.blockedPause()))
	}
	if owed && !now.Before(s.beatAt) {
		s.beat(now)
		s.beaten = now
		if s.beatAt = now.Add(s.beatPause); s.blocked {
			s.beatAt = now.Add(s.blockedPause())
		}
		s.beatPause = min(2*s.beatPause, max(beatLast, s.beatFirst()))
	}
	if owed {
		next = earlier(next, s.beatAt)
	}
	// What all have, and what nobody asked for in Keep, goes.
	for s.store.first < s.minAcked && s.store.first < s.sent {
		until := time.Unix(0, s.store.at(s.store.first).at).Add(s.cfg.Keep)
		if now.Before(until) {
			next = earlier(next, until)
			break
		}
		s.store.dropFirst()
	}
	return next
}

func (s *Sender) announce(t *target) {
	other := t.snap.id
	if s.snapshot != nil {
		other = s.snapshot.of.id
	}
	s.control(t, announce{
		other: other, stream: s.id, from: t.from, fromMessage: t.fromMessage,
		next: min(t.now, s.sent), nextMessage: t.nowMessage, subject: s.cfg.Subject, class: s.cfg.Class,
		receivers: uint32(len(s.targets)), within: s.withinMS(),
	}.append(nil))
}

// beat tells where the stream ends: by multicast for those it serves, and in person to everyone who is behind, so that
// whoever hears no multicast any more finds out.
func (s *Sender) beat(now time.Time) {
	s.Stats.Beats++
	pause := beatFirst
	if s.blocked {
		pause = s.blockedPause()
	}
	h := s.heartbeat(flagAnswer)
	all := s.beatAll(now)
	for _, t := range s.targets {
		if t.gone || !t.known || t.acked >= s.sent && (!s.ended || t.ended) || s.spared(now, t, all) {
			continue
		}
		if busy := beatFirst; !s.urgent && now.Sub(t.heard) < min(busy, pause) && now.Sub(s.sentAt) < busy {
			continue // both of us are busy
		}
		mine := h
		mine.flags |= flag(s.byGroup(t), flagByGroup)
		if !s.ended && !s.urgent && s.within() > ackDelay && s.inTime(now, t) {
			mine.flags &^= flagAnswer
		}
		s.control(t, mine.append(nil))
	}
	s.urgent = false
}

// firstUnsent is the number of the first message that begins in a packet not sent.
func (s *Sender) firstUnsent() uint64 {
	if s.sent < s.store.next {
		if first, _, err := Begins(s.store.at(s.sent).plain); err == nil {
			return first
		}
	}
	return s.message - uint64(s.begins)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
