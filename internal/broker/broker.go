// Package broker gives messages of local programs to local subscriptions, and over a bus to those of other hosts.
//
// Each host's broker tells the others what its programs want (interest), on the stream of its messages: who hears a request
// knows already that its reply is wanted. So a message that nobody wants elsewhere stays here, a queue group is served once
// in the whole cluster, and who asks where nobody is there to answer is told so. While another host's interest is not known,
// it is taken to want everything.
//
// Members of the bus that are no brokers (Go programs of package bus) hear of the same interest as that of any member, and theirs is heard so: that
// way has less room and comes a moment later, but everyone understands it.
//
// One lock guards the tables. Publishing takes it only when they have changed since the subject was published last.
package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
)

// Limits.
const (
	// MaxSubscriptions of this host's programs, all together.
	MaxSubscriptions = 65_536
	// MaxPeers is how many other hosts and programs on the bus are taken note of.
	MaxPeers = 1024
	// MaxQueue is the longest name of a queue group, in bytes.
	MaxQueue = 255
	// maxRoutes is how many subjects a Router remembers.
	maxRoutes = 1024
)

// Reserved begins subjects that brokers keep to themselves.
const Reserved = "$WEFT."

// Errors.
var (
	// ErrFull says that there are MaxSubscriptions already.
	ErrFull = errors.New("maximum subscriptions exceeded")
	// ErrReserved says that a subject belongs to weft itself.
	ErrReserved = errors.New("reserved subject")
	// ErrSubject is wrapped by errors that name a subject, a pattern or a queue group.
	ErrSubject = subject.ErrBad
)

// Bus carries messages to the other members, in the order of the calls. A *bus.Gateway is one.
type Bus interface {
	// Send may wait while receivers are behind. envelope is what package envelope writes, deals say who of which queue group has the
	// message. What is passed is the caller's again when it returns.
	Send(ctx context.Context, subject string, envelope []byte, deals []rmcast.Deal, payload []byte) error
	// Want replaces what other members are told is wanted here.
	Want(all []rmcast.Interest)
}

// Message is one message. What it refers to is only lent.
type Message struct {
	Subject string
	Reply   []byte // where an answer is wanted; nil: none is
	Header  []byte // as NATS has them, from NATS/1.0 to the empty line; nil: none
	Payload []byte
}

// Sink takes the messages of a subscription.
type Sink interface {
	// Deliver must not wait, nor keep what m refers to. A channel that it returns is closed once the receiver is not
	// pressed any more: who publishes may do so a little later.
	Deliver(s *Subscription, m *Message) (pressed <-chan struct{})
}

// Subscription is a program's, or what another host's programs want.
type Subscription struct {
	Pattern string
	Queue   string
	// Data is the sink's own.
	Data any

	sink   Sink
	closed atomic.Bool
	peer   *peer
	weight int      // of the peer's queue group; b.mu
	seats  []uint32 // a program's subscriptions that are meant, one of which has the message; b.mu, replaced as a whole
}

// want is one thing that programs of a host want.
type want struct{ pattern, queue string }

// Broker has the subscriptions of this host and what is known of the others'. Its methods may be called from any goroutine.
type Broker struct {
	gen atomic.Uint64 // grows with every change of the tables

	mu      sync.RWMutex // guards all below
	trie    subject.Trie[*Subscription]
	local   int
	wants   map[want]int // of local programs, how many
	peers   map[uint64]*peer
	brokers int // of the peers, or not known not to be
	uplink  *uplink
	changed chan struct{} // closed and replaced when peers change

	counters counters
}

// counters are of what was not delivered, and why, and of what was.
type counters struct {
	in, out, remoteIn, remoteOut                              atomic.Uint64
	queueGone, malformed, lost, unsent, interestFull, strange atomic.Uint64
}

// New makes a broker without a bus.
func New() *Broker {
	return &Broker{wants: map[want]int{}, peers: map[uint64]*peer{}, changed: make(chan struct{})}
}

// Drops counts messages that were not delivered, and what other brokers said that could not be used, by reason.
func (b *Broker) Drops() map[string]uint64 {
	c := &b.counters
	return map[string]uint64{
		"queue_gone": c.queueGone.Load(), "malformed": c.malformed.Load(), "lost": c.lost.Load(), "unsent": c.unsent.Load(),
		"interest_full": c.interestFull.Load(), "unknown_broker": c.strange.Load(),
	}
}

