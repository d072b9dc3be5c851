package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// tick does what is due: settle, answer asks, ask, look for conflicts. short says that this host needs more.
func (s *Service) tick(now time.Time) (short bool) {
	s.mu.Lock()
	var all []*space
	for _, id := range slices.Sorted(maps.Keys(s.scopes)) {
		all = append(all, s.scopes[id].spaces...)
	}
	asks, lendings := s.asks, s.lending
	s.asks, s.lending = nil, nil
	barred := s.barred
	s.mu.Unlock()
	if barred {
		return false
	}
	for _, sp := range all {
		if err := s.settle(sp); err != nil {
			s.cfg.Log.Error("address share not settled", "range", sp.prefix, "err", err)
		}
	}
	for _, w := range asks {
		if err := s.answer(w); err != nil {
			s.cfg.Log.Error("address share not given", "range", w.sp.prefix, "host", w.from, "err", err)
		}
	}
	for _, x := range lendings {
		if err := s.lend(x); err != nil {
			s.cfg.Log.Error("address not lent", "range", x.sp.prefix, "host", x.to, "err", err)
		}
	}
	if err := s.takeBack(); err != nil {
		s.cfg.Log.Error("addresses lent to a removed host not taken back", "err", err)
	}
	if err := s.putStrays(); err != nil {
		s.cfg.Log.Error("own entries from before a loss of the disk not put right", "err", err)
	}
	for _, sp := range all {
		s.tell(sp, now)
		s.succeed(sp, now)
		short = s.askWhenShort(sp, now) || short
		short = s.askForClaims(sp, now) || short
		short = s.bringBack(sp, now) || short
		s.returnLate(sp)
		s.watchConflicts(sp, now)
	}
	return short
}

func (s *Service) settle(sp *space) error {
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	rewrite := sp.rewrite
	sp.rewrite = false
	s.mu.Unlock()
	err := s.write(sp, func() (ring.Book, bool, error) {
		if !sp.dirty {
			return ring.Book{}, false, nil
		}
		var used []uint32
		if sp.scope != 0 { // a subnet in use may change its owner: all hosts know that it is in use
			used = sp.pool.InUse()
		}
		b, ok := sp.ring.Settle(used)
		sp.dirty = ok // once more after a write
		return b, ok || rewrite && sp.ring.Serial(s.cfg.Self) > 0, nil
	})
	if err != nil {
		s.mu.Lock()
		sp.dirty, sp.rewrite = true, sp.rewrite || rewrite
		s.mu.Unlock()
	}
	return err
}

// HostRemoved notes that a host is gone for good, by the cluster's policy (a majority); call it
// again for all such hosts after a restart, before Run. Who takes what it had was said by whoever removed
// it (Bequeath). Where nobody was named, byUs says that this host takes over the gone one's part of the
// cluster's range at once; what has no heir after 10 s, in the networks too, goes to the lowest living
// host that has a share of it.
func (s *Service) HostRemoved(id ident.HostID, byUs bool) error {
	s.mu.Lock()
	if id == s.cfg.Self {
		s.barred = true
		s.mu.Unlock()
		return nil
	}
	if _, ok := s.removed[id]; !ok {
		if len(s.removed) >= maxRemoved {
			s.mu.Unlock()
			return fmt.Errorf("host %s: more than %d hosts removed", id.Short(), maxRemoved)
		}
		s.removed[id] = time.Now()
	}
	for _, sc := range s.scopes {
		for _, sp := range sc.spaces {
			sp.notifyLocked()
		}
		sc.dropHolders(func(h holder) bool { return h.host == id })
		s.loansOfGoneLocked(sc, id)
	}
	for index, by := range s.nets {
		if _, ok := by[id]; ok {
			s.dropNetLocked(id, index)
		}
	}
	cluster := s.cluster
	_, named := s.heirLocked(id, 0)
	s.mu.Unlock()
	s.poke()
	if byUs && !named && cluster != nil && !s.cfg.Borrows {
		return s.takeOver(cluster, id)
	}
	return nil
}

// staying returns those hosts that do not come and go.
func (s *Service) staying(ids []ident.HostID) []ident.HostID {
	if s.cfg.Stays == nil {
		return ids
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id ident.HostID) bool { return !s.cfg.Stays(id) })
}

// Hold keeps this host from taking addresses, for a reason that people can read; "": it may.
func (s *Service) Hold(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == reason {
		return
	}
	s.held = reason
	close(s.freed)
	s.freed = make(chan struct{})
}

