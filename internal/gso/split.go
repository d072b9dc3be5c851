package gso

import "encoding/binary"

// TCP flags that only one of the segments may carry.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// Splitter cuts one super-frame. The zero value is ready for Init.
type Splitter struct {
	rec    Record
	frame  []byte
	l      layout
	size   int // payload of a segment
	at     int // payload cut so far
	id     uint16
	seq    uint32
	flags  byte
	chksum uint16 // of the pseudo-header of the whole
}

// Init begins to cut a frame as its header says; burst tells this super-frame from the ones before.
func (s *Splitter) Init(h Header, frame []byte, burst byte) error {
	if !h.NeedsChecksum || h.Size == 0 || h.Start > 255 || h.Offset > 255 {
		return ErrFrame
	}
	l, err := parse(frame, h.Type, int(h.Start), int(h.Offset))
	if err != nil {
		return err
	}
	if (len(frame)-l.data)/int(h.Size) > 255 {
		return ErrFrame // index would not hold it
	}
	*s = Splitter{
		rec: Record{NeedsChecksum: true, ECN: h.ECN, Type: h.Type, Start: byte(h.Start), Offset: byte(h.Offset), Burst: burst},
		l:   l, frame: frame, size: int(h.Size), chksum: binary.BigEndian.Uint16(frame[l.checksum:]),
	}
	if l.ip4 {
		s.id = binary.BigEndian.Uint16(frame[l.l3+4:])
	}
	if h.Type != TypeUDP {
		s.seq = binary.BigEndian.Uint32(frame[l.l4+4:])
		s.flags = frame[l.l4+13]
	}
	return nil
}

// Segment returns the length of the longest segment's frame.
func (s *Splitter) Segment() int { return s.l.data + min(s.size, len(s.frame)-s.l.data) }

// Len returns the length of the next record, 0 when there is none.
func (s *Splitter) Len() int {
	left := len(s.frame) - s.l.data - s.at
	if left <= 0 && (s.at > 0 || left < 0) {
		return 0
	}
	return s.rec.Overhead() + s.l.data + min(left, s.size)
}

// Put writes the next record into b, which has room for Len bytes, and returns its length.
func (s *Splitter) Put(b []byte) int {
	part := min(len(s.frame)-s.l.data-s.at, s.size)
	n := s.l.data + part
	at := s.rec.putHead(b, n)
	copy(b[at+s.l.data:], s.frame[s.l.data+s.at:s.l.data+s.at+part])
	s.headers(b[at : at+n])
	return at + n
}

// Take is Put in the super-frame itself: headers are written before the data where it lies, over data that was taken
// before. It returns the record, with room bytes more before it, good until the next Take; nil when it cannot be, for the
// first segment and for data shorter than headers and room: those are to be Put.
func (s *Splitter) Take(room int) []byte {
	room += s.rec.Overhead()
	if s.at == 0 || s.size < s.l.data+room {
		return nil
	}
	part := min(len(s.frame)-s.l.data-s.at, s.size)
	b := s.frame[s.at-room : s.l.data+s.at+part]
	s.rec.putHead(b[room-s.rec.Overhead():], s.l.data+part)
	s.headers(b[room:])
	return b
}

// headers writes the headers of the next segment's frame before its data, and goes on to the one after.
func (s *Splitter) headers(f []byte) {
	n, part := len(f), len(f)-s.l.data
	copy(f, s.frame[:s.l.data])
	last := s.l.data+s.at+part == len(s.frame)
	if s.l.ip4 {
		binary.BigEndian.PutUint16(f[s.l.l3+4:], s.id+uint16(s.rec.Index))
	}
	if s.rec.Type != TypeUDP {
		binary.BigEndian.PutUint32(f[s.l.l4+4:], s.seq+uint32(s.at))
		flags := s.flags
		if !last {
			flags &^= tcpFIN | tcpPSH
		}
		if s.at > 0 {
			flags &^= tcpCWR
		}
		f[s.l.l4+13] = flags
	}
	s.l.setLength(f, n, len(s.frame), s.rec.Type == TypeUDP)
	s.at += max(part, 1) // a frame without payload is cut once
	s.rec.Index++
}
