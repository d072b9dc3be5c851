// Package ring shares an address space out among hosts so that no address ever has two owners.
//
// Every host is the only writer of one Book per space. A range lies in exactly one place: in the
// Owned list of one book, or in one book's Gives on its way to another host. A hand-over is a
// message that survives everything: the giver moves the range from Owned to Gives under the next
// number of its own count (Seq); the receiver moves it to its Owned and, in the same write, its
// Cursor for that giver to that number; the giver drops the entry when it sees the cursor. A book
// is persisted before it is shown, so a lost, repeated, reordered or old book of another host can
// delay a hand-over but never do it twice, and two partitions never disagree about what is theirs.
//
// Why books and not a chain of claims (owner at version n writes version n+1): a chain can only be
// checked while the claims of all earlier owners are kept, those of hosts that left years ago too.
// A book holds what its host has now, and is as small.
//
// A host that is gone for good has one heir, which takes its ranges, its unfinished gives and its
// mailbox (Estate). The heir may not have seen the last gives of the deceased, so inherited ranges
// remember the successions by which they came (Line): where two claims meet, the one that was
// handed over by its owner holds, and the heir gives up what it does not use.
//
// The package is pure: a plan (Found, Give, Settle, TakeOver) returns the next book; the caller
// persists it and only then calls Commit.
package ring

import (
	"errors"
	"fmt"
	"slices"

	"github.com/weft-net/weft/internal/ident"
)

// Limits of a book: what one host can make all others keep. A book at all limits encodes to less than 64 KiB.
const (
	MaxOwned   = 768 // ranges; adjacent ones are one
	MaxGives   = 128 // hand-overs on the way
	MaxCursors = 512 // hosts that ever gave something
	MaxEstates = 128 // hosts inherited from
	MaxBooks   = 4096
)

// Range is a part of the space, both ends included, First <= Last.
type Range struct{ First, Last uint32 }

// Size returns the number of addresses, at most 1<<32.
func (r Range) Size() uint64 { return uint64(r.Last) - uint64(r.First) + 1 }

// Contains reports whether a lies in the range.
func (r Range) Contains(a uint32) bool { return r.First <= a && a <= r.Last }

// Covers reports whether all of o lies in the range.
func (r Range) Covers(o Range) bool { return r.First <= o.First && o.Last <= r.Last }

// Overlap returns what both ranges hold.
func (r Range) Overlap(o Range) (Range, bool) {
	v := Range{max(r.First, o.First), min(r.Last, o.Last)}
	return v, v.First <= v.Last
}

// Succession is one passing of a range to an heir.
type Succession struct {
	Heir ident.HostID
	At   uint64 // the range's version by it
}

// maxLine is how many successions a range remembers.
const maxLine = 4

// Holding is a range with its history.
type Holding struct {
	Range
	// Version counts the hand-overs; of two honest claims to an address, the older is out of date.
	Version uint64
	// Root is the founder of the space from whom the range descends. It differs only when two
	// hosts that did not see each other founded the same space: the lower root holds.
	Root ident.HostID
	// Estates counts the successions among the hand-overs; Line has the last of them, at most four.
	Estates uint32
	Line    []Succession
}

// succession returns the i-th succession, from 0, when it is remembered.
func (h Holding) succession(i uint32) (Succession, bool) {
	first := h.Estates - uint32(len(h.Line))
	if i < first || i >= h.Estates {
		return Succession{}, false
	}
	return h.Line[i-first], true
}

// inherit returns the holding as its owner's heir has it.
func (h Holding) inherit(heir ident.HostID) Holding {
	h.Version++
	h.Estates++
	line := append(slices.Clone(h.Line), Succession{heir, h.Version})
	h.Line = line[max(0, len(line)-maxLine):]
	return h
}

