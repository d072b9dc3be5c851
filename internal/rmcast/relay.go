package rmcast

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
)

// Where more receivers need a copy than the fan-out, some pass packets on to others: relays of islands, and then receivers in
// the order in which they came, are the nodes of a tree in which each has as many children as the fan-out. That is an optimisation
// as multicast is: who passes on has said for whom; all others get copies from the sender. What does not come is asked for and
// repaired by the island's relay or the sender, and a receiver for which that happens often gets copies of its own for a while.

// Relays.
const (
	// DefaultFanout is how many copies of a packet leave a member.
	DefaultFanout = 8
	maxFanout     = 32
	// relayEvery is how often a plan is said again while there is traffic; it ends after relayFor without.
	relayEvery = time.Second
	relayFor   = 5 * time.Second
	// relayTrust is how long a confirmation holds.
	relayTrust = 3 * time.Second
	// directFor is how long a receiver whose relay is no good gets copies from the sender.
	directFor = 30 * time.Second
	// badChecks is how many times in a row a receiver must need too many repairs.
	badChecks = 3
	// settled is how long after a new plan repairs tell nothing of a relay.
	settled = 2 * time.Second
)

// relaying is a receiver's part in the tree.
type relaying struct {
	parent    *target
	before    *target // the parent in the plan before
	parentSet time.Time
	children  []ID // for whom it is to pass on; itself: for its island
	plan      uint32
	sayAt     time.Time
	pause     time.Duration
	serves    []ID // for whom it does
	servesAt  time.Time
	tellNone  int // how often to say that there is nobody to pass on to

	repaired    int // packets since checkAt
	bad         int // how many checks in a row there were too many
	checkAt     time.Time
	checkSent   uint64
	directUntil time.Time
}

// plan says who passes on for whom; the order of targets is that of their coming.
func (s *Sender) plan(now time.Time) {
	for _, t := range s.targets {
		t.before, t.parent = t.parent, nil
	}
	in := s.islands(now)
	// Those that can be relied on are near the root.
	slices.SortStableFunc(in, func(a, b *target) int { return s.rank(now, a) - s.rank(now, b) })
	able := 0
	for able < len(in) && s.rank(now, in[able]) == 0 {
		able++
	}
	fanout, root := s.cfg.Fanout, s.cfg.Fanout
	if s.cfg.Hub {
		slices.SortStableFunc(in, func(a, b *target) int { return cmp.Or(s.rank(now, a)-s.rank(now, b), cmp.Compare(a.id, b.id)) })
		if fanout, root = maxFanout, 1; len(in) == 0 || s.self < in[0].id {
			root = maxFanout
		}
	}
	for i, t := range in {
		var children []ID
		if t.relay == t {
			children = append(children, t.id)
		}
		if i < able && len(in) > root {
			for j := root + i*fanout; j < min(root+(i+1)*fanout, len(in)); j++ {
				if s.rank(now, in[j]) < 2 {
					children = append(children, in[j].id)
					in[j].parent = t
				}
			}
		}
		t.passTo(now, children)
	}
	for _, t := range in {
		if t.parent != t.before {
			t.parentSet, t.bad = now, 0
		}
	}
}

// passTo changes for whom a receiver is to pass on. That there is nobody any more is said a few times; it ends by itself, too.
func (t *target) passTo(now time.Time, children []ID) {
	if slices.Equal(children, t.children) {
		return
	}
	t.children = children
	// What it did and is to go on doing, it does until it knows the new plan.
	t.serves = slices.DeleteFunc(t.serves, func(c ID) bool { return !slices.Contains(children, c) })
	t.relaying.plan++
	t.sayAt, t.relaying.pause = now, announceFirst
	if t.tellNone = 0; len(children) == 0 {
		t.tellNone = 3
	}
}

// rank is 0 for who may pass on, 2 for who needs copies from the sender.
func (s *Sender) rank(now time.Time, t *target) int {
	switch {
	case now.Before(t.directUntil):
		return 2
	case t.known && t.live:
		return 0
	}
	return 1
}

