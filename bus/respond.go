package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNoReply is returned by Answer for a message that asks for no answer.
var ErrNoReply = errors.New("bus: no answer is wanted")

// Handler answers a request. The answer's Subject and Reply are not used. An error goes to the asker as *Refused, its text
// without line ends and at most 1,000 bytes of it. ctx ends when Responder.Close has waited long enough.
type Handler func(ctx context.Context, m Message) (Outgoing, error)

// maxReason bounds the text of an error that goes to an asker.
const maxReason = 1000

// answerTime is how long an answer may wait for room.
const answerTime = 10 * time.Second

// Responder has requests answered by a Handler.
type Responder struct {
	b      *Bus
	sub    *Subscription
	handle Handler
	ctx    context.Context // of handlers
	cancel context.CancelFunc
	done   chan struct{}

	requests, refused, unsent, lost atomic.Uint64

	mu  sync.Mutex
	err error
}

// ResponderStats are counters of a Responder.
type ResponderStats struct {
	Requests uint64 // handed to the Handler
	Refused  uint64 // for which it returned an error
	Unsent   uint64 // answers that found no room in 10 seconds, or were too large
	Lost     uint64 // requests that were lost on the way, or because the queue was full
}

// Respond has requests on subjects that match a pattern answered by a handler: one after the other in the order of their coming,
// or as many at a time as WithWorkers says. With WithQueue one responder of a group gets each request. Messages on these
// subjects that want no answer are handed over as well, and what the handler returns for them is dropped.
func (b *Bus) Respond(pattern string, handler Handler, options ...SubscribeOption) (*Responder, error) {
	own := func(s *Subscription) { s.lent = false } // handlers may run at once
	s, err := b.Subscribe(pattern, append(slices.Clip(options), own)...)
	if err != nil {
		return nil, err
	}
	r := &Responder{b: b, sub: s, handle: handler, done: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(b.life)
	go r.run(max(1, s.workers)) // it ends with the subscription, and that with the bus
	return r, nil
}

// MaxWorkers is how many handlers of one responder may run at a time.
const MaxWorkers = 4096

// WithWorkers lets a responder's handler run up to n times at once, 1 to MaxWorkers; the default is 1.
func WithWorkers(n int) SubscribeOption { return func(s *Subscription) { s.workers = n } }

func (r *Responder) run(workers int) {
	defer close(r.done)
	var under sync.WaitGroup
	defer under.Wait()
	slots := make(chan struct{}, workers)
	for m, err := range r.sub.Messages(r.ctx) {
		var l *Lost
		switch {
		case errors.As(err, &l):
			r.lost.Add(l.To - l.From + 1)
			continue
		case err != nil: // ErrSlow: it is the last
			r.mu.Lock()
			r.err = err
			r.mu.Unlock()
			continue
		case workers == 1:
			r.serve(m)
			continue
		}
		slots <- struct{}{}
		under.Go(func() {
			r.serve(m)
			<-slots
		})
	}
}

// serve answers one request.
func (r *Responder) serve(m Message) {
	r.requests.Add(1)
	o, err := r.handle(r.ctx, m)
	if err != nil {
		r.refused.Add(1)
		text := strings.Map(func(c rune) rune {
			if c < ' ' || c == 0x7f {
				return ' '
			}
			return c
		}, strings.ToValidUTF8(err.Error(), "?"))
		o = Outgoing{Header: Header{headerError: {text[:min(len(text), maxReason)]}, headerErrorCode: {"500"}}}
	}
	ctx, cancel := context.WithTimeout(r.ctx, answerTime)
	defer cancel()
	if err := r.b.Answer(ctx, m, o); err != nil && !errors.Is(err, ErrNoReply) {
		r.unsent.Add(1)
		r.b.log.Debug("an answer was not sent", "member", m.Publisher, "subject", m.Subject, "error", err)
	}
}

// Ready blocks until every member that can be reached has taken the responder in: from then on their requests come.
func (r *Responder) Ready(ctx context.Context) error { return r.sub.Ready(ctx) }

// Stats returns the counters.
func (r *Responder) Stats() ResponderStats {
	return ResponderStats{Requests: r.requests.Load(), Refused: r.refused.Load(), Unsent: r.unsent.Load(), Lost: r.lost.Load()}
}

// Close takes no more requests, and waits until those that are here are answered or ctx ends, whose error is then returned. It
// returns ErrSlow when the responder had ended by itself (SlowDisconnect).
func (r *Responder) Close(ctx context.Context) error {
	r.sub.Close()
	defer r.cancel()
	select {
	case <-r.done:
	case <-ctx.Done():
		return fmt.Errorf("bus: close responder on %q: %w", r.sub.pattern, ctx.Err())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Answer answers a message that a Subscription got and that asks for it. o.Subject is not used. The answer goes to the members
// that subscribe to where it is wanted: the asker alone, unless others listen to _INBOX.> or >.
func (b *Bus) Answer(ctx context.Context, m Message, o Outgoing) error {
	o.Subject, o.Reply = m.Reply(), ""
	if o.Subject == "" {
		return fmt.Errorf("%w: message %d of %q from %s", ErrNoReply, m.Number, m.Subject, m.Publisher)
	}
	p, err := b.answers.get(b, streamOf(o.Subject))
	if err != nil {
		return fmt.Errorf("bus: answer: %w", err)
	}
	defer b.answers.put(p)
	return p.SendMessage(ctx, o)
}

// streamOf returns the subject of the stream on which to answer: where a reply subject has three tokens or more, the last tells
// requests of one asker apart.
func streamOf(reply string) string {
	if i := strings.LastIndexByte(reply, '.'); strings.IndexByte(reply, '.') < i {
		return reply[:i+1] + "*"
	}
	return reply
}
