package bus

import (
	"errors"
	"fmt"

	"github.com/weft-net/weft/internal/rmcast"
)

// Class is what a publisher promises to those who get its messages.
type Class int

// The classes.
const (
	// Reliable: in order, none twice, gap-free or an explicit Lost. The default.
	Reliable Class = iota
	// BestEffort: in order, none twice. What is lost on the way is not repaired and nobody waits for it: not the publisher for slow
	// receivers (Send never blocks, and what leaves is as fast as it is sent), not a receiver for what is missing, and not a full queue for
	// room. Subscriptions count what they missed (Subscription.Missed) and are told of no Lost. Nothing is kept for late joiners.
	// For what is worth nothing a moment later.
	BestEffort
	// LastValue: of each subject the last message is kept, by the publisher and by every process that receives it, and is what counts. A
	// new subscription gets the last messages of all subjects first, in the order in which they were sent, then what is new, whatever
	// its From option says. One that reads more slowly than is sent, or was cut off, gets of each subject the last message only; there is
	// no Lost, no Dropped, and WithSlow and queue groups mean nothing here: every subscription has them all. Numbers grow, none comes twice.
	//
	// The last messages may have together as many bytes as the publisher's window, at most 64 MiB, 192 for each and its subject
	// counted: beyond, Send returns ErrValues, and a subject that is there already can still be sent while it does not grow. A
	// single one may have a quarter of the window. Close forgets them.
	LastValue
)

// ErrValues is returned by Send of a LastValue publisher that has no room for one more subject, or a longer message.
var ErrValues = errors.New("bus: no room for more last values")

// String returns the class in lower case.
func (c Class) String() string { return [...]string{"reliable", "best effort", "last value"}[c] }

// WithClass sets what a publisher promises; Reliable is the default.
func WithClass(c Class) PublisherOption { return func(o *publisherOptions) { o.class = c } }

func (c Class) check() error {
	if c < Reliable || c > LastValue {
		return fmt.Errorf("%w: class %d of a publisher: Reliable, BestEffort or LastValue", ErrConfig, int(c))
	}
	return nil
}

// Missed returns how many messages of best-effort publishers did not come, or found the queue full.
func (s *Subscription) Missed() uint64 { return s.missed.Load() }

// loose reports whether a stream is one that nobody waits for.
func loose(st *rmcast.Stream) bool { return st.Class == rmcast.BestEffort }

// holds reports whether a full queue of a subscription holds a stream up.
func holds(st *rmcast.Stream) bool { return st.Class == rmcast.Reliable }

// full drops a packet of a best-effort stream if there is no room for it: the gap shows by itself. The subscription's lock is held.
func (s *Subscription) full(f *feed) bool {
	if !loose(f.st) || s.bytes+s.reading < s.limit {
		return false
	}
	s.drops++
	return true
}
