package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
)

// Subscription gets the messages on subjects that match its pattern. One goroutine at a time reads it.
type Subscription struct {
	b       *Bus
	pattern string
	wild    bool
	queue   string
	want    rmcast.Interest
	slow    WhenSlow
	limit   int
	workers int // of a responder
	lent    bool
	gate    bool
	gates   []rmcast.Interest // what a gateway declares in place of want
	version uint32

	mu      sync.Mutex
	items   []item
	bytes   int // in items
	reading int // of what the reader has taken
	since   time.Time
	refused bool
	dropped []*feed // in which messages were dropped
	drops   uint64
	missed  atomic.Uint64 // messages
	ended   bool
	err     error
	signal  chan struct{}

	// The reader's own.
	taken  []item
	at     int
	done   int  // bytes of taken that were read and not given back
	opened bool // the packet at at
}

type item struct {
	f *feed
	p rmcast.Packet
}

// feed is one stream as one subscription gets it. The reader owns cur.
type feed struct {
	sub     *Subscription
	st      *rmcast.Stream
	own     *Publisher // of this process
	cur     rmcast.Cursor
	subject string // of the message before, when they have their own
	bytes   []byte // the stream's own subject, for a gateway
	poked   bool   // word of values is in the queue; the subscription's lock guards it
	seen    uint64 // the last value that was read
	batch   []*rmcast.Value
	gone    uint64 // dropping: messages before this one are lost; the subscription's lock guards it
}

func newFeed(s *Subscription, st *rmcast.Stream, from uint64) *feed {
	f := &feed{sub: s, st: st}
	f.cur.Start(from)
	if s.queue != "" {
		f.cur.Seat(rmcast.Deal{Group: rmcast.GroupHash(s.queue), Member: s.b.self, Sub: s.want.ID})
	}
	return f
}

// Subscribe makes a subscription. Publishers that are there hear of it within a round trip; see Ready.
func (b *Bus) Subscribe(pattern string, options ...SubscribeOption) (*Subscription, error) {
	if err := checkSubject(pattern, subject.CheckPattern); err != nil {
		return nil, fmt.Errorf("bus: subscribe: %w", err)
	}
	s := &Subscription{b: b, pattern: pattern, wild: subject.IsPattern(pattern), limit: DefaultQueue, signal: make(chan struct{}, 1)}
	for _, f := range options {
		f(s)
	}
	if s.queue != "" {
		if err := checkSubject(s.queue, subject.Check); err != nil {
			return nil, fmt.Errorf("bus: queue group: %w", err)
		}
	}
	if s.slow < SlowDrop || s.slow > SlowDisconnect {
		return nil, fmt.Errorf("%w: WithSlow of a subscription: SlowDrop, SlowBlock or SlowDisconnect", ErrConfig)
	}
	if s.workers < 0 || s.workers > MaxWorkers {
		return nil, fmt.Errorf("%w: WithWorkers of a responder: 1 to %d", ErrConfig, MaxWorkers)
	}
	if s.limit < 64<<10 {
		return nil, fmt.Errorf("%w: the queue of a subscription has at least 64 KiB", ErrConfig)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	if len(b.list) >= rmcast.MaxInterests {
		return nil, fmt.Errorf("%w: at most %d subscriptions in a process", ErrConfig, rmcast.MaxInterests)
	}
	b.nextID++
	s.want.ID, s.want.Pattern, s.want.Queue = b.nextID, pattern, s.queue
	b.list = append(b.list, s)
	b.subs.Add(pattern, subject.Entry[*Subscription]{Value: s})
	for _, p := range b.pubs {
		if subject.Overlap(p.subject, pattern) {
			p.attach(s)
		}
	}
	for _, st := range b.node.Streams() {
		if subject.Overlap(st.Subject, pattern) {
			b.join(s, st)
		}
	}
	b.declare()
	s.version = b.node.Version()
	return s, nil
}

// join gives a subscription a stream that is received already, from where it wants it as far as it is kept.
func (b *Bus) join(s *Subscription, st *rmcast.Stream) {
	kept := b.node.Kept(st)
	oldest, next := uint64(0), uint64(0)
	for _, p := range kept {
		first, n, err := rmcast.Begins(p.Plain)
		if err != nil {
			return
		}
		if oldest == 0 {
			oldest = first
		}
		next = first + uint64(n)
	}
	// What the publisher had sent when this process began to receive it is not new, even if it is still under way.
	next = max(next, st.Next)
	if oldest == 0 {
		oldest = st.From
	}
	from := rmcast.StartOf(&s.want, st.Publisher, oldest, next)
	fs, _ := st.Data.([]*feed)
	if loose(st) {
		from = 0 // with whatever comes next
	}
	f := newFeed(s, st, from)
	if st.Values != nil {
		kept = nil
		s.poke(f)
	}
	if len(kept) > 0 {
		for len(kept) > 0 {
			if first, n, err := rmcast.Begins(kept[0].Plain); err != nil || first+uint64(n) > from {
				break
			}
			kept = kept[1:]
		}
		s.push(f, kept)
	}
	feeds(st, append(slices.Clone(fs), f))
}

// feeds sets who gets a stream; the lock is held.
func feeds(st *rmcast.Stream, fs []*feed) {
	st.Data = fs
	st.Lent = len(fs) > 0 && st.Values == nil && !slices.ContainsFunc(fs, func(f *feed) bool { return !f.sub.lent })
}

// declare tells the others what this process wants; the lock is held.
func (b *Bus) declare() {
	all := make([]rmcast.Interest, 0, len(b.list))
	for _, s := range b.list {
		if s.gate {
			all = append(all, s.gates...)
			continue
		}
		all = append(all, s.want)
	}
	b.earlier(b.node.Interests(time.Now(), all))
}

// Ready blocks until every member that can be reached has taken the subscription in: what its publishers send from then on comes.
func (s *Subscription) Ready(ctx context.Context) error {
	for {
		changed := s.b.changed.wait()
		s.b.mu.Lock()
		lack := s.b.node.Taken(s.version)
		s.b.mu.Unlock()
		if len(lack) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("bus: subscription %q: not known yet to %v: %w", s.pattern, s.b.names(lack), ctx.Err())
		}
	}
}

