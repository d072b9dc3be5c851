package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/test/rig"
)

const natsPort = "4222"

// socketDialer reaches a host's listener from any namespace.
type socketDialer string

func (s socketDialer) Dial(string, string) (net.Conn, error) { return net.Dial("unix", string(s)) }

func natsSocket(h *rig.Host) string { return filepath.Join(h.RunDir(), "nats.sock") }

// natsClient connects nats.go to a host's socket.
func natsClient(t *testing.T, h *rig.Host, options ...nats.Option) *nats.Conn {
	t.Helper()
	options = append([]nats.Option{
		nats.SetCustomDialer(socketDialer(natsSocket(h))), nats.ReconnectWait(100 * time.Millisecond), nats.MaxReconnects(-1), nats.Name(t.Name()),
	}, options...)
	c, err := nats.Connect("nats://"+h.Name, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// upWithNATS makes one cluster whose hosts have listeners: the second one a TCP port, the others sockets.
func upWithNATS(t *testing.T, hosts ...*rig.Host) {
	t.Helper()
	for i, h := range hosts {
		args := []string{"--nats", "unix:" + natsSocket(h)}
		if i == 1 {
			args[1] = "127.0.0.1:" + natsPort
		}
		if i > 0 {
			args = append([]string{hosts[0].Endpoint()}, args...)
		}
		h.Up(args...)
	}
	rig.AllKnowAll(t, 20*time.Second, hosts...)
	awaitBus(t, hosts...)
}

// awaitBus waits until each host knows what the others want.
func awaitBus(t *testing.T, hosts ...*rig.Host) {
	t.Helper()
	for _, h := range hosts {
		rig.Eventually(t, 15*time.Second, func() error {
			var all api.Buses
			if err := h.JSON(&all, "buses"); err != nil {
				return err
			}
			known := 0
			for _, m := range all.Buses[0].Members {
				if m.Known && m.State == "alive" {
					known++
				}
			}
			if known != len(hosts)-1 {
				return fmt.Errorf("%s: %d of %d others are on the bus: %+v", h.Name, known, len(hosts)-1, all.Buses[0])
			}
			return nil
		})
	}
}

// awaitWanted waits until a host knows that another one wants a subject: what it publishes from then on arrives.
func awaitWanted(t *testing.T, h *rig.Host, subject string) {
	t.Helper()
	rig.Eventually(t, 5*time.Second, func() error {
		var out client.BusPublished
		if err := h.JSON(&out, "pub", subject, "warm-up"); err != nil {
			return err
		}
		if out.Wanted == 0 {
			return fmt.Errorf("%s: nobody wants %s", h.Name, subject)
		}
		return nil
	})
}

// numbers takes messages until it has 1 to n in order, after warm-ups.
func numbers(t *testing.T, s *nats.Subscription, n int) {
	t.Helper()
	for want := 1; want <= n; {
		m, err := s.NextMsg(10 * time.Second)
		switch {
		case err != nil:
			t.Fatalf("after %d of %d: %v", want-1, n, err)
		case string(m.Data) == "warm-up" && want == 1:
		case string(m.Data) != fmt.Sprint(want):
			t.Fatalf("%q after %d", m.Data, want-1)
		default:
			want++
		}
	}
}

// TestNATS: programs on three hosts that know NATS and nothing of weft, where the underlay drops multicast and where it carries it.
func TestNATS(t *testing.T) {
	for name, underlay := range map[string]func(w *rig.World) *rig.Underlay{
		"cloud": func(w *rig.World) *rig.Underlay { return w.Cloud() },
		"lan":   func(w *rig.World) *rig.Underlay { return w.LAN(rig.LANOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := underlay(rig.New(t))
			h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
			if name == "cloud" {
				rig.MulticastProbe(t, h[0], h[1])
			}
			upWithNATS(t, h...)
			a, c := natsClient(t, h[0]), natsClient(t, h[2])

			natsOrder(t, h, a, c)
			natsRequests(t, h, a, c)
			natsQueue(t, h, a, c)
			natsCommands(t, h, a, c)
			natsSlow(t, h, a, c)
			natsKilled(t, h, a, c)
			natsUpgraded(t, h, a, c)
		})
	}
}

// natsOrder: each message once and in order, from the library and from Python.
func natsOrder(t *testing.T, h []*rig.Host, a, c *nats.Conn) {
	t.Helper()
	sub, err := c.SubscribeSync("order.*")
	if err != nil || c.Flush() != nil {
		t.Fatal(err)
	}
	awaitWanted(t, h[0], "order.lib")
	const n = 10_000
	for i := range n {
		if err := a.Publish("order.lib", fmt.Appendf(nil, "%d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	numbers(t, sub, n)
	h[1].MustExec(python, script(t, "nats.py"), natsPort, "pub", "order.python", "1000")
	numbers(t, sub, 1000)
	large := make([]byte, 1<<20)
	if err := errors.Join(a.Publish("order.large", large), sub.Unsubscribe()); err != nil {
		t.Error(err)
	}
}

func natsRequests(t *testing.T, h []*rig.Host, a, c *nats.Conn) {
	t.Helper()
	if _, err := a.Request("upper", nil, 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("nobody there: %v", err)
	}
	p := h[1].Start(python, script(t, "nats.py"), natsPort, "echo", "upper")
	p.ExpectLine("^ready$", 10*time.Second)
	for _, from := range []*nats.Conn{a, c} {
		rig.Eventually(t, 5*time.Second, func() error {
			m, err := from.Request("upper", []byte("hello"), 5*time.Second)
			if err != nil {
				return err
			}
			if string(m.Data) != "HELLO" || m.Header.Get("By") != "python" {
				t.Errorf("%q %v", m.Data, m.Header)
			}
			return nil
		})
	}
	if got := strings.TrimSpace(h[2].MustWeft("request", "upper", "weft")); got != "WEFT" {
		t.Errorf("weft request: %q", got)
	}
	p.Kill9()
	rig.Eventually(t, 5*time.Second, func() error {
		if _, err := a.Request("upper", nil, 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
			return fmt.Errorf("the responder has gone: %w", err)
		}
		return nil
	})
}

// natsQueue: one member gets each message, whatever its host and language.
func natsQueue(t *testing.T, h []*rig.Host, a, c *nats.Conn) {
	t.Helper()
	var mu sync.Mutex
	got := map[string]int{}
	count := func(who string) nats.MsgHandler {
		return func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			if string(m.Data) != "warm-up" {
				got[who]++
			}
		}
	}
	var subs []*nats.Subscription
	for who, from := range map[string]*nats.Conn{"h1": a, "h3": c} {
		s, err := from.QueueSubscribe("job.>", "workers", count(who))
		if err != nil || from.Flush() != nil {
			t.Fatal(err)
		}
		subs = append(subs, s)
	}
	p := h[1].Start(python, script(t, "nats.py"), natsPort, "queue", "job.>", "workers")
	p.ExpectLine("^ready$", 10*time.Second)
	rig.Eventually(t, 5*time.Second, func() error { // the first that comes to Python shows that all are known
		if err := a.Publish("job.1", []byte("warm-up")); err != nil {
			return err
		}
		if p.Count("^got warm-up$") == 0 {
			return errors.New("nothing came to h2")
		}
		return nil
	})
	const n = 3000
	for i := range n {
		if err := a.Publish("job.1", fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	rig.Eventually(t, 10*time.Second, func() error {
		mu.Lock()
		defer mu.Unlock()
		got["h2"] = p.Count(`^got \d+$`)
		if sum := got["h1"] + got["h2"] + got["h3"]; sum != n {
			return fmt.Errorf("%d of %d: %v", sum, n, got)
		}
		return nil
	})
	for who, k := range got {
		if k < n/6 {
			t.Errorf("%s got %d of %d", who, k, n)
		}
	}
	p.Kill9()
	for _, s := range subs {
		if err := s.Unsubscribe(); err != nil {
			t.Error(err)
		}
	}
}

func natsCommands(t *testing.T, h []*rig.Host, a, c *nats.Conn) {
	t.Helper()
	sub, err := c.SubscribeSync("from.weft")
	if err != nil || c.Flush() != nil {
		t.Fatal(err)
	}
	awaitWanted(t, h[1], "from.weft")
	var lines strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&lines, "%d\n", i+1)
	}
	if r := h[1].WeftInput(lines.String(), "pub", "from.weft"); r.Code != 0 {
		t.Fatalf("weft pub: %d %s", r.Code, r.Stderr)
	}
	numbers(t, sub, 5000)
	p := h[1].StartWeft("sub", "from.nats.>", "--json", "-n", "1")
	rig.Eventually(t, 5*time.Second, func() error {
		if !slices.Contains(p.Errors(), "subscribed to from.nats.>") {
			return errors.New("not subscribed")
		}
		return nil
	})
	m := nats.NewMsg("from.nats.x")
	m.Header.Set("Trace", "7")
	m.Data = []byte("hello")
	rig.Eventually(t, 5*time.Second, func() error {
		if err := errors.Join(a.PublishMsg(m), a.Flush()); err != nil {
			return err
		}
		if p.Running() {
			return errors.New("nothing came to weft sub")
		}
		return nil
	})
	if code, want := p.Wait(5*time.Second), `{"subject":"from.nats.x","headers":{"Trace":["7"]},"payload":"hello"}`; code != 0 || !slices.Contains(p.Lines(), want) {
		t.Errorf("weft sub: %d %q", code, p.Lines())
	}
	if r := h[0].Weft("sub", "silence", "-n", "1", "--timeout", "200ms"); r.Code != 1 || !strings.Contains(r.Stderr, "0 of 1 messages") {
		t.Errorf("time-out: %d %s", r.Code, r.Stderr)
	}
	if r := h[0].Weft("request", "silence", "x"); r.Code != 1 || !strings.Contains(r.Stderr, "nobody is there to answer") {
		t.Errorf("no responder: %d %s", r.Code, r.Stderr)
	}
	s := h[0].MustWeft("status")
	if !strings.Contains(s, "2 of 2 other members alive") || !strings.Contains(s, "nats") {
		t.Errorf("status:\n%s", s)
	}
}

// natsSlow: who does not read is told and disconnected; the others get everything, and status counts it.
func natsSlow(t *testing.T, h []*rig.Host, a, c *nats.Conn) {
	t.Helper()
	slow, err := net.Dial("unix", natsSocket(h[2]))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.WriteString(slow, "CONNECT {\"verbose\":false}\r\nSUB flood 1\r\nPING\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(slow)
	for line := ""; line != "PONG\r\n"; {
		if line, err = in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	sub, err := c.SubscribeSync("flood")
	if err != nil || sub.SetPendingLimits(-1, -1) != nil || c.Flush() != nil {
		t.Fatal(err)
	}
	awaitWanted(t, h[0], "flood")
	payload := strings.Repeat("x", 32<<10)
	n := 0
	rig.Eventually(t, 20*time.Second, func() error {
		for range 50 {
			n++
			if err := a.Publish("flood", []byte(payload)); err != nil {
				return err
			}
		}
		if err := a.Flush(); err != nil {
			return err
		}
		st, err := h[2].Status()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(st.Drops, func(d client.Drop) bool { return d.Reason == "nats_slow_consumer" && d.Count == 1 }) {
			return fmt.Errorf("not counted after %d messages", n)
		}
		return nil
	})
	_ = slow.SetReadDeadline(time.Now().Add(10 * time.Second))
	rest, err := io.ReadAll(in)
	if !strings.HasSuffix(string(rest), "-ERR 'Slow Consumer'\r\n") {
		t.Errorf("%d bytes, %v, and it was not told", len(rest), err)
	}
	for got := 0; got < n; {
		m, err := sub.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatalf("%d of %d: %v", got, n, err)
		}
		if string(m.Data) != "warm-up" {
			got++
		}
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
}

// natsKilled: a daemon killed and started again has its clients and their subscriptions back by themselves.
func natsKilled(t *testing.T, h []*rig.Host, a, c *nats.Conn) {
	t.Helper()
	sub, err := c.SubscribeSync("again")
	if err != nil || c.Flush() != nil {
		t.Fatal(err)
	}
	h[2].Kill9()
	h[2].Restart()
	began := time.Now()
	awaitMessage(t, a, sub, "again")
	t.Logf("messages arrive %v after the start of the next daemon", time.Since(began).Round(10*time.Millisecond))
}

// natsUpgraded: clients of a daemon whose place another one takes connect again, too.
func natsUpgraded(t *testing.T, h []*rig.Host, a, c *nats.Conn) {
	t.Helper()
	sub, err := a.SubscribeSync("upgraded")
	if err != nil || a.Flush() != nil {
		t.Fatal(err)
	}
	h[0].Upgrade(h[0].WeftPath(), "--replace")
	began := time.Now()
	awaitMessage(t, c, sub, "upgraded")
	t.Logf("messages arrive %v after the upgrade", time.Since(began).Round(10*time.Millisecond))
	awaitBus(t, h...)
}

// awaitMessage publishes until a message arrives.
func awaitMessage(t *testing.T, from *nats.Conn, to *nats.Subscription, subject string) {
	t.Helper()
	rig.Eventually(t, 20*time.Second, func() error {
		if err := errors.Join(from.Publish(subject, []byte("back")), from.Flush()); err != nil {
			return err
		}
		m, err := to.NextMsg(50 * time.Millisecond)
		if err != nil {
			return err
		}
		if string(m.Data) != "back" {
			return fmt.Errorf("%q", m.Data)
		}
		return nil
	})
}

// TestBusCommands: hosts that nobody told of buses join theirs when a command needs it, and the first message arrives. Who may not be
// let in by the cluster's token any more is not on its bus either: the bus goes on under the new one.
func TestBusCommands(t *testing.T) {
	t.Parallel()
	u, h := cloud(t, 2)
	joined := func(h *rig.Host) bool {
		var all api.Buses
		if err := h.JSON(&all, "buses"); err != nil {
			t.Fatal(err)
		}
		return all.Buses[0].Joined
	}
	for _, h := range h {
		if joined(h) {
			t.Errorf("%s is on the bus, and nobody needs it", h.Name)
		}
	}
	p := h[1].StartWeft("sub", "news.>")
	rig.Eventually(t, 10*time.Second, func() error {
		if !slices.Contains(p.Errors(), "subscribed to news.>") {
			return fmt.Errorf("not subscribed: %q", p.Errors())
		}
		return nil
	})
	if r := h[0].Weft("pub", "news.first", "the first"); r.Code != 0 || r.Stderr != "" {
		t.Errorf("the first message: %d %s", r.Code, r.Stderr)
	}
	p.ExpectLine("^the first$", 5*time.Second)
	if !joined(h[0]) || !joined(h[1]) {
		t.Error("used, and not on the bus")
	}
	h[0].MustWeft("token", "rotate")
	i := 0
	rig.Eventually(t, 20*time.Second, func() error {
		i++
		text := fmt.Sprintf("rotated %d", i)
		h[0].MustWeft("pub", "news.token", text)
		if _, err := p.AwaitLine("^"+text+"$", 200*time.Millisecond); err != nil {
			return err
		}
		if i < 5 { // it goes on when both have the new token
			return errors.New("may have been before the change")
		}
		return nil
	})
	if code := p.Stop(5 * time.Second); code != 0 {
		t.Errorf("weft sub stopped: exit %d", code)
	}
	other := u.Host("h3")
	for args, want := range map[string]string{
		"--nats 0.0.0.0:" + natsPort:   "--nats-open",
		"--nats localhost:" + natsPort: "want ADDRESS:PORT, unix:PATH or off",
		"--nats-cert /x":               "no listener",
	} {
		if r := other.Weft(append([]string{"up"}, strings.Fields(args)...)...); r.Code != 2 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: exit %d, %s", args, r.Code, r.Stderr)
		}
	}
}
