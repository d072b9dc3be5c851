package rmcast

import (
	"slices"
	"time"
)

// Packet is the plaintext of one packet of a stream, or word of a loss.
type Packet struct {
	Seq   uint64
	Plain []byte
	Gone  uint64 // without Plain: messages before this one that did not come are lost
	in    *block // where Plain is lent; nil: it stays as it is
}

// slot is one packet kept.
type slot struct {
	plain    []byte
	in       *block // holds it, if plain is lent
	end      uint64 // bytes of the stream up to its end
	at       int64  // when it was sent, in nanoseconds
	repaired int64  // when it was last sent again
	round    uint64 // of repairs to the group in which it was
	copied   int64  // when it was last sent again to one alone
	copiedTo ID
}

// store keeps packets [first, next) of a stream, some of which may be missing, in a ring that grows to what is needed.
type store struct {
	ring        []slot
	first, next uint64
	bytes       int // of the packets in it, with slotCost each
}

func (s *store) at(seq uint64) *slot { return &s.ring[seq&uint64(len(s.ring)-1)] }

// has reports whether a packet is there.
func (s *store) has(seq uint64) bool { return seq >= s.first && seq < s.next && s.at(seq).plain != nil }

// reach makes room up to and with seq.
func (s *store) reach(seq uint64) {
	if seq < s.next {
		return
	}
	if need := int(seq - s.first + 1); need > len(s.ring) {
		size := max(64, len(s.ring))
		for size < need {
			size *= 2
		}
		ring := make([]slot, size)
		for q := s.first; q < s.next; q++ {
			ring[q&uint64(size-1)] = *s.at(q)
		}
		s.ring = ring
	}
	s.next = seq + 1
}

func (s *store) put(seq uint64, plain []byte) *slot {
	s.reach(seq)
	p := s.at(seq)
	*p = slot{plain: plain}
	s.bytes += len(plain) + slotCost
	return p
}

// packet returns a packet that is there, and holds it.
func (s *store) packet(seq uint64) Packet {
	p := s.at(seq)
	p.in.hold()
	return Packet{Seq: seq, Plain: p.plain, in: p.in}
}

// dropFirst forgets the oldest place.
func (s *store) dropFirst() {
	p := s.at(s.first)
	if p.plain != nil {
		s.bytes -= len(p.plain) + slotCost
		p.in.release()
	}
	*p = slot{}
	s.first++
}

// dropTo forgets places before seq.
func (s *store) dropTo(seq uint64) {
	for s.first < min(seq, s.next) {
		s.dropFirst()
	}
	if s.next < seq {
		s.first, s.next = seq, seq
	}
}

// slab gives room for packets from blocks that are never used twice: whoever still reads an old one may.
type slab struct {
	free []byte
	old  []byte // one that may be used again
	size int    // of the last block: the first is small, there may be thousands of streams with little to say
}

const (
	slabFirst = 4 << 10
	slabSize  = 256 << 10
)

// slabOf is a slab and the packets in it.
type slabOf struct {
	space       []byte
	first, last uint64
}

// space returns room for the sender's next packet. A slab of which all packets are forgotten, and that nobody else has seen,
// is used again: at full speed a publisher would leave hundreds of megabytes a second to the collector.
func (s *Sender) space() []byte {
	room := s.limit
	if proof := s.proofRoom(); proof > 0 {
		room += 1 + proof
	}
	if cap(s.slab.free) < room {
		for len(s.full) > 0 && s.full[0].last < s.store.first {
			if old := s.full[0]; s.slab.old == nil && old.first >= s.lent {
				s.slab.old = old.space
			}
			s.full = slices.Delete(s.full, 0, 1)
		}
		s.slab.next(room)
		s.full = append(s.full, slabOf{space: s.slab.free, first: s.store.next})
	}
	s.full[len(s.full)-1].last = s.store.next
	return s.slab.free[:0:room]
}

// next begins another slab.
func (s *slab) next(n int) {
	if cap(s.old) >= n {
		s.free, s.old = s.old[:0], nil
		return
	}
	s.size = min(max(slabFirst, 4*s.size), slabSize)
	s.free = make([]byte, 0, max(s.size, n))
}

// room returns empty space of n bytes.
func (s *slab) room(n int) []byte {
	if cap(s.free) < n {
		s.next(n)
	}
	return s.free[:0:n]
}

// took says that n bytes of the room are in use now.
func (s *slab) took(n int) { s.free = s.free[n:n:cap(s.free)] }

// train gathers sealed packets that can leave together: all of one length, but for a last one that may be shorter.
type train struct {
	buf   []byte
	seg   int
	n     int
	short bool
}

func (t *train) fits(size int) bool {
	return t.n == 0 || !t.short && size <= t.seg && t.n < MaxTrain && len(t.buf)+size <= MaxTrainBytes
}

// added notes that one more packet is at the end of buf.
func (t *train) added(size int) {
	if t.n == 0 {
		t.seg = size
	}
	t.short = size < t.seg
	t.n++
}

func (t *train) reset() { t.buf, t.seg, t.n, t.short = t.buf[:0], 0, 0, false }

func nanos(t time.Time) int64 { return t.UnixNano() }
