package gso

import (
	"bytes"
	"encoding/binary"
)

// maxDatagrams bounds the UDP datagrams of one super-frame that were not cut from one, as the kernel's own receiver does
// (UDP_GRO_CNT_MAX): a socket takes them all at once, and its buffer may be small.
const maxDatagrams = 64

const protoUDP = 17

// Limits of a super-frame that is being joined.
const (
	// maxParts bounds its records: a number of segments is a byte.
	maxParts = 256
	// maxHeaders is the most bytes that headers can have: a transport header begins before 256 and has 60 bytes at most.
	maxHeaders = 255 + 60
)

// Joiner makes one super-frame of records that come one after the other: segments that were cut from one, and UDP
// datagrams of one flow and size. It copies no data: the frames it was given must stay as they are until what Finish
// returns was used. The zero value is ready for Start.
type Joiner struct {
	head   [HeaderLen + maxHeaders]byte // virtio-net header, and the headers of the first once there are two
	parts  [1 + maxParts][]byte
	count  int    // of records
	rec    Record // the first
	l      layout
	size   int    // payload of the first
	length int    // of the frame so far
	id     uint16 // of the first datagram's packet
	index  byte
	tcp    byte // flags to add to the first's
	single bool // datagrams that were not cut from a super-frame
	closed bool // the last segment is in
}

// Start takes the first record. datagrams says that the kernel takes super-frames of UDP: else none is made. It is false
// for a record that contradicts itself.
func (j *Joiner) Start(r Record, datagrams bool) bool {
	if r.NeedsChecksum && int(r.Start)+int(r.Offset)+2 > len(r.Frame) {
		return false
	}
	j.rec, j.count, j.length, j.index, j.tcp, j.single, j.closed = r, 1, len(r.Frame), r.Index, 0, false, true
	switch {
	case r.Type != TypeNone:
		l, err := parse(r.Frame, r.Type, int(r.Start), int(r.Offset))
		if err != nil || !r.NeedsChecksum {
			return false
		}
		j.l, j.size = l, len(r.Frame)-l.data
		j.closed = j.size == 0 || !l.consistent(r.Frame) || r.Type == TypeUDP && !datagrams
	case datagrams && r.NeedsChecksum:
		if l, ok := datagram(&r); ok {
			j.l, j.size, j.single, j.closed = l, len(r.Frame)-l.data, true, false
			if l.ip4 {
				j.id = binary.BigEndian.Uint16(r.Frame[l.l3+4:])
			}
		}
	}
	return true
}

// datagram finds the headers of a frame with a whole UDP datagram that others may be joined to.
func datagram(r *Record) (l layout, ok bool) {
	f := r.Frame
	l, err := parse(f, TypeUDP, int(r.Start), int(r.Offset))
	if err != nil || len(f) <= l.data || !l.consistent(f) || int(binary.BigEndian.Uint16(f[l.l4+4:])) != len(f)-l.l4 {
		return l, false
	}
	if l.ip4 {
		return l, f[l.l3+9] == protoUDP && binary.BigEndian.Uint16(f[l.l3+6:])&^dontFragment == 0
	}
	return l, f[l.l3+6] == protoUDP && l.l4 == l.l3+40
}

// consistent reports whether the lengths inside a frame are its own.
func (l *layout) consistent(frame []byte) bool {
	if l.ip4 {
		return int(binary.BigEndian.Uint16(frame[l.l3+2:])) == len(frame)-l.l3
	}
	return int(binary.BigEndian.Uint16(frame[l.l3+4:])) == len(frame)-l.l3-40
}

