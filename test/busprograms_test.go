package test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/test/rig"
)

// startWorker starts a Go program on a host that joins the bus of a token.
func startWorker(t *testing.T, h *rig.Host, name string, to client.BusToken) *rig.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.Setenv(busVariable+"=worker", tokenVariable+"="+to.Token)
	defer h.Setenv()
	p := h.Start(append([]string{self, name, to.Bus}, to.Seeds...)...)
	p.ExpectLine("^ready$", 20*time.Second)
	return p
}

// ask has a worker do something, by a request of a NATS client.
func ask(t *testing.T, c *nats.Conn, worker, what string) string {
	t.Helper()
	m, err := c.Request("ctl."+worker, []byte(what), 60*time.Second)
	if err != nil {
		t.Fatalf("%s %s: %v", worker, what, err)
	}
	if e := m.Header.Get("Nats-Service-Error"); e != "" {
		return "error: " + e
	}
	return string(m.Data)
}

// TestBusWithPrograms: Go programs with package bus, one beside a daemon and one on a machine without, and NATS clients of three hosts are on one
// bus: requests, answers, headers, word that nobody is there, order, and a queue group in which each message goes to one.
func TestBusWithPrograms(t *testing.T) {
	for name, underlay := range map[string]func(w *rig.World) *rig.Underlay{
		"cloud": func(w *rig.World) *rig.Underlay { return w.Cloud() },
		"lan":   func(w *rig.World) *rig.Underlay { return w.LAN(rig.LANOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := underlay(rig.New(t))
			h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
			bare := u.Host("bare")
			if name == "cloud" {
				rig.MulticastProbe(t, h[0], h[1])
			}
			for i, x := range h {
				args := []string{"--nats", "unix:" + natsSocket(x)}
				if i > 0 {
					args = append([]string{h[0].Endpoint()}, args...)
				}
				x.Up(args...)
			}
			rig.AllKnowAll(t, 20*time.Second, h...)
			awaitBus(t, h...)
			var to client.BusToken
			if err := h[0].JSON(&to, "token", "--bus", api.ClusterBus); err != nil {
				t.Fatal(err)
			}
			if line := strings.TrimSpace(h[1].MustWeft("token", "--bus", api.ClusterBus)); line != to.Token || len(to.Seeds) < 3 {
				t.Fatalf("%+v, and %q on another host", to, line)
			}
			one, two := startWorker(t, h[0], "p1", to), startWorker(t, bare, "p2", to)
			var c []*nats.Conn
			for _, x := range h {
				c = append(c, natsClient(t, x))
			}
			for _, w := range []string{"p1", "p2"} {
				for _, from := range c {
					rig.Eventually(t, 15*time.Second, func() error {
						_, err := from.Request("ctl."+w, []byte("ordered"), 5*time.Second)
						return err
					})
				}
			}
			programRequests(t, h, c)
			programOrder(t, c)
			programQueue(t, c)

			// Who is gone has nobody waiting for it.
			one.Kill9()
			rig.Eventually(t, 20*time.Second, func() error {
				if _, err := c[2].Request("svc.p1", []byte("x"), 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
					return fmt.Errorf("the program was killed: %w", err)
				}
				return nil
			})
			two.Signal(15)
			if code := two.Wait(10 * time.Second); code != 0 {
				t.Errorf("p2 ended with %d: %v", code, two.Errors())
			}
			rig.Eventually(t, 20*time.Second, func() error {
				if _, err := c[2].Request("svc.p2", []byte("x"), 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
					return fmt.Errorf("the program has left: %w", err)
				}
				return nil
			})
			for _, x := range h {
				s, err := x.Status()
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range s.Drops { // of packets what a network does, and who has gone
					if strings.HasPrefix(d.Reason, "bus_") && !strings.HasPrefix(d.Reason, "bus_packet_") {
						t.Errorf("%s: %s %d", x.Name, d.Reason, d.Count)
					}
				}
			}
		})
	}
}

