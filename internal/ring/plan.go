package ring

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/weft-net/weft/internal/ident"
)

// Found plans the ownership of the whole space by this host. It fails when anybody claims a part.
func (r *Ring) Found() (Book, error) {
	if r.own().Serial != 0 || len(r.claims()) > 0 {
		return Book{}, ErrFounded
	}
	b := r.next()
	b.Owned = []Holding{{Range: r.space, Version: 1, Root: r.self}}
	return b, nil
}

// Again plans this host's book as it is, with a new serial.
func (r *Ring) Again() Book { return r.next() }

// Give plans the hand-over of a part, which this host owns whole, to another host. The caller sees
// to it that nothing in the part is in use.
func (r *Ring) Give(to ident.HostID, part Range) (Book, error) {
	if to == r.self || to.IsZero() {
		return Book{}, fmt.Errorf("give a range to %s: no other host", to.Short())
	}
	b := r.next()
	rest := uint64(0)
	if part.First <= part.Last {
		rest = part.Size()
	}
	if rest == 0 {
		return Book{}, ErrNotOwned
	}
	for _, h := range b.Owned {
		o, ok := h.Overlap(part)
		if !ok {
			continue
		}
		rest -= o.Size()
		h.Range = o
		b.Seq++
		b.Gives = append(b.Gives, Give{Holding: h, From: r.self, Seq: b.Seq, To: to})
	}
	if rest != 0 {
		return Book{}, ErrNotOwned
	}
	b.Owned = cut(b.Owned, part)
	if len(b.Gives) > MaxGives || len(b.Owned) > MaxOwned {
		return Book{}, ErrFull
	}
	return b, nil
}

// Giving returns what is on its way from this host to another.
func (r *Ring) Giving(to ident.HostID) []Range {
	var out []Range
	for _, g := range r.own().Gives {
		if g.To == to && !r.taken(g) {
			out = append(out, g.Range)
		}
	}
	return out
}

// OnTheWay returns how many gives of this host nobody has been seen to take.
func (r *Ring) OnTheWay() int {
	n := 0
	for _, g := range r.own().Gives {
		if !r.taken(g) {
			n++
		}
	}
	return n
}

// Settle plans all that follows from the books seen: take what was given to this host, drop gives
// that were taken, yield to better claims what used does not name. ok is false when nothing changes.
// used lists the addresses in use by this host, in order.
func (r *Ring) Settle(used []uint32) (b Book, ok bool) {
	for id := range r.books {
		if r.inherited(id) {
			delete(r.books, id)
		}
	}
	b = r.next()
	yielded := r.yield(&b, used)
	took := r.take(&b)
	n := len(b.Gives)
	r.prune(&b)
	ok = yielded || took || len(b.Gives) != n || r.lost != nil || b.Lapsed != r.own().Lapsed
	if ok {
		r.compact(&b)
	}
	return b, ok
}

// prune drops the gives that have been taken.
func (r *Ring) prune(b *Book) {
	b.Gives = slices.DeleteFunc(b.Gives, func(g Give) bool { return r.taken(g) || b.cursor(g.To, g.From) >= g.Seq })
}

// take moves gives to this host's mailboxes into Owned, per giver in the order of their numbers.
func (r *Ring) take(b *Book) bool {
	var mail []Give
	for w, book := range r.books {
		if w != r.self && r.removed(w) {
			continue // from its heir, or not at all
		}
		for _, g := range book.Gives {
			if (g.To == r.self || b.heirOf(g.To)) && g.Seq > b.cursor(g.To, g.From) {
				mail = append(mail, g)
			}
		}
	}
	slices.SortFunc(mail, func(x, y Give) int {
		return cmp.Or(cmp.Compare(x.Seq, y.Seq), bytes.Compare(x.From[:], y.From[:]), bytes.Compare(x.To[:], y.To[:]))
	})
	type box struct{ to, from ident.HostID }
	held := map[box]bool{}
	took := false
	for _, g := range mail {
		k := box{g.To, g.From}
		if held[k] || g.Seq <= b.cursor(g.To, g.From) {
			continue // behind one that waits, or seen in two books
		}
		parts, ok := r.clear(b, g)
		if !ok || len(b.Owned)+len(parts) > MaxOwned || !b.setCursor(g.To, g.From, g.Seq) {
			held[k] = true
			r.counts.HeldGives++
			continue
		}
		for _, h := range parts {
			h.Version++
			if g.To != r.self {
				h = h.inherit(r.self) // as if the host gone had taken it first
			}
			b.Owned = add(b.Owned, h)
		}
		took = true
	}
	return took
}

