package rmcast

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
)

// Where more receivers need a copy than the fan-out, some pass packets on to others: receivers in the order in which they
// came are the nodes of a tree in which each has as many children as the fan-out. That is an optimisation as multicast is:
// who passes on has said for whom; all others get copies from the sender. What does not come is asked for and repaired by
// the sender itself, and a receiver for which that happens often gets copies of its own for a while.

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
)

// relaying is a receiver's part in the tree.
type relaying struct {
	parent   *target
	children []ID // for whom it is to pass on
	plan     uint32
	sayAt    time.Time
	pause    time.Duration
	serves   []ID // for whom it does
	servesAt time.Time
	tellNone int // how often to say that there is nobody to pass on to

	repaired    int // packets since checkAt
	checkAt     time.Time
	checkSent   uint64
	directUntil time.Time
}

// plan says who passes on for whom; the order of targets is that of their coming.
func (s *Sender) plan(now time.Time) {
	var in []*target
	for _, t := range s.targets {
		t.parent = nil
		if !t.gone && !s.byGroup(t) {
			in = append(in, t)
		} else {
			t.passTo(now, nil)
		}
	}
	// Those that can be relied on are near the root.
	slices.SortStableFunc(in, func(a, b *target) int { return s.rank(now, a) - s.rank(now, b) })
	able := 0
	for able < len(in) && s.rank(now, in[able]) == 0 {
		able++
	}
	fanout := s.cfg.Fanout
	for i, t := range in {
		var children []ID
		if i < able && len(in) > fanout {
			for j := (i + 1) * fanout; j < min((i+2)*fanout, len(in)); j++ {
				if s.rank(now, in[j]) < 2 {
					children = append(children, in[j].id)
					in[j].parent = t
				}
			}
		}
		t.passTo(now, children)
	}
}

// passTo changes for whom a receiver is to pass on. That there is nobody any more is said a few times; it ends by itself, too.
func (t *target) passTo(now time.Time, children []ID) {
	if slices.Equal(children, t.children) {
		return
	}
	t.children, t.serves = children, nil
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
	active := now.Sub(s.sentAt) < relayFor
	again := false
	for _, t := range s.targets {
		if t.parent != nil && active {
			if now.Sub(t.checkAt) >= relayEvery/2 {
				sent := s.Stats.Packets - t.checkSent
				if t.repaired > 20 && uint64(4*t.repaired) > sent {
					t.directUntil = now.Add(directFor)
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
				b = u64(b, uint64(c))
			}
			s.control(t.addr, done(b, at))
			t.tellNone = max(0, t.tellNone-1)
			t.sayAt = now.Add(t.relaying.pause)
			t.relaying.pause = min(2*t.relaying.pause, relayEvery)
		}
		next = earlier(next, t.sayAt)
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
	s.copyTo(now)
}

// copyTo says who gets copies from here.
func (s *Sender) copyTo(now time.Time) {
	s.copies = s.copies[:0]
	s.copiesUntil = now.Add(relayTrust)
	for _, t := range s.targets {
		if t.gone || s.byGroup(t) || t.served(now) {
			continue
		}
		s.copies = append(s.copies, t.addr)
	}
	for _, t := range s.targets {
		if t.served(now) {
			s.copiesUntil = earlier(s.copiesUntil, t.parent.servesAt.Add(relayTrust))
		}
	}
}

// relay is what a receiver passes on of a stream.
type relay struct {
	to    []ID
	until time.Time
	out   train
	addrs []netip.AddrPort
}

// relayFor takes a publisher's wish that its packets be passed on, and says for whom that will be done.
func (n *Node) relayFor(now time.Time, m *member, stream, plan uint32, ids []ID) {
	r := n.streams[streamKey{m.ID, stream}]
	if r == nil {
		return
	}
	r.relay.to = r.relay.to[:0]
	for _, id := range ids {
		if o := n.byID[id]; o != nil && o != m && o.State != Unreachable && len(r.relay.to) < maxFanout {
			r.relay.to = append(r.relay.to, id)
		}
	}
	r.relay.until = now.Add(relayFor)
	n.say(m, func(b []byte) []byte {
		b, at := record(b, recRelayed)
		b = u32(u32(b, stream), plan)
		for _, id := range r.relay.to {
			b = u64(b, uint64(id))
		}
		return done(b, at)
	})
}

// pass puts a packet, as it came, into what is passed on.
func (r *rx) pass(now time.Time, pkt []byte) {
	if len(r.relay.to) == 0 {
		return
	}
	if now.After(r.relay.until) {
		r.relay.to = r.relay.to[:0]
		return
	}
	if !r.relay.out.fits(len(pkt)) {
		r.passOn()
	}
	r.relay.out.buf = append(r.relay.out.buf, pkt...)
	r.relay.out.added(len(pkt))
	r.n.Stats.Relayed++
}

// passOn sends what was put in.
func (r *rx) passOn() {
	o := &r.relay
	if o.out.n > 0 {
		o.addrs = o.addrs[:0]
		for _, id := range o.to {
			if m := r.n.byID[id]; m != nil && m.State != Unreachable {
				o.addrs = append(o.addrs, m.Addr)
			}
		}
		if len(o.addrs) > 0 {
			r.n.cfg.Wire.Send(o.out.buf, o.out.seg, false, o.addrs)
		}
	}
	o.out.reset()
}

// ids reads the rest of a record as members.
func (r *reader) ids() (ids []ID) {
	for len(r.b) > 0 && !r.bad && len(ids) < maxFanout {
		ids = append(ids, ID(r.u64()))
	}
	return ids
}

// A packet that is passed on is as long as it came.
const _ = uint(MaxTrainBytes - MaxDatagram - buskey.Tag)
