package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// Found makes this host the owner of the cluster's whole range. Only the host that founds the
// cluster calls it, once; ula is the /48 drawn with the cluster.
func (s *Service) Found(r netip.Prefix, ula netip.Prefix) error {
	if err := checkPrefix(r); err != nil {
		return fmt.Errorf("range %s: %w", r, err)
	}
	if r.Bits() > maxRangeBits {
		return fmt.Errorf("range %s: at most /%d", r, maxRangeBits)
	}
	if !ula.IsValid() || !ula.Addr().Is6() || ula.Bits() != 48 || ula.Addr().As16()[0] != 0xfd {
		return fmt.Errorf("ULA %s: want a /48 under fd00::/8", ula)
	}
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	if s.cluster != nil {
		p := s.cluster.prefix
		s.mu.Unlock()
		return fmt.Errorf("the cluster has the range %s: %w", p, ring.ErrFounded)
	}
	a := ula.Addr().As16()
	s.ula = [6]byte(a[:6])
	sp := s.spaceLocked(0, r)
	s.mu.Unlock()
	return s.write(sp, func() (ring.Book, bool, error) {
		b, err := sp.ring.Found()
		return b, err == nil, err
	})
}

// Space returns the cluster's range and /48; ok is false before this host founded it or heard of it.
func (s *Service) Space() (r, ula netip.Prefix, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == nil {
		return r, ula, false
	}
	var a [16]byte
	copy(a[:], s.ula[:])
	return s.cluster.prefix, netip.PrefixFrom(netip.AddrFrom16(a), 48), true
}

// CarveSubnet takes a subnet for a new network from this host's share of the cluster's range, and
// waits for a share when it has none left. The subnet stays taken until ReleaseSubnet, or until
// LeaveNetwork of all hosts that joined.
func (s *Service) CarveSubnet(ctx context.Context) (netip.Prefix, error) {
	ctx, cancel := deadline(ctx)
	defer cancel()
	for {
		s.mu.Lock()
		sp, barred := s.cluster, s.barred
		s.mu.Unlock()
		if barred {
			return netip.Prefix{}, ErrRemoved
		}
		if s.cfg.Borrows {
			return netip.Prefix{}, ErrBorrows
		}
		if sp == nil {
			return netip.Prefix{}, fmt.Errorf("carve a subnet: this host has not heard of the cluster's range yet; wait until it has a link")
		}
		p, ok, err := s.carve(sp)
		if ok || err != nil {
			return p, err
		}
		if err := s.waitForShare(ctx, sp, 0); err != nil {
			return netip.Prefix{}, fmt.Errorf("carve a subnet: %w; or create the network with --subnet outside %s", err, sp.prefix)
		}
	}
}

func (s *Service) carve(sp *space) (netip.Prefix, bool, error) {
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	owned := sp.ring.Owned(s.cfg.Self)
	const trial = "carving"
	index, ok := sp.pool.Alloc(trial, owned)
	sp.pool.Free(trial)
	if ok {
		s.setNetLocked(s.cfg.Self, index, 0)
	}
	s.mu.Unlock()
	if !ok {
		return netip.Prefix{}, false, nil
	}
	if err := s.publish(0, map[string][]byte{netKey(index): put32(0)}, nil); err != nil {
		s.mu.Lock()
		s.dropNetLocked(s.cfg.Self, index)
		s.mu.Unlock()
		return netip.Prefix{}, false, err
	}
	first, _ := sp.addresses(ring.Range{First: index, Last: index})
	return netip.PrefixFrom(first, carveBits(sp.prefix)), true, nil
}

// ReleaseSubnet gives back a carved subnet of a network that this host has not joined.
func (s *Service) ReleaseSubnet(p netip.Prefix) error {
	s.plan.Lock()
	defer s.plan.Unlock()
	return s.unmark(p)
}

// ReleaseUnused gives back the carved subnets of this host that overlap none of keep, the subnets of
// its networks: what the end of an earlier run left between carving a subnet and creating its network.
func (s *Service) ReleaseUnused(keep []netip.Prefix) error {
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	used := map[uint32]bool{}
	for _, p := range keep {
		for _, i := range s.indexesLocked(p) {
			used[i] = true
		}
	}
	var idle []uint32
	for i, by := range s.nets {
		if _, ok := by[s.cfg.Self]; ok && !used[i] {
			idle = append(idle, i)
		}
	}
	s.mu.Unlock()
	return s.unmarkAll(idle)
}

