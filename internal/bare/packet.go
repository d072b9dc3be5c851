package bare

import (
	"encoding/binary"
	"errors"
)

// A raw socket for UDP gives IPv4 packets whole, and what follows the header of IPv6 ones. It is used because a socket bound to the
// group's port would keep programs of this host from binding it that do not set SO_REUSEADDR: most short scripts do not.

const udpHeader = 8

var (
	errPacket   = errors.New("no UDP packet")
	errChecksum = errors.New("UDP checksum")
)

// datagram is one that came: its payload is a part of what was read.
type datagram struct {
	from, to uint16 // ports
	payload  []byte
}

// decode4 reads an IPv4 packet (RFC 791, RFC 768) that the kernel has put together from its fragments. A checksum may be missing,
// right, or that of the pseudo-header only: the latter is what a packet has that never left the machine.
func decode4(p []byte) (datagram, error) {
	if len(p) < 20 || p[0]>>4 != 4 || p[9] != 17 {
		return datagram{}, errPacket
	}
	header := int(p[0]&15) * 4
	if header < 20 || len(p) < header+udpHeader {
		return datagram{}, errPacket
	}
	u := p[header:]
	d, size, err := decodeUDP(u)
	if err != nil {
		return datagram{}, err
	}
	if check := binary.BigEndian.Uint16(u[6:]); check != 0 {
		pseudo := sum(0, p[12:20]) + 17 + uint32(size)
		if fold(sum(pseudo, u[:size])) != 0xffff && check != fold(pseudo) {
			return datagram{}, errChecksum
		}
	}
	return d, nil
}

// decodeUDP reads a UDP packet; for IPv6, the kernel has checked its checksum.
func decodeUDP(u []byte) (d datagram, size int, err error) {
	if len(u) < udpHeader {
		return datagram{}, 0, errPacket
	}
	size = int(binary.BigEndian.Uint16(u[4:]))
	if size < udpHeader || size > len(u) {
		return datagram{}, 0, errPacket
	}
	return datagram{from: binary.BigEndian.Uint16(u), to: binary.BigEndian.Uint16(u[2:]), payload: u[udpHeader:size]}, size, nil
}

// sum adds 16-bit words (RFC 1071). 64 KiB of them fit 32 bits.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
