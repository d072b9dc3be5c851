// Package lease says when a host that comes and goes (--ephemeral) has stopped for good, without asking it.
//
// Such a host, the *holder*, keeps a lease with *electors*, hosts that stay: it asks each to renew it every 30 s, and serves
// its addresses only while a majority of them has done so within 10 minutes (ServeFor). An elector that has not been asked, nor
// read of a new term, for 15 minutes (GoneAfter) votes that the holder is gone, on disk, and never renews again. With the votes of a majority the
// holder is gone: any two majorities share an elector, whose last renewal is older than 15 minutes, and by which the
// holder has not served for 5. Clocks need not agree; they may run apart by a quarter. After Gray and Cheriton, Leases, 1989.
//
// Electors change while the holder lives: it proposes another *term*, which is in force once majorities of the electors before and
// of the new ones have renewed it. Until then it needs both. An elector votes about the last term that it has renewed, and a
// vote counts in that term only; so a term that a majority has left behind can decide nothing any more.
//
// Holder and Elector are state machines: input and the time in, what to write and to send out. Their owner writes first.
package lease

import (
	"fmt"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// Times and bounds.
const (
	RenewEvery = 30 * time.Second
	HurryEvery = time.Second / 4  // while a majority is missing
	ServeFor   = 10 * time.Minute // since a majority renewed
	GoneAfter  = 15 * time.Minute // since the holder asked last
	SettleTime = 2 * time.Minute  // that an elector must have seen a majority of electors for, before it votes
	TermEvery  = time.Minute      // between two proposals

	MaxElectors = 63
	MaxHolders  = 4096 // that one elector votes about
)

// Term is one set of electors.
type Term struct {
	Serial   uint64 // from 1
	Electors []ident.HostID
}

// Lease is what a holder says of itself: the term that it proposes or, with Before nil, is in.
type Lease struct {
	Term
	Before *Term // still in force, as far as the holder knows
}

// Vote is what an elector says of a holder.
type Vote struct {
	Serial uint64 // of the last term that it has renewed; 0: none
	Gone   bool   // for good
}

// Message goes from a holder to an elector and back.
type Message struct {
	To      ident.HostID
	Op      Op
	Serial  uint64
	Counter uint64 // of the holder's rounds; answers repeat it
}

// Op is what a message says.
type Op byte

// The messages.
const (
	Renew   Op = 1 // of a holder
	Renewed Op = 2
	Refused Op = 3 // the elector has voted
)

func majority(of []ident.HostID, yes func(ident.HostID) bool) bool {
	n := 0
	for _, id := range of {
		if yes(id) {
			n++
		}
	}
	return 2*n > len(of)
}

// longest and shortest are the time since t by the clock that says more, or less: a machine that slept has slept by one of them.
func longest(now, t time.Time) time.Duration {
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

func shortest(now, t time.Time) time.Duration {
	return min(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

// check refuses a lease that no holder writes.
func (l *Lease) check() error {
	terms := []*Term{&l.Term}
	if l.Before != nil {
		terms = append(terms, l.Before)
		if l.Before.Serial >= l.Serial {
			return fmt.Errorf("lease: term %d before term %d", l.Before.Serial, l.Serial)
		}
	}
	for _, t := range terms {
		sorted := slices.IsSortedFunc(t.Electors, compare) && len(slices.Compact(slices.Clone(t.Electors))) == len(t.Electors)
		if t.Serial == 0 || len(t.Electors) == 0 || len(t.Electors) > MaxElectors || !sorted {
			return fmt.Errorf("lease: term %d with %d electors", t.Serial, len(t.Electors))
		}
	}
	return nil
}

func compare(a, b ident.HostID) int { return slices.Compare(a[:], b[:]) }
