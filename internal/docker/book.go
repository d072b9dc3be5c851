package docker

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/ether"
)

// pool is a promise of addresses that Docker asked for.
type pool struct {
	ID      string       `json:"id"`
	Network string       `json:"network"` // of weft
	IP4     netip.Prefix `json:"ip4"`
	IP6     netip.Prefix `json:"ip6"`
	V6      bool         `json:"v6,omitempty"` // gives out IPv6 addresses
	// Said: Docker said the subnet. Until CreateNetwork the network may not be there.
	Said  bool `json:"said,omitempty"`
	Plain bool `json:"plain,omitempty"` // the network is to be made so
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
	// Planned: asked for before the network is there (--aux-address), and allocated when Docker makes it.
	Planned bool `json:"planned,omitempty"`
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

// bySubnet finds a pool by its subnet: of one weft network, see giveable.
func (b *book) bySubnet(p netip.Prefix) (found pool, ok bool) {
	for _, x := range b.Pools {
		if x.prefix() == p {
			x.Plain = x.Plain || found.Plain
			found, ok = x, true
		}
	}
	return found, ok
}

// giveable refuses a subnet that overlaps one of another weft network, which may be promised and not made yet.
func (b *book) giveable(x pool) error {
	for _, o := range b.Pools {
		if o.Network != x.Network && o.IP4.Overlaps(x.IP4) {
			return fmt.Errorf("subnet %s overlaps %s of network %s; choose another with --subnet, or leave it out", x.IP4, o.IP4, o.Network)
		}
	}
	return nil
}

// said returns the IPv4 subnets that Docker has said for a weft network.
func (b *book) said(network string) []netip.Prefix {
	var out []netip.Prefix
	for _, x := range b.Pools {
		if x.Network == network && x.Said && !x.V6 && !slices.Contains(out, x.IP4) {
			out = append(out, x.IP4)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// stood reports whether a network of Docker's stands for a weft network.
func (b *book) stood(network string) bool {
	for _, n := range b.Networks {
		if n.Network == network {
			return true
		}
	}
	return false
}

// promised reports whether Docker may still ask for addresses of a pool: it has some, or a network that stands for the same weft network.
func (b *book) promised(id string) bool {
	if b.stood(b.Pools[id].Network) {
		return true
	}
	for _, a := range b.Addresses {
		if a.Pool == id && !a.Planned {
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
	for _, a := range b.Addresses {
		if a.Network == network && !a.Planned {
			return false
		}
	}
	return !b.stood(network)
}

// dropPlanned forgets addresses of a pool that were never allocated.
func (b *book) dropPlanned(pool string) {
	for key, a := range b.Addresses {
		if a.Pool == pool && a.Planned {
			delete(b.Addresses, key)
		}
	}
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