// served reports whether a receiver gets packets by way of another.
func (t *target) served(now time.Time) bool {
	p := t.parent
	return p != nil && p.live && now.Sub(p.servesAt) < relayTrust && slices.Contains(p.serves, t.id)
}

// relays says plans again, and finds receivers for whom their relay is no good. It returns when to call again.
func (s *Sender) relays(now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	active := now.Sub(maxTime(s.sentAt, s.began)) < s.relayFor()
	again := false
	for _, t := range s.targets {
		if (t.parent != nil && now.Sub(t.parentSet) > settled || t.inIsland(now) && now.Sub(t.relaySet) > settled) && active {
			if now.Sub(t.checkAt) >= relayEvery/2 {
				sent := s.Stats.Packets - t.checkSent
				if t.repaired <= 20 || uint64(4*t.repaired) <= sent {
					t.bad = 0
				} else if t.bad++; t.bad == badChecks { // not for the time until a relay's death shows
					t.directUntil, t.bad = s.exclude(now), 0
					again = true
				}
				t.checkAt, t.checkSent, t.repaired = now, s.Stats.Packets, 0
			}
			next = earlier(next, t.checkAt.Add(relayEvery/2))
		}
		if len(t.children) == 0 && t.tellNone == 0 || t.gone || !active {
			continue
		}
		if !now.Before(t.sayAt) {
			b, at := record(nil, recRelay)
			b = u32(u32(b, s.id), t.relaying.plan)
			for _, c := range t.children {
				if o := s.byID[c]; o != nil {
					b = appendPeer(b, c, plainAddr(o.addr))
				} else {
					b = appendPeer(b, c, zeroAddr)
				}
			}
			s.control(t, done(b, at))
			t.tellNone = max(0, t.tellNone-1)
			t.sayAt = now.Add(t.relaying.pause)
			t.relaying.pause = min(2*t.relaying.pause, relayEvery)
		}
		next = earlier(next, t.sayAt)
	}
	if active && now.Sub(s.judgedAt) >= relayEvery/2 {
		s.judgedAt = now
		again = s.judge(now) || again
	}
	if !s.againAt.IsZero() && !now.Before(s.againAt) {
		s.againAt, again = s.excluded(now), true
	}
	if again {
		s.arrange(now)
	}
	return next
}

// relayed takes a receiver's word of for whom it passes on.
func (s *Sender) relayed(now time.Time, id ID, plan uint32, serves []ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.target(id)
	if t == nil || plan != t.relaying.plan {
		return
	}
	t.servesAt, t.relaying.pause, t.tellNone = now, relayEvery, 0
	t.serves = slices.DeleteFunc(serves, func(c ID) bool { return !slices.Contains(t.children, c) })
	switch multicasts := slices.Contains(t.serves, t.id); {
	case !multicasts:
		t.serving = time.Time{}
	case t.serving.IsZero():
		t.serving = now
	}
	s.copiesUntil = time.Time{}
}

// copyTo says who gets copies from here.
func (s *Sender) copyTo(now time.Time) {
	s.copies = s.copies[:0]
	s.copiesUntil = now.Add(relayTrust)
	direct := 0
	for _, t := range s.targets {
		switch {
		case t.gone || s.byGroup(t) || t.waits():
		case t.served(now):
			s.copiesUntil = earlier(s.copiesUntil, t.parent.servesAt.Add(relayTrust))
		case t.inIsland(now):
			s.copiesUntil = earlier(s.copiesUntil, t.relay.servesAt.Add(relayTrust))
		case t.relay == nil || t.relay == t:
			s.copies = append(s.copies, t.addr)
		case direct < mostDirect:
			direct++
			s.copies = append(s.copies, t.addr)
		}
	}
}

// peer is a member that may be known to others only.
type peer struct {
	id   ID
	addr netip.AddrPort
}

// relay is what a receiver passes on of a stream.
type relay struct {
	to     []peer
	island bool // by multicast, too
	until  time.Time
	group  bool // what is in out goes by multicast
	tailAt time.Time
	tails  int // how often to tell the island where the stream has got to
	out    train
	addrs  []netip.AddrPort
}

