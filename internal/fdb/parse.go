package fdb

import "encoding/binary"

// class is what the destination of a frame asks for.
type class uint8

const (
	classUnicast class = iota
	classFlood         // broadcast, 224.0.0.0/24, ff02::1
	classGroup         // any other IP group
	classResolve       // ARP request, neighbour solicitation: goes to who has target
)

// header is what parse finds in a frame. Addresses are in the 16-byte form of netip.Addr.As16.
type header struct {
	class  class
	drop   Drop
	group  [16]byte // classGroup, and classFlood for a group of 224.0.0.0/24
	source [16]byte // IP source of a group's packet
	target [16]byte // classResolve
}

const (
	etherHeader = 14
	arpPacket   = 28 // RFC 826 for Ethernet and IPv4
	ipv4Header  = 20
	ipv6Header  = 40

	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeIPv6 = 0x86dd
	typeQinQ = 0x88a8

	protoHopByHop = 0
	protoIGMP     = 2
	protoRouting  = 43
	protoICMPv6   = 58
	protoDestOpts = 60

	// maxExtensions bounds the IPv6 extension headers looked through for ICMPv6.
	maxExtensions = 4
)

// ICMPv6 types (RFC 2710 section 3, RFC 3810 section 5.2, RFC 4861 section 4.3).
const (
	icmpMLDQuery   = 130
	icmpMLDReport  = 131
	icmpMLDDone    = 132
	icmpSolicit    = 135
	icmpMLD2Report = 143
)

var allNodes = [16]byte{0xff, 0x02, 15: 1} // ff02::1

// v4 returns an IPv4 address as netip.Addr.As16 would.
func v4(b []byte) (a [16]byte) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], b[:4])
	return a
}

// parse classifies a frame. It reads no further than the addresses it needs.
func parse(f []byte) header {
	if len(f) < etherHeader {
		return header{drop: DropShort}
	}
	etherType := binary.BigEndian.Uint16(f[12:])
	if etherType == typeVLAN || etherType == typeQinQ {
		return header{drop: DropVLAN}
	}
	if f[6]&1 != 0 {
		return header{drop: DropMalformed} // a group is never a source
	}
	if f[0]&1 == 0 {
		return header{class: classUnicast}
	}
	if f[0] == 0x01 && f[1] == 0x80 && f[2] == 0xc2 && f[3] == 0 && f[4] == 0 && f[5] < 0x10 {
		return header{drop: DropLinkControl} // IEEE 802.1D section 7.12.6: never forwarded
	}
	broadcast := binary.BigEndian.Uint32(f) == 0xffffffff && f[4] == 0xff && f[5] == 0xff
	switch etherType {
	case typeIPv4:
		return parseIPv4(f, broadcast)
	case typeIPv6:
		return parseIPv6(f)
	case typeARP:
		return parseARP(f)
	}
	if broadcast {
		return header{class: classFlood}
	}
	return header{drop: DropNonIP}
}

func parseIPv4(f []byte, broadcast bool) header {
	p := f[etherHeader:]
	if len(p) < ipv4Header || p[0]>>4 != 4 {
		return header{drop: DropMalformed}
	}
	if p[9] == protoIGMP {
		return header{drop: DropIGMP}
	}
	isGroup := p[16]>>4 == 0xe
	if broadcast {
		if isGroup {
			return header{drop: DropMalformed} // would get round the choice by group
		}
		return header{class: classFlood}
	}
	// RFC 1112 section 6.4: 01:00:5e and the low 23 bits of the group.
	if !isGroup || f[0] != 0x01 || f[1] != 0x00 || f[2] != 0x5e || f[3] != p[17]&0x7f || f[4] != p[18] || f[5] != p[19] {
		return header{drop: DropMalformed}
	}
	h := header{class: classGroup, group: v4(p[16:]), source: v4(p[12:])}
	if p[16] == 224 && p[17] == 0 && p[18] == 0 {
		h.class = classFlood
	}
	return h
}

func parseIPv6(f []byte) header {
	p := f[etherHeader:]
	if len(p) < ipv6Header || p[0]>>4 != 6 {
		return header{drop: DropMalformed}
	}
	// RFC 2464 section 7: 33:33 and the last four bytes of the group.
	if p[24] != 0xff || f[0] != 0x33 || f[1] != 0x33 || string(f[2:6]) != string(p[36:40]) {
		return header{drop: DropMalformed}
	}
	h := header{class: classGroup, group: [16]byte(p[24:40]), source: [16]byte(p[8:24])}
	if h.group == allNodes {
		h.class = classFlood
	}
	icmp := icmpv6(p)
	if len(icmp) == 0 {
		return h
	}
	switch icmp[0] {
	case icmpMLDQuery, icmpMLDReport, icmpMLDDone, icmpMLD2Report:
		return header{drop: DropMLD}
	case icmpSolicit:
		if len(icmp) < 24 {
			return header{drop: DropMalformed}
		}
		h.class, h.target = classResolve, [16]byte(icmp[8:24])
	}
	return h
}

// icmpv6 returns the ICMPv6 message of an IPv6 packet, nil when it holds something else.
func icmpv6(p []byte) []byte {
	next, rest := p[6], p[ipv6Header:]
	for range maxExtensions {
		switch next {
		case protoICMPv6:
			return rest
		case protoHopByHop, protoRouting, protoDestOpts:
			if len(rest) < 8 {
				return nil
			}
			n := (int(rest[1]) + 1) * 8 // RFC 8200 section 4.3
			if len(rest) < n {
				return nil
			}
			next, rest = rest[0], rest[n:]
		default:
			return nil
		}
	}
	return nil
}

func parseARP(f []byte) header {
	p := f[etherHeader:]
	if len(p) < arpPacket || binary.BigEndian.Uint16(p[2:]) != typeIPv4 || p[4] != 6 || p[5] != 4 {
		return header{drop: DropMalformed}
	}
	return header{class: classResolve, target: v4(p[24:])}
}
