package gso

import "encoding/binary"

// Flags of a record. The lowest three bits are the kind of segment.
const (
	flagKind     = 7 // 0 none, or one of kinds
	flagECN      = 1 << 3
	flagChecksum = 1 << 4
)

// kinds are the types of segments as records number them.
var kinds = [...]byte{TypeNone, TypeTCP4, TypeTCP6, TypeUDP}

// MaxRecord is the most bytes that a record needs beyond its frame.
const MaxRecord = 7

// Record is a frame on its way.
type Record struct {
	Frame         []byte
	NeedsChecksum bool
	ECN           bool
	Type          byte // of segmentation; TypeNone: Burst and Index mean nothing
	Start, Offset byte // see Header
	Burst, Index  byte
}

// Overhead returns the bytes that the record needs beyond its frame.
func (r *Record) Overhead() int {
	n := 3
	if r.NeedsChecksum {
		n += 2
	}
	if r.Type != TypeNone {
		n += 2
	}
	return n
}

// putHead writes what stands before the frame, for a frame of n bytes, and returns its length.
func (r *Record) putHead(b []byte, n int) int {
	binary.BigEndian.PutUint16(b, uint16(n))
	b[2] = 0
	at := 3
	if r.NeedsChecksum {
		b[2] |= flagChecksum
		b[at], b[at+1] = r.Start, r.Offset
		at += 2
	}
	if r.Type != TypeNone {
		for i, k := range kinds {
			if k == r.Type {
				b[2] |= byte(i)
			}
		}
		if r.ECN {
			b[2] |= flagECN
		}
		b[at], b[at+1] = r.Burst, r.Index
		at += 2
	}
	return at
}

// Put writes the record into b, which has room for it, and returns its length.
func (r *Record) Put(b []byte) int {
	at := r.putHead(b, len(r.Frame))
	return at + copy(b[at:], r.Frame)
}

// Next reads the record at the front of b and returns what follows it; ok is false when there is no whole record.
// What it says of the frame is not checked.
func Next(b []byte) (r Record, rest []byte, ok bool) {
	if len(b) < 3 {
		return r, nil, false
	}
	n, flags := int(binary.BigEndian.Uint16(b)), b[2]
	b = b[3:]
	if flags&flagChecksum != 0 {
		if len(b) < 2 {
			return r, nil, false
		}
		r.NeedsChecksum, r.Start, r.Offset = true, b[0], b[1]
		b = b[2:]
	}
	if k := int(flags & flagKind); k != 0 {
		if k >= len(kinds) || len(b) < 2 {
			return r, nil, false
		}
		r.Type, r.ECN, r.Burst, r.Index = kinds[k], flags&flagECN != 0, b[0], b[1]
		b = b[2:]
	}
	if n > len(b) {
		return r, nil, false
	}
	r.Frame = b[:n:n]
	return r, b[n:], true
}

// Plain fills r for a frame without segments. A checksum that records cannot point to is computed here.
func (r *Record) Plain(h Header, frame []byte) error {
	*r = Record{Frame: frame}
	if !h.NeedsChecksum {
		return nil
	}
	if h.Start > 255 || h.Offset > 255 {
		if !FinishChecksum(frame, int(h.Start), int(h.Offset)) {
			return ErrFrame
		}
		return nil
	}
	r.NeedsChecksum, r.Start, r.Offset = true, byte(h.Start), byte(h.Offset)
	return nil
}
