package frag

import (
	"encoding/binary"
	"time"

	"github.com/weft-net/weft/internal/wire"
)

// Counters say what became of fragments (Malformed, Lie, Large, Duplicate, Late) and of plaintexts (the others).
type Counters struct {
	Whole     uint64 // joined
	Malformed uint64 // short, or index and count make no sense
	Lie       uint64 // contradicts the parts before it
	Large     uint64 // of a plaintext longer than wire.MaxPlain
	Duplicate uint64
	Late      uint64 // of a plaintext joined just before
	Old       uint64 // not whole within MaxAge
	Crowded   uint64 // oldest when room was needed
}

// Assembler joins the fragments of one sender, in whatever order they come. It has one owner. The zero value is ready.
// Buffers are kept for the next plaintext: at a steady load nothing is allocated.
type Assembler struct {
	slots  [MaxUnfinished]slot
	used   int
	bytes  int // of all buffers, of unfinished plaintexts or kept
	added  time.Time
	recent [recentSize]struct {
		id uint32
		at time.Time
	}
	next     int
	counters Counters
}

// recentSize is how many joined plaintexts are remembered, so that a late duplicate begins no new one.
const recentSize = 16

// minBuffer is the least that is allocated; sizes double from there to wire.MaxPlain.
const minBuffer = 2 << 10

// slot is an unfinished plaintext, or a buffer kept.
type slot struct {
	live  bool
	id    uint32
	count int
	have  int
	each  int // length of every part but the last; 0: none is here
	last  int // length of the last part; 0: not here. Until each is known the last part lies at the front.
	born  time.Time
	seen  [4]uint64 // by index
	buf   []byte
}

// Counters returns what happened so far.
func (a *Assembler) Counters() Counters { return a.counters }

// Unfinished returns how many plaintexts are being joined, and the bytes of all buffers.
func (a *Assembler) Unfinished() (count, bytes int) { return a.used, a.bytes }

// Tick forgets plaintexts that are too old and, when no fragment came for MaxAge, the buffers kept.
func (a *Assembler) Tick(now time.Time) {
	a.find(now, 0)
	if a.used == 0 && now.Sub(a.added) > MaxAge {
		for i := range a.slots {
			a.slots[i].buf = nil
		}
		a.bytes = 0
	}
}

// Add takes a fragment, kind included, and copies what it needs of it. When the fragment completes a plaintext,
// that is returned, kind included and never a fragment itself; it is valid until the next Add or Tick.
func (a *Assembler) Add(now time.Time, plain []byte) (whole []byte, ok bool) {
	a.added = now
	if len(plain) <= Header || plain[0] != wire.KindFragment {
		a.counters.Malformed++
		return nil, false
	}
	id := binary.BigEndian.Uint32(plain[1:])
	index, count, part := int(plain[5]), int(plain[6]), plain[Header:]
	if count < 2 || index >= count {
		a.counters.Malformed++
		return nil, false
	}
	s := a.find(now, id)
	if s == nil {
		if a.joined(now, id) {
			a.counters.Late++
			return nil, false
		}
		if least(index, count, len(part)) > wire.MaxPlain {
			a.counters.Large++
			return nil, false
		}
		s = a.begin(now, id, count)
	}
	if s.seen[index/64]&(1<<(index%64)) != 0 {
		a.counters.Duplicate++
		return nil, false
	}
	if !s.agrees(index, count, len(part)) {
		a.counters.Lie++
		return nil, false
	}
	a.put(s, index, part)
	if s.have < s.count {
		return nil, false
	}
	n := (s.count-1)*s.each + s.last
	whole = s.buf[:n]
	a.free(s)
	if whole[0] == wire.KindFragment { // a fragment of fragments is never sent
		a.counters.Malformed++
		return nil, false
	}
	a.counters.Whole++
	a.recent[a.next].id, a.recent[a.next].at = id, now
	a.next = (a.next + 1) % recentSize
	return whole, true
}

// least returns the least length of a plaintext that has this part: no part is shorter than the last, and none empty.
func least(index, count, n int) int {
	if index == count-1 {
		return count * n
	}
	return (count-1)*n + 1
}