// clear returns the parts of a give that no other claim stands against. Parts that another host
// holds by a better right, or by a later hand-over, are left out. ok is false when an older claim of
// equal right is in sight: either the giver gives what is not its own, or a book in between has not
// come yet; both are cause to wait, and in honest hands the wait ends when that book comes.
func (r *Ring) clear(b *Book, g Give) (parts []Holding, ok bool) {
	parts = []Holding{g.Holding}
	mine := g.Holding
	mine.Version++ // as it will be
	against := func(h Holding, by ident.HostID, owned bool) bool {
		o, hit := h.Overlap(g.Range)
		switch {
		case !hit, mine.beats(h):
		case h.beats(mine), h.Version > mine.Version, h.Version == mine.Version && (owned || by.Less(g.To)):
			parts = cut(parts, o) // by right, or the giver gave it before and has lost the memory of that
		default:
			return false
		}
		return true
	}
	for w, book := range r.books {
		if r.inherited(w) {
			continue
		}
		owned := book.Owned
		if w == r.self {
			// Never twice in one book, whatever the right.
			for _, h := range b.Owned {
				if o, hit := h.Overlap(g.Range); hit {
					parts = cut(parts, o)
				}
			}
			owned = nil
		}
		for _, h := range owned {
			if !against(h, w, true) {
				return nil, false
			}
		}
		for _, o := range book.Gives {
			if o.From == g.From && o.Seq == g.Seq || r.taken(o) || b.cursor(o.To, o.From) >= o.Seq {
				continue
			}
			h := o.Holding
			h.Version++
			if !against(h, o.To, false) {
				return nil, false
			}
		}
	}
	return parts, true
}

// yield takes out of Owned what another host holds by a better right, or by a later hand-over, and this
// host does not use. A later one can only be when this host gave the range away and does not know it any
// more: its disk was put back to an older state. What others say is on its way counts only when this
// host knows that: a host could give what it never had.
func (r *Ring) yield(b *Book, used []uint32) bool {
	did := false
	for _, c := range r.claims() {
		if c.host == r.self {
			continue
		}
		for _, h := range slices.Clone(b.Owned) {
			o, hit := h.Overlap(c.Range)
			if !hit {
				continue
			}
			if !c.beats(h) && !((c.owned || b.Lapsed) && c.later(h, r.self)) {
				continue
			}
			for _, p := range gaps(o, used) {
				if rest := cut(b.Owned, p); len(rest) <= MaxOwned {
					b.Owned = rest
					r.counts.Yielded += p.Size()
					did = true
				}
			}
		}
	}
	return did
}

// TakeOver plans the succession to a host that is gone for good: its ranges, its unfinished gives,
// its mailboxes. That this host is the heir, and the only one, is the caller's policy.
func (r *Ring) TakeOver(gone ident.HostID) (Book, error) {
	if gone == r.self {
		return Book{}, fmt.Errorf("take over from %s: that is this host", gone.Short())
	}
	if r.mourned(gone) {
		return Book{}, ErrInherited
	}
	b := r.next()
	r.compact(&b)
	left := r.books[gone]
	if left == nil {
		left = &Book{}
	}
	for _, h := range left.Owned {
		for _, p := range r.unclaimed(gone, h) {
			for _, free := range without(p.Range, b.Owned) { // never twice in one book
				part := p
				part.Range = free
				b.Owned = add(b.Owned, part.inherit(r.self))
			}
		}
	}
	for _, g := range left.Gives {
		twice := slices.ContainsFunc(b.Gives, func(o Give) bool { return o.From == g.From && o.Seq == g.Seq })
		if !twice && !r.taken(g) { // a number that stands for two gives is of a host that lost the memory of one
			b.Gives = append(b.Gives, g)
		}
	}
	for _, c := range left.Cursors {
		if !b.setCursor(c.To, c.From, c.Seq) {
			return Book{}, ErrFull
		}
	}
	for _, e := range append(slices.Clone(left.Estates), Estate{gone, left.Serial}) {
		if !b.heirOf(e.Host) && e.Host != r.self {
			b.Estates = append(b.Estates, e)
		}
	}
	r.prune(&b)
	if len(b.Owned) > MaxOwned || len(b.Gives) > MaxGives || len(b.Estates) > MaxEstates {
		return Book{}, ErrFull
	}
	return b, nil
}

// unclaimed returns the parts of a holding of a host gone that no third host claims with a higher
// version: those it gave away in a book that was not seen here.
func (r *Ring) unclaimed(gone ident.HostID, h Holding) []Holding {
	parts := []Holding{h}
	for _, c := range r.claims() {
		if c.host == gone {
			continue
		}
		if o, ok := c.Overlap(h.Range); ok && (c.host == r.self || c.Version > h.Version || c.beats(h)) {
			parts = cut(parts, o)
		}
	}
	return parts
}

// compact drops what only a book from before many removals could still ask for: estates, when
// there are many, that no give in sight is addressed to, oldest first, with their cursors.
func (r *Ring) compact(b *Book) {
	named := func(id ident.HostID) bool {
		for _, book := range r.books {
			for _, g := range book.Gives {
				if g.To == id || g.From == id {
					return true
				}
			}
		}
		return false
	}
	for i := 0; i < len(b.Estates) && len(b.Estates) > MaxEstates*3/4; {
		id := b.Estates[i].Host
		if named(id) {
			i++
			continue
		}
		b.Estates = slices.Delete(b.Estates, i, i+1)
		b.Cursors = slices.DeleteFunc(b.Cursors, func(c Cursor) bool { return c.To == id })
	}
	for i := 0; i < len(b.Cursors) && len(b.Cursors) > MaxCursors*3/4; {
		if c := b.Cursors[i]; r.removed(c.From) && !named(c.From) {
			b.Cursors = slices.Delete(b.Cursors, i, i+1)
			continue
		}
		i++
	}
}
