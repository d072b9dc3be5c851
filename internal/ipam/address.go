package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weft-net/weft/internal/ether"
)

// Bounds of ranges and subnets.
const (
	minBits       = 8  // of the cluster's range and of a subnet
	maxRangeBits  = 24 // of the cluster's range
	maxSubnetBits = 29 // of a subnet: network, DNS, last, and five for attachments
	subnetBits    = 20 // of a carved subnet, when the cluster's range has at least 16 of them
)

// Address is what an attachment is given.
type Address struct {
	IP4 netip.Prefix // address and length of the subnet
	IP6 netip.Prefix // the network's /64, the low 32 bits are the IPv4 address
	MAC ether.MAC    // 02:57 and the IPv4 address: unique because that is
}

func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is4():
		return errors.New("not an IPv4 range like 10.32.0.0/12")
	case p.Masked() != p:
		return fmt.Errorf("has bits beyond its length, write %s", p.Masked())
	case p.Bits() < minBits || p.Bits() > maxSubnetBits:
		return fmt.Errorf("length /%d, allowed is /%d to /%d", p.Bits(), minBits, maxSubnetBits)
	}
	return nil
}

// CheckSubnet reports whether p can be the subnet of a network: canonical IPv4, /8 to /29, unicast.
func CheckSubnet(p netip.Prefix) error {
	if err := checkPrefix(p); err != nil {
		return fmt.Errorf("subnet %s: %w", p, err)
	}
	if a := p.Addr(); a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.As4()[0] == 0 || a.As4()[0] >= 240 {
		return fmt.Errorf("subnet %s: no addresses for hosts; use a private range (RFC 1918)", p)
	}
	return nil
}

// CheckRange returns an error that names the first of the host's routes that is equal to the
// cluster's range or lies inside it. Wider routes, a default route say, lose against weft's own
// and don't matter. The caller leaves out routes that weft made.
func CheckRange(r netip.Prefix, routes []netip.Prefix) error {
	for _, route := range routes {
		if route.IsValid() && route.Bits() >= r.Bits() && r.Overlaps(route) {
			return fmt.Errorf("range %s overlaps the route %s of this host", r, route)
		}
	}
	return nil
}

func first4(p netip.Prefix) uint32 { return toU32(p.Addr()) }

func last4(p netip.Prefix) uint32 { return first4(p) | uint32(uint64(1)<<(32-p.Bits())-1) }

func toU32(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }

func toAddr(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
}

// carveBits returns the length of the subnets that a cluster range is carved into: /20, or a
// sixteenth of a range that is smaller than /16.
func carveBits(r netip.Prefix) int { return max(subnetBits, r.Bits()+4) }

// subnetIndex returns the 16 bits that tell the network's /64 from others of the cluster: the
// subnet's place in the range, or for one elsewhere a hash, which can collide.
func subnetIndex(r, subnet netip.Prefix) uint16 {
	if r.IsValid() && r.Contains(subnet.Addr()) && subnet.Bits() >= r.Bits() {
		return uint16((first4(subnet) - first4(r)) >> (32 - carveBits(r)))
	}
	a := subnet.Addr().As4()
	sum := sha256.Sum256(append([]byte("weft subnet\x00"), a[0], a[1], a[2], a[3], byte(subnet.Bits())))
	return 0x8000 | binary.BigEndian.Uint16(sum[:])
}

// subnet6 returns the /64 of an index under a ULA /48 (RFC 4193 section 3.1).
func subnet6(ula [6]byte, index uint16) netip.Prefix {
	var a [16]byte
	copy(a[:], ula[:])
	binary.BigEndian.PutUint16(a[6:], index)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// IP6 returns the address in a /64 that goes with an IPv4 address: unique because that is.
func IP6(net6 netip.Prefix, v4 netip.Addr) netip.Prefix {
	a, b := net6.Addr().As16(), v4.As4()
	copy(a[12:], b[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// address makes the three addresses of an attachment from its IPv4 address.
func address(ip uint32, subnet, net6 netip.Prefix) Address {
	v4 := toAddr(ip)
	b := v4.As4()
	return Address{
		IP4: netip.PrefixFrom(v4, subnet.Bits()),
		IP6: IP6(net6, v4),
		MAC: ether.MAC{0x02, 0x57, b[0], b[1], b[2], b[3]},
	}
}

// NameServer returns what the name service has in a subnet: the second address, the same on every host, which is never given to anybody.
func NameServer(subnet, net6 netip.Prefix) Address { return address(first4(subnet)+1, subnet, net6) }
