package bench

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// scoped is where groups are drawn from: organization-local scope (RFC 2365 section 6.2), which no router lets out.
var scoped = netip.MustParsePrefix("239.192.0.0/14")

// reserved is never measured with: 224.0.0.0/24 goes to all hosts, 232.0.0.0/8 needs sources (RFC 5771, RFC 4607).
var reserved = []netip.Prefix{netip.MustParsePrefix("224.0.0.0/24"), netip.MustParsePrefix("232.0.0.0/8")}

func measurable(g netip.Addr) bool {
	return g.Is4() && g.IsMulticast() && !slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(g) })
}

// drawTries bounds the search for a group.
const drawTries = 256

// DrawGroup returns a group at random that a network's policy lets pass and nobody is known to use. With a list of allowed
// groups it is one of these.
func DrawGroup(allow, deny []netip.Prefix, used func(netip.Addr) bool, random *rand.Rand) (netip.Addr, error) {
	from := []netip.Prefix{scoped}
	if len(allow) > 0 {
		from = slices.DeleteFunc(slices.Clone(allow), func(p netip.Prefix) bool { return !p.Addr().Is4() })
	}
	if len(from) == 0 {
		return netip.Addr{}, errors.New("the network's policy allows IPv6 groups only, and IPv4 is measured: leave test mcast out")
	}
	for range drawTries {
		p := from[random.IntN(len(from))]
		b := p.Masked().Addr().As4()
		host := random.Uint32() & (1<<(32-p.Bits()) - 1)
		g := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])|host)))
		if measurable(g) && !slices.ContainsFunc(deny, func(p netip.Prefix) bool { return p.Contains(g) }) && !used(g) {
			return g, nil
		}
	}
	return netip.Addr{}, errors.New("the network's policy leaves no free group to measure with: leave test mcast out")
}
