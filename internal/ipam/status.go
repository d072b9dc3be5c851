package ipam

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/ident"
)

// Share is one range of one owner, a line of `weft ipam`. In the cluster's range, addresses are
// used when they are in a network's subnet.
type Share struct {
	VNI         uint32 // 0: the cluster's range
	Subnet      netip.Prefix
	First, Last netip.Addr
	Owner       ident.HostID
	Used, Free  uint64 // addresses, by all that is known here
}

// Status returns all ranges of all owners, in order.
func (s *Service) Status() []Share {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Share
	for vni, sc := range s.scopes {
		for _, sp := range sc.spaces {
			for _, sh := range sp.ring.Shares() {
				for _, r := range sp.ring.Owned(sh.Owner) {
					row := Share{VNI: vni, Subnet: sp.prefix, Owner: sh.Owner}
					row.First, row.Last = sp.addresses(r)
					if vni == 0 {
						for index := range s.nets {
							if r.Contains(index) {
								row.Used++
							}
						}
						unit := uint64(1) << (32 - carveBits(sp.prefix))
						row.Used, row.Free = row.Used*unit, (r.Size()-min(r.Size(), row.Used))*unit
						out = append(out, row)
						continue
					}
					for a := range sc.holders {
						if r.Contains(a) {
							row.Used++
						}
					}
					for a := range sp.pool.All() {
						if r.Contains(a) && len(sc.holders[a]) == 0 {
							row.Used++
						}
					}
					space, never := sp.ring.Space(), uint64(0)
					for _, a := range []uint32{space.First, space.First + 1, space.Last} {
						if r.Contains(a) {
							never++
						}
					}
					row.Free = r.Size() - min(r.Size(), row.Used+never)
					out = append(out, row)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b Share) int {
		return cmp.Or(cmp.Compare(a.VNI, b.VNI), a.First.Compare(b.First), a.Owner.Addr().Compare(b.Owner.Addr()))
	})
	return out
}

// Limits returns how full the bounded tables are: used and most.
func (s *Service) Limits() map[string][2]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	holders := 0
	for _, sc := range s.scopes {
		holders = max(holders, len(sc.holders))
	}
	return map[string][2]int{
		"ranges": {s.spaces, maxSpaces}, "removed_hosts": {len(s.removed), maxRemoved},
		"asks": {len(s.asks), maxAsks}, "in_one_network": {holders, maxHolders},
	}
}

// Conflicts returns the addresses held twice for half a minute or more.
func (s *Service) Conflicts() []Conflict {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Conflict
	for _, sc := range s.scopes {
		for _, sp := range sc.spaces {
			for c := range sp.shown {
				out = append(out, sp.conflict(c))
			}
		}
	}
	slices.SortFunc(out, func(a, b Conflict) int {
		return cmp.Or(a.First.Compare(b.First), a.Other.Addr().Compare(b.Other.Addr()))
	})
	return out
}

// InUseBy returns the addresses that a host is known to use, with their keys: what `weft host rm` says first.
func (s *Service) InUseBy(id ident.HostID) map[netip.Addr]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[netip.Addr]string{}
	for _, sc := range s.scopes {
		for a, hs := range sc.holders {
			for _, h := range hs {
				if h.host == id {
					out[toAddr(a)] = h.key
				}
			}
		}
	}
	return out
}
