// Package state keeps the cluster's shared state: signed tables of one writer each, reconciled between hosts by version vectors.
//
// Every host writes its own table of a scope (the cluster, or one network) and no other. A table is a log of
// blocks; each entry of a block has the next version of its (writer, scope), so a log is known by one number and
// what a peer lacks by two (Scuttlebutt: van Renesse, Dumitriu, Gough, Thomas, 2008). Blocks are signed by their
// writer and passed on as they are: no host can speak for another. Each names the hash of the block before it, so
// two histories of one writer are noticed where they part and not only when versions collide.
//
// Logs are bounded by cleaning. Third parties cannot shorten what they cannot sign, so the writer puts the live
// entries of its oldest blocks again, at new versions, and then states a floor: nothing at or below it is needed
// any more. Who is below a floor starts at it; entries at or below it go when the block that states it is
// applied, by then all that lives has come again, so nothing flaps.
//
// Everything here is pure: blocks, messages and the time go in, blocks, messages and changes come out.
package state

import (
	"errors"

	"github.com/weft-net/weft/internal/ident"
)

// Scope is a part of the state that hosts hold or don't: Cluster, or the VNI of a network.
type Scope uint32

// Cluster is the scope that every host holds.
const Cluster Scope = 0

// Change is one difference that an applied block made.
type Change struct {
	Writer ident.HostID
	Scope  Scope
	Key    string
	Value  []byte // shared with the table: not to be written to
	Gone   bool   // the entry was deleted; Value is nil
	// Recovered says that the entry is this host's own, from before a loss of its disk: a peer still had it. Without a
	// key: this host wrote on from the older disk, so that its table has two histories, of which the lost one is not told.
	Recovered bool
}

// Reasons why a block or a message is refused. Each has a counter of its name in Stats.Refused.
var (
	ErrMalformed    = errors.New("malformed")
	ErrForged       = errors.New("forged")
	ErrNotAllowed   = errors.New("writer not allowed")
	ErrScope        = errors.New("scope not held")
	ErrFull         = errors.New("over limit")
	ErrEquivocation = errors.New("equivocation")
	// ErrGap says that earlier blocks are missing. It is no fault: ask for them.
	ErrGap = errors.New("gap")
	// ErrBusy says that a peer asked for more than its share of answers.
	ErrBusy = errors.New("asked too much")
)

// reasons are the errors that are counted.
var reasons = [...]error{ErrMalformed, ErrForged, ErrNotAllowed, ErrScope, ErrFull, ErrEquivocation, ErrGap, ErrBusy}

// counters count refusals by reason.
type counters [len(reasons)]uint64

// count counts err under its reason and returns it.
func (c *counters) count(err error) error {
	for i, r := range reasons {
		if errors.Is(err, r) {
			c[i]++
			break
		}
	}
	return err
}
