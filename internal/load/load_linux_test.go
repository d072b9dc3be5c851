package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/measure"
)

// TestMain becomes an agent when this binary was started as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "agent" {
		if err := Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

var local = netip.MustParseAddr("127.0.0.1")

func TestFlow(t *testing.T) {
	for _, super := range []bool{false, true} {
		r, err := Receive(0, netip.Addr{}, "", super)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		f := Flow{To: netip.AddrPortFrom(local, r.conn.LocalAddr().Port()), PayloadBytes: 100, Rate: 5000, Duration: 200 * time.Millisecond, Run: 7, Super: super}
		s, err := f.Send(t.Context())
		if err != nil || s.Datagrams < 900 || s.Datagrams > 1000 || s.Seconds < 0.15 {
			t.Fatalf("super %v: %+v, %v", super, s, err)
		}
		if got := r.Settled(t.Context(), 7); got != (measure.Tally{Datagrams: s.Datagrams}) {
			t.Errorf("super %v: %d sent, %+v came", super, s.Datagrams, got)
		}
		if got := r.Tally(6); got != (measure.Tally{}) {
			t.Errorf("of a run that was not: %+v", got)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx context.Context
		f   Flow
	}{
		"cancelled":    {cancelled, Flow{To: netip.AddrPortFrom(local, 9), PayloadBytes: 100, Rate: 100, Duration: time.Minute}},
		"short":        {t.Context(), Flow{To: netip.AddrPortFrom(local, 9), PayloadBytes: 11, Rate: 100, Duration: time.Second}},
		"no interface": {t.Context(), Flow{To: netip.MustParseAddrPort("239.1.2.3:9"), Interface: "ghost0", PayloadBytes: 100, Rate: 100, Duration: time.Second}},
	} {
		if s, err := c.f.Send(c.ctx); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestPings(t *testing.T) {
	e, err := Answer(0)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	p := Pings{To: netip.AddrPortFrom(local, e.conn.LocalAddr().Port()), Count: 20, Interval: 2 * time.Millisecond, Run: 3}
	got, err := p.Send(t.Context())
	if err != nil || got.Sent != 20 || got.Answered != 20 || got.MinMS <= 0 || got.MinMS > got.P50MS || got.P50MS > got.P99MS || got.P99MS > got.MaxMS {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []Pings{{Count: 0, Interval: time.Second}, {Count: 1}, {Count: maxPings + 1, Interval: time.Second}} {
		if _, err := bad.Send(t.Context()); err == nil {
			t.Errorf("%+v was sent", bad)
		}
	}
}

func TestTransfer(t *testing.T) {
	s, err := Sinks(0)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddrPort(s.ln.Addr().String())
	to = netip.AddrPortFrom(local, to.Port())
	got, err := Transfer{To: to, Duration: 100 * time.Millisecond}.Send(t.Context())
	if err != nil || got.Bytes == 0 || got.Seconds < 0.1 {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = Transfer{To: to, Duration: 500 * time.Millisecond, Mbit: 80}.Send(t.Context())
	if mbit := float64(got.Bytes) * 8 / 1e6 / got.Seconds; err != nil || mbit > 160 { // what is in the first windows comes on top
		t.Errorf("%.0f Mbit/s, want about 80; %v", mbit, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := (Transfer{To: to, Duration: time.Second}).Send(t.Context()); err == nil {
		t.Error("there is nobody")
	}
}

func TestRequestBounds(t *testing.T) {
	to, group := netip.MustParseAddr("10.32.0.7"), netip.MustParseAddr("239.1.2.3")
	good := []Request{
		{Op: OpOpen, Interface: "weft0"},
		{Op: OpJoin},
		{Op: OpJoin, Group: group},
		{Op: OpPing, To: to, Count: 6000, IntervalMS: 10},
		{Op: OpTCP, To: to, DurationMS: 60000},
		{Op: OpSend, To: to, DurationMS: 1, Rate: 1e6, PayloadBytes: 12},
		{Op: OpSend, To: group, DurationMS: 60000, Rate: 0.5, PayloadBytes: 65507},
		{Op: OpCount, Port: PortGroup},
	}
	for _, r := range good {
		if err := r.Check(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	bad := []Request{
		{},
		{Op: "rm"},
		{Op: OpJoin, Group: to},
		{Op: OpJoin, Group: netip.MustParseAddr("ff15::1")},
		{Op: OpPing, To: group, Count: 1, IntervalMS: 1},
		{Op: OpPing, To: to, Count: 6001, IntervalMS: 10},
		{Op: OpPing, Count: 1, IntervalMS: 1},
		{Op: OpPing, To: to, Count: 1},
		{Op: OpPing, To: to, Count: -1, IntervalMS: -1},
		{Op: OpTCP, To: to},
		{Op: OpTCP, To: to, DurationMS: 60001},
		{Op: OpTCP, To: group, DurationMS: 1},
		{Op: OpTCP, To: to, DurationMS: 1, MaxMbit: -1},
		{Op: OpSend, To: to, DurationMS: 1, Rate: 1e6 + 1, PayloadBytes: 12},
		{Op: OpSend, To: to, DurationMS: 1, PayloadBytes: 12},
		{Op: OpSend, To: to, DurationMS: 1, Rate: 1, PayloadBytes: 11},
		{Op: OpSend, To: to, DurationMS: 1, Rate: 1, PayloadBytes: 65508},
		{Op: OpSend, To: netip.IPv4Unspecified(), DurationMS: 1, Rate: 1, PayloadBytes: 12},
		{Op: OpSend, To: netip.IPv6Loopback(), DurationMS: 1, Rate: 1, PayloadBytes: 12},
		{Op: OpCount, Port: 22},
	}
	for _, r := range bad {
		if err := r.Check(); err == nil {
			t.Errorf("%+v passed", r)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"op":"send","to":"10.32.0.7","payload_bytes":100,"rate":1e3,"duration_ms":5,"run":1,"super":true}`))
	f.Add([]byte(`{"trips":{"sent":1},"error":"x"}`))
	f.Add([]byte(`{"op":1e999}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		if Decode(b, &r) == nil && r.Check() == nil {
			if r.Takes() <= 0 || r.Takes() > 3*time.Minute {
				t.Fatalf("%s takes %v", b, r.Takes())
			}
			again, err := json.Marshal(r)
			var back Request
			if err != nil || Decode(again, &back) != nil || back != r {
				t.Fatalf("%s became %s, %v", b, again, err)
			}
		}
		var reply Reply
		_ = Decode(b, &reply)
	})
}

func TestLines(t *testing.T) {
	for in, want := range map[string]string{
		"":                                       "EOF",
		"{\"op\":\"open\"}\n":                    "",
		"{\"op\":\"open\",\"oops\":1}\n":         "oops",
		"{} {}\n":                                "more than one",
		"nothing\n":                              "message",
		strings.Repeat("x", maxLine+1) + "\n":    "too long",
		"{\"op\":\"" + strings.Repeat("x", 1000): "unexpected",
	} {
		var r Request
		err := NewLines(strings.NewReader(in)).Next(&r)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", in, err, want)
		}
	}
	if err := WriteLine(io.Discard, Reply{Error: strings.Repeat("x", maxLine)}); err == nil {
		t.Error("a line that nobody would read was written")
	}
}

// TestServe: one request after the other; what is wrong is said and ends nothing; the end of input ends what is under way.
func TestServe(t *testing.T) {
	in, to := io.Pipe()
	from, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), in, out); out.Close() }()
	lines := NewLines(from)
	ask := func(r Request) (reply Reply) {
		t.Helper()
		if err := WriteLine(to, r); err != nil {
			t.Fatal(err)
		}
		if err := lines.Next(&reply); err != nil {
			t.Fatal(err)
		}
		return reply
	}
	if r := ask(Request{Op: OpCount, Port: PortCount}); !strings.Contains(r.Error, "open comes first") {
		t.Errorf("%+v", r)
	}
	if r := ask(Request{Op: "rm"}); !strings.Contains(r.Error, "rm") {
		t.Errorf("%+v", r)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Serve(t.Context(), bytes.NewReader([]byte("nonsense\n")), io.Discard); err == nil {
		t.Error("nonsense was taken")
	}
}

// TestChild: an agent in a namespace of its own carries out requests, ends when asked to, and is missed when it dies.
func TestChild(t *testing.T) {
	c, err := Start("agent")
	if err != nil {
		t.Fatalf("this test needs root, to make a network namespace: %v", err)
	}
	defer c.Close()
	if _, err := c.Do(t.Context(), Request{Op: OpOpen, Interface: "weft0"}); err != nil {
		t.Fatal(err)
	}
	r, err := c.Do(t.Context(), Request{Op: OpCount, Port: PortSuper, Run: 1})
	if err != nil || r.Tally == nil || *r.Tally != (measure.Tally{}) {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := c.Do(t.Context(), Request{Op: OpJoin, Group: netip.MustParseAddr("239.1.2.3")}); err == nil || !strings.Contains(err.Error(), "weft0") {
		t.Errorf("there is no weft0: %v", err)
	}
	if _, err := c.Do(t.Context(), Request{Op: OpSend, To: netip.MustParseAddr("10.1.2.3"), PayloadBytes: 100, Rate: 10, DurationMS: 100}); err == nil {
		t.Error("sent in a namespace without interfaces")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, Request{Op: OpPing, To: netip.MustParseAddr("127.0.0.1"), Count: 1000, IntervalMS: 50}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request given up: %v", err)
	}
	began := time.Now()
	c.Close()
	if d := time.Since(began); d > endTime {
		t.Errorf("it took %v to end in the middle of a request", d)
	}
	select {
	case <-c.Done():
	default:
		t.Error("not done after Close")
	}

	killed, err := Start("agent")
	if err != nil {
		t.Fatal(err)
	}
	defer killed.Close()
	if err := killed.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-killed.Done()
	if _, err := killed.Do(t.Context(), Request{Op: OpOpen}); err == nil {
		t.Error("a dead agent answered")
	}
}

func TestUsed(t *testing.T) {
	process, machine, boot, err := Used()
	if err != nil || process <= 0 || machine < process || len(boot) != 36 {
		t.Errorf("process %v, machine %v, boot %q, %v", process, machine, boot, err)
	}
}
