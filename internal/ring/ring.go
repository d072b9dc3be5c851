package ring

import (
	"errors"
	"fmt"
	"slices"

	"github.com/weft-net/weft/internal/ident"
)

// Ring is one host's view of a space: its own book and what it has seen of the others'.
// It is not safe for concurrent use.
type Ring struct {
	space   Range
	self    ident.HostID
	books   map[ident.HostID]*Book
	removed func(ident.HostID) bool
	base    *Book // this host's own as it lay on disk
	lost    *Book // one of this host's own that others have seen and its disk has not, see Recall
	lapse   bool  // see Lapse
	counts  Counts
}

// Counts says how often something of another host was not followed, by reason.
type Counts struct {
	RefusedBooks uint64 // malformed, or over a limit
	OldBooks     uint64 // older than one seen before
	HeldGives    uint64 // times that a give was looked at and left, because another host claims the same range
	Yielded      uint64 // addresses given up to a better claim
	Lapses       uint64 // times that others knew a later book of this host's own: its disk was put back
}

// Errors of plans.
var (
	ErrInherited = errors.New("the host has an heir already")
	ErrFounded   = errors.New("the space has an owner already")
	ErrNotOwned  = errors.New("not owned by this host")
	ErrFull      = errors.New("the address book is full")
	ErrStale     = errors.New("the book changed since the plan was made")
)

// New returns the view of a host that knows nothing yet of space. removed says which hosts are
// gone for good, by the caller's policy. The book of such a host counts until its heir's is seen;
// what it gave and nobody has taken yet comes from the heir only.
func New(self ident.HostID, space Range, removed func(ident.HostID) bool) *Ring {
	return &Ring{
		space: space, self: self,
		books:   map[ident.HostID]*Book{self: {}},
		base:    &Book{},
		removed: removed,
	}
}

// Space returns the whole range.
func (r *Ring) Space() Range { return r.space }

// Counts returns the counters.
func (r *Ring) Counts() Counts { return r.counts }

func (r *Ring) own() *Book { return r.books[r.self] }

// Serial returns the serial of the newest book seen of a host; 0: none.
func (r *Ring) Serial(id ident.HostID) uint64 {
	if b := r.books[id]; b != nil {
		return b.Serial
	}
	return 0
}

// Set notes the book of a writer, this host's own after a restart included, and reports whether
// it says something new. Books may come in any order and any number of times.
func (r *Ring) Set(writer ident.HostID, b Book) (bool, error) {
	if err := b.Check(writer, r.space); err != nil {
		r.counts.RefusedBooks++
		return false, fmt.Errorf("host %s: %w", writer.Short(), err)
	}
	old, known := r.books[writer]
	if known && b.Serial <= old.Serial {
		if b.Serial < old.Serial {
			r.counts.OldBooks++
		}
		return false, nil
	}
	if !known && len(r.books) >= MaxBooks {
		r.counts.RefusedBooks++
		return false, fmt.Errorf("host %s: %w: more than %d hosts", writer.Short(), ErrBook, MaxBooks)
	}
	if writer == r.self {
		r.base = &b
	}
	r.books[writer] = &b
	return true, nil
}

// Book returns the newest book seen of a host; it is not to be written to.
func (r *Ring) Book(id ident.HostID) (Book, bool) {
	b := r.books[id]
	if b == nil || b.Serial == 0 {
		return Book{}, false
	}
	return *b, true
}

// Commit makes a planned book this host's own. Call it when the book is persisted.
func (r *Ring) Commit(b Book) error {
	if b.Serial != r.next().Serial {
		return ErrStale
	}
	if err := b.Check(r.self, r.space); err != nil {
		return err
	}
	r.books[r.self] = &b
	r.lost = nil
	return nil
}

// inherited reports whether id was removed and its heir has been seen: then its own book is void.
func (r *Ring) inherited(id ident.HostID) bool {
	return id != r.self && r.removed(id) && r.mourned(id)
}

// mourned reports whether some book says to be the heir of id.
func (r *Ring) mourned(id ident.HostID) bool {
	for w, b := range r.books {
		if w != id && b.heirOf(id) {
			return true
		}
	}
	return false
}

// claim is a holding and who says so: the owner, or the receiver of a give not yet taken.
type claim struct {
	Holding
	host  ident.HostID
	owned bool // not on its way
}