// sameLine reports whether both know the same successions where both were there.
func (h Holding) sameLine(o Holding) (heir, other ident.HostID, same bool) {
	for i := range min(h.Estates, o.Estates) {
		a, ok := h.succession(i)
		b, also := o.succession(i)
		if ok && also && a.Heir != b.Heir {
			return a.Heir, b.Heir, false
		}
	}
	return heir, other, true
}

// beats reports whether h holds against o by right, whatever else is not known of either: the
// lower root; of two heirs of one host the lower; and what an owner gave before its heir's time.
func (h Holding) beats(o Holding) bool {
	if h.Root != o.Root {
		return h.Root.Less(o.Root)
	}
	if a, b, same := h.sameLine(o); !same {
		return a.Less(b)
	}
	s, ok := o.succession(h.Estates)
	return ok && h.Version >= s.At
}

// outdates reports whether o is of the same descent as h and older: a claim in a book not seen for a while.
func (h Holding) outdates(o Holding) bool {
	_, _, same := h.sameLine(o)
	return same && h.Root == o.Root && o.Version < h.Version && !o.beats(h)
}

// sameDescent reports whether neighbours can be one range.
func (h Holding) sameDescent(o Holding) bool {
	return h.Root == o.Root && h.Estates == o.Estates && slices.Equal(h.Line, o.Line)
}

// Give is a range on its way from From to To. From is the writer of the book or a host it inherited from.
type Give struct {
	Holding
	From ident.HostID
	Seq  uint64 // From's count, from 1
	To   ident.HostID
}

// Cursor says that To has taken all gives of From up to Seq. To is the writer of the book or a host it inherited from.
type Cursor struct {
	To, From ident.HostID
	Seq      uint64
}

// Estate names a host gone for good, whose heir the book's writer is.
type Estate struct {
	Host   ident.HostID
	Serial uint64 // of the last book of Host that the heir saw; 0: none
}

// Book is all that a host says about a space.
type Book struct {
	Serial  uint64 // counts the writes, from 1; an older book never replaces a newer
	Seq     uint64 // gives ever made
	Owned   []Holding
	Gives   []Give
	Cursors []Cursor
	Estates []Estate
	// Lapsed: the host's disk was put back once, and it does not know all that it gave away: what it says
	// to own gives way to any later claim, one that is on its way included.
	Lapsed bool
}

// ErrBook is wrapped by every error about a book that its writer should not have written.
var ErrBook = errors.New("address book")

// Check reports whether a book of writer about space is well formed.
func (b *Book) Check(writer ident.HostID, space Range) error {
	switch {
	case b.Serial == 0:
		return fmt.Errorf("%w: no serial", ErrBook)
	case len(b.Owned) > MaxOwned, len(b.Gives) > MaxGives, len(b.Cursors) > MaxCursors, len(b.Estates) > MaxEstates:
		return fmt.Errorf("%w: larger than %d ranges, %d gives, %d cursors, %d estates", ErrBook, MaxOwned, MaxGives, MaxCursors, MaxEstates)
	}
	for i, h := range b.Owned {
		if !h.wellFormed(space) {
			return fmt.Errorf("%w: owned range outside the space", ErrBook)
		}
		if i > 0 && h.First <= b.Owned[i-1].Last {
			return fmt.Errorf("%w: owned ranges overlap or are not in order", ErrBook)
		}
	}
	for i, g := range b.Gives {
		if !g.wellFormed(space) || g.Seq == 0 {
			return fmt.Errorf("%w: given range outside the space", ErrBook)
		}
		if g.From == writer {
			if g.Seq > b.Seq {
				return fmt.Errorf("%w: give beyond its own count", ErrBook)
			}
		} else if !b.heirOf(g.From) {
			return fmt.Errorf("%w: gives in the name of %s", ErrBook, g.From.Short())
		}
		for _, o := range b.Gives[:i] {
			if o.From == g.From && o.Seq == g.Seq {
				return fmt.Errorf("%w: two gives of one number", ErrBook)
			}
		}
	}
	for _, c := range b.Cursors {
		if c.To != writer && !b.heirOf(c.To) {
			return fmt.Errorf("%w: takes in the name of %s", ErrBook, c.To.Short())
		}
	}
	for _, e := range b.Estates {
		if e.Host == writer {
			return fmt.Errorf("%w: heir of itself", ErrBook)
		}
	}
	return nil
}

