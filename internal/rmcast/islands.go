package rmcast

import (
	"cmp"
	"slices"
	"time"
)

// Members that hear each other's multicast are an island. Who does not hear the publisher, but others that get the stream,
// is served in its island: one copy crosses to the island's relay, which passes it on there by multicast, as it came. A second
// member, the standby, is told beforehand what to do if it gets copies, so that nothing must be arranged when the relay dies.
// Where the publisher hears a relay those that it serves by multicast would hear that one, too, and get all of it twice: it is none if copies for the
// island are fewer.
//
// An island has a name that nobody gives: the lowest epoch of those that a member hears, its own among them. Names are hints of
// whom to ask; served is a receiver when it says itself who passes the stream on to it. All others get copies.

const (
	// minIsland is how many receivers an island needs for a packet of its own.
	minIsland = 2
	// islandVoices is how many members of an island, the lowest epochs, may become relays.
	islandVoices = 16
	// islandGrace is how long a receiver may take to hear a relay that has begun.
	islandGrace = 3 * time.Second
	// mostDirect is how many receivers get copies from the publisher while they wait for their relay to begin; what the others miss
	// meanwhile is repaired.
	mostDirect = 64
	// readyOnly among the members to pass packets on to says: be ready to, the island has another relay.
	readyOnly = ID(0)
	// islandTries is how often a gap is asked for in the island before the publisher is asked.
	islandTries = 2
)

// islanding is a receiver's part in its island.
type islanding struct {
	island    ID        // as it says; 0: none
	via       ID        // who passes the stream on to it by multicast, as it says; 0: nobody
	relay     *target   // who is to; itself, if it is the relay
	relaySet  time.Time // since when
	apart     time.Time // until then it does not count to its island: it does not hear the relay
	mute      time.Time // until then it is not made relay: it was not heard
	serving   time.Time // since when it says that it multicasts in its island; zero: it does not
	isStandby bool
	place     place
}

// place is where a receiver is, seen from the publisher.
type place struct {
	comesBy  byte // the group by which its multicast comes here, 1 or 2; 0: it does not
	reaches  byte // those by which ours would come there
	mistaken bool // it believes that it hears ours, of which there is none any more: it heeds no relay
}

// place notes where a receiver is.
func (s *Sender) place(now time.Time, id ID, at place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.target(id); t != nil && t.place != at {
		t.place = at
		s.arrange(now)
	}
}

// islands finds who is to pass packets on in which island, and returns who needs a copy: relays, then those that are alone.
func (s *Sender) islands(now time.Time) (in []*target) {
	var alone []*target
	var names []ID
	by := map[ID][]*target{}
	s.twice = [3]int{}
	for _, t := range s.targets {
		if t.isStandby = false; !t.gone && t.hears {
			s.twice[1] += int(t.place.reaches & 1)
			s.twice[2] += int(t.place.reaches >> 1 & 1)
		}
		if t.gone || s.byGroup(t) {
			t.relay = nil
			t.passTo(now, nil)
			continue
		}
		if t.island == 0 || t.hears || t.place.mistaken || !t.known || now.Before(t.apart) || now.Before(t.directUntil) {
			t.relay = nil
			alone = append(alone, t)
			continue
		}
		if by[t.island] == nil {
			names = append(names, t.island)
		}
		by[t.island] = append(by[t.island], t)
	}
	for _, name := range names {
		island := by[name]
		relay, standby := s.choose(now, island)
		if relay == nil {
			for _, t := range island {
				t.relay = nil
			}
			alone = append(alone, island...)
			continue
		}
		for _, t := range island {
			if t.relay != relay {
				t.relay, t.relaySet, t.bad = relay, now, 0
			}
			switch {
			case t == standby:
				t.isStandby = true
				t.passTo(now, []ID{t.id, readyOnly})
			case t != relay:
				t.passTo(now, nil)
			}
		}
		in = append(in, relay)
	}
	return append(in, alone...)
}

// choose names the relay of an island and its standby: of the lowest epochs, which all there hear first, those that come first
// in an order of this stream's own, so that publishers spread their load. Who is relay stays it as long as it is any good.
func (s *Sender) choose(now time.Time, island []*target) (relay, standby *target) {
	if len(island) < minIsland {
		return nil, nil
	}
	slices.SortFunc(island, func(a, b *target) int { return cmp.Compare(a.id, b.id) })
	var able []*target
	for i, t := range island {
		if i >= islandVoices && i%islandVoices == 0 && len(able) > 0 { // the others are known to few
			break
		}
		if s.rank(now, t) == 0 && !now.Before(t.mute) && len(island)-1 > s.twice[t.place.comesBy] {
			able = append(able, t)
		}
	}
	slices.SortFunc(able, func(a, b *target) int {
		return cmp.Or(cmp.Compare(flag(a.relay != a, 1), flag(b.relay != b, 1)), cmp.Compare(s.order(a.id), s.order(b.id)))
	})
	if len(able) > 0 {
		relay = able[0]
	}
	if len(able) > 1 {
		standby = able[1]
	}
	return relay, standby
}

// order is a number by which a member's turn comes; it differs from stream to stream.
func (s *Sender) order(id ID) uint64 {
	x := (uint64(id) ^ uint64(s.self) + uint64(s.id)) * 0x9e3779b97f4a7c15
	return (x ^ x>>29) * 0xbf58476d1ce4e5b9
}

