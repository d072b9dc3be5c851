package bare

import (
	"fmt"
	"net"
	"net/netip"
)

// Port is the UDP port that bridges send from, and hear beacons at. A datagram from it was passed on already: so nothing goes round
// in circles, whoever made the bridge.
const Port = 6786

// MaxDatagram is the longest payload in bytes: of UDP in an IPv4 packet.
const MaxDatagram = 65507

// Socket is a bridge's place on a LAN: a member of one group on one interface.
type Socket interface {
	// Interface is the name of the one in use.
	Interface() string
	// Read waits for the next packet to the group and returns it in b, as decode4 or decodeUDP reads it. net.ErrClosed ends it.
	Read(b []byte) (int, error)
	// Send sends a datagram from Port to a port of the group, heard on this host, too.
	Send(b []byte, port uint16) error
	// Drops counts packets that the system dropped because nobody read them in time.
	Drops() uint64
	// Check is an error when the interface is not the one any more that was opened.
	Check() error
	Close() error
}

// Place says which group, and where.
type Place struct {
	Group netip.AddrPort
	// Iface is an interface's name, an address it has, or empty: that which the route to the group leads to.
	Iface string
	TTL   int
}

// find returns the interface that a place means, and the address there to send from: keep, as long as it will do.
func find(p Place, keep netip.Addr) (ifi net.Interface, from netip.Addr, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return ifi, from, fmt.Errorf("list the interfaces: %w", err)
	}
	group := p.Group.Addr()
	var by netip.Addr
	switch a, err := netip.ParseAddr(p.Iface); {
	case err == nil:
		by = a.WithZone("")
	case p.Iface == "":
		if by, err = routed(group); err != nil {
			return ifi, from, err
		}
	}
	for _, i := range all {
		addrs := addresses(i)
		if by.IsValid() {
			for _, a := range addrs {
				if a == by {
					return usable(i, a, group)
				}
			}
			continue
		}
		if i.Name == p.Iface {
			for _, a := range addrs {
				if a.Is4() != group.Is4() || a.Is6() && !a.IsLinkLocalUnicast() {
					continue
				}
				if !from.IsValid() || a == keep || from != keep && !sends(i, from) {
					from = a
				}
			}
			if !from.IsValid() {
				return ifi, from, fmt.Errorf("interface %s has no %s address", i.Name, version(group))
			}
			return usable(i, from, group)
		}
	}
	if by.IsValid() {
		return ifi, from, fmt.Errorf("no interface has the address %s", by)
	}
	return ifi, from, fmt.Errorf("interface %s: there is none of that name", p.Iface)
}

func usable(i net.Interface, from, group netip.Addr) (net.Interface, netip.Addr, error) {
	switch {
	case i.Flags&net.FlagUp == 0:
		return i, from, fmt.Errorf("interface %s is down", i.Name)
	case from.Is4() != group.Is4():
		return i, from, fmt.Errorf("interface %s: %s is no %s address", i.Name, from, version(group))
	}
	return i, from, nil
}

// sends reports whether an address can be sent from: not while its interface still looks whether another host has it (RFC 4862
// section 5.4).
func sends(i net.Interface, from netip.Addr) bool {
	if from.Is6() {
		from = from.WithZone(i.Name)
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func version(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// routed asks the system from where it would send to a group; connecting sends nothing.
func routed(group netip.Addr) (netip.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, 9)))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no route to %s: name the interface with --iface", group)
	}
	defer c.Close()
	a, _ := netip.AddrFromSlice(c.LocalAddr().(*net.UDPAddr).IP)
	return a.Unmap(), nil
}

func addresses(i net.Interface) []netip.Addr {
	list, err := i.Addrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, addr.Unmap())
			}
		}
	}
	return out
}
