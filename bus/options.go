package bus

import (
	"time"

	"github.com/weft-net/weft/internal/rmcast"
)

// WhenFull says what Send does when receivers are behind by a whole window.
type WhenFull int

// The choices.
const (
	// Block waits until there is room or the context ends.
	Block WhenFull = iota
	// WouldBlock returns ErrWouldBlock.
	WouldBlock
	// Drop drops the message, counts it (Publisher.Dropped) and returns nil.
	Drop
)

// PublisherOption changes a publisher.
type PublisherOption func(*publisherOptions)

type publisherOptions struct {
	full   WhenFull
	noWait bool
	class  Class
	window int
	dealt  bool // a gateway's

	confirm  time.Duration
	hub      bool
	noParity bool
}

// WithFull sets what Send does when receivers are behind; Block is the default.
func WithFull(w WhenFull) PublisherOption { return func(o *publisherOptions) { o.full = w } }

// WithoutFlow makes a publisher wait for nobody: receivers that cannot follow are told what they lost.
func WithoutFlow() PublisherOption { return func(o *publisherOptions) { o.noWait = true } }

// WithWindow sets this publisher's window in bytes, in place of Config.Window.
func WithWindow(bytes int) PublisherOption { return func(o *publisherOptions) { o.window = bytes } }

// WithoutParity has a publisher send lost packets again as they were. Without it, it answers by parity packets while many receivers by
// multicast lose different packets, because one of those mends them all: at 14.5 % loss at each of fifty a quarter of the repairs (RFC 5740), simulated.
// That takes some processor time where it mends, and nothing while little is lost.
func WithoutParity() PublisherOption { return func(o *publisherOptions) { o.noParity = true } }

// WhenSlow says what happens to a subscription whose queue is full.
type WhenSlow int

// The choices.
const (
	// SlowDrop holds publishers back for a quarter of a second; if there is no room then, messages are dropped until the queue was
	// read, and told as Lost.
	SlowDrop WhenSlow = iota
	// SlowBlock holds publishers back for as long as it takes: the slowest reader sets the pace of all.
	SlowBlock
	// SlowDisconnect holds back for a quarter of a second, and then ends the subscription with ErrSlow.
	SlowDisconnect
)

// slowPatience is how long a full queue holds publishers back.
const slowPatience = 250 * time.Millisecond

// DefaultQueue is the default bound of a subscription's queue, in bytes.
const DefaultQueue = 8 << 20

// SubscribeOption changes a subscription.
type SubscribeOption func(*Subscription)

// WithQueue makes the subscription one of a queue group: each message goes to one subscription of the group, wherever it is, chosen by
// the publisher in turn among those whose pattern matches. What was given to one that dies or closes is not given to another. Of last
// values (LastValue) each subscription has all.
func WithQueue(group string) SubscribeOption { return func(s *Subscription) { s.queue = group } }

// WithSlow sets what happens when the queue is full.
func WithSlow(w WhenSlow) SubscribeOption { return func(s *Subscription) { s.slow = w } }

// WithLimit bounds the queue, in bytes, 64 KiB or more; a batch as it was read from the network is added as a whole.
func WithLimit(bytes int) SubscribeOption { return func(s *Subscription) { s.limit = bytes } }

// WithLent has Messages lend what it yields: Payload and headers of a message are valid until the next one is asked for, then their memory is
// used again. For readers that look at much and keep little: at full speed they get a quarter more, and leave nothing to the collector. A responder's
// requests are its own in any case.
func WithLent() SubscribeOption { return func(s *Subscription) { s.lent = true } }

// FromLast asks publishers for the last n messages that they keep. Of publishers that this process receives already it gets what is
// kept here; of publishers of this process, like with FromOldest and FromPosition, what is new.
func FromLast(n uint64) SubscribeOption {
	return func(s *Subscription) { s.want.Mode, s.want.N = rmcast.FromLast, n }
}

// FromOldest asks for all that publishers keep.
func FromOldest() SubscribeOption {
	return func(s *Subscription) { s.want.Mode = rmcast.FromOldest }
}

// FromPosition asks the publisher of an epoch for everything from message number on, as far as it is kept; from others it gets what is new.
// What is not kept any more is told as Lost.
func FromPosition(epoch, number uint64) SubscribeOption {
	return func(s *Subscription) {
		s.want.Mode, s.want.N, s.want.Epoch = rmcast.FromNumber, number, rmcast.ID(epoch)
	}
}
