package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
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
	window int
}

// WithFull sets what Send does when receivers are behind; Block is the default.
func WithFull(w WhenFull) PublisherOption { return func(o *publisherOptions) { o.full = w } }

// WithoutFlow makes a publisher wait for nobody: receivers that cannot follow are told what they lost.
func WithoutFlow() PublisherOption { return func(o *publisherOptions) { o.noWait = true } }

// WithWindow sets this publisher's window in bytes, in place of Config.Window.
func WithWindow(bytes int) PublisherOption { return func(o *publisherOptions) { o.window = bytes } }

// Publisher sends messages on one subject. Its methods may be called from any goroutine; messages of one goroutine keep their order.
//
// A publisher is ahead of its slowest receiver by less than its window; one that says nothing for half a second is not
// waited for any more, and makes good for what it missed when it is back, or is told.
type Publisher struct {
	b       *Bus
	subject string
	wild    bool
	full    WhenFull
	tx      *rmcast.Sender
	feeds   atomic.Pointer[[]*feed] // this process's own subscriptions
	stream  *rmcast.Stream

	cooling atomic.Bool // something left just now: what follows gathers for the flusher
	flush   chan struct{}
	moved   news
	done    chan struct{}
	ended   atomic.Bool
	dropped atomic.Uint64
	behind  atomic.Bool // a subscription of this process has no room
}