// Dropped returns how many packets, each of one or more messages, were dropped because the queue was full. What was lost is told by Messages.
func (s *Subscription) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drops
}

// Close ends the subscription; an iterator over it ends after the messages it has.
func (s *Subscription) Close() {
	b := s.b
	b.mu.Lock()
	if i := slices.Index(b.list, s); i >= 0 {
		b.list = slices.Delete(b.list, i, i+1)
		b.subs.Remove(s.pattern, subject.Entry[*Subscription]{Value: s})
		for _, p := range b.pubs {
			p.detach(s)
		}
		for _, st := range b.node.Streams() {
			if fs, _ := st.Data.([]*feed); len(fs) > 0 {
				feeds(st, slices.DeleteFunc(slices.Clone(fs), func(f *feed) bool { return f.sub == s }))
			}
		}
		if !b.closed {
			b.declare()
		}
	}
	b.mu.Unlock()
	s.end(nil)
}

func (s *Subscription) end(err error) {
	s.mu.Lock()
	if !s.ended {
		s.ended, s.err = true, err
	}
	s.mu.Unlock()
	s.tell()
}

func (s *Subscription) tell() {
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// room reports whether packets may be pushed. A queue that has been full for long drops what comes, or ends: then there is room.
func (s *Subscription) room() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.dropped) > 0 || s.bytes+s.reading < s.limit {
		s.since = time.Time{}
		return true
	}
	s.refused = true
	if s.slow == SlowBlock {
		return false
	}
	now := time.Now()
	if s.since.IsZero() {
		s.since = now
	}
	return now.Sub(s.since) >= slowPatience
}

// push adds packets of a stream. When the queue is full it notes what is dropped.
func (s *Subscription) push(f *feed, ps []rmcast.Packet) {
	s.mu.Lock()
	empty := len(s.items) == 0
	for _, p := range ps {
		if s.ended {
			break
		}
		if s.full(f) {
			continue
		}
		if s.slow != SlowBlock && (len(s.dropped) > 0 || !s.since.IsZero() && s.bytes+s.reading >= s.limit && time.Since(s.since) >= slowPatience) {
			if s.slow == SlowDisconnect {
				s.ended, s.err = true, ErrSlow
				break
			}
			if f.gone == 0 {
				s.dropped = append(s.dropped, f)
			}
			f.gone = max(f.gone, p.Gone)
			if first, n, err := rmcast.Begins(p.Plain); err == nil {
				f.gone = max(f.gone, first+uint64(n))
			}
			s.drops++
			continue
		}
		if s.lent {
			p.Hold()
		} else {
			p.Keep()
		}
		s.items = append(s.items, item{f, p})
		s.bytes += itemCost + len(p.Plain)
	}
	wake := empty && (len(s.items) > 0 || s.ended) || len(s.dropped) > 0
	s.mu.Unlock()
	if wake {
		s.tell()
	}
}

const itemCost = 64

