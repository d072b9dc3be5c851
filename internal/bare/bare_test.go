package bare

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/broker"
	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/ident"
)

var testGroup = netip.MustParseAddrPort("225.4.5.6:5000")

// wire is a LAN in memory: what one place sends, all get, the sender too.
type wire struct {
	mu     sync.Mutex
	places map[*place]bool
	heard  []string // datagrams to the group, as a script hears them
}

type place struct {
	w      *wire
	in     chan []byte
	closed chan struct{}
	once   sync.Once
	fail   func([]byte) error
	gone   error // what Check says
}

func (w *wire) open(context.Context, Place) (Socket, error) {
	p := &place{w: w, in: make(chan []byte, 1<<16), closed: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.places == nil {
		w.places = map[*place]bool{}
	}
	w.places[p] = true
	return p, nil
}

// send is a datagram of whoever is on the LAN.
func (w *wire) send(from, to uint16, payload string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if to == testGroup.Port() {
		w.heard = append(w.heard, payload)
	}
	for p := range w.places {
		p.in <- packet(from, to, []byte(payload))
	}
}

// took returns what was on the group, and forgets it.
func (w *wire) took() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.heard
	w.heard = nil
	return out
}

func (p *place) Interface() string { return "eth0" }
func (p *place) Drops() uint64     { return 7 }

func (p *place) Check() error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.gone
}

func (p *place) Read(b []byte) (int, error) {
	select {
	case d := <-p.in:
		return copy(b, d), nil
	case <-p.closed:
		return 0, net.ErrClosed
	}
}

func (p *place) Send(b []byte, port uint16) error {
	if p.fail != nil {
		if err := p.fail(b); err != nil {
			return err
		}
	}
	p.w.send(Port, port, string(b))
	return nil
}

func (p *place) Close() error {
	p.once.Do(func() {
		p.w.mu.Lock()
		delete(p.w.places, p)
		p.w.mu.Unlock()
		close(p.closed)
	})
	return nil
}

// ear notes what comes on a subject of the bus.
type ear struct {
	mu  sync.Mutex
	got []string
}

func (e *ear) Deliver(_ *broker.Subscription, m *broker.Message) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got = append(e.got, string(m.Payload))
	return nil
}

func (e *ear) took() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.got
	e.got = nil
	return out
}

// world is a cluster: one broker stands for those of all hosts and the bus between them.
type world struct {
	t      *testing.T
	broker *broker.Broker
	dead   map[ident.HostID]bool
	all    sync.WaitGroup
}

// bridge runs a host's bridge to a LAN until stop is called.
func (w *world) bridge(id byte, on *wire) (b *Bridge, stop func()) {
	b = New(Config{
		Place: Place{Group: testGroup, TTL: 1}, Subject: "bare.chat", Broker: w.broker, Host: ident.HostID{id},
		Key:   func() (Key, error) { return Key{9}, nil },
		Alive: func(h ident.HostID) bool { return !w.dead[h] },
		Join:  func(context.Context) (func(), error) { return func() {}, nil },
		Open:  on.open,
	})
	ctx, stop := context.WithCancel(context.Background())
	w.all.Go(func() { b.Run(ctx) })
	return b, stop
}

// after lets time pass; within synctest that takes none.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (w *world) publish(text string) {
	w.t.Helper()
	if _, err := w.broker.Router().Publish(context.Background(), []byte("bare.chat"), &broker.Message{Payload: []byte(text)}, broker.Options{}); err != nil {
		w.t.Error(err)
	}
}

// Two bridges on one LAN, one on another, scripts on both, a program on the bus: all is heard once everywhere.
func TestBridge(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		w := &world{t: t, broker: broker.New()}
		defer w.all.Wait()
		lan1, lan2, e := &wire{}, &wire{}, &ear{}
		b1, stop1 := w.bridge(1, lan1)
		b2, stop2 := w.bridge(2, lan1)
		b3, stop3 := w.bridge(3, lan2)
		defer stop1()
		defer stop2()
		defer stop3()
		if _, err := w.broker.Subscribe(t.Context(), "bare.>", "", e, nil); err != nil {
			t.Fatal(err)
		}
		after(tickEvery)
		lan1.send(4000, 5000, "too early")
		after(3 * time.Second)
		lan1.took()
		if s1, s2, s3 := b1.Status(), b2.Status(), b3.Status(); !s1.Bridging || s2.Bridging || !s3.Bridging ||
			s2.Bridge != (ident.HostID{1}) || len(s1.Heard) != 1 || len(s3.Heard) != 0 || s1.Passive != 1 {
			t.Fatalf("%+v\n%+v\n%+v", s1, s2, s3)
		}
		lan1.send(4000, 5000, "from lan1")
		lan2.send(4000, 5000, "from lan2")
		lan1.send(4000, 5001, "another port")
		w.publish("from bus")
		after(time.Second)
		check := func(where string, got []string, want ...string) {
			t.Helper()
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s has %q, want %q", where, got, want)
			}
		}
		all := []string{"from lan1", "from lan2", "from bus"}
		check("lan1", lan1.took(), all...)
		check("lan2", lan2.took(), all...)
		check("the bus", e.took(), all...)
		if s := b2.Status(); s.Passive != 2 || s.Bridged != 2 || s.In+s.Out != 0 {
			t.Errorf("the one that waits: %+v", s)
		}
		stop1() // with a goodbye: nothing is missed but the moment
		after(200 * time.Millisecond)
		lan1.send(4000, 5000, "again")
		after(time.Second)
		check("lan2", lan2.took(), "again")
		check("the bus", e.took(), "again")
		if s := b2.Status(); !s.Bridging || s.In != 1 {
			t.Errorf("after the goodbye: %+v", s)
		}
	})
}

