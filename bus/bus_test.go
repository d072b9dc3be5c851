package bus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// world is one bus of this test's own, on the loopback interface.
type world struct {
	t     testing.TB
	token string
	seed  string
	multi bool
	n     int
}

func newWorld(t testing.TB, multicast bool) *world {
	return &world{t: t, token: NewToken(), multi: multicast}
}

// within bounds every wait of these tests.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// join adds a member; the first is the seed of those without multicast.
func (w *world) join(change ...func(*Config)) *Bus {
	w.t.Helper()
	w.n++
	cfg := Config{Name: "test", Token: w.token, Member: fmt.Sprintf("m%d", w.n), Interface: loopback, NoMulticast: !w.multi}
	if w.seed != "" && !w.multi {
		cfg.Seeds = []string{w.seed}
	}
	for _, f := range change {
		f(&cfg)
	}
	b, err := Join(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.seed == "" {
		w.seed = fmt.Sprintf("127.0.0.1:%d", b.Addr().Port())
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = b.Close(ctx)
	})
	return b
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await calls ok at each event of a bus until it is true.
func await(t testing.TB, b *Bus, what string, ok func() bool) {
	t.Helper()
	ctx := within(t)
	for {
		changed := b.changed.wait()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func each(t *testing.T, f func(t *testing.T, w *world)) {
	for _, multicast := range []bool{true, false} {
		t.Run(map[bool]string{true: "multicast", false: "copies"}[multicast], func(t *testing.T) { f(t, newWorld(t, multicast)) })
	}
}

// TestMany: messages of two publishers reach several subscribers in order, all of them, by multicast or without.
func TestMany(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const messages, subscribers = 50_000, 4
		ctx := within(t)
		pubs := []*Publisher{}
		for range 2 {
			b := w.join()
			pubs = append(pubs, must(b.Publisher("quotes.eu"))(t))
		}
		var wg sync.WaitGroup
		for i := range subscribers {
			s := must(w.join().Subscribe("quotes.*", WithSlow(SlowBlock)))(t)
			wg.Go(func() {
				next := map[string]uint64{}
				left := 2 * messages
				for m, err := range s.Messages(ctx) {
					if err != nil {
						t.Errorf("subscriber %d: %v", i, err)
						return
					}
					if n := binary.BigEndian.Uint64(m.Payload); n != next[m.Publisher] || m.Number != n+1 || m.Subject != "quotes.eu" {
						t.Errorf("subscriber %d: message %d is number %d, expected %d", i, n, m.Number, next[m.Publisher])
						return
					}
					next[m.Publisher]++
					if left--; left == 0 {
						return
					}
				}
				t.Errorf("subscriber %d: %d missing, %v", i, left, next)
			})
		}
		for _, p := range pubs {
			check(t, p.Ready(ctx, subscribers))
		}
		if w.multi { // wait until it is served by multicast: else this proves nothing
			await(t, pubs[0].b, "multicast", func() bool {
				n := 0
				for _, m := range pubs[0].b.Members() {
					if m.Hears {
						n++
					}
				}
				return n == subscribers+1
			})
		}
		for _, p := range pubs {
			wg.Go(func() {
				var b [64]byte
				for n := range uint64(messages) {
					binary.BigEndian.PutUint64(b[:], n)
					if err := p.Send(ctx, b[:]); err != nil {
						t.Error(err)
						return
					}
				}
				if err := p.Wait(ctx, All); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		st := pubs[0].Stats()
		t.Logf("%+v", st)
		if st.Messages != messages {
			t.Errorf("%d messages counted", st.Messages)
		}
	})
}

// TestLong: messages to a mebibyte and beyond arrive as they were.
func TestLong(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := within(t)
		a, b := w.join(), w.join()
		p := must(a.Publisher("blob"))(t)
		s := must(b.Subscribe("blob"))(t)
		check(t, p.Ready(ctx, 1))
		sizes := []int{0, 1, 1300, 1357, 1358, 1359, 1360, 1361, 1362, 1363, 1364, 1400, 2700, 64 << 10, 1 << 20, 3 << 20}
		go func() {
			for i, n := range sizes {
				if err := p.Send(ctx, bytes.Repeat([]byte{byte(i)}, n)); err != nil {
					t.Error(err)
				}
			}
		}()
		i := 0
		for m, err := range s.Messages(ctx) {
			check(t, err)
			if !bytes.Equal(m.Payload, bytes.Repeat([]byte{byte(i)}, sizes[i])) {
				t.Fatalf("message %d of %d bytes came with %d", i, sizes[i], len(m.Payload))
			}
			if i++; i == len(sizes) {
				break
			}
		}
		if err := p.Send(ctx, make([]byte, 5<<20)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("5 MiB with a window of 16: %v", err)
		}
	})
}

// TestSubjects: patterns, publishers on patterns, and subscriptions in the publisher's own process.
func TestSubjects(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	a, b := w.join(), w.join()
	p := must(a.Publisher("orders.>"))(t)
	subs := map[string]*Subscription{
		"orders.>":     must(b.Subscribe("orders.>"))(t),
		"orders.*.new": must(b.Subscribe("orders.*.new"))(t),
		"own":          must(a.Subscribe("orders.de.>"))(t),
	}
	other := must(b.Subscribe("trades.>"))(t)
	check(t, p.Ready(ctx, 1))
	check(t, other.Ready(ctx))
	for _, s := range []string{"orders.de.new", "orders.fr.new", "orders.de.old", "orders.x"} {
		check(t, p.SendTo(ctx, s, []byte(s)))
	}
	for name, want := range map[string][]string{
		"orders.>": {"orders.de.new", "orders.fr.new", "orders.de.old", "orders.x"}, "orders.*.new": {"orders.de.new", "orders.fr.new"},
		"own": {"orders.de.new", "orders.de.old"},
	} {
		var got []string
		for m, err := range subs[name].Messages(ctx) {
			check(t, err)
			if m.Subject != string(m.Payload) {
				t.Errorf("%s carries %s", m.Subject, m.Payload)
			}
			if got = append(got, m.Subject); len(got) == len(want) {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, err := range []error{
		p.Send(ctx, nil), p.SendTo(ctx, "orders.*", nil), p.SendTo(ctx, "trades.x", nil), p.SendTo(ctx, "", nil),
		second(a.Publisher("a..b")), second(a.Subscribe("a b")), second(a.Subscribe("x", WithQueue("*"))),
	} {
		if !errors.Is(err, ErrSubject) {
			t.Errorf("taken: %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestQueueGroup: each message goes to one of a group, in this process or others, and to everyone else; each has its share, also where
// many share a packet, and where a process has two.
func TestQueueGroup(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	const messages = 3000
	a := w.join()
	p := must(a.Publisher("jobs"))(t)
	var subs []*Subscription
	for i := range 3 {
		b := a
		if i > 0 {
			b = w.join()
		}
		subs = append(subs, must(b.Subscribe("jobs", WithQueue("workers")))(t))
		if i == 2 {
			subs = append(subs, must(b.Subscribe("*", WithQueue("workers")))(t))
		}
	}
	all := must(w.join().Subscribe("jobs"))(t)
	check(t, p.Ready(ctx, 3))
	for i := range uint64(messages) {
		check(t, p.Send(ctx, binary.BigEndian.AppendUint64(nil, i)))
		if i%7 == 0 {
			check(t, p.Wait(ctx, All)) // so that there are many packets to share out
		}
	}
	check(t, p.Wait(ctx, All))
	read := func(s *Subscription) (got []uint64) {
		s.Close()
		for m, err := range s.Messages(ctx) {
			check(t, err)
			got = append(got, binary.BigEndian.Uint64(m.Payload))
		}
		return got
	}
	var union []uint64
	for i, s := range subs {
		got := read(s)
		if len(got) < messages/4-messages/100 || len(got) > messages/4+messages/100 {
			t.Errorf("worker %d got %d", i, len(got))
		}
		if !slices.IsSorted(got) {
			t.Errorf("worker %d: out of order", i)
		}
		union = append(union, got...)
	}
	slices.Sort(union)
	if len(union) != messages || len(slices.Compact(union)) != messages {
		t.Errorf("%d of %d by the group", len(union), messages)
	}
	if got := read(all); len(got) != messages {
		t.Errorf("%d of %d outside the group", len(got), messages)
	}
}

// TestSlow: a subscription that is not read loses messages, is told which, and slows nobody; one that blocks does.
func TestSlow(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	const messages = 60_000
	a := w.join(func(c *Config) { c.Window = 1 << 20 })
	p := must(a.Publisher("x"))(t)
	slow := must(w.join().Subscribe("x", WithLimit(256<<10)))(t)
	gone := must(w.join().Subscribe("x", WithLimit(256<<10), WithSlow(SlowDisconnect)))(t)
	fast := must(w.join().Subscribe("x", WithSlow(SlowBlock)))(t)
	check(t, p.Ready(ctx, 3))
	done := make(chan error, 1)
	go func() {
		n := 0
		for _, err := range fast.Messages(ctx) {
			if err != nil {
				done <- err
				return
			}
			if n++; n == messages {
				break
			}
		}
		done <- nil
	}()
	for range messages {
		check(t, p.Send(ctx, make([]byte, 100)))
	}
	check(t, <-done)
	next, lost := uint64(1), uint64(0)
	for m, err := range slow.Messages(ctx) {
		var l *Lost
		switch {
		case errors.As(err, &l):
			if l.From != next || l.To < l.From || l.Publisher != "m1" || l.Epoch != a.Epoch() {
				t.Fatalf("%+v, expected from %d", l, next)
			}
			lost += l.To - l.From + 1
			next = l.To + 1
		case err != nil || m.Number != next:
			t.Fatalf("message %d, expected %d: %v", m.Number, next, err)
		default:
			next++
		}
		if next == messages+1 {
			break
		}
	}
	if lost == 0 || slow.Dropped() == 0 {
		t.Error("nothing was lost: the test proves nothing")
	}
	var last error
	for _, err := range gone.Messages(ctx) {
		last = err
	}
	if !errors.Is(last, ErrSlow) {
		t.Errorf("the disconnected one ends with %v", last)
	}
	// WouldBlock and Drop: a receiver that blocks and is not read.
	stuck := must(w.join().Subscribe("y", WithSlow(SlowBlock), WithLimit(64<<10)))(t)
	for _, full := range []WhenFull{WouldBlock, Drop} {
		q := must(a.Publisher("y", WithFull(full), WithWindow(256<<10)))(t)
		check(t, q.Ready(ctx, 1))
		var err error
		for err == nil && q.Dropped() == 0 {
			err = q.Send(ctx, make([]byte, 1000))
		}
		if full == WouldBlock && !errors.Is(err, ErrWouldBlock) || full == Drop && err != nil {
			t.Errorf("%d: %v", full, err)
		}
	}
	stuck.Close()
}

// TestLateJoin: from now, the last, from a position, all that is kept; of a publisher known already from what is kept here.
func TestLateJoin(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	a, b := w.join(), w.join()
	p := must(a.Publisher("x"))(t)
	for i := range 1000 {
		check(t, p.Send(ctx, fmt.Append(nil, i+1)))
	}
	first := func(s *Subscription) uint64 {
		t.Helper()
		for m, err := range s.Messages(ctx) {
			check(t, err)
			return m.Number
		}
		t.Fatal("nothing came")
		return 0
	}
	last := must(b.Subscribe("x", FromLast(10)))(t) // the publisher's kept window
	if n := first(last); n != 991 {
		t.Errorf("the last 10 begin with %d", n)
	}
	check(t, last.Ready(ctx))
	c := w.join()
	if n := first(must(c.Subscribe("x", FromOldest()))(t)); n != 1 {
		t.Errorf("all begins with %d", n)
	}
	if n := first(must(c.Subscribe("x", FromLast(3)))(t)); n != 998 { // whether the first 997 have come yet or not
		t.Errorf("the last 3 begin with %d", n)
	}
	now := must(c.Subscribe("x"))(t)
	check(t, now.Ready(ctx))
	check(t, p.Send(ctx, []byte("new")))
	if n := first(now); n != 1001 {
		t.Errorf("now is %d", n)
	}
	d := w.join()
	if n := first(must(d.Subscribe("x", FromPosition(a.Epoch(), 500)))(t)); n != 500 {
		t.Errorf("position 500 begins with %d", n)
	}
	if n := first(must(d.Subscribe("x", FromLast(7)))(t)); n != 995 {
		t.Errorf("the last 7 of what is kept here begin with %d", n)
	}
}

// TestWait names who does not confirm.
func TestWait(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	p := must(w.join().Publisher("x"))(t)
	check(t, p.Wait(ctx, All)) // nobody: at once
	must(w.join().Subscribe("x"))(t)
	must(w.join(func(c *Config) { c.Member = "stuck" }).Subscribe("x", WithSlow(SlowBlock), WithLimit(64<<10)))(t)
	check(t, p.Ready(ctx, 2))
	check(t, p.Send(ctx, []byte("x")))
	check(t, p.Wait(ctx, All))
	check(t, p.Send(ctx, make([]byte, 100<<10)))
	check(t, p.Wait(ctx, 1)) // its queue is over the limit now, or will be before it has all of that
	var err error
	for i := 0; i < 2 && err == nil; i++ { // the first may come to it in one batch with what fills its queue
		check(t, p.Send(ctx, []byte("x")))
		check(t, p.Wait(ctx, 1))
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		err = p.Wait(short, All)
	}
	var u *Unconfirmed
	if !errors.As(err, &u) || u.Confirmed != 1 || !slices.Equal(u.Missing, []string{"stuck"}) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// TestStrangers: another token or another name is another bus: nobody is found, nothing comes, and nothing is said back.
func TestStrangers(t *testing.T) {
	for _, multicast := range []bool{true, false} {
		w := newWorld(t, multicast)
		ctx := within(t)
		a := w.join()
		p := must(a.Publisher("x"))(t)
		s := must(w.join().Subscribe("x"))(t)
		check(t, p.Ready(ctx, 1))
		token := w.join(func(c *Config) { c.Token = NewToken(); c.Seeds = []string{w.seed} })
		name := w.join(func(c *Config) { c.Name = "other"; c.Seeds = []string{w.seed} })
		await(t, a, "forged hellos", func() bool { return a.Stats().Dropped["forged"] >= 4 })
		check(t, p.Send(ctx, []byte("still here")))
		for _, err := range s.Messages(ctx) {
			check(t, err)
			break
		}
		for _, b := range []*Bus{token, name} {
			if len(b.Members()) != 0 || b.Stats().Packets != 0 && !multicast {
				t.Errorf("%v sees %v, %+v", b.cfg.Name, b.Members(), b.Stats())
			}
		}
	}
}

// TestRotation: a token is changed by restarting members one by one, and all talk to each other all the time.
func TestRotation(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	fresh := NewToken()
	a := w.join(func(c *Config) { c.Accept = []string{fresh} })
	b := w.join(func(c *Config) { c.Accept = []string{c.Token}; c.Token = fresh })
	p, q := must(a.Publisher("a"))(t), must(b.Publisher("b"))(t)
	s, u := must(b.Subscribe("a"))(t), must(a.Subscribe("b"))(t)
	check(t, p.Ready(ctx, 1))
	check(t, q.Ready(ctx, 1))
	check(t, p.Send(ctx, []byte("old")))
	check(t, q.Send(ctx, []byte("new")))
	for want, s := range map[string]*Subscription{"old": s, "new": u} {
		for m, err := range s.Messages(ctx) {
			check(t, err)
			if string(m.Payload) != want {
				t.Errorf("%s", m.Payload)
			}
			break
		}
	}
}

// TestClose: what was sent before Close arrives, everyone is told, iterators end, and nothing works any more.
func TestClose(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	a, b := w.join(), w.join()
	p := must(a.Publisher("x"))(t)
	s := must(b.Subscribe("x"))(t)
	check(t, p.Ready(ctx, 1))
	const messages = 20_000
	for range messages {
		check(t, p.Send(ctx, make([]byte, 50)))
	}
	check(t, a.Close(ctx))
	check(t, a.Close(ctx))
	if err := p.Send(ctx, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("send: %v", err)
	}
	if _, err := a.Subscribe("x"); !errors.Is(err, ErrClosed) {
		t.Errorf("subscribe: %v", err)
	}
	if _, err := a.Publisher("x"); !errors.Is(err, ErrClosed) {
		t.Errorf("publisher: %v", err)
	}
	n := 0
	for _, err := range s.Messages(ctx) {
		check(t, err)
		if n++; n == messages {
			break
		}
	}
	for e := range b.Events(ctx) {
		if e.Kind == Left {
			break
		}
	}
	await(t, b, "no members", func() bool { return len(b.Members()) == 0 })
	check(t, b.Close(ctx))
	for m, err := range s.Messages(ctx) {
		t.Errorf("after the end: %v, %v", m, err)
	}
}

func TestConfig(t *testing.T) {
	good := Config{Name: "x", Token: NewToken(), NoMulticast: true}
	for name, change := range map[string]func(*Config){
		"Name":     func(c *Config) { c.Name = "X y" },
		"Token":    func(c *Config) { c.Token = "weft1secretsecret" },
		"Accept":   func(c *Config) { c.Accept = []string{"nonsense"} },
		"Listen":   func(c *Config) { c.Listen = 70000 },
		"TTL":      func(c *Config) { c.TTL = 256 },
		"Datagram": func(c *Config) { c.Datagram = 100 },
		"Window":   func(c *Config) { c.Window = 1000 },
		"History":  func(c *Config) { c.History = -1 },
		"Fanout":   func(c *Config) { c.Fanout = 33 },
		"TCP":      func(c *Config) { c.TCP = TCPOff + 1 },
		"Keep":     func(c *Config) { c.Keep = -1 },
		"Seeds":    func(c *Config) { c.Seeds = []string{"host:99999"} },
		"Member":   func(c *Config) { c.Member = strings.Repeat("x", 256) },
	} {
		c := good
		change(&c)
		b, err := Join(t.Context(), c)
		if err == nil {
			check(t, b.Close(t.Context()))
		}
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
