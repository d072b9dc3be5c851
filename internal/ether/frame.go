// Package ether reads Ethernet frames at fixed offsets: who sends what to whom, without allocating.
//
//	0      6      12     14
//	+------+------+------+---------
//	| dst  | src  | type | payload
//	+------+------+------+---------
//
// A frame with a VLAN tag is read as it stands: its type is the tag's, its payload is not looked
// into. Nothing that a container can put in front (tags, LLC, extension headers) makes a packet
// pass for another: what is not understood has no addresses.
package ether

import (
	"encoding/binary"
	"net/netip"
)

// HeaderSize is the length of an untagged Ethernet header in bytes.
const HeaderSize = 14

// Ethernet types (IEEE 802 numbers). Values below 0x0600 are lengths of LLC frames.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100
	TypeIPv6 = 0x86dd
	TypeQinQ = 0x88a8
)

// IP protocol numbers.
const (
	ProtoICMP   = 1
	ProtoIGMP   = 2
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// ARP operations (RFC 826).
const (
	ARPRequest = 1
	ARPReply   = 2
)

// maxExtensions bounds the IPv6 extension headers that are walked (RFC 8200 section 4.1 allows about seven).
const maxExtensions = 8

// Info is what a frame says about itself.
type Info struct {
	Dst, Src MAC
	Type     uint16

	// SrcIP and DstIP are set for IPv4, IPv6 and, as sender and target, ARP. Zero: none.
	SrcIP, DstIP netip.Addr
	// Proto is the IP protocol of the first fragment's payload; IPv6 extension headers are skipped.
	Proto uint8
	// Payload is the offset of that payload in the frame; 0 when it is not known.
	Payload int
	// Fragment says that this is a part of an IP packet; only the first part has Proto's header.
	Fragment bool
	// ARP is the operation of an ARP packet.
	ARP uint16
	// Group says that the IP destination is multicast.
	Group bool
	// LinkLocal says that the group is one of those that go to all hosts: 224.0.0.0/24
	// (RFC 4541 section 2.1.2) and ff02::1.
	LinkLocal bool
	// Membership says IGMP, or MLD (ICMPv6 types 130, 131, 132, 143).
	Membership bool
}

var allNodes = netip.MustParseAddr("ff02::1")

// Parse reads a frame. ok is false when it is too short for Ethernet, or says to hold IPv4, IPv6
// or ARP and does not. It never allocates.
func Parse(frame []byte) (info Info, ok bool) {
	if len(frame) < HeaderSize {
		return info, false
	}
	info.Dst, info.Src = MAC(frame[0:6]), MAC(frame[6:12])
	info.Type = binary.BigEndian.Uint16(frame[12:])
	switch info.Type {
	case TypeIPv4:
		return info, info.ipv4(frame)
	case TypeIPv6:
		return info, info.ipv6(frame)
	case TypeARP:
		return info, info.arp(frame)
	}
	return info, true
}

// ipv4 reads an IPv4 header (RFC 791 section 3.1).
func (info *Info) ipv4(frame []byte) bool {
	p := frame[HeaderSize:]
	if len(p) < 20 || p[0]>>4 != 4 {
		return false
	}
	header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	if header < 20 || header > len(p) || total < header || total > len(p) {
		return false
	}
	fragment := binary.BigEndian.Uint16(p[6:])
	info.Proto = p[9]
	info.SrcIP, info.DstIP = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	info.Fragment = fragment&0x3fff != 0 // more fragments, or an offset
	if fragment&0x1fff == 0 {
		info.Payload = HeaderSize + header
	}
	info.Group = info.DstIP.IsMulticast()
	info.LinkLocal = p[16] == 224 && p[17] == 0 && p[18] == 0
	info.Membership = info.Proto == ProtoIGMP
	return true
}

// ipv6 reads an IPv6 header and walks the extension headers (RFC 8200 sections 3 and 4).
func (info *Info) ipv6(frame []byte) bool {
	p := frame[HeaderSize:]
	if len(p) < 40 || p[0]>>4 != 6 {
		return false
	}
	total := 40 + int(binary.BigEndian.Uint16(p[4:]))
	if total > len(p) {
		return false // a jumbogram (RFC 2675) says 0 and has a hop-by-hop option; nobody sends one here
	}
	p = p[:total]
	info.SrcIP, info.DstIP = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	info.Group = info.DstIP.IsMulticast()
	info.LinkLocal = info.DstIP == allNodes
	next, at := p[6], 40
	for range maxExtensions {
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if at+8 > len(p) {
				return false
			}
			next, at = p[at], at+8+8*int(p[at+1])
		case 44: // fragment (section 4.5)
			if at+8 > len(p) {
				return false
			}
			part := binary.BigEndian.Uint16(p[at+2:])
			info.Fragment = info.Fragment || part&0xfff9 != 0
			next, at = p[at], at+8
			if part&0xfff8 != 0 {
				info.Proto = next
				return true
			}
		case 51: // authentication header (RFC 4302 section 2): its length counts 4 bytes
			if at+8 > len(p) {
				return false
			}
			next, at = p[at], at+8+4*int(p[at+1])
		default:
			info.Proto = next
			if at > len(p) {
				return false
			}
			info.Payload = HeaderSize + at
			if next == ProtoICMPv6 && at < len(p) {
				switch p[at] {
				case 130, 131, 132, 143: // RFC 2710 section 3, RFC 3810 section 5.2
					info.Membership = true
				}
			}
			return true
		}
		if at > len(p) {
			return false
		}
	}
	return false
}

// arp reads an ARP packet for IPv4 over Ethernet (RFC 826).
func (info *Info) arp(frame []byte) bool {
	p := frame[HeaderSize:]
	if len(p) < 28 || [6]byte(p[:6]) != [6]byte{0, 1, 0x08, 0x00, 6, 4} {
		return false
	}
	info.ARP = binary.BigEndian.Uint16(p[6:])
	info.SrcIP, info.DstIP = netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
	return true
}