// claims returns what the hosts say to own, in no order; of gives only those that nobody has taken.
func (r *Ring) claims() []claim {
	var out []claim
	for w, b := range r.books {
		if r.inherited(w) {
			continue
		}
		for _, h := range b.Owned {
			out = append(out, claim{h, w, true})
		}
		for _, g := range b.Gives {
			if r.taken(g) {
				continue
			}
			h := g.Holding
			h.Version++
			out = append(out, claim{Holding: h, host: g.To})
		}
	}
	return out
}

// taken reports whether somebody's cursor has passed the give.
func (r *Ring) taken(g Give) bool {
	for w, b := range r.books {
		if r.inherited(w) {
			continue
		}
		if b.cursor(g.To, g.From) >= g.Seq {
			return true
		}
	}
	return false
}

// Owner returns who owns an address by all that is known here: the better right, then the higher version.
func (r *Ring) Owner(a uint32) (ident.HostID, bool) {
	if overlapsAny(r.own().Owned, Range{a, a}) {
		return r.self, true
	}
	var best *claim
	for _, c := range r.claims() {
		if c.Contains(a) && (best == nil || c.over(best)) {
			best = &c
		}
	}
	if best == nil {
		return ident.HostID{}, false
	}
	return best.host, true
}

// later reports whether the claim is of the same descent as a holding of host and came after it. Of two that came
// equally late, which only a host can make that lost the memory of one, the lower host's counts.
func (c *claim) later(h Holding, host ident.HostID) bool {
	_, _, same := c.sameLine(h)
	return same && c.Root == h.Root && !h.beats(c.Holding) && c.over(&claim{Holding: h, host: host})
}

func (c *claim) over(o *claim) bool {
	switch {
	case c.beats(o.Holding):
		return true
	case o.beats(c.Holding):
		return false
	case c.Version != o.Version:
		return c.Version > o.Version
	}
	return c.host.Less(o.host)
}

// Owned returns what a host says to own, in order.
func (r *Ring) Owned(id ident.HostID) []Range {
	b := r.books[id]
	if b == nil || r.inherited(id) {
		return nil
	}
	out := make([]Range, len(b.Owned))
	for i, h := range b.Owned {
		out[i] = h.Range
	}
	return out
}

// Left reports whether a host that is gone has something that only an heir can pass on: ranges, or
// gives by it or to it that nobody has taken, or to those whose heir it was.
func (r *Ring) Left(gone ident.HostID) bool {
	if r.inherited(gone) {
		return false
	}
	b := r.books[gone]
	if b == nil {
		b = &Book{}
	}
	for _, c := range r.claims() {
		if c.host == gone || !c.owned && b.heirOf(c.host) {
			return true
		}
	}
	return slices.ContainsFunc(b.Gives, func(g Give) bool { return !r.taken(g) })
}

// Share is how much of the space a host owns.
type Share struct {
	Owner ident.HostID
	Size  uint64
}

// Shares returns the hosts that own something, most first, then by id.
func (r *Ring) Shares() []Share {
	var out []Share
	for id := range r.books {
		var n uint64
		for _, o := range r.Owned(id) {
			n += o.Size()
		}
		if n > 0 {
			out = append(out, Share{id, n})
		}
	}
	slices.SortFunc(out, func(a, b Share) int {
		switch {
		case a.Size != b.Size && a.Size > b.Size, a.Size == b.Size && a.Owner.Less(b.Owner):
			return -1
		}
		return 1
	})
	return out
}

// Conflict is a range that this host owns and another says to own too. Between honest hosts it
// arises only from a removal by force or a space founded twice.
type Conflict struct {
	Range
	Other ident.HostID
}

// Conflicts returns the claims of others to what is in this host's book. Claims that are older
// than this host's are left out: they stand in books that have not been seen for a while.
func (r *Ring) Conflicts() []Conflict {
	var out []Conflict
	for _, c := range r.claims() {
		if c.host == r.self {
			continue
		}
		for _, h := range r.own().Owned {
			o, ok := h.Overlap(c.Range)
			if ok && !h.outdates(c.Holding) {
				out = append(out, Conflict{o, c.host})
			}
		}
	}
	slices.SortFunc(out, func(a, b Conflict) int { return int(int64(a.First) - int64(b.First)) })
	return out
}
