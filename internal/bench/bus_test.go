package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/bubbletest"
)

// ether is a bus between the hosts of a lab: each message takes pause to publish, and some are lost.
type ether struct {
	pause time.Duration
	lose  func(n int) bool

	mu     sync.Mutex // guards what follows
	n      int
	ears   map[int]ear
	next   int
	joined int
}

type ear struct {
	host, subject string
	got           func([]byte)
}

// etherEnd is a host's.
type etherEnd struct {
	*ether
	host string
	deaf bool
}

func (e *etherEnd) Hear(_ context.Context, subj string, got func([]byte)) (func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next++
	id := e.next
	if !e.deaf {
		e.ears[id] = ear{e.host, subj, got}
	}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.ears, id)
	}, nil
}

func (e *etherEnd) Publisher() func(context.Context, string, []byte) error {
	return func(_ context.Context, subj string, payload []byte) error {
		time.Sleep(e.pause)
		e.mu.Lock()
		var to []func([]byte)
		e.n++
		for _, x := range e.ears {
			if x.subject == subj && (e.lose == nil || !e.lose(e.n)) {
				to = append(to, x.got)
			}
		}
		e.mu.Unlock()
		for _, got := range to {
			got(payload)
		}
		return nil
	}
}

func (e *etherEnd) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.joined--
}

// busLab gives a lab's hosts a bus.
func busLab(t *testing.T, hosts int, deaf string) (*lab, *ether, BusPlan) {
	t.Helper()
	l := newLab(t, hosts)
	x := &ether{pause: 10 * time.Microsecond, ears: map[int]ear{}}
	for i, e := range l.endpoints {
		name := fmt.Sprintf("h%d", i+1)
		e.host.Bus = func(context.Context) (Messages, error) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.joined++
			return &etherEnd{x, name, name == deaf}, nil
		}
	}
	return l, x, BusPlan{
		Self: l.peers[0], Peers: l.peers[1:], Tests: api.BenchBusTests, Duration: time.Second, Rate: 200,
		Progress: func(api.BenchProgress) error { return nil },
	}
}

func TestRunBus(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l, x, p := busLab(t, 3, "")
		var progress []string
		p.Progress = func(e api.BenchProgress) error {
			progress = append(progress, fmt.Sprintf("%s%v%d/%d", e.Test, e.To, e.Number, e.Of))
			return nil
		}
		b, err := RunBus(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if len(x.ears) != 0 || x.joined != 0 {
			t.Errorf("%d subscriptions, %d hosts on the bus after the measurement", len(x.ears), x.joined)
		}
		if want := "[prepare[]0/0 rtt[h2]1/4 rtt[h3]2/4 msg64[h2 h3]3/4 msg1k[h2 h3]4/4]"; fmt.Sprint(progress) != want {
			t.Errorf("progress %v\nwant %s", progress, want)
		}
		if b.Bus != api.ClusterBus || len(b.Hosts) != 3 || len(b.Bench) != 4 {
			t.Fatalf("%+v", b)
		}
		for _, r := range b.Bench {
			if r.Error != "" || r.LossPercent != 0 || r.Misplaced != 0 || len(r.CPU) != len(r.To)+1 || r.Sent == 0 {
				t.Errorf("%+v", r)
			}
			switch r.Test {
			case api.BenchBusRTT:
				if r.Sent != 200 || r.RTTP50MS <= 0 || r.RTTP50MS > 1 || r.Delivered != 400 || r.MessagesPerS < 190 || r.MessagesPerS > 210 {
					t.Errorf("%+v", r)
				}
			default:
				if r.MessagesPerS < 90_000 || r.MessagesPerS > 101_000 || r.Delivered != 2*r.Sent || len(r.Receivers) != 2 || r.Test == api.BenchMsg1K != (r.PayloadBytes == 1024) {
					t.Errorf("%+v", r)
				}
			}
		}
		l.close(t)
	})
}

func TestBusThatLoses(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l, x, p := busLab(t, 2, "")
		p.Tests = []string{api.BenchMsg64}
		x.lose = func(n int) bool { return n > 3000 && n%100 == 0 }
		b, err := RunBus(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if r := b.Bench[0]; r.Error != "" || r.LossPercent < 0.8 || r.LossPercent > 1.1 || r.Receivers[0].Received != r.Delivered {
			t.Errorf("%+v", r)
		}
		l.close(t)
	})
}

// TestDeafHost: who does not hear is named, and the measurement ends.
func TestDeafHost(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l, x, p := busLab(t, 3, "h3")
		b, err := RunBus(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Bench {
			if want := strings.Contains(strings.Join(r.To, " "), "h3"); want != strings.Contains(r.Error, "host h3") {
				t.Errorf("%+v", r)
			}
		}
		if x.joined != 0 {
			t.Error("hosts stay on the bus")
		}
		l.close(t)
	})
}

func TestBusOnly(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l, _, p := busLab(t, 2, "")
		l.endpoints[1].host.Bus = func(context.Context) (Messages, error) {
			return nil, api.Errorf(api.CodeUnavailable, "not on the cluster's bus")
		}
		if _, err := RunBus(t.Context(), p); err == nil || !strings.Contains(err.Error(), "host h2: not on the cluster's bus") {
			t.Errorf("%v", err)
		}
		p.Progress = func(api.BenchProgress) error { return errors.New("hung up") }
		if _, err := RunBus(t.Context(), p); err == nil || !strings.Contains(err.Error(), "hung up") {
			t.Errorf("%v", err)
		}
		l.close(t)
	})
}

// TestBusBounds: what another host may have this one do.
func TestBusBounds(t *testing.T) {
	good := busAsk{Op: busPublish, Subject: "_BENCH.x", PayloadBytes: 64, DurationMS: 1000}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*busAsk){
		"operation": func(a *busAsk) { a.Op = "purge" },
		"subject":   func(a *busAsk) { a.Subject = "orders.new" },
		"pattern":   func(a *busAsk) { a.Subject = "_BENCH.>" },
		"size":      func(a *busAsk) { a.PayloadBytes = mostMessage + 1 },
		"no size":   func(a *busAsk) { a.PayloadBytes = 4 },
		"time":      func(a *busAsk) { a.DurationMS = api.MaxBenchMS + 1 },
		"pace":      func(a *busAsk) { a.Op, a.Rate = busPing, api.MaxBenchBusRate+1 },
	} {
		a := good
		if change(&a); a.check() == nil {
			t.Errorf("%s: %+v is taken", what, a)
		}
	}
}
