package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/rmcast"
)

// lane is a bus in memory: what a member sends comes to each other one in order.
type lane struct {
	mu      sync.Mutex
	members []*member
	sent    int
}

type packet struct {
	epoch    uint64
	subject  string
	envelope []byte
	deals    []rmcast.Deal
	payload  []byte
}

type member struct {
	l     *lane
	epoch uint64
	link  *Link // nil: a program's
	in    chan packet
	drop  bool              // lose what comes now
	wants []rmcast.Interest // what it declared
	got   []packet          // by a program
}

func (m *member) name() string { return fmt.Sprintf("h%d", m.epoch) }

func (m *member) Send(_ context.Context, subj string, env []byte, deals []rmcast.Deal, payload []byte) error {
	m.l.mu.Lock()
	defer m.l.mu.Unlock()
	m.l.sent++
	for _, o := range m.l.members {
		if o != m {
			o.in <- packet{m.epoch, subj, slices.Clone(env), slices.Clone(deals), slices.Clone(payload)}
		}
	}
	return nil
}

func (m *member) Want(all []rmcast.Interest) {
	m.l.mu.Lock()
	m.wants = slices.Clone(all)
	others := slices.Clone(m.l.members)
	m.l.mu.Unlock()
	for _, o := range others {
		if o != m && o.link != nil {
			o.link.Wants(m.epoch, m.name(), all)
		}
	}
}

