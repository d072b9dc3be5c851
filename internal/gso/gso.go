// Package gso cuts super-frames, TCP or UDP data of many packets behind one header, into frames that fit a path, and
// joins them again on the other side.
//
// The kernel hands super-frames to a TAP with virtio-net offloads on, and takes them from it. A frame crosses weft in a
// record:
//
//	0        2       3
//	+--------+-------+-------------------+--------------------+-------+
//	| length | flags | [start 1][offset 1] | [burst 1][index 1] | frame |
//	+--------+-------+-------------------+--------------------+-------+
//
// length is the frame's. start and offset (flagChecksum) say where the transport checksum is still to be computed: its
// field holds the sum of the pseudo-header, and neither side ever sums the data (virtio 1.2 section 5.1.6.2). burst and index
// (flagSegment) say which part of which super-frame this is; every part is a frame that can stand alone, so a lost packet
// costs one packet.
package gso

import (
	"encoding/binary"
	"errors"
)

// HeaderLen is the length of the virtio-net header before every frame of a TAP, in bytes.
const HeaderLen = 10

// MaxFrame is the longest super-frame, virtio-net header included.
const MaxFrame = HeaderLen + 18 + 65535

// Flags and types of a virtio-net header (virtio 1.2 section 5.1.6).
const (
	needsChecksum = 1

	TypeNone = 0
	TypeTCP4 = 1
	TypeTCP6 = 4
	TypeUDP  = 5 // USO: UDP datagrams of one size
	typeECN  = 0x80
)

// dontFragment of an IPv4 header's flags and fragment offset.
const dontFragment = 0x4000

// Header is a virtio-net header, in the host's byte order on the wire to the kernel.
type Header struct {
	NeedsChecksum bool   // the transport checksum is not computed
	ECN           bool   // the first segment alone carries CWR
	Type          byte   // of segmentation
	Size          uint16 // payload of a segment in bytes
	Start, Offset uint16 // of the transport header in the frame; of the checksum field in that
}

// Parse reads a header; b has at least HeaderLen bytes.
func Parse(b []byte) Header {
	return Header{
		NeedsChecksum: b[0]&needsChecksum != 0, ECN: b[1]&typeECN != 0, Type: b[1] &^ typeECN,
		Size:  binary.NativeEndian.Uint16(b[4:]),
		Start: binary.NativeEndian.Uint16(b[6:]), Offset: binary.NativeEndian.Uint16(b[8:]),
	}
}

// Put writes the header before a frame whose own headers end at hdr.
func (h *Header) Put(b []byte, hdr int) {
	clear(b[:HeaderLen])
	if h.NeedsChecksum {
		b[0] = needsChecksum
		binary.NativeEndian.PutUint16(b[6:], h.Start)
		binary.NativeEndian.PutUint16(b[8:], h.Offset)
	}
	if h.Type == TypeNone {
		return
	}
	b[1] = h.Type
	if h.ECN {
		b[1] |= typeECN
	}
	binary.NativeEndian.PutUint16(b[2:], uint16(hdr))
	binary.NativeEndian.PutUint16(b[4:], h.Size)
}

// ErrFrame says that a frame is not what its virtio-net header says.
var ErrFrame = errors.New("gso: frame and header contradict each other")

// layout is where the headers of a frame with segments are.
type layout struct {
	ip4      bool
	l3, l4   int // begin of the IP and of the transport header
	data     int // begin of the payload
	checksum int // place of the transport checksum
}

// parse finds the headers of a frame with segments of a type; the frame may be longer than its first segment.
func parse(frame []byte, typ byte, start, offset int) (l layout, err error) {
	l.l3, l.l4, l.checksum = 14, start, start+offset
	if len(frame) < 18 || start < l.l3+20 || start+8 > len(frame) {
		return l, ErrFrame
	}
	ethertype := binary.BigEndian.Uint16(frame[12:])
	if ethertype == 0x8100 {
		l.l3, ethertype = 18, binary.BigEndian.Uint16(frame[16:])
	}
	switch {
	case ethertype == 0x0800 && (typ == TypeTCP4 || typ == TypeUDP):
		l.ip4 = true
		if ihl := int(frame[l.l3]&15) * 4; ihl < 20 || l.l3+ihl != start {
			return l, ErrFrame
		}
	case ethertype == 0x86dd && (typ == TypeTCP6 || typ == TypeUDP):
		if l.l3+40 > start {
			return l, ErrFrame
		}
	default:
		return l, ErrFrame
	}
	if typ == TypeUDP {
		l.data = start + 8
		if offset != 6 {
			return l, ErrFrame
		}
		return l, nil
	}
	if start+20 > len(frame) || offset != 16 {
		return l, ErrFrame
	}
	doff := int(frame[start+12]>>4) * 4
	l.data = start + doff
	if doff < 20 || l.data > len(frame) {
		return l, ErrFrame
	}
	return l, nil
}

// setLength writes the lengths of a frame of n bytes, and takes the change into the pseudo-header's sum.
func (l *layout) setLength(frame []byte, n, was int, udp bool) {
	if l.ip4 {
		ip := frame[l.l3:l.l4]
		binary.BigEndian.PutUint16(ip[2:], uint16(n-l.l3))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
	} else {
		binary.BigEndian.PutUint16(frame[l.l3+4:], uint16(n-l.l3-40))
	}
	if udp {
		binary.BigEndian.PutUint16(frame[l.l4+4:], uint16(n-l.l4))
	}
	// RFC 1624 section 3, for a sum that is not complemented: old length out, new length in.
	c := uint32(binary.BigEndian.Uint16(frame[l.checksum:])) + uint32(^uint16(was-l.l4)) + uint32(uint16(n-l.l4))
	binary.BigEndian.PutUint16(frame[l.checksum:], fold(c))
}

// FinishChecksum computes the transport checksum of a frame that leaves it to others. False when start and
// offset are not in the frame.
func FinishChecksum(frame []byte, start, offset int) bool {
	if start < 0 || start > len(frame) || offset < 0 || start+offset+2 > len(frame) {
		return false
	}
	c := ^fold(sum(frame[start:])) // the field itself holds the pseudo-header's part
	if c == 0 {
		c = 0xffff // in UDP zero means none (RFC 768); in TCP both are the same number
	}
	binary.BigEndian.PutUint16(frame[start+offset:], c)
	return true
}

func sum(b []byte) (s uint32) {
	for len(b) >= 2 {
		s += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
