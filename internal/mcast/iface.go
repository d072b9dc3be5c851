package mcast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// WeftInterface is the interface that weft gives to attachments: where it exists, it is meant.
const WeftInterface = "weft0"

// interfaces returns where to join or send: the one named, else weft0, else the one that the route
// to the group leads to, else every one that can multicast.
func interfaces(name string, group netip.Addr) ([]net.Interface, error) {
	if name != "" {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("interface %s: there is none of that name", name)
		}
		if ifi.Flags&net.FlagUp == 0 {
			return nil, fmt.Errorf("interface %s is down", name)
		}
		return []net.Interface{*ifi}, nil
	}
	if ifi, err := net.InterfaceByName(WeftInterface); err == nil && ifi.Flags&net.FlagUp != 0 {
		return []net.Interface{*ifi}, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	if ifi, ok := routed(all, group); ok {
		return []net.Interface{ifi}, nil
	}
	var capable []net.Interface
	for _, ifi := range all {
		const want = net.FlagUp | net.FlagMulticast
		if ifi.Flags&want != want {
			continue
		}
		if _, err := address(ifi, group); err == nil {
			capable = append(capable, ifi)
		}
	}
	if len(capable) == 0 {
		return nil, errors.New("no interface here is up, can multicast and has an address of the group's IP version; name one with --iface")
	}
	return capable, nil
}

// routed asks the system where it would send to the group: connecting a UDP socket does, sends
// nothing, and works on every system.
func routed(all []net.Interface, group netip.Addr) (net.Interface, bool) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, 9)))
	if err != nil {
		return net.Interface{}, false
	}
	defer c.Close()
	local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
	if local.IsLoopback() {
		return net.Interface{}, false
	}
	for _, ifi := range all {
		if slices.Contains(addresses(ifi), local) {
			return ifi, true
		}
	}
	return net.Interface{}, false
}

func addresses(ifi net.Interface) []netip.Addr {
	list, err := ifi.Addrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if addr, ok := netip.AddrFromSlice(n.IP); ok {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// address returns the address of an interface to send to the group from, with its zone. In IPv6
// it has the group's scope where the interface has such a one (RFC 6724 section 5, rule 2).
func address(ifi net.Interface, group netip.Addr) (netip.Addr, error) {
	narrow := group.IsLinkLocalMulticast() || group.IsInterfaceLocalMulticast()
	var best netip.Addr
	for _, a := range addresses(ifi) {
		if a.Is4() != group.Is4() {
			continue
		}
		if a.Is4() {
			return a, nil
		}
		if !best.IsValid() || (a.IsLinkLocalUnicast() == narrow && best.IsLinkLocalUnicast() != narrow) {
			best = a
		}
	}
	if !best.IsValid() {
		version := "IPv6"
		if group.Is4() {
			version = "IPv4"
		}
		return best, fmt.Errorf("interface %s has no %s address", ifi.Name, version)
	}
	if best.IsLinkLocalUnicast() {
		best = best.WithZone(ifi.Name)
	}
	return best, nil
}
