package rmcast

import "time"

// On a machine or network that is busy, packets wait for many times what a round trip takes at rest, and what is repaired too early again
// adds to what they wait for. So no clock says whether a NACK left before or after the repair came, but a count: heartbeats to the group
// are numbered, one follows each round of repairs, and NACKs name the last number that their receiver had, its mark. Heartbeats to the group
// come in the order of the data, too, which those to a member do not: another socket's queue is shorter.

const (
	// remarkAfter is how soon a mark is followed by another for those whose NACKs do not know of it. Who has known of none for markTrust
	// may be deaf, and is repaired all the same.
	remarkAfter = 20 * time.Millisecond
	markTrust   = time.Second
	// deafMarks is how many marks a receiver must have missed to be deaf; hearAgain packets by multicast show that it is not any more.
	deafMarks = 4
	hearAgain = 16
)

// onItsWay reports whether a repair of a packet is on its way to a receiver whose last mark is known.
func (s *Sender) onItsWay(at int64, p *slot, mark uint64) bool {
	return p.round > mark && at-p.repaired < int64(markTrust)
}

// repaired notes a repair to the group.
func (s *Sender) repaired(at int64, p *slot) {
	p.repaired, p.round = at, s.marks+1
	s.unmarked = true
}

// mark ends a round of repairs.
func (s *Sender) mark(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unmarked {
		s.castBeat(now, 0)
	}
}

// wantsMark has another mark follow, for a receiver that does not know of the last one. All get it, so one receiver has few of its own.
func (s *Sender) wantsMark(now time.Time, t *target) {
	s.asksLate = s.asksLate || t.remarks.take(now, remarkEvery, remarkBurst)
}

// remark sends another mark, if it is time: somebody asks for what is on its way, or has lost the repair and its mark. It returns when to
// call again.
func (s *Sender) remark(now time.Time) (next time.Time) {
	if next = s.castAt.Add(remarkAfter); !s.asksLate || now.Before(next) {
		return next
	}
	s.castBeat(now, 0)
	return now.Add(remarkAfter)
}

// castBeat sends a heartbeat to the group.
func (s *Sender) castBeat(now time.Time, flags byte) {
	s.marks++
	s.unmarked, s.asksLate, s.castAt = false, false, now
	s.scratch = sealControl(s.scratch[:0], s.ctl, s.sign, forAll, s.heartbeat(flags|flagByGroup).append(nil))
	s.wire.Send(s.scratch, len(s.scratch), true, nil)
}

func (s *Sender) heartbeat(flags byte) heartbeat {
	return heartbeat{
		stream: s.id, next: s.sent, first: s.store.first, nextMessage: s.firstUnsent(), flags: flags | flag(s.ended, flagEnd),
		receivers: uint32(len(s.targets)), within: s.withinMS(), mark: s.marks,
	}
}

// blockedPause is the pause of heartbeats while Send waits for room: all answer them.
func (s *Sender) blockedPause() time.Duration {
	return min(beatBlocked*time.Duration(1+len(s.targets)/8), beatLast)
}

// marked takes a mark.
func (r *rx) marked(now time.Time, mark uint64) {
	if mark > r.mark {
		r.mark = mark
		r.answered(now)
	}
}

// answered notes that NACKs are answered. What was asked for and has not come is lost, or so is the NACK: it need not wait as if nobody heard.
func (r *rx) answered(now time.Time) {
	if r.nackAt.IsZero() {
		return
	}
	soon := now.Add(r.n.backoff())
	for i := range r.gaps {
		g := &r.gaps[i]
		if g.tries == 0 {
			continue
		}
		g.tries = 1
		if due := maxTime(g.asked.Add(2*r.again()), soon); due.Before(g.due) {
			g.due = due
			r.nackAt = earlier(r.nackAt, due)
		}
	}
	r.n.wake(r.nackAt)
}

// doubt takes a publisher's word that it serves us by multicast, while we lack something. If we have missed marks, and all we have heard
// for a while came by unicast, we are deaf to it; but only when that shows several times, for after a pause of this process
// what came by multicast may still wait to be read.
func (r *rx) doubt(now time.Time, mark uint64) {
	m := r.m
	switch {
	case !m.Hear || now.Sub(m.lastGroup) <= deafAfter || mark < r.mark+deafMarks:
	case m.doubtAt.Before(m.lastGroup):
		m.doubtAt, m.doubts = now, 1
	case now.Sub(m.doubtAt) > doubt:
		m.doubtAt = now
		if m.doubts++; m.doubts >= doubts {
			r.n.deaf(now, m)
		}
	}
}

// company is how much of what others ask for this receiver lacks, too: all of it where one link loses for all, little where each
// loses for itself. In good company NACKs go to the group, so that who lacks the same keeps still; else that costs the group
// more than it saves, and they go to the publisher but for one in companyProbe.
type company struct{ asked, lacked, turn int }

const (
	companyLeast = 64  // packets heard of before it is judged
	companyMost  = 512 // then what came before counts half
	companyProbe = 16
	companyFirst = 4 // in place of companyProbe before it is judged
)

// heard notes that another has asked for packets of which this receiver lacks some.
func (c *company) heard(asked, lacked int) {
	c.asked += asked
	c.lacked += lacked
	if c.asked > companyMost {
		c.asked /= 2
		c.lacked /= 2
	}
}

// good decides on one NACK.
func (c *company) good() bool {
	c.turn++
	switch {
	case c.asked < companyLeast:
		return c.turn%companyFirst == 0
	case 2*c.lacked > c.asked:
		return true
	}
	return c.turn%companyProbe == 0
}
