package rmcast

import (
	"math"
	"net/netip"
	"slices"
	"sort"
	"time"

	"github.com/weft-net/weft/internal/buskey"
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
			s.arrange(now)
		}
		return
	case t != nil && slices.ContainsFunc(ids, func(i uint32) bool { return slices.Contains(t.interests, i) }):
		t.interests = ids
	default: // new, or all its subscriptions are: it starts anew
		if t == nil {
			t = &target{id: id, bucket: repairBurst}
			s.targets = append(s.targets, t)
		}
		t.interests, t.known, t.live = ids, false, false
		t.from, t.fromMessage = s.start(interests)
		t.acked = t.from
		t.announceAt, t.announcePause = now, announceFirst
		t.filled, t.sentMark = now, s.bytesSent
	}
	t.addr, t.hears = addr, hears
	if t.gone && !gone { // it is back: it says itself what it has
		t.announceAt, t.announcePause = now, announceFirst
		t.known = false
	}
	if t.gone = gone; gone {
		t.live = false
	}
	if t.known {
		s.beatAt, s.beatPause = now, beatFirst
	}
	s.arrange(now)
}

// removeTarget forgets a receiver.
func (s *Sender) removeTarget(now time.Time, id ID) {
	s.setTarget(now, id, netip.AddrPort{}, false, true, nil)
}

func (s *Sender) target(id ID) *target {
	for _, t := range s.targets {
		if t.id == id {
			return t
		}
	}
	return nil
}

// start finds from where interests want the stream: the packet, and the first message that counts.
func (s *Sender) start(interests []Interest) (seq, message uint64) {
	s.close(false) // what is begun belongs to those who are here already
	message = s.message
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
	if s.cfg.Flow == FlowSlowest {
		for _, t := range s.targets {
			if !t.live {
				continue
			}
			s.minAcked = min(s.minAcked, t.acked)
			room := min(t.room, s.congestion, s.cfg.Window*5/8)
			edge = min(edge, s.endOf(t.acked-1)+uint64(room))
			ahead = min(ahead, room)
		}
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
			t.known, t.live = false, false
			t.announceAt, t.announcePause = now, announceFirst
			s.pace()
		}
		return
	}
	if st.next > s.sent || st.next == 0 {
		return // never sent
	}
	before := s.minAcked
	if !t.known || !t.live {
		t.known, t.live = true, !t.gone
		s.arrange(now)
	}
	t.ended = t.ended || s.ended && st.flags&flagEnded != 0
	t.acked, t.room = max(t.acked, st.next), int(min(st.room, maxWindow))
	if t.acked == s.sent {
		t.owed = time.Time{}
	} else {
		t.owed = now
	}
	s.pace()
	if s.minAcked > before {
		s.grow(int(s.endOf(s.minAcked-1) - s.endOf(before-1)))
		s.pace()
	}
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
func (s *Sender) nack(now time.Time, id ID, rs []Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.target(id)
	if t == nil {
		return
	}
	s.Stats.Nacks++
	s.refill(now, t)
	at := nanos(now)
	group := s.byGroup(t)
	to := []netip.AddrPort(nil)
	if !group {
		to = []netip.AddrPort{t.addr}
	}
	skip := false
	lost := false
	for _, r := range rs {
		for seq := r.From; seq < r.From+uint64(r.Count); seq++ {
			s.Stats.NackedPackets++
			if seq >= s.sent || seq == 0 {
				s.Stats.BadNacks++
				break
			}
			if seq < s.store.first {
				skip = true
				continue
			}
			p := s.store.at(seq)
			lost = lost || at-p.at < int64(2*time.Second)
			if group && at-p.repaired < int64(repairHold) {
				continue // on its way to this one, too
			}
			size := len(p.plain) + buskey.Header + buskey.Tag
			if t.bucket < size {
				s.Stats.RefusedRepairs++
				continue
			}
			t.bucket -= size
			t.repaired++
			if group {
				p.repaired = at
			}
			s.Stats.Repairs++
			s.Stats.RepairBytes += uint64(size)
			s.load(seq, p.plain, group, to)
		}
	}
	s.unload(group, to)
	if lost && t.live {
		s.shrink(now)
	}
	if skip && now.Sub(t.skipAt) >= ackDelay {
		t.skipAt = now
		s.Stats.Skips++
		s.control(t.addr, appendSkip(nil, s.id, s.store.first, s.oldest()))
	}
}

// refill gives a receiver its share of repairs: a rate of its own and a quarter of what is sent.
func (s *Sender) refill(now time.Time, t *target) {
	if d := now.Sub(t.filled); d > 0 {
		t.bucket += int(min(d.Seconds(), 1) * repairRate)
		t.filled = now
	}
	t.bucket += int(s.bytesSent-t.sentMark) / 4
	t.sentMark = s.bytesSent
	t.bucket = min(t.bucket, repairBurst+s.congestion)
}

func (s *Sender) control(to netip.AddrPort, records []byte) {
	s.scratch = s.ctl.Seal(s.scratch[:0], TypeControl, records)
	s.wire.Send(s.scratch, len(s.scratch), false, []netip.AddrPort{to})
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
			if !now.Before(t.announceAt) {
				s.announce(t)
				t.announceAt = now.Add(t.announcePause)
				t.announcePause = min(2*t.announcePause, announceLast)
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
			if until := since.Add(patience); !now.Before(until) {
				t.live, changed = false, true
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
	if !owed {
		s.beatAt = time.Time{}
	} else if s.beatAt.IsZero() {
		s.beatAt, s.beatPause = now.Add(beatFirst), beatFirst
	}
	if s.blocked && owed {
		s.beatAt = earlier(s.beatAt, maxTime(s.sentAt, s.beaten).Add(beatBlocked))
	}
	if owed && !now.Before(s.beatAt) {
		s.beat(now)
		s.beaten = now
		if s.beatAt = now.Add(s.beatPause); s.blocked {
			s.beatAt = now.Add(beatBlocked)
		}
		s.beatPause = min(2*s.beatPause, beatLast)
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
	s.control(t.addr, announce{
		stream: s.id, from: t.from, fromMessage: t.fromMessage,
		next: s.sent, nextMessage: s.firstUnsent(), subject: s.cfg.Subject,
	}.append(nil))
}

// beat tells where the stream ends: by multicast for those it serves, and in person to everyone who is behind, so that
// whoever hears no multicast any more finds out.
func (s *Sender) beat(now time.Time) {
	s.Stats.Beats++
	pause := beatFirst
	if s.blocked {
		pause = beatBlocked
	}
	h := heartbeat{stream: s.id, next: s.sent, first: s.store.first, nextMessage: s.firstUnsent(), flags: flagAnswer | flag(s.ended, flagEnd)}
	for _, t := range s.targets {
		if t.gone || !t.known || t.acked >= s.sent && (!s.ended || t.ended) {
			continue
		}
		if busy := beatFirst; !s.urgent && now.Sub(t.heard) < min(busy, pause) && now.Sub(s.sentAt) < busy {
			continue // both of us are busy
		}
		mine := h
		mine.flags |= flag(s.byGroup(t), flagByGroup)
		s.control(t.addr, mine.append(nil))
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
