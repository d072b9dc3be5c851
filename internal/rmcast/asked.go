package rmcast

import "time"

// What a member asks for costs whoever answers it, and all that share processors and wires with the two. One that lies asks without end, and
// need not even listen: a single packet of it to the group can be worth one of each member. So what a member is told beside news comes off an
// allowance that it has here, and what it says of itself is believed as far as it can be true. What is refused is counted.
const (
	// confirmEvery and confirmBurst bound datagrams that confirm of a stream what was confirmed before: ten in the time after which its publisher
	// waits for a silent receiver no more.
	confirmEvery = 50 * time.Millisecond
	confirmBurst = 16
	// answerEvery and answerBurst bound those that answer what a member says of streams of which nothing has ever come: after each burst in which none
	// has begun they are twice as far apart, up to answerSlow times. And, counted by themselves, those that answer its pings and questions
	// about ways: a path that fails may take some of these to find out, and must not be thought dead for want of them.
	answerEvery = 100 * time.Millisecond
	answerBurst = 16
	answerSlow  = 8
	// repairedEvery and repairedBurst bound word to one receiver that what it asked for has left: it is of all that it asked for.
	repairedEvery = 10 * time.Millisecond
	repairedBurst = 8
	// remarkEvery and remarkBurst bound marks to all for one that asks for what is on its way.
	remarkEvery = 100 * time.Millisecond
	remarkBurst = 16
	// strayEvery and strayBurst bound NACKs for nothing that is kept. Of whoever is beyond that no NACK is looked at: each would cost the publisher a lock.
	strayEvery = 2 * time.Millisecond
	strayBurst = 256
	// turnEvery and turnBurst bound how often a member may move, or hear us and not: each time, who is served how is decided anew.
	turnEvery = 100 * time.Millisecond
	turnBurst = 8
	// vainAfter NACKs in a row of which nothing came are followed by others up to vainMost apart, and to one member at a time.
	vainAfter = 32
	vainMost  = time.Second
	// putOffMost is how often what others ask for may put off asking for a gap. Who asks for much that is not missing here, more than
	// putOffStray packets and eightfold, puts off nothing: it has soon had its share of repairs to all.
	putOffMost  = 3
	putOffStray = 64
)

// allowance is how much of a thing one may have: some at once, then one every so often (the generic cell rate algorithm of ITU-T I.371).
type allowance struct{ until time.Time }

// left reports whether there is one more, take takes it.
func (a *allowance) left(now time.Time, every time.Duration, most int) bool {
	return a.until.Sub(now) <= time.Duration(most-1)*every
}

func (a *allowance) take(now time.Time, every time.Duration, most int) bool {
	ok := a.left(now, every, most)
	if ok {
		a.until = maxTime(a.until, now).Add(every)
	}
	return ok
}

// mayAnswer reports whether a member is told what it asks of streams of which nothing has come.
func (n *Node) mayAnswer(now time.Time, m *member) bool {
	every := min(answerEvery<<(m.unbegun/answerBurst), answerSlow*answerEvery)
	ok := n.allows(now, m, &m.replies, every, answerBurst)
	if ok {
		m.unbegun = min(m.unbegun+1, 8*answerBurst)
	}
	return ok
}

// mayPong reports whether a ping of a member, or its question about a way, is answered.
func (n *Node) mayPong(now time.Time, m *member) bool {
	return n.allows(now, m, &m.pongs, answerEvery, answerBurst)
}

// allows takes a datagram for a member off an allowance of it. Where one leaves for it anyway, when this batch ends, an answer more costs nothing.
func (n *Node) allows(now time.Time, m *member, a *allowance, every time.Duration, most int) bool {
	switch {
	case m.listed || m.granted == n.batch:
	case a.take(now, every, most):
		m.granted = n.batch
	default:
		n.Stats.Unanswered++
		return false
	}
	return true
}

// turns reports whether a member may move once more, or hear us where it did not, or the reverse. Else it is believed the next time that it says so.
func (n *Node) turns(now time.Time, m *member) bool {
	ok := m.moves.take(now, turnEvery, turnBurst)
	if !ok {
		n.Stats.Unheeded++
	}
	return ok
}

// heeds reports whether NACKs of a member are looked at; stray notes one for nothing that is kept.
func (n *Node) heeds(now time.Time, m *member) bool {
	ok := m.strays.left(now, strayEvery, strayBurst)
	if !ok {
		n.Stats.Unheeded++
	}
	return ok
}

func (m *member) stray(now time.Time) { m.strays.take(now, strayEvery, strayBurst) }

// asked notes that the publisher asks what is here.
func (r *rx) asked(now time.Time) {
	switch {
	case r.answer || r.delivered != r.told:
		r.answer = true
	case r.begun:
		r.answer = r.n.allows(now, r.m, &r.replies, confirmEvery, confirmBurst)
	default:
		r.answer = r.n.mayAnswer(now, r.m)
	}
}

// plausible reports whether a publisher can keep what it claims to. Of what is not, nothing is believed and nothing asked for.
func (n *Node) plausible(first, next uint64) bool {
	if next >= first && next-first > maxSlots {
		n.Stats.Implausible++
		return false
	}
	return true
}

// vainly is the pause after a NACK, of which another is due after d at the earliest.
func (r *rx) vainly(d time.Duration) time.Duration {
	if r.vain <= vainAfter {
		return d
	}
	return max(d, min(nackMax*time.Duration(r.vain/vainAfter), vainMost))
}
