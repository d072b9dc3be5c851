package discover

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// CheckAddress refuses what no host can be reached at from another one.
func CheckAddress(ap netip.AddrPort) error {
	a := ap.Addr()
	switch {
	case !a.IsValid():
		return errors.New("no address")
	case a.IsUnspecified(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is no host's address", a)
	case a.IsMulticast():
		return fmt.Errorf("%s is a group's address, no host's", a)
	case a.IsLoopback():
		return fmt.Errorf("%s is every host's own address", a)
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("%s means something on one segment only", a)
	case ap.Port() == 0:
		return fmt.Errorf("%s: port 0", ap)
	}
	return nil
}

// gather checks addresses on their way into a Found.
type gather struct {
	Found
	seen map[netip.AddrPort]bool
}

// add takes an address, once.
func (g *gather) add(ap netip.AddrPort) {
	ap = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	if err := CheckAddress(ap); err != nil {
		g.refuse(err.Error())
		return
	}
	if g.seen[ap] {
		return
	}
	if len(g.Addrs) >= MaxFound {
		g.refuse(fmt.Sprintf("more than %d addresses", MaxFound))
		return
	}
	if g.seen == nil {
		g.seen = map[netip.AddrPort]bool{}
	}
	g.seen[ap] = true
	g.Addrs = append(g.Addrs, ap)
}

func (g *gather) refuse(why string) {
	if g.Refused++; g.Why == "" {
		g.Why = why
	}
}

// text takes what EncodeAddresses makes, or a person writes: an address a line, with or without a port. Empty lines and those that begin
// with # are passed over; port is that of addresses without one.
func (g *gather) text(b []byte, port uint16) {
	for line := range bytes.Lines(b) {
		s := strings.TrimSpace(string(line))
		if s == "" || s[0] == '#' {
			continue
		}
		ap, err := parseAddress(s, port)
		if err != nil {
			g.refuse(err.Error())
			continue
		}
		g.add(ap)
	}
}

// parseAddress reads ADDRESS, ADDRESS:PORT, or [ADDRESS]:PORT.
func parseAddress(s string, port uint16) (netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap, nil
	}
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return netip.AddrPortFrom(a, port), nil
	}
	return netip.AddrPort{}, fmt.Errorf("%s is neither ADDRESS nor ADDRESS:PORT", shown(s))
}

// ParseAddresses reads a list of addresses, one a line, as a program prints it or a store keeps it. It checks each and takes at most MaxFound.
func ParseAddresses(b []byte, port uint16) Found {
	var g gather
	g.text(b, port)
	return g.Found
}

// EncodeAddresses makes the list of a host's own addresses.
func EncodeAddresses(addrs []netip.AddrPort) []byte {
	var b []byte
	for _, ap := range addrs[:min(len(addrs), MaxOwn)] {
		b = append(ap.AppendTo(b), '\n')
	}
	return b
}

// all is the answer of a source; an error when it had something to say and nothing of it was an address.
func (g *gather) all(what string) (Found, error) {
	if len(g.Addrs) == 0 && g.Refused > 0 {
		return g.Found, fault("look at what is kept there: weft writes addresses, one a line", "%s has no usable address: %s", what, g.Why)
	}
	slices.SortFunc(g.Addrs, netip.AddrPort.Compare)
	return g.Found, nil
}

// shown makes a source's text safe for a terminal and a log, and short.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' || r > 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