// Add takes the record that came next, if it continues the super-frame and there is room.
func (j *Joiner) Add(r Record) bool {
	if j.closed || r.Type != j.rec.Type || r.Start != j.rec.Start {
		return false
	}
	n := len(r.Frame) - j.l.data
	if n <= 0 || n > j.size || j.length-j.l.l3+n > 65535 || j.count == maxParts {
		return false
	}
	if j.single {
		if !r.NeedsChecksum || r.Offset != j.rec.Offset || !j.follows(r.Frame) {
			return false
		}
	} else if r.Burst != j.rec.Burst || r.Index != j.index+1 {
		return false
	}
	if r.Type == TypeTCP4 || r.Type == TypeTCP6 {
		j.tcp |= r.Frame[j.l.l4+13] & (tcpFIN | tcpPSH)
	}
	j.count++
	j.parts[j.count] = r.Frame[j.l.data:]
	j.length += n
	j.index = r.Index
	j.closed = n < j.size || j.single && j.count == maxDatagrams
	return true
}

// Other reports whether a record is surely of another flow than the super-frame: addresses, protocol or ports differ. Two of
// one flow must keep their order.
func (j *Joiner) Other(r Record) bool {
	a, b := j.rec.Frame, r.Frame
	if !j.rec.NeedsChecksum || !r.NeedsChecksum || min(len(a), len(b)) < 14 {
		return false
	}
	if !bytes.Equal(a[12:14], b[12:14]) {
		return true
	}
	at, end := 14+12, 14+20 // of the addresses
	switch binary.BigEndian.Uint16(a[12:]) {
	case 0x0800:
	case 0x86dd:
		at, end = 14+8, 14+40
	default:
		return false
	}
	if min(len(a), len(b)) < end {
		return false
	}
	if !bytes.Equal(a[at:end], b[at:end]) || r.Offset != j.rec.Offset { // the place of a checksum tells TCP from UDP
		return true
	}
	l4 := int(r.Start)
	return r.Start == j.rec.Start && l4 >= end && min(len(a), len(b)) >= l4+4 && !bytes.Equal(a[l4:l4+4], b[l4:l4+4])
}

// follows reports whether a datagram differs from the first by its data, lengths, checksums and IPv4 id alone. Where a
// packet may be cut its id must count on, as it will be when the super-frame is cut (RFC 6864: else it means nothing).
func (j *Joiner) follows(f []byte) bool {
	l, first := &j.l, j.rec.Frame
	if !l.consistent(f) || int(binary.BigEndian.Uint16(f[l.l4+4:])) != len(f)-l.l4 {
		return false
	}
	if !bytes.Equal(f[l.l4:l.l4+4], first[l.l4:l.l4+4]) { // ports
		return false
	}
	if !l.ip4 {
		return bytes.Equal(f[:l.l3+4], first[:l.l3+4]) && bytes.Equal(f[l.l3+6:l.l4], first[l.l3+6:l.l4])
	}
	if binary.BigEndian.Uint16(f[l.l3+6:])&dontFragment == 0 && binary.BigEndian.Uint16(f[l.l3+4:]) != j.id+uint16(j.count) {
		return false
	}
	return bytes.Equal(f[:l.l3+2], first[:l.l3+2]) && bytes.Equal(f[l.l3+6:l.l3+10], first[l.l3+6:l.l3+10]) &&
		bytes.Equal(f[l.l3+12:l.l4], first[l.l3+12:l.l4])
}

// Finish returns what the kernel gets, in parts: virtio-net header and headers first. They are good until the next Start.
func (j *Joiner) Finish() [][]byte {
	h := Header{NeedsChecksum: j.rec.NeedsChecksum, Start: uint16(j.rec.Start), Offset: uint16(j.rec.Offset)}
	first := j.rec.Frame
	j.parts[0], j.parts[1] = j.head[:HeaderLen], first
	if j.count > 1 {
		h.Type, h.ECN, h.Size = j.rec.Type, j.rec.ECN, uint16(j.size)
		if j.single {
			h.Type = TypeUDP
		}
		j.parts[0], j.parts[1] = j.head[:HeaderLen+j.l.data], first[j.l.data:]
		f := j.parts[0][HeaderLen:]
		copy(f, first)
		if h.Type != TypeUDP {
			f[j.l.l4+13] |= j.tcp
		}
		j.l.setLength(f, j.length, len(first), h.Type == TypeUDP)
	}
	h.Put(j.head[:], j.l.data)
	j.rec.Frame = nil // it is its owner's
	return j.parts[:1+j.count]
}