// indexesLocked returns the places in the cluster's range that a subnet covers; none when it is elsewhere.
func (s *Service) indexesLocked(p netip.Prefix) []uint32 {
	if s.cluster == nil || !s.cluster.prefix.Overlaps(p) {
		return nil
	}
	shift, base := 32-carveBits(s.cluster.prefix), first4(s.cluster.prefix)
	lo := (max(first4(p), base) - base) >> shift
	hi := (min(last4(p), last4(s.cluster.prefix)) - base) >> shift
	out := make([]uint32, 0, hi-lo+1)
	for i := lo; i <= hi; i++ {
		out = append(out, i)
	}
	return out
}

func (s *Service) unmark(p netip.Prefix) error {
	s.mu.Lock()
	mine := s.indexesLocked(p)
	s.mu.Unlock()
	return s.unmarkAll(mine)
}

func (s *Service) unmarkAll(mine []uint32) error {
	s.mu.Lock()
	var dels []string
	slices.Sort(mine)
	for _, i := range mine {
		if _, ok := s.nets[i][s.cfg.Self]; ok {
			dels = append(dels, netKey(i))
		}
	}
	s.mu.Unlock()
	if len(dels) == 0 {
		return nil
	}
	if err := s.publish(0, nil, dels); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range mine {
		s.dropNetLocked(s.cfg.Self, i)
	}
	return nil
}

// Subnet6 returns the /64 that goes with a subnet; ok is false before the cluster's range is known.
func (s *Service) Subnet6(subnet netip.Prefix) (p netip.Prefix, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == nil {
		return p, false
	}
	return subnet6(s.ula, subnetIndex(s.cluster.prefix, subnet)), true
}

