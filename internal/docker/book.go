package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ether"
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

// pool is a promise of addresses that Docker asked for.
type pool struct {
	ID      string       `json:"id"`
	Network string       `json:"network"` // of weft
	IP4     netip.Prefix `json:"ip4"`
	IP6     netip.Prefix `json:"ip6"`
	V6      bool         `json:"v6,omitempty"` // gives out IPv6 addresses
}

// prefix is the pool as Docker knows it.
func (p pool) prefix() netip.Prefix {
	if p.V6 {
		return p.IP6
	}
	return p.IP4
}

// network is a network of Docker's.
type network struct {
	ID      string `json:"id"`
	Network string `json:"network"` // of weft
	MTU     int    `json:"mtu,omitempty"`
	NoRoute bool   `json:"no_route,omitempty"` // no route for groups
	NoIPv6  bool   `json:"no_ipv6,omitempty"`
}

// address is an address that Docker has. Each takes one IPv4 address of the ring, and with it the IPv6 address that follows from it:
// what Docker asks for in IPv6 alone has an IPv4 address of its own behind it, which nobody uses.
type address struct {
	Key     string       `json:"key"` // it was allocated under
	Network string       `json:"network"`
	Pool    string       `json:"pool"`
	IP4     netip.Prefix `json:"ip4"`
	IP6     netip.Prefix `json:"ip6"`
	V6      bool         `json:"v6,omitempty"`
	// Had: an endpoint has, or had it. What is not in use any more after that was forgotten to be released.
	Had bool `json:"had,omitempty"`
	// Released: Docker gave it back while an endpoint had it. It goes with the endpoint.
	Released bool `json:"released,omitempty"`
}

// given is the address as Docker knows it.
func (a address) given() netip.Prefix {
	if a.V6 {
		return a.IP6
	}
	return a.IP4
}

// endpoint is a container's place in a network.
type endpoint struct {
	ID        string         `json:"id"`
	NetworkID string         `json:"network_id"` // Docker's
	Network   string         `json:"network"`    // weft's
	Name      string         `json:"name"`       // of the attachment
	Interface string         `json:"interface"`  // the inner end, before Docker moves it
	MAC       ether.MAC      `json:"mac"`
	IPs       []netip.Prefix `json:"ips"`
	Keys      []string       `json:"keys"` // of its addresses
	Sandbox   string         `json:"sandbox,omitempty"`
	Route     bool           `json:"route,omitempty"` // groups leave by this one
}

// book is all that must be remembered. Its values are replaced, never changed.
type book struct {
	// Made are weft's networks that this host has for Docker's sake.
	Made      map[string]bool
	Pools     map[string]pool     // by id
	Networks  map[string]network  // by id
	Addresses map[string]address  // by key
	Endpoints map[string]endpoint // by id
}

func newBook() *book {
	return &book{
		Made: map[string]bool{}, Pools: map[string]pool{}, Networks: map[string]network{},
		Addresses: map[string]address{}, Endpoints: map[string]endpoint{},
	}
}

func (b *book) clone() *book {
	return &book{
		Made: maps.Clone(b.Made), Pools: maps.Clone(b.Pools), Networks: maps.Clone(b.Networks),
		Addresses: maps.Clone(b.Addresses), Endpoints: maps.Clone(b.Endpoints),
	}
}

// held finds the address that Docker knows as a.
func (b *book) held(network string, a netip.Addr) (address, bool) {
	for _, h := range b.Addresses {
		if h.Network == network && h.given().Addr() == a {
			return h, true
		}
	}
	return address{}, false
}

// user finds the endpoint that has an address.
func (b *book) user(key string) (endpoint, bool) {
	for _, e := range b.Endpoints {
		if slices.Contains(e.Keys, key) {
			return e, true
		}
	}
	return endpoint{}, false
}

// bySubnet finds the weft network whose pool has a subnet.
func (b *book) bySubnet(p netip.Prefix) (string, bool) {
	for _, x := range b.Pools {
		if x.prefix() == p {
			return x.Network, true
		}
	}
	return "", false
}

// promised reports whether Docker may still ask for addresses of a pool: it has some, or a network that stands for the same weft network.
func (b *book) promised(id string) bool {
	x := b.Pools[id]
	for _, n := range b.Networks {
		if n.Network == x.Network {
			return true
		}
	}
	for _, a := range b.Addresses {
		if a.Pool == id {
			return true
		}
	}
	return false
}

// idle reports whether nothing of Docker's stands for a weft network any more.
func (b *book) idle(network string) bool {
	for _, p := range b.Pools {
		if p.Network == network {
			return false
		}
	}
	for _, n := range b.Networks {
		if n.Network == network {
			return false
		}
	}
	for _, a := range b.Addresses {
		if a.Network == network {
			return false
		}
	}
	return true
}

// dropEndpoint forgets an endpoint, and returns the addresses that went with it.
func (b *book) dropEndpoint(id string) (freed []address) {
	e, ok := b.Endpoints[id]
	if !ok {
		return nil
	}
	delete(b.Endpoints, id)
	for _, key := range e.Keys {
		if a, ok := b.Addresses[key]; ok && a.Released {
			delete(b.Addresses, key)
			freed = append(freed, a)
		}
	}
	return freed
}

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
