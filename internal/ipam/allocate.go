package ipam

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// CarveSubnet takes a free /20 of this host's own units for a new network.
func (s *Service) CarveSubnet(ctx context.Context) (netip.Prefix, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == nil {
		return netip.Prefix{}, fmt.Errorf("no subnet yet: the cluster's range has not arrived")
	}
	u, err := s.takeLocked(ctx, []*space{s.cluster}, func(sp *space) (uint32, error) {
		// Definitions mark their units by themselves; this key only keeps two carvings apart.
		u, ok := sp.pool.Alloc("carving", sp.ring.Owned(s.cfg.Self))
		if !ok {
			return 0, errShort
		}
		sp.pool.Free("carving")
		return u, nil
	})
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(s.cluster.addr(u.unit), UnitBits), nil
}

var errShort = fmt.Errorf("no free address")

type taken struct {
	*space
	unit uint32
}

// takeLocked tries the spaces in turn, and asks other owners while none has what is wanted.
func (s *Service) takeLocked(ctx context.Context, spaces []*space, take func(*space) (uint32, error)) (taken, error) {
	ctx, cancel := context.WithTimeout(ctx, waitShare)
	defer cancel()
	for {
		var last error
		for _, sp := range spaces {
			s.settleLocked(sp)
			u, err := take(sp)
			if err == nil {
				return taken{sp, u}, nil
			}
			last = err
			if err != errShort { //nolint:errorlint // our own value, never wrapped
				return taken{}, err
			}
			s.askLocked(time.Now(), sp)
		}
		if len(spaces) == 0 {
			return taken{}, fmt.Errorf("the network has no subnet")
		}
		if s.waitLocked(ctx) != nil {
			return taken{}, fmt.Errorf("%w: %s", last, s.shortageLocked(spaces))
		}
	}
}

// shortageLocked says who has how much, and what to do.
func (s *Service) shortageLocked(spaces []*space) string {
	text := ""
	for _, sp := range spaces {
		text += "of " + sp.key.prefix.String()
		for _, sh := range sp.ring.Shares() {
			state := ""
			if sh.Owner != s.cfg.Self && !s.cfg.Alive(sh.Owner) {
				state = " (not in reach)"
			}
			text += fmt.Sprintf(" %s owns %d%s,", s.cfg.Name(sh.Owner), sh.Size<<sp.shift, state)
		}
	}
	return text + " and none gave a part away; bring those hosts back, or remove them for good with `weft host rm`"
}

// Allocate gives a key of a network its address, or the one it has. want may name an address. It is
// instant while this host's share lasts; else owners are asked, until ctx ends or 10 s have passed.
func (s *Service) Allocate(ctx context.Context, vni uint32, key string, want netip.Addr) (Address, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	spaces := s.ofLocked(vni)
	for _, sp := range spaces {
		if u, ok := sp.pool.Addr(key); ok {
			if a := sp.addr(u); want.IsValid() && a != want {
				return Address{}, fmt.Errorf("%s has address %s already", key, a)
			}
			return s.addressLocked(sp, u), nil
		}
	}
	take := func(sp *space) (uint32, error) {
		u, ok := sp.pool.Alloc(key, sp.ring.Owned(s.cfg.Self))
		if !ok {
			return 0, errShort
		}
		return u, nil
	}
	if want.IsValid() {
		spaces = slices.DeleteFunc(spaces, func(sp *space) bool { return !sp.key.prefix.Contains(want) })
		if len(spaces) == 0 {
			return Address{}, fmt.Errorf("address %s is in no subnet of the network", want)
		}
		if slices.Contains(s.cfg.InUse(vni), want) {
			return Address{}, fmt.Errorf("address %s is in use", want)
		}
		take = func(sp *space) (uint32, error) { return s.takeWanted(sp, key, want) }
	}
	t, err := s.takeLocked(ctx, spaces, take)
	if err != nil {
		return Address{}, fmt.Errorf("address for %s: %w", key, err)
	}
	return s.addressLocked(t.space, t.unit), nil
}

// takeWanted takes one address, from its owner if need be.
func (s *Service) takeWanted(sp *space, key string, want netip.Addr) (uint32, error) {
	u := sp.unit(want)
	if sp.pool.Reserved(u) {
		return 0, fmt.Errorf("address %s is the network's own", want)
	}
	owner, ok := sp.ring.Owner(u)
	if ok && owner == s.cfg.Self {
		if err := sp.pool.AllocAt(key, u, sp.ring.Owned(s.cfg.Self)); err != nil {
			return 0, fmt.Errorf("address %s: %w", want, err)
		}
		return u, nil
	}
	if ok && s.cfg.Alive(owner) {
		s.sendAsk(owner, ask{Scope: sp.key.scope, Prefix: sp.key.prefix, Want: u + 1})
	}
	return 0, errShort
}

func (s *Service) addressLocked(sp *space, u uint32) Address {
	v4 := sp.addr(u)
	b := v4.As4()
	a := Address{IP4: netip.PrefixFrom(v4, sp.key.prefix.Bits()), MAC: [6]byte{0x02, 0x57, b[0], b[1], b[2], b[3]}}
	return a
}

