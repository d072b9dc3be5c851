package test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestWaysToJoin: hosts find the cluster by name, by either family's address with and without a port, and by being told
// later; what was told can be taken back.
func TestWaysToJoin(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1 := u.Host("h1")
	ways := []string{"h1", h1.IP6.String(), "[" + h1.IP6.String() + "]:6783", "h1:6783"}
	hosts := []*rig.Host{h1}
	for i := range ways {
		hosts = append(hosts, u.Host(fmt.Sprintf("h%d", i+2)))
	}
	late := u.Host("late")
	h1.Up()
	for i, way := range ways {
		hosts[i+1].Up(way)
	}
	late.Up("10.77.200.2") // nobody there
	rig.AllKnowAll(t, 15*time.Second, hosts...)
	refused(t, late.Weft("forget", "h1"), 1, "h1")
	late.MustWeft("connect", "h1")
	late.MustWeft("forget", "10.77.200.2")
	rig.AllKnowAll(t, 15*time.Second, append(hosts, late)...)
}

// TestJoinBySRV: a name with SRV records leads to the hosts and ports they name, whatever the name's own addresses are.
func TestJoinBySRV(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1, h2, dns := u.Host("h1"), u.Host("h2"), u.Host("dns")
	dns.NameServer([]*rig.Host{h2}, "--srv-host=_weft._udp.fleet.example,one.fleet.example,7777",
		"--address=/one.fleet.example/"+h1.IP.String(), "--address=/fleet.example/10.77.200.2")
	h1.Up("--port", "7777")
	h2.Up("fleet.example")
	rig.AllKnowAll(t, 15*time.Second, h1, h2)
}

// TestOtherWireVersion: hosts whose wire versions differ tell the joiner so, who goes on trying: an upgrade may be under way.
func TestOtherWireVersion(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1, h2 := u.Host("h1"), u.Host("h2")
	h2.Altered("internal/wire/wire.go", "const Version = 1", "const Version = 2")
	h1.Up()
	p := h2.Launch(h1.Endpoint())
	rig.Eventually(t, 10*time.Second, func() error {
		if all := strings.Join(p.Errors(), "\n"); !strings.Contains(all, "speaks wire version 1, this host 2") {
			return &silence{all}
		}
		return nil
	})
	if all, err := h1.Hosts(); err != nil || len(all) != 1 {
		t.Errorf("h1 knows %v (%v), want itself only", all, err)
	}
	if !p.Running() {
		t.Errorf("the joiner gave up: %v", p.Errors())
	}
}

// TestWrongClock: a host whose clock is an hour off is a warning in hosts and status, and has no other effect.
func TestWrongClock(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1, h2 := u.Host("h1"), u.Host("h2")
	h2.Altered("internal/mesh/admit.go", "Unix: now.Unix(),", "Unix: now.Unix() + 3600,")
	h1.Up()
	h2.Up(h1.Endpoint())
	rig.AllKnowAll(t, 15*time.Second, h1, h2)
	converse(t, "239.8.8.8", startAgent(t, h1, "a"), startAgent(t, h2, "b"))
	for command, want := range map[string]string{"hosts": "its clock is (1h0m0s|59m59s) off", "status": "the clock of host h2 is (1h0m0s|59m59s) off.*\n?.*set the clock"} {
		if out := h1.MustWeft(command); !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("weft %s on h1 does not say %q:\n%s", command, want, out)
		}
		if out := h1.MustWeft(command, "--json"); !strings.Contains(out, "clock") {
			t.Errorf("weft %s --json does not tell of the clock:\n%s", command, out)
		}
	}
}

// TestPing: weft ping tells path, round trip and loss.
func TestPing(t *testing.T) {
	t.Parallel()
	u, h := cloud(t, 3)
	rig.AwaitPath(t, 10*time.Second, h[1], h[2], "direct")
	type answer struct {
		Probes []struct {
			RTTms float64 `json:"rtt_ms"`
			Path  string  `json:"path"`
			Via   string  `json:"via"`
		} `json:"probes"`
		Sent     int     `json:"sent"`
		Received int     `json:"received"`
		Loss     float64 `json:"loss_percent"`
	}
	var got answer
	ping := func(host string) error {
		got = answer{}
		return h[1].JSON(&got, "ping", host, "-c", "5", "-i", "50ms", "-s", "3000")
	}
	if err := ping("h3"); err != nil {
		t.Fatal(err)
	}
	if got.Sent != 5 || got.Received != 5 || got.Loss != 0 || len(got.Probes) != 5 || got.Probes[4].Path != "direct" || got.Probes[4].RTTms <= 0 {
		t.Errorf("%+v, want 5 answers on the direct path", got)
	}
	u.Block(h[1], h[2])
	rig.AwaitPath(t, 10*time.Second, h[1], h[2], "relayed")
	rig.AwaitPath(t, 10*time.Second, h[2], h[1], "relayed")
	if err := ping("h3"); err != nil {
		t.Fatal(err)
	}
	if got.Received == 0 || got.Probes[0].Path != "relayed" || got.Probes[0].Via != "h1" {
		t.Errorf("%+v, want answers through h1", got)
	}
	refused(t, h[1].Weft("ping", "nobody"), 1, "nobody")
}

// TestRotateAndRemove: a rotated token admits nobody who holds the old one and costs admitted hosts nothing; a removed
// host is shut out, by its keys and by the token it knew.
func TestRotateAndRemove(t *testing.T) {
	t.Parallel()
	u, h := cloud(t, 3)
	old := strings.TrimSpace(h[0].MustWeft("token"))
	now := strings.TrimSpace(h[1].MustWeft("token", "rotate"))
	if now == old || !strings.HasPrefix(now, "weft1") {
		t.Fatalf("rotated %q to %q", old, now)
	}
	rig.Eventually(t, 5*time.Second, func() error {
		if got := strings.TrimSpace(h[0].MustWeft("token")); got != now {
			return fmt.Errorf("h1 has not the new token yet")
		}
		return nil
	})
	h[2].Restart()
	rig.AllKnowAll(t, 15*time.Second, h...)
	fresh := u.Host("fresh")
	p := fresh.Launch(h[0].Endpoint(), "--token", old)
	rig.Eventually(t, 12*time.Second, func() error {
		if all := strings.Join(p.Errors(), "\n"); !strings.Contains(all, "not this token") {
			return &silence{all}
		}
		return nil
	})
	if code := p.Stop(10 * time.Second); code != 0 {
		t.Errorf("weft up ended with code %d when asked to stop", code)
	}
	fresh.Up(h[0].Endpoint(), "--token", now)
	rig.AllKnowAll(t, 15*time.Second, append(h, fresh)...)

	h[0].MustWeft("host", "rm", "h3")
	rig.Eventually(t, 10*time.Second, func() error {
		for _, at := range []*rig.Host{h[0], h[1], fresh} {
			if at.KnowsAlive(h[2]) == nil {
				return fmt.Errorf("%s still has h3", at.Name)
			}
		}
		return nil
	})
	if got := strings.TrimSpace(h[0].MustWeft("token")); got == now {
		t.Error("the removed host knows the token: it was not rotated")
	}
	h[2].Daemon().Stop(10 * time.Second)
	h[2].Launch(h[0].Endpoint())
	rig.During(t, 5*time.Second, func() error {
		if h[0].KnowsAlive(h[2]) == nil {
			return fmt.Errorf("a removed host is back")
		}
		return nil
	})
	for _, at := range []*rig.Host{h[0], h[1], fresh} {
		if err := at.KnowsAlive(h[0], h[1], fresh); err != nil {
			t.Error(err)
		}
	}
}