// take waits for packets and makes them the reader's.
func (s *Subscription) take(ctx context.Context) error {
	for {
		s.mu.Lock()
		s.give()
		for _, f := range s.dropped { // the queue is read: what was dropped is told now, and dropping ends
			s.items = append(s.items, item{f, rmcast.Packet{Gone: f.gone}})
			f.gone = 0
		}
		s.dropped = s.dropped[:0]
		if len(s.items) > 0 {
			clear(s.taken)
			s.taken, s.items = s.items, s.taken[:0]
			s.reading, s.bytes = s.bytes, 0
			s.at, s.done = 0, 0
			s.since = time.Time{}
			s.mu.Unlock()
			return nil
		}
		ended, err := s.ended, s.err
		s.mu.Unlock()
		if ended {
			if err == nil {
				err = ErrClosed
			}
			return err
		}
		select {
		case <-s.signal:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// give returns the room of what was read; the lock is held.
func (s *Subscription) give() {
	s.reading -= s.done
	s.done = 0
	if s.at >= len(s.taken) {
		s.reading = 0
	}
	if s.refused && s.bytes+s.reading < s.limit*3/4 {
		s.refused = false
		s.since = time.Time{}
		s.b.resume.Store(true)
		s.b.wake()
	}
}

// Messages yields messages as they come, until ctx ends, or the subscription or the bus is closed and everything was read. An error is a
// *Lost, after which it goes on, or ErrSlow, which is the last. After a break the next call goes on where the last one stopped.
//
//	for m, err := range sub.Messages(ctx) {
//		if err != nil { ... }
//	}
func (s *Subscription) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		var m rmcast.Message
		for {
			if s.at >= len(s.taken) {
				if err := s.take(ctx); err != nil {
					if errors.Is(err, ErrSlow) {
						yield(Message{}, err)
					}
					return
				}
			}
			it := &s.taken[s.at]
			f := it.f
			if f.st.Values != nil {
				if !f.readValues(yield) {
					return
				}
				s.opened = true
			}
			if !s.opened {
				s.opened = true
				if lost := f.open(it.p); lost != nil && !yield(Message{}, lost) {
					return
				}
			}
			subj, name, epoch := f.st.Subject, f.st.Name, uint64(f.st.Publisher)
			for {
				if payload, number, ok := f.cur.Plain(); ok {
					if !yield(Message{Subject: subj, Payload: payload, Publisher: name, Epoch: epoch, Number: number}, nil) {
						return
					}
					continue
				}
				if !f.next(&m) {
					break
				}
				subj := subj
				if m.Subject != nil {
					if subj = f.subjectOf(m.Subject); !subject.Overlap(s.pattern, subj) || reserved(subj) {
						continue
					}
				}
				var x *extra
				if m.Headers != nil {
					x = f.extraOf(m.Headers)
				}
				if !yield(Message{Subject: subj, Payload: m.Payload, Publisher: name, Epoch: epoch, Number: m.Number, extra: x}, nil) {
					return
				}
			}
			s.opened = false
			s.over(it)
		}
	}
}

// over ends with the item at hand, of which nothing is read any more.
func (s *Subscription) over(it *item) {
	s.at++
	s.done += itemCost + len(it.p.Plain)
	if s.lent {
		it.p.Release()
	}
	if s.done > s.limit/8 {
		s.mu.Lock()
		s.give()
		s.mu.Unlock()
	}
}

// open goes to the next packet and returns what is missing before it, if anything is.
func (f *feed) open(p rmcast.Packet) error {
	var from, to uint64
	if p.Plain == nil {
		from, to = f.cur.Gone(p.Gone)
	} else {
		var err error
		if from, to, err = f.cur.Open(p.Seq, p.Plain); err != nil {
			f.malformed(err)
		}
	}
	if to < from {
		return nil
	}
	if loose(f.st) {
		f.sub.missed.Add(to - from + 1)
		return nil
	}
	return &Lost{Subject: f.st.Subject, Publisher: f.st.Name, Epoch: uint64(f.st.Publisher), From: from, To: to}
}

func (f *feed) next(m *rmcast.Message) bool {
	ok, err := f.cur.Next(m)
	if err != nil {
		f.malformed(err)
	}
	return ok
}

// malformed tells of an authentic packet that makes no sense: its publisher is of another version, or has a fault.
func (f *feed) malformed(err error) {
	f.sub.b.log.Warn("malformed packet", "publisher", f.st.Name, "subject", f.st.Subject, "error", err)
}

// subjectOf returns a message's own subject, which is mostly that of the one before.
func (f *feed) subjectOf(b []byte) string {
	if f.subject != string(b) {
		f.subject = string(bytes.Clone(b))
	}
	return f.subject
}