// Strangers' beacons, replays, and those of hosts that the cluster does not have, silence nobody, and are counted.
func TestBridgeForgedBeacons(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		w := &world{t: t, broker: broker.New(), dead: map[ident.HostID]bool{{1}: true}}
		defer w.all.Wait()
		lan := &wire{}
		b, stop := w.bridge(5, lan)
		defer stop()
		after(3 * time.Second)
		in := beacon{flags: flagActive, host: ident.HostID{2}, epoch: 1, number: 1, group: groupHash(testGroup, "bare.chat")}
		lan.send(Port, Port, string(in.encode(nil, Key{1})))
		lan.send(Port, Port, "rubbish")
		in.host = ident.HostID{1}
		lan.send(Port, Port, string(in.encode(nil, Key{9})))
		in.host, in.group = ident.HostID{3}, [8]byte{1} // of another bus on this group
		lan.send(Port, Port, string(in.encode(nil, Key{9})))
		after(time.Second)
		if s := b.Status(); !s.Bridging || len(s.Heard) != 0 || s.Drops["bad_beacon"] != 2 || s.Drops["unknown_host"] != 1 || s.Drops["socket_rx_full"] != 7 {
			t.Errorf("%+v", s)
		}
		in.host, in.group = ident.HostID{4}, groupHash(testGroup, "bare.chat")
		genuine := string(in.encode(nil, Key{9}))
		lan.send(Port, Port, genuine)
		after(time.Second)
		if s := b.Status(); s.Bridging || len(s.Heard) != 1 {
			t.Errorf("a lower host that passes: %+v", s)
		}
		after(silence)
		lan.send(Port, Port, genuine) // it is gone; somebody kept its words
		after(settle)
		if s := b.Status(); !s.Bridging || s.Drops["old_beacon"] != 1 {
			t.Errorf("a replay: %+v", s)
		}
	})
}

// What is too much or too long is dropped by name.
func TestBridgeBounds(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		w := &world{t: t, broker: broker.New()}
		defer w.all.Wait()
		lan, e := &wire{}, &ear{}
		b, stop := w.bridge(5, lan)
		defer stop()
		if _, err := w.broker.Subscribe(t.Context(), "bare.chat", "", e, nil); err != nil {
			t.Fatal(err)
		}
		after(3 * time.Second)
		for range maxBurst + 50 {
			lan.send(4000, 5000, "x")
		}
		bad := packet(4000, 5000, []byte("y"))
		bad[28] = 'z'
		lan.mu.Lock()
		for p := range lan.places {
			p.in <- bad
			p.in <- bad[:9]
		}
		lan.mu.Unlock()
		after(time.Second)
		if s := b.Status(); len(e.took()) != maxBurst || s.Drops["rate"] != 50 || s.Drops["checksum"] != 1 || s.Drops["malformed"] != 1 || s.In != maxBurst {
			t.Errorf("%+v", s)
		}
		w.publish(strings.Repeat("x", MaxDatagram+1))
		w.publish(strings.Repeat("x", MaxDatagram))
		after(time.Second)
		if s := b.Status(); s.Drops["too_large"] != 1 || s.Out != 1 || s.OutBytes != MaxDatagram {
			t.Errorf("%+v", s)
		}
	})
}