// IP6 returns the address in an IPv6 /64 that goes with an IPv4 address: unique because that is.
func IP6(subnet netip.Prefix, v4 netip.Addr) netip.Prefix {
	a, b := subnet.Addr().As16(), v4.As4()
	copy(a[12:], b[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// Release frees a key's address.
func (s *Service) Release(vni uint32, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.ofLocked(vni) {
		if _, ok := sp.pool.Free(key); ok {
			s.settleLocked(sp) // what was in use may have been somebody else's by now
		}
	}
	return nil
}

// Restore notes the addresses that attachments kept over a restart: what is in use stays in use.
func (s *Service) Restore(vni uint32, keep map[string]netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, a := range keep {
		ok := false
		for _, sp := range s.ofLocked(vni) {
			if sp.key.prefix.Contains(a) {
				ok = sp.pool.Restore(key, sp.unit(a))
			}
		}
		if !ok {
			return fmt.Errorf("attachment %s has address %s, which is another's or of no subnet", key, a)
		}
	}
	return nil
}

// Leave gives up this host's share of a network's subnets to a host that stays.
func (s *Service) Leave(ctx context.Context, vni uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.ofLocked(vni) {
		if err := s.giveAllLocked(ctx, sp); err != nil {
			return err
		}
		delete(s.spaces, sp.key)
	}
	return nil
}

// GiveBack gives up everything, for `down --leave`.
func (s *Service) GiveBack(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.spaces {
		if err := s.giveAllLocked(ctx, sp); err != nil {
			return err
		}
	}
	return nil
}

// giveAllLocked hands all this host owns of a space to the living owner with least, and waits until it is taken.
func (s *Service) giveAllLocked(ctx context.Context, sp *space) error {
	sp.joined = false
	if n := sp.pool.Used(); n > 0 && sp.key.scope != 0 {
		sp.joined = true
		return fmt.Errorf("%d addresses of %s are in use here", n, sp.key.prefix)
	}
	var heir ident.HostID
	for _, sh := range sp.ring.Shares() {
		if sh.Owner != s.cfg.Self && s.cfg.Alive(sh.Owner) {
			heir = sh.Owner
		}
	}
	owned := sp.ring.Owned(s.cfg.Self)
	if len(owned) == 0 || heir.IsZero() {
		return nil
	}
	for _, r := range owned {
		b, err := sp.ring.Give(heir, r)
		if err == nil {
			err = s.commitLocked(sp, b)
		}
		if err != nil {
			sp.joined = true
			return fmt.Errorf("give %s back: %w", sp.key.prefix, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, waitTaken)
	defer cancel()
	for sp.ring.OnTheWay() > 0 {
		if s.waitLocked(ctx) != nil {
			sp.joined = true
			return fmt.Errorf("give %s back: host %s has not taken it; try again", sp.key.prefix, s.cfg.Name(heir))
		}
	}
	return nil
}

// HostRemoved notes that a host is gone for good; heir says that this host takes what it had in a scope.
func (s *Service) HostRemoved(id ident.HostID, heir func(scope uint32) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.spaces {
		sp.ring.Remove(id)
		if !sp.joined || !heir(sp.key.scope) {
			continue
		}
		b, err := sp.ring.TakeOver(id)
		if err == nil {
			err = s.commitLocked(sp, b)
		}
		if err != nil {
			s.cfg.Log.Info("addresses of the removed host not taken over", "range", sp.key.prefix, "err", err)
		}
	}
	s.signalLocked()
}

// RangeStatus is one range and who owns it.
type RangeStatus struct {
	VNI        uint32 // 0: the cluster's range
	Text       string // FIRST-LAST
	Owner      ident.HostID
	Used, Free uint64 // addresses
}

// Status lists all ranges: the cluster's first, then by network and address.
func (s *Service) Status() []RangeStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []RangeStatus
	for _, sp := range s.spaces {
		var inUse []uint32
		if sp.key.scope == 0 {
			inUse = sp.pool.InUse()
		} else {
			for _, a := range s.cfg.InUse(sp.key.scope) {
				if sp.key.prefix.Contains(a) {
					inUse = append(inUse, sp.unit(a))
				}
			}
		}
		for _, sh := range sp.ring.Shares() {
			for _, r := range sp.ring.Owned(sh.Owner) {
				out = append(out, sp.status(sh.Owner, r, inUse))
			}
		}
	}
	slices.SortFunc(out, func(a, b RangeStatus) int { return cmp.Or(cmp.Compare(a.VNI, b.VNI), cmp.Compare(a.Text, b.Text)) })
	return out
}

func (sp *space) status(owner ident.HostID, r ring.Range, inUse []uint32) RangeStatus {
	st := RangeStatus{VNI: sp.key.scope, Owner: owner}
	last := sp.addr(r.Last)
	if sp.shift > 0 {
		last = sp.addr(r.Last + 1).Prev()
	}
	st.Text = sp.addr(r.First).String() + "-" + last.String()
	for _, u := range inUse {
		if r.Contains(u) {
			st.Used++
		}
	}
	st.Free = r.Size() - st.Used
	for _, u := range []uint32{0, 1, sp.ring.Space().Last} {
		if sp.pool.Reserved(u) && r.Contains(u) {
			st.Free--
		}
	}
	st.Used, st.Free = st.Used<<sp.shift, st.Free<<sp.shift
	return st
}
