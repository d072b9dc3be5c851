package rmcast

import (
	"math/rand/v2"
	"time"
)

// What a member has to do must not grow with the square of their number. Who publishes knows all who listen, up to MaxMembers;
// who only listens keeps up with publishers and seeks no more than Config.View others. The more receivers a stream has, the longer each takes
// its time to confirm, but for those that pass packets on; the more members one knows, the rarer each is asked for a sign of life; and in an island
// beacons are for the 16 lowest epochs and for those that publish or pass on. Up to a few hundred members all of this is as if it were not there.
const (
	// crowd is the number of receivers from which work on all of them waits to be done together, for togetherAfter; what they confirm, for
	// paceEvery. fewMembers is that of members, upkeepEvery how long they wait.
	crowd         = 64
	togetherAfter = 10 * time.Millisecond
	paceEvery     = time.Millisecond
	fewMembers    = 16
	upkeepEvery   = 50 * time.Millisecond
	// beatMany is how many receivers one heartbeat for all is worth; who says nothing for beatSilent all the same gets one of its own.
	beatMany   = 4
	beatSilent = 100 * time.Millisecond
	// confirmShare is what each receiver adds to the time between one's confirmations: a publisher gets at most 20,000 a second.
	confirmShare = 50 * time.Microsecond
	// restCrowd and busyCrowd are the numbers of members up to which pings come as often as they should; 100 and 5,000 a second.
	restCrowd = 1000
	busyCrowd = 1500
	// maxConfirm is the longest that a publisher may give receivers; from lazy on a stream does not count as traffic that is watched closely.
	maxConfirm = time.Minute
	lazy       = time.Second
	beatLazy   = 5 * time.Second
	// tailAfter is when a relay tells its island where a stream that pauses has got to.
	tailAfter = 20 * time.Millisecond
)

// within is how long a receiver may take to confirm.
func (s *Sender) within() time.Duration {
	return max(s.cfg.Confirm, ackDelay, time.Duration(len(s.targets))*confirmShare)
}

func (s *Sender) withinMS() uint32 { return uint32(s.within() / time.Millisecond) }

// beatFirst is when after the last packet heartbeats begin.
func (s *Sender) beatFirst() time.Duration { return max(beatFirst, min(2*s.cfg.Confirm, beatLazy)) }

// patience is how long a receiver may say nothing when it owes a confirmation.
func (s *Sender) patience(t *target) time.Duration {
	if len(t.children) > 0 {
		return max(patience, min(s.cfg.Confirm, relayTrust))
	}
	return max(patience, 4*s.within())
}

// arrangeLater reports whether there are so many receivers that who is served how is decided for several changes together.
func (s *Sender) arrangeLater(now time.Time) bool {
	s.unarranged = len(s.targets) > crowd && now.Sub(s.arrangedAt) < togetherAfter
	if !s.unarranged {
		s.arrangedAt = now
	}
	return s.unarranged
}

// repace takes confirmations into account.
func (s *Sender) repace(now time.Time) {
	if s.unpaced = len(s.targets) > crowd && now.Sub(s.pacedAt) < paceEvery; s.unpaced {
		return
	}
	s.pacedAt = now
	before := s.minAcked
	if s.pace(); s.minAcked > before {
		s.grow(int(s.endOf(s.minAcked-1) - s.endOf(before-1)))
		s.pace()
	}
}

// together does what has waited. It returns when to call again.
func (s *Sender) together(now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	if s.unarranged {
		if s.arrange(now); s.unarranged {
			next = earlier(next, s.arrangedAt.Add(togetherAfter))
		}
	}
	if s.unpaced {
		if s.repace(now); s.unpaced {
			next = earlier(next, s.pacedAt.Add(paceEvery))
		} else {
			s.moved()
		}
	}
	if n := len(s.targets); s.within() > ackDelay && n > 2*s.told {
		s.told = n
		s.tellAll()
	}
	return next
}

// tellAll tells receivers how many they are.
func (s *Sender) tellAll() {
	h := s.heartbeat(0)
	for _, t := range s.targets {
		if !t.gone && t.known {
			s.control(t, h.append(nil))
		}
	}
}

// spared reports whether a receiver that is behind gets no heartbeat of its own: it has heard one by multicast, if it hears anything, or its
// relay tells the island where the stream ends.
func (s *Sender) spared(now time.Time, t *target, told bool) bool {
	many := s.within() > ackDelay
	if s.urgent || s.ended && many || !s.inTime(now, t) {
		return false
	}
	if told && s.byGroup(t) {
		return true
	}
	// The relay's successor has just been found: it has the first word.
	succeeded := t.relay != nil && t.relay != t && now.Sub(t.relaySet) < time.Second
	return !s.ended && (t.inIsland(now) || many && succeeded)
}

// inTime reports whether a receiver has still time to confirm.
func (s *Sender) inTime(now time.Time, t *target) bool {
	return now.Sub(t.owed) < max(beatSilent, 3*s.within())
}

