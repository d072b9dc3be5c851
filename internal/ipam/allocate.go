package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// Allocate gives the attachment named by key (1 to 128 bytes, its own within the network) an
// address, for good until Release; asked again it returns the same. want asks for one address.
// It is instant when this host's share has the address; otherwise it asks the owners with most
// left and waits for ctx, or 10 s when ctx has no deadline. Errors wrap ErrNoNetwork, ErrInUse,
// ErrExhausted or ctx's.
func (s *Service) Allocate(ctx context.Context, vni uint32, key string, want netip.Addr) (Address, error) {
	return s.AllocateIn(ctx, vni, netip.Prefix{}, key, want)
}

// AllocateIn is Allocate out of one subnet of the network, when in is valid.
func (s *Service) AllocateIn(ctx context.Context, vni uint32, in netip.Prefix, key string, want netip.Addr) (Address, error) {
	if key == "" || len(key) > maxKey {
		return Address{}, fmt.Errorf("allocate: key of %d bytes, want 1 to %d", len(key), maxKey)
	}
	ctx, cancel := deadline(ctx)
	defer cancel()
	if s.cfg.Borrows {
		defer s.await(stray{vni, key})()
	}
	for {
		a, sp, err := s.tryAllocate(vni, in, key, want)
		if errors.Is(err, ErrHeld) {
			if err = s.awaitFreed(ctx, err); err == nil {
				continue
			}
		}
		if err != nil || sp == nil {
			return a, err
		}
		var wanted uint32
		if want.IsValid() {
			wanted = toU32(want)
		}
		wait := func() error { return s.waitForShare(ctx, sp, wanted) }
		if s.cfg.Borrows {
			wait = func() error { return s.borrow(ctx, sp, key, want.Unmap()) }
		}
		if err := wait(); err != nil {
			return Address{}, err
		}
	}
}

// awaitFreed waits until this host may take addresses again. It returns why not when it may not before ctx ends.
func (s *Service) awaitFreed(ctx context.Context, why error) error {
	s.mu.Lock()
	held, freed := s.held, s.freed
	s.mu.Unlock()
	if held == "" {
		return nil
	}
	select {
	case <-freed:
		return nil
	case <-ctx.Done():
		return errors.Join(why, ctx.Err())
	}
}

// tryAllocate returns an address; or a space to wait for; or why there will be none.
func (s *Service) tryAllocate(vni uint32, in netip.Prefix, key string, want netip.Addr) (Address, *space, error) {
	alive := s.cfg.Alive()
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	a, sp, fresh, err := s.pickLocked(vni, in, key, want.Unmap(), alive)
	if err != nil || !fresh {
		defer s.mu.Unlock()
		if err == nil && a != 0 {
			return address(a, sp.prefix, sp.net6), nil, nil
		}
		return Address{}, sp, err
	}
	s.scopes[vni].own[key] = a
	s.mu.Unlock()
	if err := s.publish(vni, map[string][]byte{keyIP + key: put32(a)}, nil); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		sp.pool.Free(key)
		delete(s.scopes[vni].own, key)
		return Address{}, nil, err
	}
	return address(a, sp.prefix, sp.net6), nil, nil
}

// pickLocked finds the address a of a key: one it had, or a fresh one. With a 0 and no error, sp is
// the space in which the caller waits for a share.
func (s *Service) pickLocked(vni uint32, in netip.Prefix, key string, want netip.Addr, alive []ident.HostID) (a uint32, sp *space, fresh bool, err error) {
	if s.barred {
		return 0, nil, false, ErrRemoved
	}
	sc := s.scopes[vni]
	var joined []*space
	if sc != nil && vni != 0 {
		for _, o := range sc.spaces {
			if o.joined {
				joined = append(joined, o)
			}
		}
	}
	if len(joined) == 0 {
		return 0, nil, false, ErrNoNetwork
	}
	for _, o := range joined {
		if a, ok := o.pool.Addr(key); ok {
			if want.IsValid() && toAddr(a) != want {
				return 0, nil, false, fmt.Errorf("%s has the address %s already; detach it first", key, toAddr(a))
			}
			return a, o, false, nil
		}
	}
	if s.held != "" {
		return 0, nil, false, fmt.Errorf("%w: %s", ErrHeld, s.held)
	}
	if in.IsValid() && !want.IsValid() {
		joined = slices.DeleteFunc(joined, func(o *space) bool { return o.prefix != in })
		if len(joined) == 0 {
			return 0, nil, false, fmt.Errorf("%s is no subnet of the network on this host", in)
		}
	}
	if s.cfg.Borrows {
		if a, sp := s.borrowedLocked(sc, joined, key, want); a != 0 && sp.pool.Restore(key, a) {
			return a, sp, true, nil
		}
	}
	if want.IsValid() {
		return s.pickWantedLocked(sc, joined, key, want)
	}
	for _, o := range joined {
		owned := o.ring.Owned(s.cfg.Self)
		if a, ok := o.pool.AllocBut(key, owned, sc.heldElsewhere); ok {
			return a, o, true, nil
		}
	}
	for _, o := range joined { // the first in which somebody may have one
		full := s.exhaustedLocked(o, alive)
		if full == nil {
			return 0, o, false, nil
		}
		err = cmp.Or(err, full)
	}
	return 0, nil, false, err
}

