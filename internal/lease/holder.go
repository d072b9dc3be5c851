package lease

import (
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// rounds are kept so long that an answer to any of them still counts.
const rounds = 64

// Holder is the side of the host that comes and goes. It is not safe for concurrent use.
type Holder struct {
	terms    []*term // in force, and after it the one proposed; none before there was an elector
	round    uint64
	sent     [rounds]time.Time
	refusers map[ident.HostID]bool
	renewed  time.Time // when renewals were asked for last
	proposed time.Time
	dirty    bool // what is to be written has not been
}

type term struct {
	Term
	heard map[ident.HostID]time.Time // when what an elector has answered was sent
	acked map[ident.HostID]bool      // which have renewed this term
}

// NewHolder goes on from what the holder wrote last; nil: it is new. Its rounds are counted from first, which is to be drawn at random:
// an answer to an earlier run that comes late must not look like one to this.
func NewHolder(l *Lease, first uint64) *Holder {
	h := &Holder{round: first >> 1, refusers: map[ident.HostID]bool{}}
	if l == nil {
		return h
	}
	if l.Before != nil {
		h.terms = append(h.terms, newTerm(*l.Before))
	}
	h.terms = append(h.terms, newTerm(l.Term))
	return h
}

func newTerm(t Term) *term {
	return &term{Term: t, heard: map[ident.HostID]time.Time{}, acked: map[ident.HostID]bool{}}
}

// Lease returns what is to stand in the holder's table; nil while there was never an elector.
func (h *Holder) Lease() *Lease {
	if len(h.terms) == 0 {
		return nil
	}
	l := &Lease{Term: h.terms[len(h.terms)-1].Term}
	if len(h.terms) > 1 {
		before := h.terms[0].Term
		l.Before = &before
	}
	return l
}

// Serving reports whether a majority of each term's electors has renewed within ServeFor, so that nobody counts the holder as gone.
func (h *Holder) Serving(now time.Time) bool {
	if len(h.terms) == 0 {
		return false
	}
	for _, t := range h.terms {
		if !majority(t.Electors, func(id ident.HostID) bool { return t.fresh(id, now) }) {
			return false
		}
	}
	return true
}

func (t *term) fresh(id ident.HostID, now time.Time) bool {
	at, ok := t.heard[id]
	return ok && longest(now, at) < ServeFor
}

// Missing returns the electors that have not renewed within ServeFor, of all terms, in order.
func (h *Holder) Missing(now time.Time) (missing []ident.HostID, electors int) {
	all := map[ident.HostID]bool{}
	for _, t := range h.terms {
		for _, id := range t.Electors {
			all[id] = true
			if !t.fresh(id, now) && !slices.Contains(missing, id) {
				missing = append(missing, id)
			}
		}
	}
	slices.SortFunc(missing, compare)
	return missing, len(all)
}

// Tick does what is due. stay are the other hosts known that stay, those in reach marked. When write is set, Lease is to be
// written before the messages are sent.
func (h *Holder) Tick(now time.Time, stay map[ident.HostID]bool) (write bool, msgs []Message) {
	h.settle()
	h.propose(now, stay)
	every := RenewEvery
	if !h.Serving(now) || len(h.terms) > 1 {
		every = HurryEvery
	}
	if len(h.terms) == 0 || !h.renewed.IsZero() && now.Sub(h.renewed) < every {
		return h.dirty, nil
	}
	h.renewed = now
	h.round++
	h.sent[h.round%rounds] = now
	last := h.terms[len(h.terms)-1].Serial
	var to []ident.HostID
	for _, t := range h.terms {
		to = append(to, t.Electors...)
	}
	slices.SortFunc(to, compare)
	for _, id := range slices.Compact(to) {
		if !h.refusers[id] {
			msgs = append(msgs, Message{To: id, Op: Renew, Serial: last, Counter: h.round})
		}
	}
	return h.dirty, msgs
}

// Written says that what Lease returned is on disk.
func (h *Holder) Written() { h.dirty = false }

// propose begins another term when the hosts that stay are others than the electors, and a majority of them is in reach: a
// term that does not come into force holds the host up.
func (h *Holder) propose(now time.Time, stay map[ident.HostID]bool) {
	if len(h.terms) > 1 || !h.proposed.IsZero() && now.Sub(h.proposed) < TermEvery {
		return
	}
	var want, near []ident.HostID
	for id, reached := range stay {
		switch {
		case h.refusers[id]:
		case reached:
			near = append(near, id)
		default:
			want = append(want, id)
		}
	}
	slices.SortFunc(near, compare)
	slices.SortFunc(want, compare)
	want = append(near, want...)
	want = want[:min(len(want), MaxElectors)]
	slices.SortFunc(want, compare)
	if len(want) == 0 || 2*len(near) <= len(want) {
		return
	}
	var serial uint64
	if n := len(h.terms); n > 0 {
		if slices.Equal(want, h.terms[n-1].Electors) {
			return
		}
		serial = h.terms[n-1].Serial
	}
	next := newTerm(Term{Serial: serial + 1, Electors: want})
	if len(h.terms) > 0 { // nobody votes in a term within GoneAfter of reading of it
		for _, id := range want {
			next.heard[id] = now
		}
	}
	h.terms = append(h.terms, next)
	h.proposed, h.dirty, h.renewed = now, true, time.Time{}
}

// settle ends the term before one that is in force.
func (h *Holder) settle() {
	if len(h.terms) < 2 {
		return
	}
	next := h.terms[1]
	yes := func(id ident.HostID) bool { return next.acked[id] }
	if majority(h.terms[0].Electors, yes) && majority(next.Electors, yes) {
		h.terms, h.dirty = h.terms[1:], true
	}
}

// Handle takes an elector's answer.
func (h *Holder) Handle(from ident.HostID, m Message) {
	if len(h.terms) == 0 || m.Counter > h.round || h.round-m.Counter >= rounds || h.sent[m.Counter%rounds].IsZero() || m.Serial > h.terms[len(h.terms)-1].Serial {
		return
	}
	switch m.Op {
	case Refused:
		h.refusers[from] = len(h.refusers) < MaxElectors || h.refusers[from]
	case Renewed:
		for _, t := range h.terms {
			if m.Serial < t.Serial {
				continue
			}
			t.acked[from] = true
			if at := h.sent[m.Counter%rounds]; at.After(t.heard[from]) {
				t.heard[from] = at
			}
		}
		h.settle()
	}
}

// Recall goes on from a lease of the holder's own that others have, when it is later than the present one: its disk was put back.
func (h *Holder) Recall(l Lease) {
	if n := len(h.terms); n > 0 && l.Serial <= h.terms[n-1].Serial {
		return
	}
	h.terms, h.dirty, h.renewed = NewHolder(&l, 0).terms, true, time.Time{}
}
