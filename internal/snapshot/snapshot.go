// Package snapshot encodes what a daemon hands over to the one that takes its place: keys and counters, paths, and how
// the two agree on it.
//
// The two talk over a socket of the seam handover, in messages of a kind and a body (CBOR):
//
//	the new one                                     the one that runs
//	Hello: versions, formats it reads            →
//	                                             ←  Offer: who it is, the format of its choice
//	Take                                         →  it freezes what it would write
//	                                             ←  Plan, with descriptors; Descriptors until all are there
//	Ready: everything is loaded                  →  it stops
//	                                             ←  State: keys, counters, windows, paths
//	Adopted: nothing is sent yet                 →
//	                                             ←  Go: from here on the new one sends, under the same keys
//
// Either may say Abort, with its reason, before Go; the one that runs then goes on. Kinds, Hello and Offer are for ever:
// two that have no format in common find it out by them, and the new one may say Stop instead of Take.
//
// The bodies hold secrets. They cross that socket and no other place.
package snapshot

import (
	"fmt"
	"time"

	"github.com/weft-net/weft/internal/record"
)

// Format is the format of Plan and State that this build writes. A change that an older build would misread is a new one.
const Format = 1

// Readable are the formats that this build reads, best first.
func Readable() []uint16 { return []uint16{Format} }

// Choose returns the first of the formats somebody reads that this build writes, 0 when there is none.
func Choose(readable []uint16) uint16 {
	for _, f := range readable {
		if f == Format {
			return f
		}
	}
	return 0
}

// Kind is what a message is.
type Kind byte

// The kinds, in the order of a hand-over; the last three end one.
const (
	KindHello Kind = iota + 1
	KindOffer
	KindTake
	KindPlan
	KindDescriptors
	KindReady
	KindState
	KindAdopted
	KindGo
	KindAbort // the body is the reason, one line
	KindStop  // end, as `weft down` would have it: no format in common
)

// Limits.
const (
	MaxMessage  = 256 << 20 // bytes of a body
	MaxText     = 4 << 10   // bytes of a path, a version, a reason
	MaxFormats  = 64
	MaxHosts    = 4096
	MaxNetworks = 1024
	MaxSessions = 16 // of one host
	MaxHanded   = 8192
	MaxKeys     = 16 // of one sender
	MaxRings    = 1 << 20
	MaxSeeds    = 256
	MaxAnswered = 65536

	keySize  = 32
	macSize  = 16
	seenSize = 1024 // of a replay window
	maxAge   = 400 * 24 * time.Hour
)

var (
	enc = record.Encoding()
	dec = record.Decoding(record.Bounds{Elements: MaxRings, Pairs: 32, Depth: 12})
)

// checked is what knows its own limits.
type checked interface{ check() error }

func encode(v any) []byte {
	b, err := enc.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("snapshot: encode %T: %v", v, err)) // our own types
	}
	return b
}

func decode[T any, P interface {
	*T
	checked
}](what string, b []byte) (T, error) {
	var v, none T
	if len(b) > MaxMessage {
		return none, fmt.Errorf("hand-over: %s of %d bytes", what, len(b))
	}
	if err := dec.Unmarshal(b, &v); err != nil {
		return none, fmt.Errorf("hand-over: malformed %s", what) // the library's text could quote a secret
	}
	if err := P(&v).check(); err != nil {
		return none, fmt.Errorf("hand-over: %s: %w", what, err)
	}
	return v, nil
}

// within refuses lists that are longer than they may be.
func within(what string, n, most int) error {
	if n > most {
		return fmt.Errorf("%d %s, at most %d", n, what, most)
	}
	return nil
}

func age(what string, ages ...time.Duration) error {
	for _, d := range ages {
		if d < -maxAge || d > maxAge {
			return fmt.Errorf("%s %v ago", what, d)
		}
	}
	return nil
}
