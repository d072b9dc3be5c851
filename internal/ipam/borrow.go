package ipam

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// borrowedLocked returns an address that somebody has lent to a key of this host, in one of the spaces.
func (s *Service) borrowedLocked(sc *scope, spaces []*space, key string, want netip.Addr) (uint32, *space) {
	serial := s.awaited[stray{spaces[0].scope, key}].serial
	for _, a := range sc.loansInOrder() {
		l, ok := sc.lentTo(a, s.cfg.Self)
		if !ok || l.key != key || l.serial != serial || want.IsValid() && toAddr(a) != want {
			continue
		}
		if _, used := sc.holders[a]; used {
			continue
		}
		for _, sp := range spaces {
			if sp.prefix.Contains(toAddr(a)) {
				return a, sp
			}
		}
	}
	return 0, nil
}

// awaited says that so many callers wait for a loan for a key. They take one with this serial only, which nobody has waited for
// before: of any other the lender may have heard already that it is not needed.
type awaited struct {
	n      int
	serial uint64
}

// await notes that a key waits for a loan, until done is called.
func (s *Service) await(x stray) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.awaited[x]
	if w.n == 0 {
		w.serial = drawSerial()
	}
	w.n++
	s.awaited[x] = w
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		w := s.awaited[x]
		if w.n--; w.n == 0 {
			delete(s.awaited, x)
		} else {
			s.awaited[x] = w
		}
		s.poke()
	}
}

// drawSerial returns a number that no other loan has.
func drawSerial() uint64 {
	return max(rand.Uint64(), 1)
}

// borrow asks an owner for a loan and waits until one is there, some time has passed, or ctx ends.
func (s *Service) borrow(ctx context.Context, sp *space, key string, wanted netip.Addr) error {
	var want uint32
	if wanted.IsValid() {
		want = toU32(wanted)
	}
	alive := s.cfg.Alive()
	s.mu.Lock()
	changed := sp.changed
	serial := s.awaited[stray{sp.scope, key}].serial
	to, ok := s.nextOwnerLocked(sp, alive, 1)
	sp.tries++
	if want != 0 {
		to, ok = sp.ring.Owner(want)
		ok = ok && slices.Contains(alive, to)
	}
	s.mu.Unlock()
	if ok {
		s.askLoan(sp, to, key, want, serial)
	}
	t := time.NewTimer(askEvery)
	defer t.Stop()
	for {
		select {
		case <-changed: // by anything: an ask for each change would be many
		case <-t.C:
			return nil
		case <-ctx.Done():
			return s.noShare(sp, want, alive, ctx.Err())
		}
		s.mu.Lock()
		changed = sp.changed
		a, _ := s.borrowedLocked(s.scopes[sp.scope], []*space{sp}, key, wanted)
		s.mu.Unlock()
		if a != 0 {
			return nil
		}
	}
}

// askLoan asks for a loan with a serial.
func (s *Service) askLoan(sp *space, to ident.HostID, key string, want uint32, serial uint64) {
	s.sendLoan(sp, to, ask{Key: key, Want: want, Loan: serial})
}

func (s *Service) sendLoan(sp *space, to ident.HostID, a ask) {
	body, err := encodeLoan(sp.scope, sp.prefix, a)
	s.sendAsk(sp, to, body, err)
}

// bringBack tells lenders of what this host does not use and nobody here waits for.
func (s *Service) bringBack(sp *space, now time.Time) (short bool) {
	if !s.cfg.Borrows || sp.scope == 0 {
		return false
	}
	alive := s.cfg.Alive()
	s.mu.Lock()
	sc := s.scopes[sp.scope]
	var idle []loan
	for _, a := range sc.loansInOrder() {
		for _, l := range sc.loans[a] {
			if l.to != s.cfg.Self || !sp.prefix.Contains(toAddr(a)) || sc.own[l.key] == a || !slices.Contains(alive, l.lender) {
				continue
			}
			if s.awaited[stray{sp.scope, l.key}].serial != l.serial {
				idle = append(idle, l)
			}
		}
	}
	due := len(idle) > 0 && now.Sub(sp.asked) >= askEvery
	if due {
		sp.asked = now
	}
	s.mu.Unlock()
	if due {
		for _, l := range idle {
			s.sendLoan(sp, l.lender, ask{Key: l.key, Loan: l.serial, Back: true})
		}
	}
	return len(idle) > 0
}

// Lent returns the addresses that owners have lent to a host and that are not given back, of all networks.
func (s *Service) Lent(to ident.HostID) (out []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sc := range s.scopes {
		for a := range sc.loans {
			if _, ok := sc.lentTo(a, to); ok {
				out = append(out, toAddr(a))
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// awaitReturned waits until all lenders have back what they lent to this host, or ctx ends: some are not reached then, and take it back
// when this host is removed.
func (s *Service) awaitReturned(ctx context.Context) {
	ctx, cancel := deadline(ctx)
	defer cancel()
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		left := s.Lent(s.cfg.Self)
		if len(left) == 0 {
			return
		}
		s.poke()
		select {
		case <-t.C:
		case <-ctx.Done():
			s.cfg.Log.Warn("borrowed addresses not given back: who lent them is not reached, and takes them back when this host is gone", "addresses", left)
			return
		}
	}
}