func (h Holding) wellFormed(space Range) bool {
	return h.First <= h.Last && space.Covers(h.Range) && len(h.Line) <= maxLine && uint64(len(h.Line)) <= uint64(h.Estates)
}

func (b *Book) heirOf(id ident.HostID) bool {
	return slices.ContainsFunc(b.Estates, func(e Estate) bool { return e.Host == id })
}

func (b *Book) cursor(to, from ident.HostID) uint64 {
	for _, c := range b.Cursors {
		if c.To == to && c.From == from {
			return c.Seq
		}
	}
	return 0
}

// setCursor moves a cursor forward; false says that there is no room for a new one.
func (b *Book) setCursor(to, from ident.HostID, seq uint64) bool {
	for i, c := range b.Cursors {
		if c.To == to && c.From == from {
			b.Cursors[i].Seq = max(c.Seq, seq)
			return true
		}
	}
	if len(b.Cursors) >= MaxCursors {
		return false
	}
	b.Cursors = append(b.Cursors, Cursor{To: to, From: from, Seq: seq})
	return true
}

// next returns a deep copy with the next serial.
func (b *Book) next() Book {
	return Book{
		Serial: b.Serial + 1, Seq: b.Seq, Lapsed: b.Lapsed,
		Owned: slices.Clone(b.Owned), Gives: slices.Clone(b.Gives),
		Cursors: slices.Clone(b.Cursors), Estates: slices.Clone(b.Estates),
	}
}

// Same reports whether two books say the same.
func (b *Book) Same(o *Book) bool {
	return b.Serial == o.Serial && b.Seq == o.Seq && b.Lapsed == o.Lapsed && slices.EqualFunc(b.Owned, o.Owned, Holding.same) &&
		slices.EqualFunc(b.Gives, o.Gives, Give.same) && slices.Equal(b.Cursors, o.Cursors) && slices.Equal(b.Estates, o.Estates)
}

func (h Holding) same(o Holding) bool {
	return h.Range == o.Range && h.Version == o.Version && h.sameDescent(o)
}

func overlapsAny(hs []Holding, r Range) bool {
	return slices.ContainsFunc(hs, func(h Holding) bool { _, ok := h.Overlap(r); return ok })
}

// cut takes r out of the holdings.
func cut(hs []Holding, r Range) []Holding {
	out := make([]Holding, 0, len(hs)+1)
	for _, h := range hs {
		if _, ok := h.Overlap(r); !ok {
			out = append(out, h)
			continue
		}
		if h.First < r.First {
			left := h
			left.Last = r.First - 1
			out = append(out, left)
		}
		if h.Last > r.Last {
			right := h
			right.First = r.Last + 1
			out = append(out, right)
		}
	}
	return out
}

// add puts h, which overlaps nothing, into the holdings and joins neighbours of the same descent.
// The joined range has the higher version of the two: along every address versions still only grow.
func add(hs []Holding, h Holding) []Holding {
	i, _ := slices.BinarySearchFunc(hs, h.First, func(e Holding, first uint32) int {
		if e.First < first {
			return -1
		}
		return 1
	})
	hs = slices.Insert(hs, i, h)
	out := hs[:0]
	for _, e := range hs {
		if n := len(out); n > 0 {
			p := &out[n-1]
			if p.Last != ^uint32(0) && p.Last+1 == e.First && p.sameDescent(e) {
				p.Last, p.Version = e.Last, max(p.Version, e.Version)
				continue
			}
		}
		out = append(out, e)
	}
	return out
}