func (s *Service) pickWantedLocked(sc *scope, joined []*space, key string, want netip.Addr) (uint32, *space, bool, error) {
	i := slices.IndexFunc(joined, func(o *space) bool { return o.prefix.Contains(want) })
	if i < 0 {
		names := make([]string, len(joined))
		for i, o := range joined {
			names[i] = o.prefix.String()
		}
		return 0, nil, false, fmt.Errorf("address %s is not in the network's subnet %s", want, strings.Join(names, ", "))
	}
	sp, a := joined[i], toU32(want)
	if hs := sc.holders[a]; len(hs) > 0 {
		h := hs[0]
		return 0, nil, false, fmt.Errorf("address %s: %w by %s on host %s; choose another, or leave --ip out", want, ErrInUse, h.key, h.host.Short())
	}
	if ls := sc.loans[a]; len(ls) > 0 && ls[0].to != s.cfg.Self {
		return 0, nil, false, fmt.Errorf("address %s: %w by %s on host %s; choose another, or leave --ip out", want, ErrInUse, ls[0].key, ls[0].to.Short())
	}
	if k, ok := sp.pool.Holder(a); ok {
		return 0, nil, false, fmt.Errorf("address %s: %w by %s on this host; choose another, or leave --ip out", want, ErrInUse, k)
	}
	if sp.pool.Reserved(a) {
		return 0, nil, false, fmt.Errorf("address %s is never given: it is the subnet's first, last or DNS address; choose another", want)
	}
	err := sp.pool.AllocAt(key, a, sp.ring.Owned(s.cfg.Self))
	switch {
	case err == nil:
		return a, sp, true, nil
	case errors.Is(err, ring.ErrNotOwned):
		return 0, sp, false, nil
	}
	return 0, nil, false, fmt.Errorf("address %s: %w", want, err)
}

// exhaustedLocked returns an error when nobody at all has a free address, so that waiting is vain.
func (s *Service) exhaustedLocked(sp *space, alive []ident.HostID) error {
	var have uint64
	for _, sh := range sp.ring.Shares() {
		have += sh.Size
		reached := sh.Owner == s.cfg.Self || slices.Contains(alive, sh.Owner)
		if !reached || s.freeOfLocked(sp, sh.Owner) > 0 {
			return nil
		}
	}
	if have < sp.ring.Space().Size() {
		return nil // a part is on its way, or not heard of
	}
	return fmt.Errorf("%w in %s: all %d are in use; detach something, or create a network with a larger --subnet", ErrExhausted, sp.prefix, have)
}

// waitForShare asks owners for a part, or for the one address want, until the ring changes or ctx ends.
func (s *Service) waitForShare(ctx context.Context, sp *space, want uint32) error {
	alive := s.cfg.Alive()
	s.mu.Lock()
	changed := sp.changed
	to, ok := s.nextOwnerLocked(sp, alive, 1)
	sp.tries++
	if want != 0 {
		to, ok = sp.ring.Owner(want)
		ok = ok && to != s.cfg.Self && slices.Contains(alive, to)
	}
	s.mu.Unlock()
	if ok {
		s.ask(sp, to, want, true)
	}
	t := time.NewTimer(askEvery)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
		return s.noShare(sp, want, alive, ctx.Err())
	}
	return nil
}

// noShare says why no part came: who has how much, and what to do.
func (s *Service) noShare(sp *space, want uint32, alive []ident.HostID, cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want != 0 {
		id, ok := sp.ring.Owner(want)
		switch {
		case !ok:
			return fmt.Errorf("address %s: no owner of it is known here yet: %w", toAddr(want), cause)
		case !slices.Contains(alive, id):
			return fmt.Errorf("address %s belongs to host %s, which is not reached; choose another, or leave --ip out: %w", toAddr(want), id.Short(), cause)
		}
		return fmt.Errorf("address %s belongs to host %s, which did not give it: it may be in use there; choose another, or leave --ip out: %w", toAddr(want), id.Short(), cause)
	}
	owners := s.ownersLocked(sp, alive)
	if len(owners) == 0 {
		return fmt.Errorf("%w in %s: this host has no share, and no other owner is known here yet; see weft hosts: %w", ErrExhausted, sp.prefix, cause)
	}
	const shown = 8
	var list []string
	reached := false
	for i, o := range owners {
		reached = reached || o.alive && o.free > 0
		if i == shown {
			list = append(list, fmt.Sprintf("%d more", len(owners)-shown))
			break
		}
		state := ""
		if !o.alive {
			state = ", not reached"
		}
		list = append(list, fmt.Sprintf("host %s %d free of %d%s", o.id.Short(), o.free, o.size, state))
	}
	fix := "start a host that has some, or, if it is gone for good, weft host rm it"
	if reached {
		fix = "try again in a moment"
	}
	return fmt.Errorf("%w in %s: this host's share is used up (%s); %s: %w", ErrExhausted, sp.prefix, strings.Join(list, "; "), fix, cause)
}

// Release gives up the address of a key; one that has none is no error.
func (s *Service) Release(vni uint32, key string) error {
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	sc := s.scopes[vni]
	if sc == nil {
		s.mu.Unlock()
		return nil
	}
	_, ok := sc.own[key]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if err := s.publish(vni, nil, []string{keyIP + key}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(sc.own, key)
	for _, sp := range sc.spaces {
		delete(sp.claims.made, key)
		if _, ok := sp.pool.Free(key); ok {
			sp.dirty = true // a claim with a better right may have waited for it
		}
	}
	return nil
}

// Allocations returns the addresses of this host's attachments in a network by key: after a
// restart, what to give back to attachments that are still there and to Release for those that are not.
func (s *Service) Allocations(vni uint32) map[string]Address {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]Address{}
	if sc := s.scopes[vni]; sc != nil && vni != 0 {
		for _, sp := range sc.spaces {
			for key, a := range sp.pool.Keys() {
				out[key] = address(a, sp.prefix, sp.net6)
			}
		}
	}
	return out
}