// beatAll tells those served by multicast where the stream ends by one heartbeat, where it is worth that: many of few are behind, and all
// are asked to answer; or they are very many, and confirm in their own time.
func (s *Sender) beatAll(now time.Time) (told bool) {
	if s.within() > ackDelay {
		if told = s.groupOf >= minIsland; told {
			s.castBeat(now, 0)
		}
		return told
	}
	behind := 0
	for _, t := range s.targets {
		if !t.gone && t.known && s.byGroup(t) && (t.acked < s.sent || s.ended && !t.ended) {
			behind++
		}
	}
	if told = behind >= beatMany && 2*behind >= s.groupOf && !s.urgent; told {
		s.castBeat(now, flagAnswer)
	}
	return told
}

// relayFor is how long after the last packet relays know their plan.
func (s *Sender) relayFor() time.Duration { return relayFor + 4*s.cfg.Confirm }

// many reports whether the stream has so many receivers that they take their time.
func (r *rx) many() bool { return r.within > ackDelay && r.within < lazy }

// soon has what was received confirmed, at once if the stream has few receivers, or if others depend on this one.
func (r *rx) soon(now time.Time) {
	if r.within <= ackDelay || r.relay.passes() {
		r.answer = true
		return
	}
	r.confirmBy(now.Add(spread(r.n.cfg.Rand, r.within)))
}

func (r *rx) confirmBy(at time.Time) {
	if r.ackAt.IsZero() || at.Before(r.ackAt) {
		r.ackAt = at
	}
	r.n.wake(r.ackAt)
}

// confirmLater has what was received confirmed in time.
func (r *rx) confirmLater(now time.Time) {
	d := ackDelay
	if r.within > ackDelay && !r.relay.passes() {
		d = spread(r.n.cfg.Rand, r.within)
	}
	r.confirmBy(now.Add(d))
}

// spread is between a half of d and d, so that thousands do not speak at once.
func spread(rnd *rand.Rand, d time.Duration) time.Duration {
	return d/2 + time.Duration(rnd.Int64N(int64(d/2)+1))
}

// sawReceivers notes how many a stream has, and how much time they have to confirm.
func (r *rx) sawReceivers(n, ms uint32) {
	r.m.crowd = max(r.m.crowd, int(min(n, MaxMembers)))
	r.within = min(time.Duration(ms)*time.Millisecond, maxConfirm)
}

// passes reports whether others get packets by way of this one.
func (r *relay) passes() bool { return r.island || len(r.to) > 0 }

// pointOut tells the island, and of a lazy stream other children, where a stream that pauses has got to: the last packets may be lost there.
func (r *rx) pointOut(now time.Time) {
	o := &r.relay
	if o.tails == 0 {
		return
	}
	if now.Before(o.tailAt) {
		r.n.wake(o.tailAt)
		return
	}
	if o.tails--; o.tails > 0 {
		o.tailAt = now.Add(2 * tailAfter)
		r.n.wake(o.tailAt)
	}
	if r.m.signs != nil {
		r.show(now)
		return
	}
	message := r.held()
	if message == 0 {
		return
	}
	if o.inIsland(now) {
		r.n.groupOut = appendTail(r.n.groupOut, r.m.ID, r.st.ID, r.delivered, message)
		r.n.flushGroup(controlRoom)
	}
	if r.within < lazy { // the publisher tells the others soon enough
		return
	}
	for _, p := range o.to {
		if m := r.n.byID[p.id]; m != nil && m.State != Unreachable {
			r.n.say(m, func(b []byte) []byte { return appendTail(b, r.m.ID, r.st.ID, r.delivered, message) })
		}
	}
}

// lives returns after how much silence a member is suspected and unreachable, and how often it is asked.
func (n *Node) lives(m *member) (suspect, unreachable, every time.Duration) {
	many := max(len(n.members), m.crowd)
	if m.last.Sub(m.busyAt) < busyFor {
		k := max(1, many/busyCrowd)
		return times(k, suspectBusy), times(k, unreachableBusy), times(k, pingBusy)
	}
	k := max(1, many/restCrowd)
	return times(k, suspectRest), times(k, unreachableRest), times(k, pingRest)
}

func times(k int, d time.Duration) time.Duration { return time.Duration(int64(k) * int64(d)) }

// mayWait reports whether the upkeep of members, when there are many, can wait for the next Tick.
func (n *Node) mayWait(now time.Time) bool {
	if len(n.members) > fewMembers && now.Sub(n.watchedAt) < upkeepEvery {
		n.wake(n.watchedAt.Add(upkeepEvery))
		return true
	}
	n.watchedAt = now
	return false
}

// seeks reports whether this member looks for more others.
func (n *Node) seeks() bool { return len(n.senders) > 0 || len(n.members) < n.cfg.View }

// quiet reports whether this member sends no beacons: enough others of its island do, and nothing is expected by multicast from it.
func (n *Node) quiet() bool {
	if n.lower < islandVoices || len(n.senders) > 0 {
		return false
	}
	for _, r := range n.order {
		if r.relay.island {
			return false
		}
	}
	return true
}

// speak has beacons sent from now on.
func (n *Node) speak(now time.Time) {
	n.mouth.News()
	n.mouthAt = now
	n.wake(now)
}