// programRequests: all combinations of asker and responder, with headers; refusals; nobody there.
func programRequests(t *testing.T, h []*rig.Host, c []*nats.Conn) {
	t.Helper()
	sub, err := c[2].Subscribe("svc.nats", func(m *nats.Msg) {
		out := nats.NewMsg(m.Reply)
		out.Data = []byte(strings.ToUpper(string(m.Data)))
		out.Header.Set("By", "nats")
		out.Header.Set("For", m.Header.Get("From"))
		_ = m.RespondMsg(out)
	})
	if err != nil || c[2].Flush() != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"p1", "p2"} {
		m := nats.NewMsg("svc." + w)
		m.Data = []byte("hello")
		m.Header.Set("From", "client")
		for i, from := range c {
			got, err := from.RequestMsg(m, 5*time.Second)
			if err != nil || string(got.Data) != "HELLO" || got.Header.Get("By") != w || got.Header.Get("For") != "client" {
				t.Errorf("h%d asks %s: %+v %v", i+1, w, got, err)
			}
		}
		if got, err := c[1].Request("svc."+w, nil, 5*time.Second); err != nil || got.Header.Get("Nats-Service-Error") != "nothing to say" {
			t.Errorf("%s refuses: %+v %v", w, got, err)
		}
		if got := strings.TrimSpace(h[2].MustWeft("request", "svc."+w, "weft")); got != "WEFT" {
			t.Errorf("weft request to %s: %q", w, got)
		}
		rig.Eventually(t, 20*time.Second, func() error { // the first time what the client wants may be on its way
			if got, want := ask(t, c[0], w, "request svc.nats hello"), "HELLO map[By:[nats] For:["+w+"]]"; got != want {
				return fmt.Errorf("%s asks a NATS client: %s", w, got)
			}
			return nil
		})
		began := time.Now()
		if got := ask(t, c[0], w, "request svc.nobody hello"); !strings.Contains(got, "nobody is there to answer") || time.Since(began) > 3*time.Second {
			t.Errorf("%s asks nobody: %s after %v", w, got, time.Since(began))
		}
	}
	if got := ask(t, c[0], "p1", "request svc.p2 hello"); got != "HELLO map[By:[p2] For:[p1]]" {
		t.Errorf("p1 asks p2: %s", got)
	}
	if _, err := c[0].Request("svc.nobody", nil, 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a NATS client asks nobody: %v", err)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
	for _, w := range []string{"p1", "p2"} {
		// A request that crosses the news of it waits for its own five seconds: who asked cannot tell whether it was taken.
		rig.Eventually(t, 20*time.Second, func() error {
			if got := ask(t, c[0], w, "request svc.nats hello"); !strings.Contains(got, "nobody is there to answer") {
				return fmt.Errorf("the client has unsubscribed: %s", got)
			}
			return nil
		})
	}
}