// agrees reports whether a part fits to those that are here.
func (s *slot) agrees(index, count, n int) bool {
	if count != s.count {
		return false
	}
	each, last := s.each, s.last
	if index == count-1 {
		last = n
	} else if each == 0 {
		each = n
	} else if each != n {
		return false
	}
	return each == 0 || last <= each && (count-1)*each+max(last, 1) <= wire.MaxPlain
}

// put copies a part that agrees to its place.
func (a *Assembler) put(s *slot, index int, part []byte) {
	s.seen[index/64] |= 1 << (index % 64)
	s.have++
	if index == s.count-1 {
		s.last = len(part)
		at := (s.count - 1) * s.each // the front, while each is unknown
		a.reserve(s, at+len(part))
		copy(s.buf[at:], part)
		return
	}
	if s.each == 0 {
		s.each = len(part)
		a.reserve(s, min(s.count*s.each, wire.MaxPlain))
		copy(s.buf[(s.count-1)*s.each:], s.buf[:s.last])
	}
	copy(s.buf[index*s.each:], part)
}

// find returns the plaintext with this id, and drops those that are too old on its way.
func (a *Assembler) find(now time.Time, id uint32) (found *slot) {
	left := a.used
	for i := range a.slots {
		if left == 0 {
			break
		}
		s := &a.slots[i]
		if !s.live {
			continue
		}
		left--
		if now.Sub(s.born) > MaxAge {
			a.counters.Old++
			a.free(s)
		} else if s.id == id {
			found = s
		}
	}
	return found
}

func (a *Assembler) joined(now time.Time, id uint32) bool {
	for i := range a.recent {
		if r := &a.recent[i]; r.id == id && !r.at.IsZero() && now.Sub(r.at) <= MaxAge {
			return true
		}
	}
	return false
}

// begin takes a free slot, the oldest one when all are in use.
func (a *Assembler) begin(now time.Time, id uint32, count int) *slot {
	var s *slot
	for i := range a.slots {
		if !a.slots[i].live {
			s = &a.slots[i]
			break
		}
	}
	if s == nil {
		a.counters.Crowded++
		s = a.oldest(nil)
		a.free(s)
	}
	*s = slot{live: true, id: id, count: count, born: now, buf: s.buf[:0]}
	a.used++
	return s
}

func (a *Assembler) free(s *slot) {
	s.live = false
	a.used--
}

// oldest returns the plaintext begun first, but not except; nil when there is no other.
func (a *Assembler) oldest(except *slot) (old *slot) {
	for i := range a.slots {
		if s := &a.slots[i]; s.live && s != except && (old == nil || s.born.Before(old.born)) {
			old = s
		}
	}
	return old
}

// reserve makes s.buf n bytes long, at most wire.MaxPlain: with its own buffer, with one kept, or with a new one, for
// which others make room. What lies at the front stays.
func (a *Assembler) reserve(s *slot, n int) {
	if n <= cap(s.buf) {
		s.buf = s.buf[:n]
		return
	}
	var kept *slot // the smallest that is large enough
	for i := range a.slots {
		f := &a.slots[i]
		if !f.live && cap(f.buf) >= n && (kept == nil || cap(f.buf) < cap(kept.buf)) {
			kept = f
		}
	}
	if kept != nil {
		old := s.buf
		s.buf, kept.buf = kept.buf[:n], old[:0]
		copy(s.buf, old)
		return
	}
	size := minBuffer
	for size < n {
		size *= 2
	}
	for i := range a.slots {
		if f := &a.slots[i]; !f.live && a.bytes-cap(s.buf)+size > MaxBytes {
			a.bytes -= cap(f.buf)
			f.buf = nil
		}
	}
	for a.bytes-cap(s.buf)+size > MaxBytes {
		old := a.oldest(s) // there is one: s alone cannot hold MaxBytes
		a.counters.Crowded++
		a.free(old)
		a.bytes -= cap(old.buf)
		old.buf = nil
	}
	a.bytes += size - cap(s.buf)
	b := make([]byte, n, size)
	copy(b, s.buf)
	s.buf = b
}
