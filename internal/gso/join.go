package gso

import "encoding/binary"

// Joiner makes one super-frame of records that were cut from one. It writes into space that its user gives, and what
// it has there grows at the end.
type Joiner struct {
	buf    []byte // virtio-net header and frame so far; capacity is the space
	rec    Record // the first
	l      layout
	first  int // length of the first's frame
	size   int // payload of the first
	index  byte
	closed bool // the last segment is in
}

// Start takes the first record. space has room for HeaderLen and the frame; more room lets others follow. It is false
// for a record that contradicts itself.
func (j *Joiner) Start(space []byte, r Record) bool {
	*j = Joiner{rec: r, first: len(r.Frame), index: r.Index, closed: true}
	j.rec.Frame = nil // it is its owner's
	if r.NeedsChecksum && int(r.Start)+int(r.Offset)+2 > len(r.Frame) {
		return false
	}
	if r.Type != TypeNone {
		l, err := parse(r.Frame, r.Type, int(r.Start), int(r.Offset))
		if err != nil || !r.NeedsChecksum {
			return false
		}
		j.l, j.size = l, len(r.Frame)-l.data
		j.closed = j.size == 0 || !l.consistent(r.Frame)
	}
	n := HeaderLen + len(r.Frame)
	j.buf = space[:n:cap(space)]
	copy(j.buf[HeaderLen:], r.Frame)
	return true
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
	if j.closed || r.Type != j.rec.Type || r.Burst != j.rec.Burst || r.Index != j.index+1 || r.Start != j.rec.Start {
		return false
	}
	n := len(r.Frame) - j.l.data
	if n <= 0 || n > j.size || len(j.buf)+n > cap(j.buf) || len(j.buf)-HeaderLen-j.l.l3+n > 65535 {
		return false
	}
	j.buf = append(j.buf, r.Frame[j.l.data:]...)
	if r.Type != TypeUDP {
		j.buf[HeaderLen+j.l.l4+13] |= r.Frame[j.l.l4+13] & (tcpFIN | tcpPSH)
	}
	j.index = r.Index
	j.closed = n < j.size
	return true
}

// Finish writes the headers and returns what the kernel gets.
func (j *Joiner) Finish() []byte {
	f := j.buf[HeaderLen:]
	h := Header{NeedsChecksum: j.rec.NeedsChecksum, Start: uint16(j.rec.Start), Offset: uint16(j.rec.Offset)}
	if len(f) == j.first {
		h.Put(j.buf, 0)
		return j.buf
	}
	h.Type, h.ECN, h.Size = j.rec.Type, j.rec.ECN, uint16(j.size)
	j.l.setLength(f, len(f), j.first, h.Type == TypeUDP)
	h.Put(j.buf, j.l.data)
	return j.buf
}