// Publisher makes a publisher on a subject. With a pattern (orders.>), messages are sent by SendTo on any subject that matches.
// It costs a goroutine and its window; close it when it is not needed.
func (b *Bus) Publisher(subj string, options ...PublisherOption) (*Publisher, error) {
	if err := subject.CheckPattern(subj); err != nil {
		return nil, fmt.Errorf("bus: publisher: %w", err)
	}
	o := publisherOptions{window: b.cfg.Window}
	for _, f := range options {
		f(&o)
	}
	if o.window != 0 && (o.window < 256<<10 || o.window > 256<<20) {
		return nil, fmt.Errorf("%w: window of a publisher: 256 KiB to 256 MiB", ErrConfig)
	}
	cfg := rmcast.SenderConfig{Subject: subj, Window: o.window, Keep: b.cfg.Keep, Fanout: b.cfg.Fanout}
	if o.noWait {
		cfg.Flow = rmcast.FlowNone
	}
	p := &Publisher{b: b, subject: subj, wild: subject.IsPattern(subj), full: o.full, flush: make(chan struct{}, 1), done: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	p.stream = &rmcast.Stream{Publisher: b.self, Name: b.cfg.Member, Subject: subj, From: 1, Next: 1}
	p.feeds.Store(&[]*feed{})
	p.tx = b.node.NewSender(time.Now(), cfg, p.local)
	p.stream.ID = p.tx.ID()
	p.tx.OnMoved(p.moved.tell)
	b.pubs = append(b.pubs, p)
	b.subs.Match(subj, func(e subject.Entry[*Subscription]) { p.attach(e.Value) })
	b.wake()
	b.wg.Go(p.flusher)
	return p, nil
}

// attach has a subscription of this process get the messages; the bus's lock is held.
func (p *Publisher) attach(s *Subscription) {
	fs := slices.Clone(*p.feeds.Load())
	if slices.ContainsFunc(fs, func(f *feed) bool { return f.sub == s }) {
		return
	}
	f := newFeed(s, p.stream, p.tx.Next())
	f.own = p
	fs = append(fs, f)
	p.feeds.Store(&fs)
}

func (p *Publisher) detach(s *Subscription) {
	fs := slices.DeleteFunc(slices.Clone(*p.feeds.Load()), func(f *feed) bool { return f.sub == s })
	p.feeds.Store(&fs)
}

// local gives packets to the subscriptions of this process.
func (p *Publisher) local(ps []rmcast.Packet) {
	for _, f := range *p.feeds.Load() {
		if !f.sub.room() {
			p.behind.Store(true)
		}
		f.sub.push(f, ps)
	}
}

// Send sends a message. When it returns nil the message is numbered and on its way or about to be, within microseconds; payload is the
// caller's again. Errors: those of ctx while blocked, ErrWouldBlock, ErrTooLarge, ErrClosed.
func (p *Publisher) Send(ctx context.Context, payload []byte) error {
	if p.wild {
		return fmt.Errorf("%w %q: a publisher on a pattern sends by SendTo", ErrSubject, p.subject)
	}
	return p.send(ctx, "", payload)
}

// SendTo sends a message on a subject that matches the publisher's pattern.
func (p *Publisher) SendTo(ctx context.Context, subj string, payload []byte) error {
	if err := subject.Check(subj); err != nil {
		return err
	}
	if !subject.Overlap(p.subject, subj) {
		return fmt.Errorf("%w %q: the publisher is for %q", ErrSubject, subj, p.subject)
	}
	if !p.wild {
		subj = ""
	}
	return p.send(ctx, subj, payload)
}

func (p *Publisher) send(ctx context.Context, subj string, payload []byte) error {
	for {
		if !p.behind.Load() || !p.stillBehind() {
			_, full, err := p.tx.Send(subj, nil, payload)
			if err == nil {
				p.sent(full)
				return nil
			}
			if !errors.Is(err, rmcast.ErrWouldBlock) {
				return p.explain(err, len(payload))
			}
		}
		if wait, err := p.noRoom(ctx, 1); err != nil || !wait {
			return err
		}
	}
}

// SendBlock sends messages on the publisher's subject, at the cost of one lock for many. It returns how many were taken: all, unless err says why not.
func (p *Publisher) SendBlock(ctx context.Context, payloads [][]byte) (int, error) {
	if p.wild {
		return 0, fmt.Errorf("%w %q: a publisher on a pattern sends by SendTo", ErrSubject, p.subject)
	}
	taken := 0
	for taken < len(payloads) {
		if !p.behind.Load() || !p.stillBehind() {
			n, full, err := p.tx.SendAll(payloads[taken:])
			if taken += n; n > 0 {
				p.sent(full)
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, rmcast.ErrWouldBlock) {
				return taken, p.explain(err, len(payloads[taken]))
			}
		}
		if wait, err := p.noRoom(ctx, len(payloads)-taken); err != nil {
			return taken, err
		} else if !wait {
			return len(payloads), nil
		}
	}
	return taken, nil
}

func (p *Publisher) explain(err error, size int) error {
	switch {
	case errors.Is(err, rmcast.ErrTooLarge):
		return fmt.Errorf("%w: %d bytes; at most %d and a quarter of the window", ErrTooLarge, size, MaxMessage)
	case errors.Is(err, rmcast.ErrEnded):
		return ErrClosed
	}
	return fmt.Errorf("bus: send: %w", err)
}

// sent sees to it that a message leaves: at once when nothing has left just now, else with others.
func (p *Publisher) sent(full bool) {
	switch {
	case full:
		p.tx.FlushFull(time.Now())
	case p.cooling.Load():
		return
	case p.cooling.CompareAndSwap(false, true):
		now := time.Now()
		p.tx.Flush(now)
		p.b.by(now.Add(heartbeat))
	}
	select {
	case p.flush <- struct{}{}:
	default:
	}
}

// heartbeat is within what time after a message the node must tick.
const heartbeat = 20 * time.Millisecond

// busyPackets waiting for the flusher show that messages come so fast that full trains leave by themselves: then it looks only
// now and then, for two that send at once wait for each other.
const (
	busyPackets = 8
	busyPause   = 500 * time.Microsecond
)

// flusher sends what has gathered while messages left.
func (p *Publisher) flusher() {
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	before := uint64(0)
	for {
		select {
		case <-p.done:
			return
		case <-p.flush:
		}
		for p.tx.Waiting() {
			if n, sent := p.tx.Gathered(); n >= busyPackets && sent != before {
				before = sent
				pause.Reset(busyPause)
				select {
				case <-p.done:
					return
				case <-pause.C:
					continue
				}
			}
			now := time.Now()
			p.tx.Flush(now)
			p.b.by(now.Add(heartbeat))
		}
		p.cooling.Store(false)
		if p.tx.Waiting() && p.cooling.CompareAndSwap(false, true) { // a message came in between
			p.tx.Flush(time.Now())
			select {
			case p.flush <- struct{}{}:
			default:
			}
		}
	}
}

// noRoom does what WhenFull says for n messages, and reports whether to try again.
func (p *Publisher) noRoom(ctx context.Context, n int) (again bool, err error) {
	now := time.Now()
	p.tx.Flush(now)
	p.b.by(now.Add(heartbeat / 4))
	switch p.full {
	case WouldBlock:
		return false, ErrWouldBlock
	case Drop:
		p.dropped.Add(uint64(n))
		return false, nil
	case Block:
	}
	wait := time.NewTimer(10 * time.Millisecond) // own subscriptions tell nobody when they have room
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return false, fmt.Errorf("bus: send: %w", ctx.Err())
	case <-p.done:
		return false, ErrClosed
	case <-p.moved.wait():
	case <-wait.C:
	}
	return true, nil
}