// inIsland reports whether a receiver gets packets by its relay's multicast, as both of them say.
func (t *target) inIsland(now time.Time) bool {
	r := t.relay
	return r != nil && r != t && t.via == r.id && r.live && now.Sub(r.servesAt) < relayTrust && slices.Contains(r.serves, r.id)
}

// waits reports whether a receiver is left to its island's multicast though it has not said that it hears it: it says nothing at all.
func (t *target) waits() bool { return t.relay != nil && t.relay != t && !t.live }

// islander takes from a receiver's status where it is and who serves it there.
func (s *Sender) islander(now time.Time, t *target, island, via ID) {
	if t.island == island && t.via == via {
		return
	}
	lost := via == 0 && t.relay != nil && t.via == t.relay.id
	t.via = via
	if t.island != island {
		t.island, t.apart = island, time.Time{}
		s.arrange(now)
		return
	}
	if lost && s.deserted(t.relay) {
		t.relay.mute = s.exclude(now)
		s.arrange(now)
		return
	}
	s.copiesUntil = time.Time{}
}

// deserted reports whether more of an island's receivers are without a relay's multicast than with it.
func (s *Sender) deserted(relay *target) bool {
	with, without := 0, 0
	for _, t := range s.targets {
		switch {
		case t.relay != relay || t == relay || !t.live:
		case t.via == relay.id:
			with++
		default:
			without++
		}
	}
	return without > with
}

// judge finds relays that are not heard, and receivers that do not hear their relay. It reports whether to arrange anew.
func (s *Sender) judge(now time.Time) (again bool) {
	for _, r := range s.targets {
		if r.relay != r || r.serving.IsZero() || now.Sub(r.serving) < islandGrace {
			continue
		}
		if s.deserted(r) {
			r.mute, again = s.exclude(now), true
			continue
		}
		for _, t := range s.targets {
			if t.relay == r && t != r && t.live && t.via != r.id && now.Sub(t.relaySet) >= islandGrace {
				t.apart, again = s.exclude(now), true
			}
		}
	}
	return again
}

// hasRelay reports whether a receiver is served in its island: what it asks for by multicast is the relay's to answer.
func (s *Sender) hasRelay(now time.Time, id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.target(id)
	return t != nil && t.inIsland(now)
}

// exclude returns until when a receiver has no part in islands or the tree, and has it tried again then.
func (s *Sender) exclude(now time.Time) (until time.Time) {
	if until = now.Add(directFor); s.againAt.IsZero() {
		s.againAt = until
	}
	return until
}

// excluded returns when the next of those that are excluded may have a part again; zero: nobody is.
func (s *Sender) excluded(now time.Time) (next time.Time) {
	for _, t := range s.targets {
		for _, until := range [...]time.Time{t.directUntil, t.apart, t.mute} {
			if until.After(now) && (next.IsZero() || until.Before(next)) {
				next = until
			}
		}
	}
	return next
}

// via is who multicasts a stream in this member's island, as its receiver knows.
type via struct {
	m      *member
	at     time.Time // something came that way
	behind time.Time // since when something is missing and nothing came that way; zero: it does
	deafTo *member   // it was not heard
	deaf   time.Time // until then it is not believed again
}

// serve takes a relay's word, heard by multicast, that it passes a stream on.
func (r *rx) serve(now time.Time, m *member) {
	if m == r.m || r.m.hear || m == r.via.deafTo && now.Before(r.via.deaf) {
		return
	}
	if r.via.m != m {
		r.via.m, r.answer = m, true
		r.n.touch(r)
	}
	r.via.at = now
}

// unserve notes that nothing comes by way of a relay any more.
func (r *rx) unserve(now time.Time) {
	r.via = via{deafTo: r.via.m, deaf: now.Add(deafHold)}
	r.answer = true
	r.n.touch(r)
}

// behind notes that something is missing that should have come by the relay's multicast.
func (r *rx) behind(now time.Time) {
	v := &r.via
	switch {
	case v.m == nil:
	case v.behind.IsZero():
		v.behind = now
	case now.Sub(v.behind) > deafAfter && now.Sub(v.at) > deafAfter:
		r.unserve(now)
	}
}

// islandFirst reports whether a gap is asked for in the island. Where a stream has very many receivers that is also so while a new
// relay takes the place of the old one, and longer: the publisher could not answer them all.
func (r *rx) islandFirst(nacks int) bool {
	if !r.many() || r.relay.passes() {
		return r.via.m != nil && nacks <= islandTries
	}
	near := r.n.cfg.Multicast && !r.m.hear && r.n.island != r.n.cfg.Self
	return nacks <= 3*islandTries && (near || r.via.m != nil)
}

// viaID is the relay's epoch, 0 for none.
func (r *rx) viaID() ID {
	if r.via.m == nil {
		return 0
	}
	return r.via.m.ID
}

// unserved has streams do without a relay that is gone.
func (n *Node) unserved(now time.Time, m *member) {
	for _, r := range n.order {
		if r.via.m == m {
			r.unserve(now)
		}
	}
}

// nameIsland finds our island's name anew, and tells publishers when it has changed.
func (n *Node) nameIsland() {
	name := n.cfg.Self
	n.lower = 0
	for _, m := range n.members {
		if m.hear && m.State != Unreachable && m.ID < n.cfg.Self {
			if n.lower++; !m.lastGroup.Before(n.deafSince[m.Voice]) {
				name = min(name, m.ID)
			}
		}
	}
	if name == n.island {
		return
	}
	n.island = name
	for _, r := range n.order {
		r.answer = true
		n.touch(r)
	}
}
