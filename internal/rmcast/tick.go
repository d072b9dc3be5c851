package rmcast

import (
	"slices"
	"time"

	"github.com/weft-net/weft/internal/subject"
)

// Tick lets time pass and returns when to call it again; earlier if something else says so first.
func (n *Node) Tick(now time.Time) time.Time {
	if n.closed {
		return now.Add(time.Hour)
	}
	n.next = now.Add(time.Second)
	if n.cfg.Multicast && n.quiet() {
		n.mouthAt = maxTime(n.mouthAt, now.Add(time.Second))
	} else if n.cfg.Multicast && !now.Before(n.mouthAt) {
		seq, due, again := n.mouth.Due(now)
		if due {
			n.callOut(seq, again.Sub(now))
		}
		n.mouthAt = again
	}
	if n.cfg.Multicast {
		n.wake(n.mouthAt)
		if !now.Before(n.earAt) {
			n.earAt = now.Add(time.Second)
			n.hearing(now)
		}
	}
	if !n.mayWait(now) {
		n.seek(now)
		if n.edges != nil {
			n.edges.tick(now)
		}
		for _, m := range slices.Clone(n.members) {
			n.watch(now, m)
		}
	}
	for _, r := range n.order {
		r.ask(now)
		r.pointOut(now)
		if !r.nackAt.IsZero() {
			n.wake(r.nackAt)
		}
		if r.paused {
			n.touch(r)
			n.wake(now.Add(10 * time.Millisecond))
		}
		if r.answer || !r.ackAt.IsZero() && !now.Before(r.ackAt) {
			n.touch(r)
		} else if !r.ackAt.IsZero() {
			n.wake(r.ackAt)
		}
	}
	n.snapshots(now)
	for _, tx := range n.senders {
		n.wake(tx.tick(now))
	}
	return n.Done(now)
}

// seek says hello where a member may be.
func (n *Node) seek(now time.Time) {
	for i := 0; i < len(n.candidates); i++ {
		c := n.candidates[i]
		if c.self {
			continue
		}
		if !c.seed && !n.seeks() { // others will tell of it again when we do
			n.candidates = slices.Delete(n.candidates, i, i+1)
			i--
			continue
		}
		if slices.ContainsFunc(n.members, func(m *member) bool { return m.isAt(c.addr) && m.State != Unreachable }) {
			if !c.seed {
				n.candidates = slices.Delete(n.candidates, i, i+1)
				i--
			} else {
				c.at, c.pause = now.Add(stateMax), helloEvery
			}
			continue
		}
		if now.Before(c.at) {
			n.wake(c.at)
			continue
		}
		if c.tries++; !c.seed && c.tries > candidateTries {
			n.candidates = slices.Delete(n.candidates, i, i+1)
			i--
			continue
		}
		n.sendHello(c.addr, false, hello{})
		if n.edges != nil && c.tries >= dialAfter {
			n.edges.dials.Dial(c.id, c.addr)
		}
		c.at = now.Add(c.pause)
		c.pause = min(c.pause*3/2, 5*time.Second)
		n.wake(c.at)
	}
}

