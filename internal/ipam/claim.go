package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// A host whose state was lost comes back under another HostID, while programs run on with addresses that belong to shares of the
// host that it was, or of an heir. It *claims* them: it says first that it uses them, from when on no owner that has heard of it gives
// them to anybody, and then asks the owner for each, as for an address that somebody wants by --ip. An owner that is gone is
// asked when it has an heir. Where somebody else was given the address meanwhile, the claim is overruled: the later one gives way.

// claimEvery is the pause between two asks for addresses that are claimed.
const claimEvery = 200 * time.Millisecond

// claims is what a space knows of addresses that this host uses and another owns.
type claims struct {
	look  bool            // something has changed: there may be some
	made  map[string]bool // keys that were claimed in this run
	next  uint32          // where the round of asks goes on
	asked time.Time
}

// Overrule is an address of this host that somebody else has by a better right.
type Overrule struct {
	Key  string // of this host's
	Addr netip.Addr
	Host ident.HostID // that has it
	By   string       // its key there
}

// Restore notes an address that an attachment of this host has, whoever owns it: one that is not in the state table is claimed.
// It fails when another key of this host has it.
func (s *Service) Restore(vni uint32, key string, a netip.Addr) error {
	if key == "" || len(key) > maxKey || !a.Unmap().Is4() {
		return fmt.Errorf("restore %s for %.128q: not an IPv4 address and a key", a, key)
	}
	s.plan.Lock()
	defer s.plan.Unlock()
	v := toU32(a.Unmap())
	s.mu.Lock()
	sc := s.scopes[vni]
	if sc == nil || vni == 0 {
		s.mu.Unlock()
		return ErrNoNetwork
	}
	have, known := sc.own[key]
	i := slices.IndexFunc(sc.spaces, func(sp *space) bool { return sp.prefix.Contains(a.Unmap()) })
	switch {
	case known && have == v:
		s.mu.Unlock()
		return nil
	case i < 0:
		s.mu.Unlock()
		return fmt.Errorf("restore %s for %s: in no subnet of the network", a, key)
	case known || !sc.spaces[i].pool.Restore(key, v):
		s.mu.Unlock()
		return fmt.Errorf("restore %s for %s: %w", a, key, ErrInUse)
	}
	sc.own[key] = v
	sc.spaces[i].claims.made[key] = true
	sc.spaces[i].claims.look = true
	s.mu.Unlock()
	s.poke()
	return s.publish(vni, map[string][]byte{keyIP + key: put32(v)}, nil)
}

// Heard reports whether all owners of a network's subnets are known here, and so who uses what: before, a claim cannot be judged.
func (s *Service) Heard(vni uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sc := s.scopes[vni]
	if sc == nil || len(sc.spaces) == 0 {
		return false
	}
	for _, sp := range sc.spaces {
		var have uint64
		for _, sh := range sp.ring.Shares() {
			have += sh.Size
		}
		if have < sp.ring.Space().Size() {
			return false
		}
	}
	return true
}

// Overruled returns the addresses that this host uses and somebody else has by a better right: who uses one has to give it up, and
// Release it. Better is who uses it and owns it; between two who don't own it, who did not claim it. What the host that this one
// was is still said to use is no reason: the same key, on a host that lives no more.
func (s *Service) Overruled(vni uint32) []Overrule {
	alive := s.cfg.Alive()
	s.mu.Lock()
	defer s.mu.Unlock()
	sc := s.scopes[vni]
	if sc == nil || vni == 0 {
		return nil
	}
	var out []Overrule
	for _, sp := range sc.spaces {
		if !sp.claims.look {
			continue
		}
		for _, c := range s.unownedLocked(sp) {
			if h, ok := s.rivalLocked(sp, c, alive); ok {
				out = append(out, Overrule{Key: c.key, Addr: toAddr(c.a), Host: h.host, By: h.key})
			}
		}
	}
	return out
}

// claim is an address that a key of this host uses.
type claim struct {
	key string
	a   uint32
}

// unownedLocked returns what this host uses of a space and does not own, in order.
func (s *Service) unownedLocked(sp *space) []claim {
	if sp.pool.Used() == 0 {
		return nil
	}
	owned := sp.ring.Owned(s.cfg.Self)
	var out []claim
	for a, key := range sp.pool.All() {
		_, found := slices.BinarySearchFunc(owned, a, inRange)
		if l, ok := s.scopes[sp.scope].lentTo(a, s.cfg.Self); !found && (!ok || l.key != key) {
			out = append(out, claim{key, a})
		}
	}
	slices.SortFunc(out, func(x, y claim) int { return cmp.Compare(x.a, y.a) })
	return out
}

func inRange(r ring.Range, a uint32) int {
	switch {
	case r.Last < a:
		return -1
	case r.First > a:
		return 1
	}
	return 0
}

// rivalLocked returns who has an address by a better right than this host.
func (s *Service) rivalLocked(sp *space, c claim, alive []ident.HostID) (holder, bool) {
	owner, _ := sp.ring.Owner(c.a)
	for _, h := range s.scopes[sp.scope].holders[c.a] {
		lives := slices.Contains(alive, h.host)
		if !lives && h.key == c.key {
			continue // this host, as it was
		}
		if h.host == owner || sp.claims.made[c.key] {
			return h, true
		}
	}
	return holder{}, false
}

// askForClaims asks the owner of an address that this host uses for it, one at a time. short says that there are more.
func (s *Service) askForClaims(sp *space, now time.Time) (short bool) {
	alive := s.cfg.Alive()
	s.mu.Lock()
	if sp.scope == 0 || !sp.joined || sp.left || !sp.claims.look {
		s.mu.Unlock()
		return false
	}
	all := s.unownedLocked(sp)
	sp.claims.look = len(all) > 0
	from, _ := slices.BinarySearchFunc(all, sp.claims.next, func(c claim, a uint32) int { return cmp.Compare(c.a, a) })
	var to ident.HostID
	var want uint32
	var key string
	for k := range all { // round and round: an owner that does not give must not keep the others from being asked
		c := all[(from+k)%len(all)]
		owner, ok := sp.ring.Owner(c.a)
		if _, rival := s.rivalLocked(sp, c, alive); ok && !rival && owner != s.cfg.Self && slices.Contains(alive, owner) {
			to, want, key = owner, c.a, c.key
			break
		}
	}
	due := want != 0 && now.Sub(sp.claims.asked) >= claimEvery
	if due {
		sp.claims.next, sp.claims.asked = want+1, now
	}
	s.mu.Unlock()
	switch {
	case due && s.cfg.Borrows:
		s.askLoan(sp, to, key, want, drawSerial())
	case due:
		s.ask(sp, to, want, true)
	}
	return want != 0
}
