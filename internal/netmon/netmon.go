// Package netmon tells which addresses and routes the host has on the underlay, and when they change.
package netmon

import (
	"context"
	"net/netip"
	"strings"
)

// Monitor is the seam; System is the kernel's, netmontest has a fake.
type Monitor interface {
	// Addrs lists the addresses at which other hosts may reach this one, in the order of the kernel.
	Addrs() ([]Addr, error)
	// PathMTU is the MTU of the route to an address in bytes: of the route where it has one, else of its interface. At most MaxMTU.
	PathMTU(to netip.Addr) (int, error)
	// Routes lists the ranges that the host reaches by interfaces not of weft's making, without the default routes.
	Routes() ([]Route, error)
	// Watch sends a value after addresses, routes or interfaces changed, merged, until ctx ends; then the channel is
	// closed. It is a hint: read again what you need.
	Watch(ctx context.Context) (<-chan struct{}, error)
}

// MaxMTU bounds PathMTU: an IPv4 datagram has no more (the loopback interface says 65536).
const MaxMTU = 65535

// Addr is an address of the host on the underlay.
type Addr struct {
	IP        netip.Addr
	Prefix    netip.Prefix // the subnet it is in
	Interface string
	Index     int
	MTU       int  // of the interface, in bytes
	Multicast bool // the interface can multicast
}

// Route is a range reached by an interface.
type Route struct {
	Prefix    netip.Prefix
	Interface string
}

// ours reports whether weft made an interface: bridges (wb) and uplinks (wu, wx) carry a VNI in hexadecimal digits,
// host ends are wv…, the host's own attachments weft0, weft1, ….
func ours(name string) bool {
	for _, p := range []string{"wv", "weft"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	for _, p := range []string{"wb", "wu", "wx"} {
		if vni, ok := strings.CutPrefix(name, p); ok && vni != "" && strings.Trim(vni, "0123456789abcdef") == "" {
			return true
		}
	}
	return false
}

// usable reports whether other hosts could send to ip.
func usable(ip netip.Addr) bool {
	return ip.IsValid() && ip.IsGlobalUnicast() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast()
}