// relayFor takes a publisher's wish that its packets be passed on, and says for whom that will be done.
func (n *Node) relayFor(now time.Time, m *member, stream, plan uint32, peers []peer) {
	r := n.streams[streamKey{m.ID, stream}]
	if r == nil {
		return
	}
	r.passOn()
	ready, passed := false, r.relay.island
	r.relay.to, r.relay.island = r.relay.to[:0], false
	for _, p := range peers {
		o := n.byID[p.id]
		switch {
		case p.id == readyOnly:
			ready = true
		case p.id == n.cfg.Self:
			r.relay.island = n.cfg.Multicast
		case o == m || o != nil && o.State == Unreachable || o == nil && !unicastTo(p.addr) || len(r.relay.to) == maxFanout:
		default:
			r.relay.to = append(r.relay.to, p)
		}
	}
	if r.relay.island && !passed {
		n.speak(now)
	}
	r.relay.until = now.Add(relayFor + 4*r.within)
	n.say(m, func(b []byte) []byte {
		b, at := record(b, recRelayed)
		b = u32(u32(b, stream), plan)
		for _, p := range r.relay.to {
			b = u64(b, uint64(p.id))
		}
		if r.relay.island {
			b = u64(b, uint64(n.cfg.Self))
		}
		return done(b, at)
	})
	if r.relay.island && !ready {
		n.groupOut = appendServe(n.groupOut, m.ID, stream)
		n.flushGroup(controlRoom)
	}
}

// inIsland reports whether packets are passed on by multicast.
func (r *relay) inIsland(now time.Time) bool { return r.island && now.Before(r.until) }

// pass puts a packet, as it came, into what is passed on. What came by multicast, the island has.
func (r *rx) pass(now time.Time, group bool, seq uint64, pkt []byte) {
	if len(r.relay.to) == 0 && !r.relay.island {
		return
	}
	if now.After(r.relay.until) {
		r.relay.to, r.relay.island = r.relay.to[:0], false
		return
	}
	island := r.relay.island && !group
	if len(r.relay.to) == 0 && !island {
		return
	}
	if r.relay.group != island || !r.relay.out.fits(len(pkt)) {
		r.passOn()
	}
	if island && seq+1 < r.high && r.store.has(seq) { // a repair: who asks for it just now gets it
		r.store.at(seq).repaired = nanos(now)
	}
	if r.relay.group = island; island || r.within >= lazy {
		r.relay.tails, r.relay.tailAt = 2, now.Add(tailAfter)
		if r.within >= lazy {
			r.relay.tails, r.relay.tailAt = 1, now.Add(lazy)
		}
		r.n.wake(r.relay.tailAt)
	}
	r.n.Stats.IslandRelayed += uint64(flag(island, 1))
	r.relay.out.buf = append(r.relay.out.buf, pkt...)
	r.relay.out.added(len(pkt))
	r.n.Stats.Relayed++
}

// passOn sends what was put in.
func (r *rx) passOn() {
	o := &r.relay
	if o.out.n > 0 {
		o.addrs = o.addrs[:0]
		for _, p := range o.to {
			if m := r.n.byID[p.id]; m == nil {
				o.addrs = append(o.addrs, p.addr)
			} else if m.State != Unreachable {
				o.addrs = append(o.addrs, m.Addr)
			}
		}
		if len(o.addrs) > 0 || o.group {
			r.n.cfg.Wire.Send(o.out.buf, o.out.seg, o.group, o.addrs)
		}
	}
	o.out.reset()
}

// ids reads the rest of a record as members.
func (r *reader) ids() (ids []ID) {
	for len(r.b) > 0 && !r.bad && len(ids) < maxFanout+2 {
		ids = append(ids, ID(r.u64()))
	}
	return ids
}

// peers reads the rest of a record as members and their addresses.
func (r *reader) peers() (ps []peer) {
	for len(r.b) > 0 && !r.bad && len(ps) < maxFanout+2 {
		id, addr := r.peer()
		ps = append(ps, peer{id, addr})
	}
	return ps
}

// A packet that is passed on is as long as it came.
const _ = uint(MaxTrainBytes - MaxDatagram - buskey.Tag)