// join puts a broker on the lane, or a program without one; all hear of it, and it of all.
func (l *lane) join(ctx context.Context, b *Broker, epoch uint64) *member {
	m := &member{l: l, epoch: epoch, in: make(chan packet, 10_000)}
	if b != nil {
		m.link = b.Attach(ctx, m, epoch)
	}
	l.mu.Lock()
	for _, o := range l.members {
		if o.link != nil {
			o.link.Joined(epoch, m.name())
		}
		if m.link != nil {
			m.link.Joined(o.epoch, o.name())
			if o.wants != nil { // l.mu is held
				m.link.Wants(o.epoch, o.name(), o.wants)
			}
		}
	}
	l.members = append(l.members, m)
	l.mu.Unlock()
	go func() {
		for {
			select {
			case p := <-m.in:
				switch {
				case m.link == nil:
					l.mu.Lock()
					m.got = append(m.got, p)
					l.mu.Unlock()
				case m.drop:
					m.link.Lost(p.epoch, 1)
				default:
					in := Incoming{Epoch: p.epoch, Subject: []byte(p.subject), Envelope: p.envelope, Payload: p.payload}
					for _, d := range p.deals {
						if d.Member == rmcast.ID(m.epoch) {
							in.Groups = append(in.Groups, d.Group)
						}
					}
					m.link.Receive(&in)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return m
}

func (m *member) declared() []rmcast.Interest {
	m.l.mu.Lock()
	defer m.l.mu.Unlock()
	return slices.Clone(m.wants)
}

// take returns what a program got, but for what brokers tell each other.
func (m *member) take() (got []packet) {
	m.l.mu.Lock()
	defer m.l.mu.Unlock()
	for _, p := range m.got {
		if p.subject != subjectNews {
			got = append(got, p)
		}
	}
	m.got = nil
	return got
}

// ear keeps what it gets.
type ear struct {
	mu  sync.Mutex
	got []string
}

func (e *ear) Deliver(s *Subscription, m *Message) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got = append(e.got, fmt.Sprintf("%s %s %s %s", m.Subject, m.Reply, strings.TrimSpace(string(m.Header)), m.Payload))
	return nil
}

func (e *ear) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	got := e.got
	e.got = nil
	return got
}

func subscribe(t *testing.T, b *Broker, pattern, queue string, e *ear) *Subscription {
	t.Helper()
	s, err := b.Subscribe(t.Context(), pattern, queue, e, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t *testing.T, b *Broker, subj, text string) Result {
	t.Helper()
	r, err := b.Router().Publish(t.Context(), []byte(subj), &Message{Payload: []byte(text)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLocal(t *testing.T) {
	b := New()
	var all, one, other ear
	subscribe(t, b, ">", "", &all)
	s := subscribe(t, b, "a.*", "", &one)
	if r := publish(t, b, "a.b", "1"); !r.Wanted {
		t.Error("nobody wants it")
	}
	r, err := b.Router().Publish(t.Context(), []byte("a.b"), &Message{Payload: []byte("2"), Reply: []byte("r"), Header: []byte("H")}, Options{Without: &all})
	if err != nil || !r.Wanted {
		t.Errorf("%v, %v", r, err)
	}
	if got := all.take(); !slices.Equal(got, []string{"a.b   1"}) {
		t.Errorf("%q", got)
	}
	if got := one.take(); !slices.Equal(got, []string{"a.b   1", "a.b r H 2"}) {
		t.Errorf("%q", got)
	}
	b.Unsubscribe(s)
	b.Unsubscribe(s)
	subscribe(t, b, "z", "", &other)
	publish(t, b, "a.b", "3")
	if got := one.take(); got != nil {
		t.Errorf("%q after the end", got)
	}
	if n := b.Stats().Subscriptions; n != 2 {
		t.Errorf("%d subscriptions", n)
	}
}

func TestRefusals(t *testing.T) {
	b := New()
	var e ear
	for _, c := range []struct{ pattern, queue string }{{"", ""}, {"a..b", ""}, {"a.>.b", ""}, {"a b", ""}, {"a", "q q"}, {"a", strings.Repeat("q", 256)}} {
		if _, err := b.Subscribe(t.Context(), c.pattern, c.queue, &e, nil); !errors.Is(err, ErrSubject) {
			t.Errorf("%q %q: %v", c.pattern, c.queue, err)
		}
	}
	for subj, want := range map[string]error{"a.*": ErrSubject, "": ErrSubject, "$WEFT.interest": ErrReserved, "$WEFT.x": ErrReserved} {
		if _, err := b.Router().Publish(t.Context(), []byte(subj), &Message{}, Options{}); !errors.Is(err, want) {
			t.Errorf("%q: %v", subj, err)
		}
	}
	if _, err := b.Router().Publish(t.Context(), []byte("a"), &Message{Reply: []byte("r.*")}, Options{}); !errors.Is(err, ErrSubject) {
		t.Error(err)
	}
}

// Messages cross between hosts with all they have, only where somebody wants them.
func TestHosts(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l := &lane{}
		a, b := New(), New()
		var ea, eb ear
		subscribe(t, b, "early", "", &eb)
		ma := l.join(t.Context(), a, 1)
		if r := publish(t, a, "x", ""); r.Wanted {
			t.Error("wanted by nobody")
		}
		mb := l.join(t.Context(), b, 2)
		if r := publish(t, a, "x", ""); !r.Wanted {
			t.Error("a host whose interest is unknown wants everything")
		}
		time.Sleep(time.Second) // fake time
		synctest.Wait()
		if known, unknown := a.Known(); !slices.Equal(known, []string{"h2"}) || unknown != nil {
			t.Errorf("%v %v", known, unknown)
		}
		before := l.sent
		if r := publish(t, a, "x", ""); r.Wanted || l.sent != before {
			t.Error("sent, and nobody wants it")
		}
		publish(t, a, "early", "0")
		s := subscribe(t, b, "x.*", "", &eb)
		synctest.Wait()
		r, err := a.Router().Publish(t.Context(), []byte("x.y"), &Message{Payload: []byte("1"), Reply: []byte("r"), Header: []byte("H")}, Options{})
		if err != nil || !r.Wanted {
			t.Errorf("%v %v", r, err)
		}
		synctest.Wait()
		if got := eb.take(); !slices.Equal(got, []string{"early   0", "x.y r H 1"}) {
			t.Errorf("%q", got)
		}
		// A request comes behind the news of who wants the reply.
		subscribe(t, a, "inbox", "", &ea)
		publish(t, a, "x.y", "ask")
		synctest.Wait()
		if r := publish(t, b, "inbox", "answer"); !r.Wanted {
			t.Error("the reply is not wanted")
		}
		b.Unsubscribe(s)
		time.Sleep(time.Second) // fake time
		if r := publish(t, a, "x.y", ""); r.Wanted {
			t.Error("still wanted")
		}
		if got := ea.take(); !slices.Equal(got, []string{"inbox   answer"}) {
			t.Errorf("%q", got)
		}
		// News lost: everything is sent, until it is known again.
		mb.drop, ma.drop = true, true
		subscribe(t, b, "late", "", &eb)
		synctest.Wait()
		ma.drop, mb.drop = false, false
		if r := publish(t, a, "late", "2"); !r.Wanted {
			t.Error("lost news, and not wanted")
		}
		time.Sleep(10 * time.Second) // fake time
		if r := publish(t, a, "nobody", ""); r.Wanted {
			t.Error("not known again")
		}
		ma.link.Left(2)
		if r := publish(t, a, "late", ""); r.Wanted {
			t.Error("wanted by who has gone")
		}
	})
}

// One member of a queue group gets each message, wherever it is, by patterns that differ, too.
func TestQueueGroups(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l := &lane{}
		var bs [3]*Broker
		var es [3]ear
		for i := range bs {
			bs[i] = New()
			l.join(t.Context(), bs[i], uint64(i+1))
			subscribe(t, bs[i], []string{"job.*", "job.>", "job.1"}[i], "workers", &es[i])
		}
		var watcher ear
		subscribe(t, bs[2], "job.1", "", &watcher)
		time.Sleep(5 * time.Second) // fake time
		const n = 900
		r := bs[0].Router()
		for i := range n {
			if res, err := r.Publish(t.Context(), []byte("job.1"), &Message{Payload: fmt.Append(nil, i)}, Options{}); err != nil || !res.Wanted {
				t.Fatal(res, err)
			}
		}
		synctest.Wait()
		sum := 0
		for i := range es {
			got := len(es[i].take())
			if sum += got; got < n/6 {
				t.Errorf("host %d got %d of %d", i+1, got, n)
			}
		}
		if sum != n || len(watcher.take()) != n {
			t.Errorf("%d of %d", sum, n)
		}
	})
}

func TestRoutingAllocatesNothing(t *testing.T) {
	b := New()
	e := deaf{}
	if _, err := b.Subscribe(t.Context(), "a.>", "", e, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Subscribe(t.Context(), "a.>", "q", e, nil); err != nil {
		t.Fatal(err)
	}
	r := b.Router()
	subj, m := []byte("a.b.c"), &Message{Payload: []byte("hello")}
	if n := testing.AllocsPerRun(1000, func() { _, _ = r.Publish(context.Background(), subj, m, Options{}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

type deaf struct{}

func (deaf) Deliver(*Subscription, *Message) <-chan struct{} { return nil }

func FuzzNews(f *testing.F) {
	f.Add((&news{kind: newsAsk, asked: []uint64{1, 2}}).encode())
	f.Add((&news{kind: newsSnapshot, version: 3, part: 1, more: true, wants: []wanted{{want{"a.>", "q"}, 2}}}).encode())
	f.Add((&news{kind: newsChange, version: 4, wants: []wanted{{want{"a", ""}, 0}}}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decodeNews(b)
		if err != nil {
			return
		}
		if _, err := decodeNews(n.encode()); err != nil {
			t.Errorf("%+v: %v", n, err)
		}
		u := &Link{u: &uplink{b: New(), self: 1, kick: make(chan struct{}, 1), news: map[want]int{}, ids: map[want]uint32{}}}
		u.u.b.uplink = u.u
		u.Joined(2, "x")
		u.heard(2, b) // whatever it says, the tables stand
		u.Left(2)
		if u.u.b.trie.Len() != 0 {
			t.Error("wants stayed behind")
		}
	})
}
