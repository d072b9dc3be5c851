package ipam

import (
	"cmp"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// HandleAsk takes note of a link message of kind wire.KindShare from another host.
func (s *Service) HandleAsk(from ident.HostID, body []byte) error {
	a, p, err := decodeAsk(body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.counts.BadAsks++
		return err
	}
	var sp *space
	if sc := s.scopes[a.Scope]; sc != nil {
		for _, o := range sc.spaces {
			if o.prefix == p {
				sp = o
			}
		}
	}
	waits := slices.IndexFunc(s.asks, func(w waiting) bool { return w.sp == sp && w.from == from })
	switch {
	case !s.removed[from].IsZero() || from == s.cfg.Self || s.barred:
		s.counts.BadAsks++
		return nil
	case sp == nil:
		s.counts.AsksUnmet++
		return nil
	case a.Book != nil:
		return s.toldLocked(sp, a.Book)
	case a.Key != "":
		if len(s.lending) >= maxAsks {
			s.counts.AsksFull++
			return nil
		}
		s.lending = append(s.lending, lending{sp, from, a.Key, a.Want, a.Loan, a.Back})
		s.poke()
		return nil
	case waits >= 0:
		if a.Need { // what an attachment waits for stands before what it might do with one day
			s.asks[waits] = waiting{sp, from, a.Want, a.Serial, a.Need}
		}
		return nil
	case len(s.asks) >= maxAsks:
		s.counts.AsksFull++
		return nil
	}
	s.asks = append(s.asks, waiting{sp, from, a.Want, a.Serial, a.Need})
	s.poke()
	return nil
}

// answer gives a part to a host that asked.
func (s *Service) answer(w waiting) error {
	hosts := uint64(len(s.cfg.Alive()) + 1)
	s.plan.Lock()
	defer s.plan.Unlock()
	return s.write(w.sp, func() (ring.Book, bool, error) {
		r, pool := w.sp.ring, w.sp.pool
		owned := r.Owned(s.cfg.Self)
		if len(r.Giving(w.from)) > 0 || r.Serial(w.from) > w.old {
			return ring.Book{}, false, nil // on its way already, or come since
		}
		var part ring.Range
		var ok bool
		if w.want != 0 {
			_, inUse := pool.Holder(w.want)
			part, ok = ring.Range{First: w.want, Last: w.want}, !inUse && !pool.Reserved(w.want) && contains(owned, w.want) && len(s.scopes[w.sp.scope].loans[w.want]) == 0
		} else {
			n := partSize(pool.Available(owned), s.freeOfLocked(w.sp, w.from), r.Space().Size()/hosts, w.need)
			part, ok = pool.Spare(owned, n)
		}
		if !ok {
			s.counts.AsksUnmet++
			return ring.Book{}, false, nil
		}
		s.counts.AsksMet++
		b, err := r.Give(w.from, part)
		return b, err == nil, err
	})
}

// partSize returns how many free addresses a host that has mine gives one that has theirs: half the
// difference, and no more than all living hosts could have alike. Every give makes shares more
// alike, so the giving ends; two hosts that both could do with a part don't hand it back and forth.
// The last address goes only to a host that needs it for an attachment now.
func partSize(mine, theirs, alike uint64, need bool) uint64 {
	if mine <= theirs {
		return 0 // a host that asks for ever does not collect everything
	}
	n := min((mine-theirs)/2, max(alike, 1))
	if need {
		n = max(n, 1)
	}
	return n
}

func contains(rs []ring.Range, a uint32) bool {
	return slices.ContainsFunc(rs, func(r ring.Range) bool { return r.Contains(a) })
}

// freeOfLocked estimates how much of its share a host has left, from what it shows of its use.
func (s *Service) freeOfLocked(sp *space, id ident.HostID) uint64 {
	owned := sp.ring.Owned(id)
	if id == s.cfg.Self {
		n := sp.pool.Available(owned)
		for a := range s.scopes[sp.scope].loans {
			if contains(owned, a) {
				n -= min(n, 1)
			}
		}
		return n
	}
	var n uint64
	for _, r := range owned {
		n += r.Size()
	}
	var used uint64
	if sp.scope == 0 {
		for index := range s.nets {
			if contains(owned, index) {
				used++
			}
		}
	} else {
		space := sp.ring.Space()
		for _, a := range []uint32{space.First, space.First + 1, space.Last} {
			if contains(owned, a) {
				used++
			}
		}
		sc := s.scopes[sp.scope]
		for a := range sc.holders {
			if contains(owned, a) {
				used++
			}
		}
		for a := range sc.loans { // those that are taken have a holder too, unless that is this host
			if contains(owned, a) && len(sc.holders[a]) == 0 {
				used++
			}
		}
	}
	return n - min(n, used)
}

type owner struct {
	id         ident.HostID
	size, free uint64
	alive      bool
}

// ownersLocked returns the other owners, those that live first, with most left first.
func (s *Service) ownersLocked(sp *space, alive []ident.HostID) []owner {
	var out []owner
	for _, sh := range sp.ring.Shares() {
		if sh.Owner != s.cfg.Self {
			out = append(out, owner{sh.Owner, sh.Size, s.freeOfLocked(sp, sh.Owner), slices.Contains(alive, sh.Owner)})
		}
	}
	slices.SortStableFunc(out, func(a, b owner) int {
		if a.alive != b.alive {
			if a.alive {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.free, a.free)
	})
	return out
}

// askWhenShort asks an owner for a part when this host has none, or little, left, and somebody has more.
func (s *Service) askWhenShort(sp *space, now time.Time) (short bool) {
	if s.cfg.Borrows {
		return false
	}
	alive := s.cfg.Alive()
	s.mu.Lock()
	owned := sp.ring.Owned(s.cfg.Self)
	var size uint64
	for _, r := range owned {
		size += r.Size()
	}
	free := sp.pool.Available(owned)
	every := topUpEvery
	if free == 0 {
		every = askEvery
	}
	if !sp.joined || sp.left || free > size/8 {
		s.mu.Unlock()
		return false
	}
	to, ok := s.nextOwnerLocked(sp, alive, free+2)
	due := ok && now.Sub(sp.asked) >= every
	if due {
		sp.asked = now
		sp.tries++
	}
	s.mu.Unlock()
	if due {
		s.ask(sp, to, 0, false)
	}
	return ok
}

// nextOwnerLocked goes round the living owners that have at least so many addresses left.
func (s *Service) nextOwnerLocked(sp *space, alive []ident.HostID, least uint64) (ident.HostID, bool) {
	owners := slices.DeleteFunc(s.ownersLocked(sp, alive), func(o owner) bool { return !o.alive || o.free < least })
	if len(owners) == 0 {
		return ident.HostID{}, false
	}
	return owners[sp.tries%len(owners)].id, true
}

// ask asks a host for a part, or for the address want; need says that an attachment waits for it.
func (s *Service) ask(sp *space, to ident.HostID, want uint32, need bool) {
	s.mu.Lock()
	serial := sp.ring.Serial(s.cfg.Self)
	s.mu.Unlock()
	body, err := encodeAsk(sp.scope, sp.prefix, want, serial, need)
	s.sendAsk(sp, to, body, err)
}

// sendAsk sends what was encoded, unless that failed.
func (s *Service) sendAsk(sp *space, to ident.HostID, body []byte, err error) {
	if err == nil {
		err = s.cfg.Ask(to, body)
	}
	s.mu.Lock()
	s.counts.AsksSent++
	s.mu.Unlock()
	if err != nil {
		s.cfg.Log.Debug("ask for addresses not sent", "range", sp.prefix, "host", to.Short(), "err", err)
	}
}
