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

	cooling atomic.Bool  // something leaves just now, or the flusher is at work: what follows gathers for it
	left    atomic.Int64 // when a message last left that did not have to gather, in nanoseconds after born
	born    time.Time
	flush   chan struct{}
	moved   news
	done    chan struct{}
	ended   atomic.Bool
	dropped atomic.Uint64
	behind  atomic.Bool // a subscription of this process has no room
	dealt   bool        // a gateway's: it says who of queue groups has a message
}

// Publisher makes a publisher on a subject. With a pattern (orders.>), messages are sent by SendTo on any subject that matches.
// It costs a goroutine and its window; close it when it is not needed.
func (b *Bus) Publisher(subj string, options ...PublisherOption) (*Publisher, error) {
	if err := checkSubject(subj, subject.CheckPattern); err != nil {
		return nil, fmt.Errorf("bus: publisher: %w", err)
	}
	o := publisherOptions{window: b.cfg.Window}
	for _, f := range options {
		f(&o)
	}
	if o.window != 0 && (o.window < 256<<10 || o.window > 256<<20) {
		return nil, fmt.Errorf("%w: window of a publisher: 256 KiB to 256 MiB", ErrConfig)
	}
	if o.confirm < 0 || o.confirm > MaxConfirm {
		return nil, fmt.Errorf("%w: WithConfirm of a publisher: 0 to %v", ErrConfig, MaxConfirm)
	}
	if err := o.class.check(); err != nil {
		return nil, err
	}
	if o.full < Block || o.full > Drop {
		return nil, fmt.Errorf("%w: WithFull of a publisher: Block, WouldBlock or Drop", ErrConfig)
	}
	cfg := rmcast.SenderConfig{
		Subject: subj, Class: rmcast.Class(o.class), Window: o.window, Keep: b.cfg.Keep, Fanout: b.cfg.Fanout,
		Dealt: o.dealt, Confirm: o.confirm, Hub: o.hub, NoParity: o.noParity,
	}
	if o.noWait {
		cfg.Flow = rmcast.FlowNone
	}
	p := &Publisher{b: b, subject: subj, wild: subject.IsPattern(subj), full: o.full, dealt: o.dealt, flush: make(chan struct{}, 1), done: make(chan struct{}), born: time.Now().Add(-apart)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	p.stream = &rmcast.Stream{Publisher: b.self, Name: b.cfg.Member, Subject: subj, Class: cfg.Class, From: 1, Next: 1}
	p.feeds.Store(&[]*feed{})
	p.tx = b.node.NewSender(time.Now(), cfg, p.local)
	p.stream.ID, p.stream.Values = p.tx.ID(), p.tx.Values()
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
	if s.gate || slices.ContainsFunc(fs, func(f *feed) bool { return f.sub == s }) {
		return // a gateway has what it sends
	}
	f := newFeed(s, p.stream, p.tx.Next())
	f.own = p
	fs = append(fs, f)
	p.feeds.Store(&fs)
	if p.stream.Values != nil {
		s.poke(f)
	}
}

func (p *Publisher) detach(s *Subscription) {
	fs := slices.DeleteFunc(slices.Clone(*p.feeds.Load()), func(f *feed) bool { return f.sub == s })
	p.feeds.Store(&fs)
}

// local gives packets to the subscriptions of this process.
func (p *Publisher) local(ps []rmcast.Packet) bool {
	feeds := *p.feeds.Load()
	for _, f := range feeds {
		if f.st.Values != nil {
			f.sub.poke(f)
			continue
		}
		if holds(f.st) && !f.sub.room() {
			p.behind.Store(true)
		}
		f.sub.push(f, ps)
	}
	return len(feeds) > 0
}

// Send sends a message. When it returns nil the message is numbered and on its way or about to be, within microseconds; payload is the
// caller's again. Errors: those of ctx while blocked, ErrWouldBlock, ErrTooLarge, ErrClosed.
func (p *Publisher) Send(ctx context.Context, payload []byte) error {
	if p.wild {
		return fmt.Errorf("%w %q: a publisher on a pattern sends by SendTo", ErrSubject, p.subject)
	}
	return p.send(ctx, "", nil, payload, nil)
}

// SendTo sends a message on a subject that matches the publisher's pattern.
func (p *Publisher) SendTo(ctx context.Context, subj string, payload []byte) error {
	subj, err := p.own(subj)
	if err != nil {
		return err
	}
	return p.send(ctx, subj, nil, payload, nil)
}

// SendMessage sends a message with headers or a reply subject. Errors are those of SendTo, and ErrHeader; what is too large also
// wraps ErrTooLarge.
func (p *Publisher) SendMessage(ctx context.Context, o Outgoing) error {
	if o.Subject == "" {
		o.Subject = p.subject // of a pattern it is refused
	}
	subj, err := p.own(o.Subject)
	if err != nil {
		return err
	}
	head, err := o.head()
	if err != nil {
		return err
	}
	return p.send(ctx, subj, head, o.Payload, nil)
}

// own returns what a message on a subject is to carry: nothing where it is the publisher's.
func (p *Publisher) own(subj string) (string, error) {
	if err := checkSubject(subj, subject.Check); err != nil {
		return "", err
	}
	if !subject.Overlap(p.subject, subj) {
		return "", fmt.Errorf("%w %q: the publisher is for %q", ErrSubject, subj, p.subject)
	}
	if !p.wild {
		subj = ""
	}
	return subj, nil
}

func (p *Publisher) send(ctx context.Context, subj string, head, payload []byte, deals []rmcast.Deal) error {
	for {
		if !p.behind.Load() || !p.stillBehind() {
			var full bool
			var err error
			if p.dealt {
				_, full, err = p.tx.SendDealt(subj, head, payload, deals)
			} else {
				_, full, err = p.tx.Send(subj, head, payload)
			}
			if err == nil {
				p.sent(full)
				return nil
			}
			if !errors.Is(err, rmcast.ErrWouldBlock) {
				return p.explain(err, len(head)+len(payload))
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
		return fmt.Errorf("%w: %d bytes on %q; at most %d and a quarter of the window", ErrTooLarge, size, p.subject, MaxMessage)
	case errors.Is(err, rmcast.ErrValues):
		return fmt.Errorf("%w: %d bytes more on %q: a larger window (WithWindow) holds more", ErrValues, size, p.subject)
	case errors.Is(err, rmcast.ErrEnded):
		return ErrClosed
	}
	return fmt.Errorf("bus: send: %w", err)
}

// sent sees to it that a message leaves: at once when nothing has left just now, else with others, by the flusher.
func (p *Publisher) sent(full bool) {
	if full {
		p.tx.FlushFull(time.Now())
		if p.cooling.Load() { // the flusher sees to the rest
			return
		}
	}
	if !p.cooling.CompareAndSwap(false, true) {
		return
	}
	if now := time.Now(); !full && int64(now.Sub(p.born))-p.left.Load() >= int64(apart) {
		p.tx.Flush(now)
		p.b.by(now.Add(heartbeat))
		p.left.Store(int64(time.Since(p.born)))
		p.cooling.Store(false)
		if !p.tx.Waiting() || !p.cooling.CompareAndSwap(false, true) {
			return
		}
		// Another goroutine's message came in between, and was left to us.
	}
	select {
	case p.flush <- struct{}{}:
	default:
	}
}

// heartbeat is within what time after a message the node must tick.
const heartbeat = 20 * time.Millisecond

// Messages further apart leave one by one, by who sends them: to wake another goroutine costs more than a packet.
const apart = 20 * time.Microsecond

// busyPackets waiting for the flusher, or trains that left because they were full, show that messages come so fast that more of
// them soon share a packet and a train: then it waits a moment, in which each receiver is woken once instead of many times.
const (
	busyPackets = 2
	busyPause   = 500 * time.Microsecond
)

// flusher sends what has gathered while messages left.
func (p *Publisher) flusher() {
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	before, trains := uint64(0), uint64(0)
	for {
		select {
		case <-p.done:
			return
		case <-p.flush:
		}
		for p.tx.Waiting() {
			if n, sent, byTrain := p.tx.Gathered(); sent != before && (n >= busyPackets || byTrain != trains) {
				before, trains = sent, byTrain
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
		if holds(f.st) && !f.sub.room() {
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
// their subscriptions. Whoever becomes a receiver later does not count. An error is an *Unconfirmed, when ctx ends, or ErrConfig for
// a best-effort publisher, which knows of nothing that it came.
func (p *Publisher) Wait(ctx context.Context, k int) error {
	if loose(p.stream) {
		return fmt.Errorf("%w: Wait: best effort is not confirmed", ErrConfig)
	}
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
		Nacks: s.Nacks, NackedPackets: s.NackedPackets, Dropped: p.dropped.Load(), Parity: s.Parity,
		RefusedRepairs: s.RefusedRepairs, BadNacks: s.BadNacks, LateNacks: s.LateNacks,
	}
}

// PublisherStats are counters of a publisher. Bytes are of packets before sealing; each is sent once by multicast, or once a copy.
type PublisherStats struct {
	Messages, Packets, Bytes uint64
	Repairs, RepairBytes     uint64
	Nacks, NackedPackets     uint64
	Dropped                  uint64
	Parity                   uint64 // of Repairs: parity packets
	RefusedRepairs           uint64 // NACKs that were not answered, or not in full: the receiver has had its share
	BadNacks                 uint64 // ranges of packets that were never sent
	LateNacks                uint64 // of NackedPackets, confirmed while the NACK was on its way
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