// The queue to the LAN is bounded, tells who publishes that it is nearly full, and is paced.
func TestQueue(t *testing.T) {
	var c counters
	q := newQueue(&c, MaxDatagram)
	m := &broker.Message{Payload: make([]byte, 64<<10-64)}
	if q.Deliver(nil, m); c.drops[dropYielded].Load() != 1 {
		t.Error("taken while another host passes")
	}
	q.set(true)
	n := 0
	var pressed <-chan struct{}
	for c.drops[dropQueueFull].Load() == 0 {
		pressed = q.Deliver(nil, m)
		n++
	}
	if pressed == nil || n != maxQueue/len(m.Payload)+1 {
		t.Errorf("%d messages, pressed %v", n, pressed)
	}
	buf, ends := q.take(nil, nil)
	<-pressed
	if len(ends) != n-1 || len(buf) != (n-1)*len(m.Payload) {
		t.Errorf("%d messages, %d bytes", len(ends), len(buf))
	}
	q.Deliver(nil, m)
	if q.set(false); c.drops[dropYielded].Load() != 2 {
		t.Error("not counted what another host sends")
	}
	q.set(true)
	small := &broker.Message{Payload: []byte("hello")}
	q.take(make([]byte, 0, 1<<20), make([]int, 0, 1<<10))
	if n := testing.AllocsPerRun(100, func() { q.Deliver(nil, small) }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1000, 0)
	for range maxBurst {
		if p.take(now) != 0 {
			t.Fatal("less than a burst")
		}
	}
	if wait := p.take(now); wait <= 0 || wait > 2*time.Second/MaxRate {
		t.Errorf("wait %v", wait)
	}
	n := 0
	for end := now.Add(time.Second); now.Before(end); now = now.Add(10 * time.Microsecond) {
		if p.take(now) == 0 {
			n++
		}
	}
	if n < MaxRate*99/100 || n > MaxRate {
		t.Errorf("%d in a second", n)
	}
}

// An interface that goes, and one that is not there at first: said, and tried again.
func TestBridgeComesBack(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		w := &world{t: t, broker: broker.New()}
		defer w.all.Wait()
		lan := &wire{}
		missing := errors.New("interface eth9: there is none of that name")
		var mu sync.Mutex
		b := New(Config{
			Place: Place{Group: testGroup, TTL: 1}, Subject: "bare.chat", Broker: w.broker, Host: ident.HostID{1},
			Key: func() (Key, error) { return Key{}, nil }, Alive: func(ident.HostID) bool { return true },
			Join: func(context.Context) (func(), error) { return func() {}, nil },
			Open: func(ctx context.Context, p Place) (Socket, error) {
				mu.Lock()
				defer mu.Unlock()
				if missing != nil {
					return nil, missing
				}
				return lan.open(ctx, p)
			},
		})
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		w.all.Go(func() { b.Run(ctx) })
		after(5 * time.Second)
		if s := b.Status(); s.Problem == "" || s.Interface != "" || time.Since(s.Since) < 4*time.Second {
			t.Errorf("%+v", s)
		}
		mu.Lock()
		missing = nil
		mu.Unlock()
		after(5 * time.Second)
		if s := b.Status(); s.Problem != "" || !s.Bridging {
			t.Errorf("%+v", s)
		}
		lan.mu.Lock()
		for p := range lan.places {
			p.gone = fmt.Errorf("interface eth0 is down")
		}
		lan.mu.Unlock()
		before := b.Status().Since
		after(checkEvery + tickEvery)
		if s := b.Status(); s.Bridging || s.Since == before {
			t.Errorf("%+v", s)
		}
		after(5 * time.Second)
		lan.send(4000, 5000, "x")
		after(time.Second)
		if s := b.Status(); !s.Bridging || s.Problem != "" || s.In != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// nothing takes messages and keeps none.
type nothing struct{}

func (nothing) Deliver(*broker.Subscription, *broker.Message) <-chan struct{} { return nil }

// warm is the way of packets of a bridge that passes them, without its socket.
func warm(tb testing.TB) *inlet {
	tb.Helper()
	b := New(Config{Place: Place{Group: testGroup}, Subject: "bare.chat", Broker: broker.New()})
	b.active.Store(true)
	if _, err := b.cfg.Broker.Subscribe(tb.Context(), "bare.>", "", nothing{}, nil); err != nil {
		tb.Fatal(err)
	}
	return b.inlet()
}

func TestInletAllocatesNothing(t *testing.T) {
	in, p, now := warm(t), packet(4000, 5000, make([]byte, 100)), time.Unix(1000, 0)
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Millisecond)
		in.take(t.Context(), p, now)
	}); n != 0 {
		t.Errorf("%v allocations a datagram", n)
	}
	if n := in.b.counts.in.Load(); n != 1001 {
		t.Errorf("%d passed", n)
	}
}

func BenchmarkInlet(b *testing.B) {
	in, p, now := warm(b), packet(4000, 5000, make([]byte, 100)), time.Unix(1000, 0)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		in.take(b.Context(), p, now)
	}
}
