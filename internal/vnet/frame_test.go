package vnet_test

import (
	"encoding/binary"
	"net/netip"

	"github.com/weft-net/weft/internal/nl"
)

// ethernet builds a frame for a group's or a neighbour's MAC.
func ethernet(dst, src nl.MAC, etherType uint16, body []byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	b = binary.BigEndian.AppendUint16(b, etherType)
	return append(b, body...)
}

// groupMAC is RFC 1112 section 6.4.
func groupMAC(g netip.Addr) nl.MAC {
	b := g.As4()
	return nl.MAC{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
}

// udp4 builds a frame with a UDP datagram to a group.
func udp4(src nl.MAC, from netip.Addr, to string, port uint16, text string) []byte {
	group := netip.MustParseAddr(to)
	s, d := from.As4(), group.As4()
	ip := []byte{0x45, 0, 0, byte(28 + len(text)), 0, 0, 0, 0, 1, 17, 0, 0}
	ip = append(append(ip, s[:]...), d[:]...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum&0xffff))
	udp := binary.BigEndian.AppendUint16(nil, port)
	udp = binary.BigEndian.AppendUint16(udp, port)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = append(udp, 0, 0) // no checksum (RFC 768)
	return ethernet(groupMAC(group), src, 0x0800, append(append(ip, udp...), text...))
}

// etherType and the few things tests ask of a frame.
func etherType(b []byte) uint16 { return binary.BigEndian.Uint16(b[12:]) }

func isARP(b []byte) bool { return etherType(b) == 0x0806 }

// isIGMP also names the type: 0x11 query, 0x16 and 0x22 reports.
func isIGMP(b []byte) (kind byte, ok bool) {
	if etherType(b) != 0x0800 || len(b) < 34 || b[23] != 2 {
		return 0, false
	}
	off := 14 + int(b[14]&15)*4
	if off >= len(b) {
		return 0, false
	}
	return b[off], true
}

// icmp6 returns the ICMPv6 type, behind a hop-by-hop header when there is one.
func icmp6(b []byte) (kind byte, ok bool) {
	if etherType(b) != 0x86dd || len(b) < 55 {
		return 0, false
	}
	next, off := b[20], 54
	if next == 0 {
		next, off = b[54], 54+8+int(b[55])*8
	}
	if next != 58 || off >= len(b) {
		return 0, false
	}
	return b[off], true
}
