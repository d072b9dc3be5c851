package rmcast

import "sync/atomic"

// What a subscription is lent, it gives back when its reader goes on. Packets of streams that all subscriptions are lent are opened in blocks
// that are used again when nobody holds a packet of them any more: at full speed a receiver would leave hundreds of megabytes a second to the
// collector, which takes a fifth of what receiving costs.

// block is memory for packets that are lent. Each packet in it is held where it is kept, where it waits to be handed over, and by each subscription
// that was given it.
type block struct {
	space []byte
	held  atomic.Int32
	kept  bool // a packet of it belongs to who got it: it is never used again. The owner of the node reads and writes it
}

// maxBlocks is how many full blocks a node keeps to use them again.
const maxBlocks = 64

// blocks gives room for packets that are lent.
type blocks struct {
	cur  *block
	used int      // bytes of cur
	full []*block // the one filled first is first
	size int      // of the last new one
}

// room returns empty space of n bytes.
func (s *blocks) room(n int) []byte {
	if s.cur == nil || cap(s.cur.space)-s.used < n {
		s.next(n)
	}
	return s.cur.space[s.used : s.used : s.used+n]
}

// took says that n bytes of the room are in use, and returns where they are.
func (s *blocks) took(n int) *block {
	s.used += n
	return s.cur
}

// next begins another block: one of the oldest that is free, if there is any.
func (s *blocks) next(n int) {
	const tries = 4 // that of a stream that says little may be held for long
	if s.cur != nil && !s.cur.kept {
		s.full = append(s.full, s.cur)
	}
	s.cur, s.used = nil, 0
	for range min(tries, len(s.full)) {
		b := s.full[0]
		s.full = append(s.full[:0], s.full[1:]...)
		switch {
		case b.kept:
		case b.held.Load() == 0 && cap(b.space) >= n:
			s.cur = b
			return
		default:
			s.full = append(s.full, b)
		}
	}
	if len(s.full) > maxBlocks {
		s.full[0] = nil
		s.full = s.full[1:]
	}
	s.size = min(max(slabFirst, 4*s.size), slabSize)
	s.cur = &block{space: make([]byte, 0, max(s.size, n))}
}

// Hold keeps a packet's bytes as they are until Release.
func (p *Packet) Hold() { p.in.hold() }

// Release gives a packet back: its bytes may change.
func (p *Packet) Release() { p.in.release() }

// Keep says that a packet's bytes belong to who got them from now on. Only who drives the node may call it.
func (p *Packet) Keep() {
	if p.in != nil {
		p.in.kept = true
	}
}

func (b *block) hold() {
	if b != nil {
		b.held.Add(1)
	}
}

func (b *block) release() {
	if b != nil {
		b.held.Add(-1)
	}
}
