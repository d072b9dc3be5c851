package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ident"
)

// Bounds of a book: as many attachments as a host takes, and two addresses for each.
const (
	maxPools     = 1024
	maxNetworks  = 1024
	maxAddresses = 4096
	maxEndpoints = 1000
	maxBook      = 16 << 20 // bytes
)

// saved is the form of a book on disk.
type saved struct {
	Version   int        `json:"version"`
	Made      []string   `json:"made"`
	Pools     []pool     `json:"pools"`
	Networks  []network  `json:"networks"`
	Addresses []address  `json:"addresses"`
	Endpoints []endpoint `json:"endpoints"`
}

const savedVersion = 1

func sorted[V any](m map[string]V) []V {
	out := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

// encode refuses a book that is over a bound: it would not be read back.
func (b *book) encode() ([]byte, error) {
	s := saved{
		Version: savedVersion, Made: append([]string{}, slices.Sorted(maps.Keys(b.Made))...),
		Pools: sorted(b.Pools), Networks: sorted(b.Networks), Addresses: sorted(b.Addresses), Endpoints: sorted(b.Endpoints),
	}
	if err := s.within(); err != nil {
		return nil, err
	}
	out, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("docker plugin's state: %w", err)
	}
	return out, nil
}

func (s *saved) within() error {
	for _, x := range []struct {
		what    string
		n, most int
	}{
		{"networks made", len(s.Made), maxNetworks},
		{"pools", len(s.Pools), maxPools},
		{"networks", len(s.Networks), maxNetworks},
		{"addresses", len(s.Addresses), maxAddresses},
		{"containers", len(s.Endpoints), maxEndpoints},
	} {
		if x.n > x.most {
			return fmt.Errorf("docker has %d %s here, at most %d", x.n, x.what, x.most)
		}
	}
	return nil
}

// decodeBook reads what encode wrote, and refuses what no call would have made.
func decodeBook(b []byte) (*book, error) {
	out := newBook()
	if len(b) == 0 {
		return out, nil
	}
	if len(b) > maxBook {
		return nil, fmt.Errorf("saved state: %d bytes, want at most %d", len(b), maxBook)
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	if s.Version != savedVersion {
		return nil, fmt.Errorf("saved state: version %d, this weft reads %d", s.Version, savedVersion)
	}
	if err := s.within(); err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	var err error
	for _, name := range s.Made {
		err = errors.Join(err, ident.CheckName("network", name))
		out.Made[name] = true
	}
	for _, p := range s.Pools {
		err = errors.Join(err, p.check())
		out.Pools[p.ID] = p
	}
	for _, n := range s.Networks {
		err = errors.Join(err, checkID("network", n.ID), ident.CheckName("network", n.Network))
		out.Networks[n.ID] = n
	}
	for _, a := range s.Addresses {
		err = errors.Join(err, a.check())
		out.Addresses[a.Key] = a
	}
	for _, e := range s.Endpoints {
		err = errors.Join(err, e.check())
		out.Endpoints[e.ID] = e
	}
	if err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	return out, nil
}

func (p pool) check() error {
	if p.ID == "" || len(p.ID) > maxText || !subnets(p.IP4, p.IP6) {
		return fmt.Errorf("pool %.80q: subnets %v, %v", p.ID, p.IP4, p.IP6)
	}
	return ident.CheckName("network", p.Network)
}

func (a address) check() error {
	if !strings.HasPrefix(a.Key, keyPrefix) || len(a.Key) > maxID || !addresses(a.IP4, a.IP6) {
		return fmt.Errorf("address %.80q: %v, %v", a.Key, a.IP4, a.IP6)
	}
	return ident.CheckName("network", a.Network)
}

func (e endpoint) check() error {
	if len(e.IPs) == 0 || len(e.IPs) > 2 || len(e.Keys) > 2 || len(e.Sandbox) > maxText || len(e.Interface) > maxText {
		return fmt.Errorf("endpoint %.80q: %d addresses", e.ID, len(e.IPs))
	}
	return errors.Join(checkID("endpoint", e.ID), checkID("network", e.NetworkID),
		ident.CheckName("network", e.Network), ident.CheckName("attachment", e.Name))
}

// addresses reports whether there is one of each family, with its length.
func addresses(ip4, ip6 netip.Prefix) bool {
	return ip4.IsValid() && ip4.Addr().Is4() && ip6.IsValid() && ip6.Addr().Is6() && !ip6.Addr().Is4In6() && ip6.Addr().Zone() == ""
}

func subnets(ip4, ip6 netip.Prefix) bool {
	return addresses(ip4, ip6) && ip4 == ip4.Masked() && ip6 == ip6.Masked()
}