// Stats are counts of messages since the start.
type Stats struct {
	Published, Delivered uint64 // by and to programs of this host
	Received, Sent       uint64 // from and to the bus
	Subscriptions        int
}

// Stats returns the counts.
func (b *Broker) Stats() Stats {
	b.mu.RLock()
	n := b.local
	b.mu.RUnlock()
	c := &b.counters
	return Stats{Published: c.in.Load(), Delivered: c.out.Load(), Received: c.remoteIn.Load(), Sent: c.remoteOut.Load(), Subscriptions: n}
}

// CheckQueue refuses what is no name of a queue group.
func CheckQueue(q string) error {
	if len(q) > MaxQueue || strings.ContainsFunc(q, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("%w: queue group %q: up to %d bytes without white space", ErrSubject, q[:min(len(q), 64)], MaxQueue)
	}
	return nil
}

// Subscribe makes a subscription; queue may be empty. What this host's programs publish after it returns goes out behind
// the news of it.
func (b *Broker) Subscribe(ctx context.Context, pattern, queue string, sink Sink, data any) (*Subscription, error) {
	if err := subject.CheckPattern(pattern); err != nil {
		return nil, err
	}
	if err := CheckQueue(queue); err != nil {
		return nil, err
	}
	s := &Subscription{Pattern: pattern, Queue: queue, Data: data, sink: sink}
	b.mu.Lock()
	if b.local >= MaxSubscriptions {
		b.mu.Unlock()
		return nil, ErrFull
	}
	b.local++
	b.trie.Add(pattern, subject.Entry[*Subscription]{Value: s, Queue: queue})
	u, news := b.count(want{pattern, queue}, 1)
	b.gen.Add(1)
	b.mu.Unlock()
	if news {
		u.tell(ctx)
		u.wake() // it declares it
	}
	return s, nil
}

// Unsubscribe ends a subscription; a second time it does nothing. It waits for nobody: the others hear of it in a moment.
func (b *Broker) Unsubscribe(s *Subscription) {
	if s.closed.Swap(true) {
		return
	}
	b.mu.Lock()
	b.local--
	b.trie.Remove(s.Pattern, subject.Entry[*Subscription]{Value: s, Queue: s.Queue})
	u, news := b.count(want{s.Pattern, s.Queue}, -1)
	b.gen.Add(1)
	b.mu.Unlock()
	if news {
		u.wake()
	}
}

// count notes how many want a thing, and returns the uplink and whether others must hear of it; b.mu is held.
func (b *Broker) count(w want, by int) (u *uplink, news bool) {
	n := b.wants[w] + by
	if n == 0 {
		delete(b.wants, w)
	} else {
		b.wants[w] = n
	}
	if b.uplink == nil || w.queue == "" && n > 0 && n-by > 0 {
		return nil, false
	}
	if b.uplink.stale = true; b.brokers > 0 {
		b.uplink.news[w] = n
	}
	return b.uplink, true
}

// reserved tells subjects that belong to weft.
func reserved(s string) bool { return strings.HasPrefix(s, Reserved) }

// Known returns the names of the other hosts whose interest is known, and of the members of whom it is not.
func (b *Broker) Known() (known, unknown []string) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, e := range slices.Sorted(maps.Keys(b.peers)) {
		switch p := b.peers[e]; {
		case p.kind == isProgram:
		case p.known:
			known = append(known, p.name)
		default:
			unknown = append(unknown, p.name)
		}
	}
	return known, unknown
}

// Programs returns the epochs of members that are no brokers.
func (b *Broker) Programs() (epochs []uint64) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for e, p := range b.peers {
		if p.kind == isProgram {
			epochs = append(epochs, e)
		}
	}
	slices.Sort(epochs)
	return epochs
}

// Changed returns a channel that is closed when what Known returns may have changed.
func (b *Broker) Changed() <-chan struct{} {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.changed
}

// tellChanged wakes those who wait; b.mu is held.
func (b *Broker) tellChanged() {
	close(b.changed)
	b.changed = make(chan struct{})
}
