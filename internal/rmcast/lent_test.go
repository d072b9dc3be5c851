package rmcast

import "testing"

// TestBlocks: a block is used again when no packet in it is held, and not before; never when one of them belongs to who got it; and there
// are no more of them than may be.
func TestBlocks(t *testing.T) {
	var s blocks
	fill := func(n int) (of []Packet) { // so many blocks
		for begun := 0; begun <= n; {
			cur := s.cur
			room := s.room(1400)
			if s.cur != cur {
				if begun++; begun > n {
					break
				}
			}
			p := Packet{Plain: room[:1400], in: s.took(1400)}
			p.Hold()
			of = append(of, p)
		}
		return of
	}
	fill(5)[0].Release() // they grow
	ps := fill(3)
	first, second := ps[0].in, ps[len(ps)/2].in
	if first == second || first.held.Load() < 100 {
		t.Fatalf("%d packets, %d held in the first block", len(ps), first.held.Load())
	}
	for i := range ps {
		if ps[i].in == first || ps[i].in == second {
			ps[i].Release()
		}
	}
	ps[len(ps)/2].Keep()
	again := map[*block]bool{}
	for _, p := range fill(12) {
		again[p.in] = true
	}
	if !again[first] {
		t.Error("a block of which nothing is held is not used again")
	}
	if again[second] {
		t.Error("a block is used again of which a packet belongs to another")
	}
	if third := ps[len(ps)-1].in; again[third] {
		t.Error("a block is used again that is held")
	}
	if fill(3 * maxBlocks); len(s.full) > maxBlocks+1 {
		t.Errorf("%d blocks are kept, at most %d should be", len(s.full), maxBlocks)
	}
	if room := s.room(60_000); cap(room) != 60_000 {
		t.Errorf("room for %d bytes", cap(room))
	}
}
