package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/load"
)

func TestRun(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l := newLab(t, 3)
		p := l.plan()
		var progress []string
		p.Progress = func(e api.BenchProgress) error {
			progress = append(progress, fmt.Sprintf("%s%v%d/%d", e.Test, e.To, e.Number, e.Of))
			return nil
		}
		began := time.Now()
		b, err := Run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if l.n.plugged != 0 { // and not some time later
			t.Errorf("%d agents are plugged in after the measurement", l.n.plugged)
		}
		if d := time.Since(began); d > 11*4*time.Second {
			t.Errorf("11 tests of 3 s took %v", d)
		}
		if want := "[prepare[]0/0 rtt[h2]1/11 rtt[h3]2/11 tcp[h2]3/11 tcp[h3]4/11 udp[h2]5/11 udp[h3]6/11 pps64[h2]7/11 pps64[h3]8/11 pps1400[h2]9/11 pps1400[h3]10/11 mcast[h2 h3]11/11]"; fmt.Sprint(progress) != want {
			t.Errorf("progress %v\nwant %s", progress, want)
		}
		if b.Network != "weft" || b.Engine != api.EngineSealed || b.Group != testGroup.String() || len(b.Hosts) != 3 || b.Hosts[0].Address != "10.32.0.1" || len(b.Bench) != 11 {
			t.Errorf("%+v", b)
		}
		for _, r := range b.Bench {
			if r.Error != "" || r.From != "h1" || len(r.CPU) != len(r.To)+1 || r.CPU[0].Shared || !r.CPU[1].Shared {
				t.Errorf("%+v", r)
			}
			switch r.Test {
			case api.BenchRTT:
				if r.RTTP50MS != 0.2 || r.RTTP99MS != 0.8 || r.Sent != 300 {
					t.Errorf("%+v", r)
				}
			case api.BenchTCP:
				if r.MbitPerS != 1000 || r.DeliveredBytes != 375e6 {
					t.Errorf("%+v", r)
				}
			default:
				if r.PacketsPerS > 50050 || r.PacketsPerS < 50000/near || r.LossPercent > 0.1 || r.LimitedBy != api.LimitLoss || len(r.Receivers) != len(r.To) || r.PayloadBytes != r.PacketBytes-28 {
					t.Errorf("%+v", r)
				}
			}
		}
		l.close(t)
	})
}

func TestFixedRate(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l := newLab(t, 3)
		l.n.twice = 2
		p := l.plan()
		p.Tests, p.Rate = []string{api.BenchMcast}, 100000
		b, err := Run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		r := b.Bench[0]
		if r.Sent != 300000 || r.LossPercent != 50 || r.Duplicates != 4 || r.Receivers[1] != (api.BenchReceiver{Host: "h3", Received: 150000, LossPercent: 50, Duplicates: 2}) || r.LimitedBy != "" {
			t.Errorf("%+v", r)
		}
		p.MaxMbit = 1372 * 8 * 1000 / 1_000_000 // a thousand datagrams, nearly
		if b, err = Run(t.Context(), p); err != nil || b.Bench[0].Sent > 3000 || b.Bench[0].Sent < 2700 || b.Bench[0].LossPercent != 0 {
			t.Errorf("%+v, %v", b, err)
		}
		p.Rate = 0
		if b, err = Run(t.Context(), p); err != nil || b.Bench[0].LimitedBy != api.LimitRate || b.Bench[0].PacketsPerS > 1000 {
			t.Errorf("%+v, %v", b, err)
		}
		l.n.limit, p.MaxMbit = 1e9, 0
		if b, err = Run(t.Context(), p); err != nil || b.Bench[0].LimitedBy != api.LimitRate || b.Bench[0].PacketsPerS != load.MaxRate {
			t.Errorf("%+v, %v", b, err)
		}
		l.n.limit = 50 // enough to be heard
		if b, err = Run(t.Context(), p); err != nil || !strings.Contains(b.Bench[0].Error, "arrive whole") {
			t.Errorf("%+v, %v", b, err)
		}
		l.close(t)
	})
}

// TestOthersWhoDoNotTakePart: named they fail the measurement, else they are skipped, the last one excepted.
func TestOthersWhoDoNotTakePart(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l := newLab(t, 3)
		l.endpoints[2].host.Off = true
		p := l.plan()
		p.Tests = []string{api.BenchRTT, api.BenchMcast}
		b, err := Run(t.Context(), p)
		if err != nil || len(b.Hosts) != 2 || len(b.Bench) != 2 || len(b.Skipped) != 1 || !strings.Contains(b.Skipped[0].Reason, "host h3: it takes part in no measurement") {
			t.Errorf("%+v, %v", b, err)
		}
		p.Strict = true
		if _, err := Run(t.Context(), p); !api.Is(err, api.CodeRefused) || !strings.Contains(err.Error(), "h3") {
			t.Errorf("named: %v", err)
		}
		p.Strict, p.Peers = false, l.peers[2:]
		if _, err := Run(t.Context(), p); !api.Is(err, api.CodeRefused) {
			t.Errorf("the only one: %v", err)
		}
		p.Peers = []Peer{{Name: "old", Dial: func(context.Context) (net.Conn, error) { return nil, errors.New("knows nothing of it") }}}
		if _, err := Run(t.Context(), p); err == nil || !strings.Contains(err.Error(), "knows nothing") {
			t.Errorf("an old one: %v", err)
		}
		p = l.plan()
		p.Network = "lab"
		var e *api.Error
		if _, err := Run(t.Context(), p); !errors.As(err, &e) || e.Code != api.CodeNotFound || e.Detail != `host h1: it has no network "lab"` || e.Hint != "create it" {
			t.Errorf("another network: %v", err)
		}
		l.close(t)
	})
}