func (p *Publisher) stillBehind() bool {
	for _, f := range *p.feeds.Load() {
		if !f.sub.room() {
			return true
		}
	}
	p.behind.Store(false)
	return false
}

// Dropped returns how many messages were dropped for want of room.
func (p *Publisher) Dropped() uint64 { return p.dropped.Load() }

// All makes Wait wait for every receiver.
const All = 0

// Unconfirmed is returned by Wait when not enough receivers confirmed in time.
type Unconfirmed struct {
	Confirmed int
	Missing   []string // the members that did not, by name
	Cause     error    // of the context
}

// Error names those that did not confirm.
func (e *Unconfirmed) Error() string {
	return fmt.Sprintf("bus: %d confirmed, %d did not: %s: %v", e.Confirmed, len(e.Missing), strings.Join(e.Missing, ", "), e.Cause)
}

// Unwrap returns the context's error.
func (e *Unconfirmed) Unwrap() error { return e.Cause }

// Wait blocks until k receivers, or All, have everything that was sent before the call: it is in order in the queues of
// their subscriptions. Whoever becomes a receiver later does not count. An error is an *Unconfirmed, when ctx ends.
func (p *Publisher) Wait(ctx context.Context, k int) error {
	now := time.Now()
	mark := p.tx.Mark(now)
	p.b.by(now)
	p.b.wake()
	for {
		moved := p.moved.wait()
		have, lack := p.tx.Confirmed(mark)
		if k > 0 && len(have) >= k || k <= 0 && len(lack) == 0 {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return &Unconfirmed{len(have), p.b.names(lack), ctx.Err()}
		case <-p.b.changed.wait():
		}
	}
}

// Ready blocks until the publisher has k receivers in other processes.
func (p *Publisher) Ready(ctx context.Context, k int) error {
	for {
		moved, changed := p.moved.wait(), p.b.changed.wait()
		n := len(p.tx.Receivers())
		if n >= k {
			return nil
		}
		select {
		case <-moved:
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("bus: %d receivers of %q, not %d: %w", n, p.subject, k, ctx.Err())
		}
	}
}

// Receivers returns the members that get the stream, by name.
func (p *Publisher) Receivers() []string { return p.b.names(p.tx.Receivers()) }

// Stats returns what the publisher did.
func (p *Publisher) Stats() PublisherStats {
	s := p.tx.Snapshot()
	return PublisherStats{
		Messages: s.Messages, Packets: s.Packets, Bytes: s.Bytes, Repairs: s.Repairs, RepairBytes: s.RepairBytes,
		Nacks: s.Nacks, NackedPackets: s.NackedPackets, Dropped: p.dropped.Load(),
	}
}

// PublisherStats are counters of a publisher. Bytes are of packets before sealing; each is sent once by multicast, or once a copy.
type PublisherStats struct {
	Messages, Packets, Bytes uint64
	Repairs, RepairBytes     uint64
	Nacks, NackedPackets     uint64
	Dropped                  uint64
}

// Close sends what waits, tells receivers that this was all, and waits until those that can be reached have confirmed or ctx
// ends, whose error is then returned. What is kept for late joiners is forgotten.
func (p *Publisher) Close(ctx context.Context) error {
	p.end()
	return p.drained(ctx)
}

func (p *Publisher) end() {
	if p.ended.Swap(true) {
		return
	}
	p.tx.End(time.Now())
	close(p.done)
	p.b.wake()
}

func (p *Publisher) drained(ctx context.Context) (err error) {
	for err == nil {
		moved, changed := p.moved.wait(), p.b.changed.wait()
		if p.tx.Ended() {
			break
		}
		select {
		case <-moved:
		case <-changed:
		case <-ctx.Done():
			err = fmt.Errorf("bus: close publisher %q: %w", p.subject, ctx.Err())
		}
	}
	b := p.b
	b.mu.Lock()
	defer b.mu.Unlock()
	b.node.Remove(p.tx)
	b.pubs = slices.DeleteFunc(b.pubs, func(o *Publisher) bool { return o == p })
	return err
}