// watch looks after one member: its beliefs, its interests, its life.
func (n *Node) watch(now time.Time, m *member) {
	if !m.believed && now.Sub(m.helloAt) >= helloEvery {
		if m.hellos > 20 && now.Sub(m.last) > unreachableRest {
			n.depart(m, false)
			n.forget(now, m, UnreachableNow)
			return
		}
		n.introduce(now, m)
	}
	if m.has != n.version && m.State != Unreachable {
		if !now.Before(m.stateAt) {
			n.sayState(m)
			m.stateAt = now.Add(m.statePause)
			m.statePause = min(2*m.statePause, stateMax)
		}
		n.wake(m.stateAt)
	}
	silent := now.Sub(m.last)
	suspect, unreachable, every := n.lives(m)
	switch {
	case m.State == Unreachable && silent > forgetAfter:
		n.depart(m, false)
		n.forget(now, m, Left)
		return
	case m.State == Suspected && silent >= unreachable:
		m.State = Unreachable
		m.orphan = now
		m.Why = n.whyNot(m)
		n.event(UnreachableNow, m)
		n.retarget(now, m)
		n.refreshQueues()
		n.unserved(now, m)
		for _, r := range n.order {
			if r.m == m {
				r.tails, r.tailAt = tailTimes, now
			}
		}
	case m.State == Alive && silent >= suspect:
		m.State = Suspected
		n.event(SuspectedNow, m)
		m.asked = time.Time{}
	}
	if m.State != Alive {
		every = times(max(1, len(n.members)/busyCrowd), pingBusy)
		if m.State == Unreachable && now.Sub(m.orphan) > time.Minute {
			every = pingRest
		}
	}
	due := maxTime(m.last, m.asked).Add(every)
	if every >= pingRest {
		due = due.Add(m.jitter)
	}
	if !now.Before(due) {
		m.asked = now
		n.ask(now, m, recPing)
		due = now.Add(every)
	}
	n.wake(due)
	if n.edges != nil {
		n.watchPath(now, m)
	}
	if m.State == Unreachable {
		n.orphans(now, m)
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// orphans sees to the streams of a member that is gone: others are told what is here of them, and what nobody has is given up.
func (n *Node) orphans(now time.Time, m *member) {
	for _, r := range n.order {
		if r.m != m {
			continue
		}
		if r.tails > 0 && !now.Before(r.tailAt) {
			r.tails--
			r.tailAt = now.Add(tailEvery * time.Duration(tailTimes-r.tails))
			n.tellHeld(now, r)
		}
		if r.tails > 0 {
			n.wake(r.tailAt)
		}
		if now.Sub(m.orphan) >= orphanAfter {
			r.complete()
		}
		if now.Sub(m.orphan) >= orphanAfter && r.next < r.high {
			n.Stats.LostRanges++
			r.orphaned()
			n.touch(r)
		}
	}
	if now.Sub(m.orphan) < orphanAfter {
		n.wake(m.orphan.Add(orphanAfter))
	}
}

// tellHeld tells the others where a stream of a member that is gone has got to here.
func (n *Node) tellHeld(now time.Time, r *rx) {
	message := r.held()
	for _, o := range n.members {
		switch {
		case o == r.m || o.State == Unreachable || !o.wants(r.st.Subject):
			continue
		case r.m.signs != nil:
			r.showTo(o)
		case message > 0:
			n.say(o, func(b []byte) []byte { return appendTail(b, r.m.ID, r.st.ID, r.delivered, message) })
		default:
			continue
		}
		n.need(now, o)
	}
}

// Interests replaces what this process subscribes to. Streams that nothing wants any more are forgotten.
func (n *Node) Interests(now time.Time, all []Interest) time.Time {
	n.interests, n.grouped = slices.Clone(all), grouped(all)
	n.version++
	for _, r := range slices.Clone(n.order) {
		if !n.interested(r.st.Subject) {
			n.dirty = slices.DeleteFunc(n.dirty, func(o *rx) bool { return o == r })
			n.drop(r)
		}
	}
	for _, m := range n.members {
		m.stateAt, m.statePause = now, stateAgain
		if m.State != Unreachable {
			n.sayState(m)
			m.stateAt = now.Add(m.statePause)
		}
	}
	n.refreshQueues()
	n.wake(now.Add(stateAgain))
	n.flush()
	return n.next
}

// Version numbers what Interests was told last; Taken says who has not taken it yet.
func (n *Node) Version() uint32 { return n.version }

// Taken returns the members that can be reached and do not know our interests of a version yet.
func (n *Node) Taken(version uint32) (lack []ID) {
	for _, m := range n.members {
		if m.State != Unreachable && m.has < version {
			lack = append(lack, m.ID)
		}
	}
	return lack
}

// sayState sends our interests to a member, in parts.
func (n *Node) sayState(m *member) {
	var cuts []int
	size := 0
	for i := range n.interests {
		s := n.interests[i].Size()
		if size+s > controlRoom-64 {
			cuts = append(cuts, i)
			size = 0
		}
		size += s
	}
	cuts = append(cuts, len(n.interests))
	from := 0
	for part, to := range cuts {
		n.say(m, func(b []byte) []byte {
			b, at := record(b, recState)
			b = append(u32(b, n.version), byte(part), byte(len(cuts)))
			for i := from; i < to; i++ {
				in := n.interests[i]
				if m.Denied {
					in = in.fromNobody()
				}
				b = in.append(b)
			}
			return done(b, at)
		})
		from = to
	}
}

// state takes a part of a member's interests.
func (n *Node) state(now time.Time, m *member, r *reader) {
	version, part, parts := r.u32(), int(r.u8()), int(r.u8())
	if r.bad || part >= parts || version <= m.version {
		if version == m.version && n.mayPong(now, m) {
			n.ask(now, m, recPong) // what told it so was lost
		}
		return
	}
	if m.partsOf != version || len(m.parts) != parts {
		if m.partsOf > version {
			return
		}
		m.partsOf, m.parts = version, make([][]Interest, parts)
	}
	list := make([]Interest, 0, 8)
	for len(r.b) > 0 && !r.bad && len(list) < MaxInterests {
		if i := r.interest(); !r.bad {
			list = append(list, i)
		}
	}
	if r.bad {
		return
	}
	m.parts[part] = list
	total := 0
	for _, p := range m.parts {
		if p == nil {
			return
		}
		total += len(p)
	}
	if total > MaxInterests {
		r.bad = true
		return
	}
	for j := range m.interests {
		n.wants.Remove(m.interests[j].Pattern, subject.Entry[ID]{Value: m.ID})
	}
	m.interests = slices.Concat(m.parts...)
	m.grouped = grouped(m.interests)
	m.version, m.parts = version, nil
	for j := range m.interests {
		n.wants.Add(m.interests[j].Pattern, subject.Entry[ID]{Value: m.ID})
	}
	n.retarget(now, m)
	n.refreshQueues()
	if n.cfg.Wants != nil {
		n.cfg.Wants(m.Member, ofUs(m.interests))
	}
	n.ask(now, m, recPong)
}

// retarget tells every sender what is new about a member.
func (n *Node) retarget(now time.Time, m *member) {
	for _, tx := range n.senders {
		n.target(now, tx, m)
	}
	n.wake(now)
}

func (n *Node) target(now time.Time, tx *Sender, m *member) {
	if tx.snapshot != nil && tx.snapshot.only != m.ID {
		return
	}
	var want []Interest
	for i := range m.interests {
		if m.interests[i].Mode != FromNobody && subject.Overlap(m.interests[i].Pattern, tx.cfg.Subject) {
			want = append(want, m.interests[i])
		}
	}
	tx.setTarget(now, m.ID, m.Addr, m.Hears && n.cfg.Multicast, m.State == Unreachable, want)
	tx.place(now, m.ID, m.place)
}

// NewSender begins a stream. local takes its packets for this process's own subscriptions, under the sender's lock, and reports
// whether there is one, which may keep them; nil for none.
func (n *Node) NewSender(now time.Time, cfg SenderConfig, local func([]Packet) bool) *Sender {
	n.nextStream++
	tx := newSender(n, n.nextStream, cfg)
	tx.local, tx.began = local, now
	n.senders = append(n.senders, tx)
	seen := map[ID]bool{}
	n.wants.Match(cfg.Subject, func(e subject.Entry[ID]) { seen[e.Value] = true })
	for _, m := range n.members {
		if seen[m.ID] {
			n.target(now, tx, m)
		}
	}
	if n.refreshQueues(); len(n.senders) == 1 { // whoever listens must be known now, and should hear us
		n.speak(now)
		for _, m := range n.members {
			n.ask(now, m, recPing)
		}
	}
	n.wake(now)
	return tx
}

// ID returns the stream's number in its process.
func (s *Sender) ID() uint32 { return s.id }

// Remove forgets a stream that has ended.
func (n *Node) Remove(tx *Sender) {
	n.senders = slices.DeleteFunc(n.senders, func(o *Sender) bool { return o == tx })
}

func (n *Node) sender(id uint32) *Sender {
	for _, tx := range n.senders {
		if tx.id == id {
			return tx
		}
	}
	return nil
}