// TestMuteHosts: who does not answer in the network, or not in the group, is named, and the others are measured.
func TestMuteHosts(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l := newLab(t, 3)
		l.n.mute[addrOf(3)] = true
		p := l.plan()
		p.Tests = []string{api.BenchPPS64, api.BenchMcast}
		b, err := Run(t.Context(), p)
		if err != nil || len(b.Bench) != 3 {
			t.Fatalf("%+v, %v", b, err)
		}
		if r := b.Bench[1]; !strings.Contains(r.Error, "h3 does not answer in network weft") || r.PacketsPerS != 0 {
			t.Errorf("%+v", r)
		}
		if r := b.Bench[2]; !strings.Contains(r.Error, "h3") || len(r.Receivers) != 1 || r.PacketsPerS == 0 {
			t.Errorf("%+v", r)
		}
		l.close(t)
	})
}

// TestOneAtATime: a second one is told who runs the first; one that comes as the first ends is let in.
func TestOneAtATime(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l := newLab(t, 2)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { _, err := Run(ctx, l.plan()); ended <- err }()
		time.Sleep(5 * time.Second)
		began := time.Now()
		if _, err := Run(t.Context(), l.plan()); !api.Is(err, api.CodeConflict) || !strings.Contains(err.Error(), "host h1 began 7s ago") {
			t.Errorf("the second: %v", err)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("refused after %v", d)
		}
		time.AfterFunc(time.Second, cancel)
		if _, err := Run(t.Context(), l.plan()); err != nil {
			t.Errorf("one that came while the first ended: %v", err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the first: %v", err)
		}
		l.close(t)
	})
}

// TestHostsThatGo: a measurement ends at once when a host leaves it, whatever it waits for, and names the host.
func TestHostsThatGo(t *testing.T) {
	for name, go_ := range map[string]func(l *lab){
		"its endpoint": func(l *lab) { l.endpoints[2].Close() },
		"its agent":    func(l *lab) { close(l.agents[2].done) },
	} {
		bubbletest.Run(t, func(t *testing.T) {
			l := newLab(t, 3)
			p := l.plan()
			p.Tests, p.Duration = []string{api.BenchTCP}, time.Minute
			time.AfterFunc(10*time.Second, func() { go_(l) })
			began := time.Now()
			_, err := Run(t.Context(), p)
			if !api.Is(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "host h3 has left") || time.Since(began) > 11*time.Second {
				t.Errorf("%s: after %v: %v", name, time.Since(began), err)
			}
			l.close(t)
		})
	}
	bubbletest.Run(t, func(t *testing.T) {
		l := newLab(t, 2)
		p := l.plan()
		p.Progress = func(e api.BenchProgress) error {
			if e.Number == 2 {
				return errors.New("nobody listens")
			}
			return nil
		}
		if _, err := Run(t.Context(), p); err == nil || err.Error() != "nobody listens" {
			t.Error(err)
		}
		l.close(t)
	})
}

