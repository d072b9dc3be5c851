package bus

import (
	"context"
	"errors"
	"slices"

	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
)

// Gateway is a membership on behalf of programs that speak another protocol. It is there for weft's own daemon, which serves NATS clients by it, and its
// methods take types that no other module can name.
type Gateway struct {
	b   *Bus
	pub *Publisher
	sub *Subscription
}

// Watcher hears of the other members. It is called with the bus's lock held, so that nothing is sent to a member, or said to it, before
// it knows; it must not wait, nor call the bus.
type Watcher interface {
	// Joined tells of a member that came, or came back.
	Joined(epoch uint64, name string)
	// Left tells of one that has gone or cannot be reached.
	Left(epoch uint64)
	// Wants tells what a member wants, which is not to be changed.
	Wants(epoch uint64, name string, all []rmcast.Interest)
}

// Gateway makes this member a gateway: what it declares by Want comes by Messages, all of it in one queue, so that the messages of a publisher keep their
// order whatever wants them. What members send to queue groups of programs behind it is theirs to choose, by Send, and its to hand on.
func (b *Bus) Gateway() (*Gateway, error) {
	p, err := b.Publisher(everything, func(o *publisherOptions) { o.dealt = true })
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	s := &Subscription{b: b, pattern: everything, wild: true, gate: true, lent: true, limit: DefaultQueue, signal: make(chan struct{}, 1)}
	s.want.Mode = rmcast.FromOldest // whatever a stream begins with: its publisher knows what was wanted from when
	b.list = append(b.list, s)
	b.subs.Add(everything, subject.Entry[*Subscription]{Value: s})
	return &Gateway{b, p, s}, nil
}

const everything = ">"

// Watch has a watcher hear of the other members, of those that are there at once.
func (g *Gateway) Watch(w Watcher) {
	b := g.b
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watch = w
	for _, m := range b.node.Members() {
		if m.State != rmcast.Unreachable {
			b.watched(m)
		}
	}
}

// watched tells of a member that is there; the lock is held.
func (b *Bus) watched(m rmcast.Member) {
	if b.watch == nil {
		return
	}
	b.watch.Joined(uint64(m.ID), m.Name)
	if all, ok := b.node.Interested(m.ID); ok {
		b.watch.Wants(uint64(m.ID), m.Name, all)
	}
}

// Want replaces what other members are told is wanted here. Interests keep their numbers for as long as they are there; at most
// rmcast.MaxInterests.
func (g *Gateway) Want(all []rmcast.Interest) {
	b := g.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		g.sub.gates = slices.Clone(all[:min(len(all), rmcast.MaxInterests)])
		b.declare()
	}
}

// Send sends a message with an envelope (internal/envelope) to all that want it, and to those of queue groups that are named.
func (g *Gateway) Send(ctx context.Context, subj string, envelope []byte, deals []rmcast.Deal, payload []byte) error {
	return g.pub.send(ctx, subj, envelope, payload, deals)
}

// Passed is a message as a gateway gets it. What it refers to is only lent.
type Passed struct {
	Epoch    uint64 // of its sender
	Subject  []byte
	Envelope []byte
	Payload  []byte
	// Groups are the hashes of the queue groups that this member is given the message for. All says: for all, for nobody has chosen.
	Groups []uint32
	All    bool
}

// Messages calls each for every message, and lost for what was lost, until ctx ends or the bus is closed. One goroutine at a time reads.
func (g *Gateway) Messages(ctx context.Context, each func(*Passed), lost func(*Lost)) error {
	s := g.sub
	var m rmcast.Message
	var out Passed
	for {
		if s.at >= len(s.taken) {
			if err := s.take(ctx); err != nil {
				return err
			}
		}
		it := &s.taken[s.at]
		f := it.f
		out = Passed{Epoch: uint64(f.st.Publisher), Groups: out.Groups[:0]}
		if f.st.Values != nil {
			f.passValues(&out, each)
		} else {
			var l *Lost
			if err := f.open(it.p); errors.As(err, &l) {
				lost(l)
			}
			for f.next(&m) {
				if out.Subject = m.Subject; m.Subject == nil {
					out.Subject = f.ownSubject()
				}
				out.Envelope, out.Payload = m.Headers, m.Payload
				out.Groups = f.cur.Dealt(&m, s.b.self, out.Groups[:0])
				each(&out)
			}
		}
		s.over(it)
	}
}

// passValues passes on what is new in a table.
func (f *feed) passValues(out *Passed, each func(*Passed)) {
	f.eachNew(func(v *rmcast.Value) bool {
		out.Subject, out.Envelope, out.Payload, out.All = []byte(v.Subject), v.Headers, v.Payload, true
		each(out)
		return true
	})
}

// ownSubject is the stream's subject in bytes.
func (f *feed) ownSubject() []byte {
	if f.bytes == nil {
		f.bytes = []byte(f.st.Subject)
	}
	return f.bytes
}