// programOrder: what one publishes all others get, all of it and in its order.
func programOrder(t *testing.T, c []*nats.Conn) {
	t.Helper()
	const n = 10_000
	check := func(worker string, want int) {
		t.Helper()
		rig.Eventually(t, 20*time.Second, func() error {
			if got := ask(t, c[1], worker, "ordered"); got != strconv.Itoa(want) {
				return fmt.Errorf("%s has %s of %d in order", worker, got, want)
			}
			return nil
		})
	}
	for i := range n + 1 {
		text := "begin"
		if i > 0 {
			text = strconv.Itoa(i)
		}
		if err := c[0].Publish("order.nats", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	check("p1", n)
	check("p2", n)
	var subs []*nats.Subscription
	for _, x := range c {
		s, err := x.SubscribeSync("order.p1")
		if err != nil || s.SetPendingLimits(-1, -1) != nil || x.Flush() != nil {
			t.Fatal(err)
		}
		subs = append(subs, s)
	}
	next := n
	rig.Eventually(t, 5*time.Second, func() error { // all daemons say that they want it
		next++ // p2 follows all the time
		if got := ask(t, c[0], "p1", fmt.Sprintf("publish order.p1 order.p1 %d 1", next)); got != "" {
			t.Fatal(got)
		}
		for i, s := range subs {
			if _, err := s.NextMsg(200 * time.Millisecond); err != nil {
				return fmt.Errorf("h%d: %w", i+1, err)
			}
		}
		return nil
	})
	for _, s := range subs { // those of rounds in which not all had it
		for m, err := s.NextMsg(100 * time.Millisecond); err == nil; m, err = s.NextMsg(100 * time.Millisecond) {
			_ = m
		}
	}
	if err := errors.Join(c[0].Publish("order.nats", []byte("begin")), c[0].Flush()); err != nil {
		t.Fatal(err)
	}
	check("p1", 0)
	check("p2", 0)
	for _, s := range subs { // of order.p1 only what p1 says
		for m, err := s.NextMsg(100 * time.Millisecond); err == nil; m, err = s.NextMsg(100 * time.Millisecond) {
			t.Errorf("%s came on order.p1", m.Data)
		}
	}
	if got := ask(t, c[0], "p1", fmt.Sprintf("publish order.p1 order.p1 1 %d", n)); got != "" {
		t.Fatal(got)
	}
	for _, s := range subs {
		numbers(t, s, n)
		if err := s.Unsubscribe(); err != nil {
			t.Error(err)
		}
	}
	check("p1", n)
	check("p2", n)
}

// programQueue: a queue group with members among NATS clients of three hosts and in two programs, one of which has two: whoever publishes, each
// message comes to one of them.
func programQueue(t *testing.T, c []*nats.Conn) {
	t.Helper()
	var mu sync.Mutex
	got := map[string][]int{}
	for i, x := range c {
		who := fmt.Sprint("h", i+1)
		s, err := x.QueueSubscribe("job.*", "workers", func(m *nats.Msg) {
			n, err := strconv.Atoi(string(m.Data))
			mu.Lock()
			defer mu.Unlock()
			if got[who] = append(got[who], n); err != nil {
				t.Errorf("%q: %v", m.Data, err)
			}
		})
		if err != nil || x.Flush() != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Unsubscribe(); err != nil {
				t.Error(err)
			}
		}()
	}
	collect := func(most int) []int {
		mu.Lock()
		defer mu.Unlock()
		for _, w := range []string{"p1", "p2"} {
			for f := range strings.FieldsSeq(ask(t, c[0], w, "jobs")) {
				n, err := strconv.Atoi(f)
				if err != nil {
					t.Fatalf("%s: %s", w, f)
				}
				got[w] = append(got[w], n)
			}
		}
		var all []int
		for _, ns := range got {
			for _, n := range ns {
				if n < most {
					all = append(all, n)
				}
			}
		}
		slices.Sort(all)
		return all
	}
	send := func(from string, first, n int) {
		switch from {
		case "a NATS client":
			for i := range n {
				if err := c[1].Publish("job.x", []byte(strconv.Itoa(first+i))); err != nil {
					t.Fatal(err)
				}
			}
		case "a program":
			if got := ask(t, c[0], "p1", fmt.Sprintf("publish job.x job.x %d %d", first, n)); got != "" {
				t.Fatal(got)
			}
		case "a program, on a pattern":
			if got := ask(t, c[0], "p2", fmt.Sprintf("publish > job.x %d %d", first, n)); got != "" {
				t.Fatal(got)
			}
		}
	}
	const n, warm = 3000, 1_000_000
	for _, from := range []string{"a NATS client", "a program", "a program, on a pattern"} {
		rig.Eventually(t, 10*time.Second, func() error { // all are known to who sends
			mu.Lock()
			clear(got)
			mu.Unlock()
			send(from, warm, 60)
			want := 0
			rig.Eventually(t, 5*time.Second, func() error {
				collect(warm)
				mu.Lock()
				defer mu.Unlock()
				if want = len(slices.Concat(got["h1"], got["h2"], got["h3"], got["p1"], got["p2"])); want != 60 {
					return fmt.Errorf("%d of 60 from %s", want, from)
				}
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			if len(got) < 5 {
				return fmt.Errorf("from %s only %d of five have some", from, len(got))
			}
			clear(got)
			return nil
		})
		send(from, 0, n)
		rig.Eventually(t, 20*time.Second, func() error {
			if all := collect(warm); len(all) < n {
				return fmt.Errorf("%d of %d from %s", len(all), n, from)
			}
			return nil
		})
		all := collect(warm)
		for i, v := range all {
			if i != v || len(all) != n {
				t.Fatalf("from %s: %d came, %d in place of %d", from, len(all), v, i)
			}
		}
		mu.Lock()
		for who, ns := range got {
			share := n / 6
			if who == "p2" {
				share *= 2
			}
			if len(ns) < share*3/4 || len(ns) > share*5/4 {
				t.Errorf("from %s: %s has %d of %d, not about %d", from, who, len(ns), n, share)
			}
		}
		mu.Unlock()
	}
}

// TestBusTokenStays: a host that gave the bus's token away stays on the bus, also after a restart, so that programs find it; without that it is not
// on the bus until a command needs it.
func TestBusTokenStays(t *testing.T) {
	t.Parallel()
	h := rig.New(t).LAN(rig.LANOptions{}).Host("h1")
	h.Up()
	state := func() (b api.Bus) {
		t.Helper()
		if err := h.JSON(&b, "bus", "show", api.ClusterBus); err != nil {
			t.Fatal(err)
		}
		return b
	}
	if state().Joined {
		t.Error("on the bus, and nobody asked for it")
	}
	if r := h.Weft("token", "--bus", "ghost"); r.Code != 1 || !strings.Contains(r.Stderr, "no bus") {
		t.Errorf("token of no bus: %d %s", r.Code, r.Stderr)
	}
	var to client.BusToken
	if err := h.JSON(&to, "token", "--bus", api.ClusterBus); err != nil {
		t.Fatal(err)
	}
	if len(to.Seeds) == 0 || !state().Joined {
		t.Errorf("%+v: %+v", to, state())
	}
	if log := strings.Join(h.Daemon().Errors(), "\n"); strings.Contains(log, to.Token) {
		t.Error("the token is in the log")
	}
	startWorker(t, h, "p1", to)
	asked := func() error {
		if r := h.Weft("request", "svc.p1", "hello"); r.Code != 0 || strings.TrimSpace(r.Stdout) != "HELLO" {
			return fmt.Errorf("%d %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	}
	rig.Eventually(t, 10*time.Second, asked)
	h.Kill9()
	h.Restart()
	rig.Eventually(t, 15*time.Second, func() error {
		if b := state(); !b.Joined || len(b.Members) != 1 || !b.Members[0].Program {
			return fmt.Errorf("the program has not come back: %+v", b)
		}
		return nil
	})
	rig.Eventually(t, 10*time.Second, asked)
}
