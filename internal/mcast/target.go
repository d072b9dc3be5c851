// Package mcast sends and receives plain multicast datagrams, on any interface and any system,
// with no daemon: the tools chat, send and recv.
package mcast

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MaxDatagram is the largest UDP payload, in bytes, that fits an IPv4 packet.
const MaxDatagram = 65507

// Target is a group and a port; with a source it is (S,G), else (*,G).
type Target struct {
	Group  netip.Addr
	Source netip.Addr // not valid: any source
	Port   uint16
}

// Parse reads G:PORT, G,S:PORT, [G6]:PORT or [G6,S6]:PORT.
func Parse(s string) (Target, error) {
	addrs, port, err := split(s)
	if err != nil {
		return Target{}, err
	}
	var t Target
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port[0] == '+' {
		return Target{}, fmt.Errorf("group %q: port %q is not 1 to 65535", s, port)
	}
	t.Port = uint16(n)
	group, source, ssm := strings.Cut(addrs, ",")
	if t.Group, err = parseAddr(s, group); err != nil {
		return Target{}, err
	}
	if !t.Group.IsMulticast() {
		return Target{}, fmt.Errorf("group %q: %s is not a multicast address (224.0.0.0/4 or ff00::/8)", s, t.Group)
	}
	if !ssm {
		return t, nil
	}
	if t.Source, err = parseAddr(s, source); err != nil {
		return Target{}, err
	}
	if t.Source.IsMulticast() || t.Source.IsUnspecified() {
		return Target{}, fmt.Errorf("group %q: source %s is not the address of a sender", s, t.Source)
	}
	if t.Source.Is4() != t.Group.Is4() {
		return Target{}, fmt.Errorf("group %q: group and source are not of the same IP version", s)
	}
	return t, nil
}

// split cuts the port off; IPv6 needs the brackets, as in URLs.
func split(s string) (addrs, port string, err error) {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		addrs, port, ok = strings.Cut(rest, "]:")
		if !ok {
			return "", "", fmt.Errorf("group %q: want [GROUP]:PORT", s)
		}
		if !strings.Contains(addrs, ":") {
			return "", "", fmt.Errorf("group %q: brackets are for IPv6 only", s)
		}
		return addrs, port, nil
	}
	switch strings.Count(s, ":") {
	case 0:
		return "", "", fmt.Errorf("group %q: the port is missing (GROUP:PORT)", s)
	case 1:
		addrs, port, _ = strings.Cut(s, ":")
		return addrs, port, nil
	}
	return "", "", fmt.Errorf("group %q: write IPv6 as [GROUP]:PORT", s)
}

func parseAddr(whole, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("group %q: %q is not an IP address", whole, s)
	}
	if a.Zone() != "" {
		return a, fmt.Errorf("group %q: name the interface with --iface %s", whole, a.Zone())
	}
	return a.Unmap(), nil
}

// String returns the target in the form that Parse reads.
func (t Target) String() string {
	s := t.Group.String()
	if t.Source.IsValid() {
		s += "," + t.Source.String()
	}
	if t.Group.Is6() {
		s = "[" + s + "]"
	}
	return s + ":" + strconv.Itoa(int(t.Port))
}
