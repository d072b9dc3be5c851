package ether

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// Announcement returns a frame that tells all stations who has an address, and completes what those have begun to ask: a gratuitous ARP
// reply (RFC 5944 section 4.6), or an unsolicited neighbour advertisement to all nodes (RFC 4861 section 7.2.6). Linux makes no entry of it
// for who did not ask.
func Announcement(ip netip.Addr, mac MAC) ([]byte, error) {
	if ip.Is4() {
		b := append(append(append(make([]byte, 0, 42), Broadcast[:]...), mac[:]...), TypeARP>>8, TypeARP&0xff)
		b = append(b, 0, 1, TypeIPv4>>8, TypeIPv4&0xff, 6, 4, 0, ARPReply)
		addr := ip.As4()
		for range 2 { // as sender and as target
			b = append(append(b, mac[:]...), addr[:]...)
		}
		return b, nil
	}
	const override, targetMAC = 0x20, 2
	body := append([]byte{override, 0, 0, 0}, ip.AsSlice()...)
	body = append(append(body, targetMAC, 1), mac[:]...)
	all := allNodes.AsSlice()
	message, err := (&icmp.Message{Type: ipv6.ICMPTypeNeighborAdvertisement, Body: &icmp.RawBody{Data: body}}).Marshal(icmp.IPv6PseudoHeader(ip.AsSlice(), all))
	if err != nil {
		return nil, err
	}
	group, _ := GroupMAC(allNodes)
	b := append(append(append(make([]byte, 0, 86), group[:]...), mac[:]...), TypeIPv6>>8, TypeIPv6&0xff, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	b = append(b, ProtoICMPv6, 255) // RFC 4861 section 7.1.2: one with less is not taken
	b = append(append(b, ip.AsSlice()...), all...)
	return append(b, message...), nil
}