// TestEndpointTrustsNobody: what another host asks for is judged here.
func TestEndpointTrustsNobody(t *testing.T) {
	to := addrOf(9)
	for request, want := range map[string]string{
		`{"usage":{}}`:                    "begins with",
		`{}`:                              "begins with",
		`{"open":{"network":"Bad Name"}}`: "Bad Name",
		`{"open":{"network":"weft","group":"224.0.0.5"}}`:                                                 "224.0.0.5",
		`{"open":{"network":"weft","group":"232.1.1.1"}}`:                                                 "232.1.1.1",
		`{"open":{"network":"weft","group":"10.0.0.1"}}`:                                                  "10.0.0.1",
		`{"open":{"network":"weft","group":"ff15::1"}}`:                                                   "ff15::1",
		`{"do":{"op":"join","group":"239.192.1.3"}}`:                                                      "not the one",
		`{"do":{"op":"open"}}`:                                                                            "open already",
		`{"do":{"op":"tcp","to":"10.33.0.1","duration_ms":5}}`:                                            "not in the network",
		`{"do":{"op":"tcp","to":"192.0.2.1","duration_ms":5}}`:                                            "not in the network",
		`{"do":{"op":"send","to":"239.192.1.3","duration_ms":5,"rate":1,"payload_bytes":99}}`:             "not in the network",
		fmt.Sprintf(`{"do":{"op":"send","to":%q,"duration_ms":5,"rate":1,"payload_bytes":1373}}`, to):     "do not fit",
		fmt.Sprintf(`{"do":{"op":"send","to":%q,"duration_ms":60001,"rate":1,"payload_bytes":99}}`, to):   "at most",
		fmt.Sprintf(`{"do":{"op":"send","to":%q,"duration_ms":5,"rate":1000001,"payload_bytes":99}}`, to): "at most",
		`{"do":{"op":"exec"}}`: "exec",
		`{"bye":null}`:         "asked for",
	} {
		bubbletest.Run(t, func(t *testing.T) {
			l := newLab(t, 1)
			conn, err := l.peers[0].Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			lines := load.NewLines(conn)
			tell := func(line string) (a answer) {
				if _, err := conn.Write([]byte(line + "\n")); err != nil {
					t.Fatal(err)
				}
				if err := lines.Next(&a); err != nil {
					t.Fatal(err)
				}
				return a
			}
			if strings.HasPrefix(request, `{"do"`) || strings.HasPrefix(request, `{"bye"`) {
				if a := tell(`{"open":{"network":"weft","group":"239.192.1.2"}}`); a.Opened == nil {
					t.Fatalf("%+v", a.Refused)
				}
			}
			if a := tell(request); a.Refused == nil || !strings.Contains(a.Refused.Text, want) {
				t.Errorf("%s: %+v, want a refusal with %q", request, a, want)
			}
			_ = conn.Close()
			synctest.Wait()
			l.close(t)
		})
	}
	bubbletest.Run(t, func(t *testing.T) { // one that says nothing is not waited for long
		l := newLab(t, 1)
		conn, _ := l.peers[0].Dial(t.Context())
		began := time.Now()
		if _, err := conn.Read(make([]byte, 1)); err == nil || time.Since(began) > openTime {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		l.close(t)
		if _, err := Run(t.Context(), l.plan()); !api.Is(err, api.CodeUnavailable) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"open":{"network":"weft","group":"239.192.1.2"}}`))
	f.Add([]byte(`{"do":{"op":"send","to":"10.32.0.9","payload_bytes":99,"rate":10,"duration_ms":5}}`))
	f.Add([]byte(`{"opened":{"address":"10.32.0.2/20","mtu":1400,"engine":"sealed"}}`))
	f.Add([]byte(`{"refused":{"code":"conflict","text":"x"},"usage":{"daemon_ns":1}}`))
	s := &session{plug: Plug{Address: netip.MustParsePrefix("10.32.0.1/20"), MTU: 1400}, group: testGroup}
	f.Fuzz(func(t *testing.T, b []byte) {
		var q ask
		if load.Decode(b, &q) == nil {
			if q.Open != nil && q.Open.check() == nil && q.Open.Group.IsValid() && !q.Open.Group.IsMulticast() {
				t.Fatalf("%s: %s is no group", b, q.Open.Group)
			}
			if q.Do != nil && s.check(*q.Do) == nil && q.Do.Op == load.OpSend && q.Do.To != testGroup && !s.plug.Address.Contains(q.Do.To) {
				t.Fatalf("%s leaves the network", b)
			}
		}
		var a answer
		if load.Decode(b, &a) == nil {
			if a.Refused != nil {
				_ = a.Refused.of("h2").Error()
			}
			if _, err := json.Marshal(a); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestDrawGroup(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	none := func(netip.Addr) bool { return false }
	seen := map[netip.Addr]bool{}
	for range 100 {
		g, err := DrawGroup(nil, nil, none, random)
		if err != nil || !scoped.Contains(g) {
			t.Fatal(g, err)
		}
		seen[g] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d different groups of 100", len(seen))
	}
	for _, c := range []struct {
		allow, deny []netip.Prefix
		used        func(netip.Addr) bool
		want        string // prefix; empty: none is left
	}{
		{prefixes("239.5.5.0/24", "ff15::/16"), nil, none, "239.5.5.0/24"},
		{prefixes("239.5.5.5/32"), nil, none, "239.5.5.5/32"},
		{prefixes("239.5.5.4/31"), prefixes("239.5.5.4/32"), none, "239.5.5.5/32"},
		{prefixes("239.5.5.4/31"), nil, func(a netip.Addr) bool { return a.String() == "239.5.5.5" }, "239.5.5.4/32"},
		{prefixes("ff15::/16"), nil, none, ""},
		{prefixes("224.0.0.0/24"), nil, none, ""},
		{prefixes("232.0.0.0/8"), nil, none, ""},
		{nil, prefixes("239.0.0.0/8"), none, ""},
		{nil, nil, func(netip.Addr) bool { return true }, ""},
	} {
		g, err := DrawGroup(c.allow, c.deny, c.used, random)
		if (err == nil) != (c.want != "") || err == nil && !netip.MustParsePrefix(c.want).Contains(g) {
			t.Errorf("allow %v, deny %v: %v, %v; want %q", c.allow, c.deny, g, err, c.want)
		}
	}
}