// Barred says that this host was removed itself, or that it was taken for removed by mistake: while it is, it gives nothing out,
// neither to attachments nor to other hosts.
func (s *Service) Barred(yes bool) {
	s.mu.Lock()
	s.barred = yes
	s.mu.Unlock()
	s.poke()
}

func (s *Service) takeOver(sp *space, id ident.HostID) error {
	s.plan.Lock()
	defer s.plan.Unlock()
	err := s.write(sp, func() (ring.Book, bool, error) {
		b, err := sp.ring.TakeOver(id)
		if errors.Is(err, ring.ErrInherited) {
			return b, false, nil
		}
		return b, err == nil, err
	})
	if err != nil {
		return fmt.Errorf("take over the addresses of host %s in %s: %w", id.Short(), sp.prefix, err)
	}
	return nil
}

// returnLate gives back what came for an ask from before this host left.
func (s *Service) returnLate(sp *space) {
	s.mu.Lock()
	due := sp.left && len(sp.ring.Owned(s.cfg.Self)) > 0
	s.mu.Unlock()
	if !due {
		return
	}
	if _, err := s.giveAll(sp); err != nil {
		s.cfg.Log.Error("address share not returned", "range", sp.prefix, "err", err)
	}
}

// succeed makes this host the heir of a host removed when it was named so; where nobody was, when no other became it in
// time and this is the lowest living host that could: of those with a share, in a network.
func (s *Service) succeed(sp *space, now time.Time) {
	if s.cfg.Borrows {
		return
	}
	alive := s.staying(s.cfg.Alive())
	s.mu.Lock()
	lowest := true
	for _, id := range alive {
		if _, gone := s.removed[id]; !gone && id.Less(s.cfg.Self) && (sp.scope == 0 || len(sp.ring.Owned(id)) > 0) {
			lowest = false
		}
	}
	var due []ident.HostID
	for _, id := range s.goneLocked() {
		if !sp.ring.Left(id) {
			continue
		}
		heir, named := s.heirLocked(id, sp.scope)
		if heir == s.cfg.Self && named || !named && sp.joined && lowest && now.Sub(s.removed[id]) >= heirAfter {
			due = append(due, id)
		}
	}
	s.mu.Unlock()
	for _, id := range due {
		if err := s.takeOver(sp, id); err != nil {
			s.cfg.Log.Error("address share not inherited", "err", err)
		}
	}
}

// Conflict is addresses that this host and another hold both, against all rules: after a removal
// by force, or the same subnet created twice.
type Conflict struct {
	Subnet      netip.Prefix
	First, Last netip.Addr
	Other       ident.HostID
}

func (c Conflict) String() string {
	return fmt.Sprintf("%s-%s of %s is also held by host %s; detach what uses it on one of the two", c.First, c.Last, c.Subnet, c.Other.Short())
}

func (s *Service) watchConflicts(sp *space, now time.Time) {
	s.mu.Lock()
	seen, shown := map[ring.Conflict]time.Time{}, map[ring.Conflict]bool{}
	var fresh []ring.Conflict
	for _, c := range append(sp.ring.Conflicts(), s.usedTwiceLocked(sp)...) {
		since, ok := sp.seen[c]
		if !ok {
			since = now
		}
		seen[c] = since
		if now.Sub(since) >= conflictAfter {
			shown[c] = true
			if !sp.shown[c] {
				fresh = append(fresh, c)
			}
		}
	}
	sp.seen, sp.shown = seen, shown
	s.mu.Unlock()
	for _, c := range fresh {
		s.cfg.Log.Warn("addresses held twice", "conflict", sp.conflict(c))
	}
}

func (sp *space) conflict(c ring.Conflict) Conflict {
	first, last := sp.addresses(c.Range)
	return Conflict{Subnet: sp.prefix, First: first, Last: last, Other: c.Other}
}

// addresses returns the ends of a part of the ring, which the cluster's counts in subnets.
func (sp *space) addresses(r ring.Range) (first, last netip.Addr) {
	if sp.scope != 0 {
		return toAddr(r.First), toAddr(r.Last)
	}
	shift := 32 - carveBits(sp.prefix)
	base := first4(sp.prefix)
	return toAddr(base + r.First<<shift), toAddr(base + (r.Last+1)<<shift - 1)
}
