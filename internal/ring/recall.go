package ring

import (
	"fmt"
	"slices"
)

// maxLapse bounds how much later than this host's own a book of its own can be: a wrong one must not use serials up.
const maxLapse = 1 << 32

// Recall notes a book of this host's own that others have seen, as late as its present one or later: its
// disk was put back to an older state. The next plan goes on from both. It reports whether there is
// anything to go on from.
func (r *Ring) Recall(b Book) (bool, error) {
	if err := b.Check(r.self, r.space); err != nil {
		r.counts.RefusedBooks++
		return false, fmt.Errorf("own book, as others have it: %w", err)
	}
	own := r.own()
	switch {
	case b.Serial < own.Serial, b.Serial == own.Serial && own.Same(&b), b.Serial-own.Serial > maxLapse,
		r.lost != nil && b.Serial <= r.lost.Serial:
		return false, nil
	}
	r.lost = &b
	r.counts.Lapses++
	return true, nil
}

// Lapse notes that this host's disk was put back to an older state and it wrote on from there, whatever of what it lost is
// still known. The next Settle says so in its book.
func (r *Ring) Lapse() {
	if !r.own().Lapsed && !r.lapse && r.own().Serial > 0 {
		r.lapse = true
		r.counts.Lapses++
	}
}

// next returns the book to plan in: this host's own, and what is known of it that its disk does not have.
func (r *Ring) next() Book {
	b := r.own().next()
	b.Lapsed = b.Lapsed || r.lapse
	if r.lost != nil {
		r.recall(&b)
	}
	for w, o := range r.books {
		if w == r.self {
			continue
		}
		for _, c := range o.Cursors { // a number that somebody has taken is never used again
			if c.From == r.self && c.Seq > b.Seq {
				b.Seq, b.Lapsed = c.Seq, true
			}
		}
	}
	return b
}

// recall brings together this host's present book, which goes on from an older disk, and the later one that was lost:
// what the older disk had and the later book has not was given away since; what the later book has is this host's,
// unless a later claim is in sight.
func (r *Ring) recall(b *Book) {
	lost := r.lost
	b.Lapsed = true
	b.Serial, b.Seq = max(b.Serial, lost.Serial+1), max(b.Seq, lost.Seq)
	for _, old := range r.base.Owned {
		for _, p := range without(old.Range, lost.Owned) {
			b.Owned = cut(b.Owned, p)
		}
	}
	for _, c := range lost.Cursors {
		b.setCursor(c.To, c.From, c.Seq) // without room for it a give could be taken twice: then its range is owned already, see clear
	}
	for _, e := range lost.Estates {
		if !b.heirOf(e.Host) && len(b.Estates) < MaxEstates {
			b.Estates = append(b.Estates, e)
		}
	}
	inLost := func(g Give) bool {
		return slices.ContainsFunc(lost.Gives, func(o Give) bool { return o.From == g.From && o.Seq == g.Seq })
	}
	b.Gives = slices.DeleteFunc(b.Gives, func(g Give) bool {
		old := slices.ContainsFunc(r.base.Gives, func(o Give) bool { return o.From == g.From && o.Seq == g.Seq })
		return old && !inLost(g) // taken since
	})
	for i, g := range b.Gives { // made anew under a number that was used: another number
		if g.From == r.self && inLost(g) && !slices.ContainsFunc(lost.Gives, g.same) {
			b.Seq++
			b.Gives[i].Seq = b.Seq
		}
	}
	for _, g := range lost.Gives {
		if len(b.Gives) < MaxGives && !slices.ContainsFunc(b.Gives, func(o Give) bool { return o.From == g.From && o.Seq == g.Seq }) {
			b.Owned = cut(b.Owned, g.Range)
			b.Gives = append(b.Gives, g)
		}
	}
	for _, h := range lost.Owned {
		parts := []Holding{h}
		mine := claim{Holding: h, host: r.self}
		for _, c := range r.claims() {
			if o, ok := c.Overlap(h.Range); ok && c.host != r.self && c.over(&mine) {
				parts = cut(parts, o)
			}
		}
		for _, o := range b.Owned {
			parts = cut(parts, o.Range)
		}
		for _, g := range b.Gives {
			parts = cut(parts, g.Range)
		}
		for _, p := range parts {
			if len(b.Owned) < MaxOwned {
				b.Owned = add(b.Owned, p)
			}
		}
	}
}

func (g Give) same(o Give) bool {
	return g.From == o.From && g.Seq == o.Seq && g.To == o.To && g.Holding.same(o.Holding)
}

// without returns the parts of a range that no holding covers.
func without(r Range, hs []Holding) []Range {
	parts := []Holding{{Range: r}}
	for _, h := range hs {
		parts = cut(parts, h.Range)
	}
	out := make([]Range, len(parts))
	for i, p := range parts {
		out[i] = p.Range
	}
	return out
}