// JoinNetwork says that this host has the network vni with a subnet, and asks for a share of it.
// The creator owns all of it at first; when others have it already, creator changes nothing. A
// network that was created twice has several subnets: join each.
func (s *Service) JoinNetwork(vni uint32, subnet netip.Prefix, creator bool) error {
	if vni == 0 || vni >= 1<<24 {
		return fmt.Errorf("network %d: no VNI", vni)
	}
	if err := CheckSubnet(subnet); err != nil {
		return err
	}
	if creator && s.cfg.Borrows {
		return ErrBorrows
	}
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	if s.barred {
		s.mu.Unlock()
		return ErrRemoved
	}
	puts, err := s.joinLocked(vni, subnet, creator)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	sp := s.spaceLocked(vni, subnet)
	s.mu.Unlock()
	if sp == nil {
		return fmt.Errorf("subnet %s: this host knows %d subnets of the network, no more are followed", subnet, maxPerScope)
	}
	if len(puts) > 0 {
		if err := s.publish(0, puts, nil); err != nil {
			return err
		}
	}
	if err := s.setLeftPlanned(sp, false); err != nil {
		return err
	}
	if creator {
		err := s.write(sp, func() (ring.Book, bool, error) {
			b, err := sp.ring.Found()
			return b, err == nil, nil // somebody did
		})
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var r netip.Prefix
	if s.cluster != nil {
		r = s.cluster.prefix
	}
	sp.net6 = subnet6(s.ula, subnetIndex(r, subnet))
	sp.joined, sp.dirty = true, true
	for _, i := range s.indexesLocked(subnet) {
		s.setNetLocked(s.cfg.Self, i, vni)
	}
	s.poke()
	return nil
}

// joinLocked checks a subnet against what is known and returns what to publish about it.
func (s *Service) joinLocked(vni uint32, subnet netip.Prefix, creator bool) (map[string][]byte, error) {
	var r netip.Prefix
	if s.cluster != nil {
		r = s.cluster.prefix
	}
	index := subnetIndex(r, subnet)
	for id, sc := range s.scopes {
		for _, o := range sc.spaces {
			if id == 0 || !o.joined || id == vni && o.prefix == subnet {
				continue
			}
			if o.prefix.Overlaps(subnet) {
				return nil, fmt.Errorf("subnet %s overlaps %s of another network of this host; choose another with --subnet", subnet, o.prefix)
			}
			if subnetIndex(r, o.prefix) == index {
				return nil, fmt.Errorf("subnet %s and %s would share one IPv6 /64; choose another with --subnet", subnet, o.prefix)
			}
		}
	}
	puts := map[string][]byte{}
	for _, i := range s.indexesLocked(subnet) {
		for id, other := range s.nets[i] {
			if other != vni && other != 0 {
				return nil, fmt.Errorf("subnet %s overlaps the network with VNI %d of host %s; choose another with --subnet", subnet, other, id.Short())
			}
		}
		if owner, ok := s.cluster.ring.Owner(i); creator && ok && owner != s.cfg.Self && len(s.nets[i]) == 0 {
			return nil, fmt.Errorf("subnet %s lies in the share of host %s; create it there, or choose one outside %s, or leave --subnet out", subnet, owner.Short(), r)
		}
		if v, ok := s.nets[i][s.cfg.Self]; !ok || v != vni {
			puts[netKey(i)] = put32(vni)
		}
	}
	return puts, nil
}

// LeaveNetwork gives this host's addresses of a network back to the others that have it, and
// waits until they have them, or ctx ends. Refused while an address is in use. The books of the
// network stay in this host's table, empty: they say which gives it has taken, should it return.
func (s *Service) LeaveNetwork(ctx context.Context, vni uint32) error {
	s.mu.Lock()
	sc := s.scopes[vni]
	var joined []*space
	if sc != nil {
		for _, sp := range sc.spaces {
			if sp.joined {
				joined = append(joined, sp)
			}
		}
	}
	used := 0
	for _, sp := range joined {
		used += sp.pool.Used()
	}
	s.mu.Unlock()
	if vni == 0 || len(joined) == 0 {
		return ErrNoNetwork
	}
	if used > 0 {
		return fmt.Errorf("%d addresses of the network are in use here; detach them first", used)
	}
	for _, sp := range joined {
		if err := s.setLeft(sp, true); err != nil {
			return err
		}
		if err := s.handOver(ctx, sp); err != nil {
			return err
		}
		s.plan.Lock()
		err := s.unmark(sp.prefix)
		s.plan.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// GiveBack gives everything this host owns to others, before it leaves the cluster for good, and
// waits until they have it, or ctx ends.
func (s *Service) GiveBack(ctx context.Context) error {
	s.mu.Lock()
	var vnis []uint32
	for vni, sc := range s.scopes {
		if vni != 0 && slices.ContainsFunc(sc.spaces, func(sp *space) bool { return sp.joined }) {
			vnis = append(vnis, vni)
		}
	}
	cluster := s.cluster
	s.mu.Unlock()
	slices.Sort(vnis)
	for _, vni := range vnis {
		if err := s.LeaveNetwork(ctx, vni); err != nil {
			return err
		}
	}
	if s.cfg.Borrows {
		s.awaitReturned(ctx)
		return nil
	}
	if cluster == nil {
		return nil
	}
	if err := s.setLeft(cluster, true); err != nil {
		return err
	}
	return s.handOver(ctx, cluster)
}

// setLeft tells the others whether this host wants a share of a space.
func (s *Service) setLeft(sp *space, left bool) error {
	s.plan.Lock()
	defer s.plan.Unlock()
	return s.setLeftPlanned(sp, left)
}

// setLeftPlanned is setLeft for callers that hold plan.
func (s *Service) setLeftPlanned(sp *space, left bool) error {
	s.mu.Lock()
	was := sp.left
	sp.joined, sp.left = !left, left
	s.mu.Unlock()
	if was == left {
		return nil
	}
	err := s.write(sp, func() (ring.Book, bool, error) { return sp.ring.Again(), true, nil })
	if err != nil {
		s.mu.Lock()
		sp.joined, sp.left = left, was
		s.mu.Unlock()
	}
	return err
}

// handOver gives all of a space away and waits until it is taken. With nobody to take it, this
// host keeps what it has.
func (s *Service) handOver(ctx context.Context, sp *space) error {
	ctx, cancel := deadline(ctx)
	defer cancel()
	to, err := s.giveAll(sp)
	if err != nil || to.IsZero() {
		return err
	}
	for {
		s.mu.Lock()
		left, changed := sp.ring.OnTheWay(), sp.changed
		s.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("host %s has not taken the addresses of %s yet; leave this host up a little longer and try again: %w", to.Short(), sp.prefix, ctx.Err())
		}
	}
}

// giveAll gives all of a space to the living host that has most of it or, of the cluster's, to
// the lowest living host. It returns nobody when there is nobody, or nothing to give.
func (s *Service) giveAll(sp *space) (to ident.HostID, err error) {
	alive := s.cfg.Alive()
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	stays := func(id ident.HostID) bool {
		_, gone := s.removed[id]
		return id != s.cfg.Self && !gone && !sp.leavers[id] && slices.Contains(alive, id)
	}
	for _, o := range s.ownersLocked(sp, alive) {
		if to.IsZero() && stays(o.id) {
			to = o.id
		}
	}
	for _, id := range s.staying(alive) {
		if sp.scope == 0 && stays(id) && (to.IsZero() || id.Less(to)) {
			to = id
		}
	}
	parts := sp.ring.Owned(s.cfg.Self)
	s.mu.Unlock()
	if to.IsZero() || len(parts) == 0 {
		return ident.HostID{}, nil
	}
	for _, part := range parts {
		err := s.write(sp, func() (ring.Book, bool, error) {
			b, err := sp.ring.Give(to, part)
			return b, err == nil, err
		})
		if err != nil {
			return to, fmt.Errorf("give %s back: %w", sp.prefix, err)
		}
	}
	return to, nil
}

func deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, allocateWait)
}
