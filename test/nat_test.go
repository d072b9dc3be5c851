package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestNATs: hosts behind NATs reach each other directly where a hole can be punched and through a host that both reach
// where it cannot, because one NAT draws a new port for every destination; a NAT that is switched off and on is survived.
func TestNATs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		second rig.NATOptions
		path   string
	}{
		"cone":        {rig.NATOptions{}, "direct"},
		"randomising": {rig.NATOptions{Symmetric: true}, "relayed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := rig.New(t)
			u := w.Cloud()
			open := u.Host("h1")
			nats := []*rig.NAT{u.NAT("n2", rig.NATOptions{}), u.NAT("n3", c.second)}
			h2, h3 := nats[0].Host("h2"), nats[1].Host("h3")
			rig.Found(t, open, h2, h3)
			l := rig.AwaitPath(t, 10*time.Second, h2, h3, c.path)
			if c.path == "relayed" && (l.Via != open.Name || l.Reason == "") {
				t.Errorf("relayed via %q because %q, want %s and a reason", l.Via, l.Reason, open.Name)
			}
			streamVia(t, h2, "h3", "h1") // neither takes connections from outside
			streamVia(t, h3, "h2", "h1")
			a1, a2, a3 := startAgent(t, open, "a1"), startAgent(t, h2, "a2"), startAgent(t, h3, "a3")
			converse(t, "239.7.7.7", a1, a2, a3)
			a2.do("send %s straight", a3.ip4())
			a3.awaitGot("straight", 3*time.Second)

			for _, a := range []*agent{a1, a2, a3} {
				a.do("join 239.7.7.8")
			}
			rig.AwaitMembers(t, 10*time.Second, h2, "239.7.7.8", 3)
			rig.AwaitMembers(t, 10*time.Second, h3, "239.7.7.8", 3)
			for round, n := range nats {
				began := time.Now()
				n.RebindNAT()
				moved, other := a2, a3
				if round == 1 {
					moved, other = a3, a2
				}
				to, from := fmt.Sprintf("to-%d-", round), fmt.Sprintf("from-%d-", round)
				i := 0
				rig.Eventually(t, 3*time.Second, func() error {
					i++
					a1.do("send 239.7.7.8 %s%d", to, i)
					moved.do("send 239.7.7.8 %s%d", from, i)
					if a1.Count("^got "+from) == 0 || other.Count("^got "+from) == 0 || moved.Count("^got "+to) == 0 {
						return fmt.Errorf("%s is not back: a1 got %d, %s got %d, it got %d", moved.name,
							a1.Count("^got "+from), other.name, other.Count("^got "+from), moved.Count("^got "+to))
					}
					return nil
				})
				t.Logf("%s back %v after its NAT was switched off and on", moved.name, time.Since(began).Round(time.Millisecond))
				rig.AwaitPath(t, 10*time.Second, h2, h3, c.path)
				rig.AwaitPath(t, 10*time.Second, h3, h2, c.path)
			}
		})
	}
}

// streamVia opens a stream to a host and fails unless it goes through a third, as the probe and the links say.
func streamVia(t *testing.T, at *rig.Host, to, via string) {
	t.Helper()
	out := at.MustWeft("ping", "--stream", "-c", "1", "-W", "10s", to)
	if !strings.Contains(out, "relayed via "+via) {
		t.Errorf("weft ping --stream %s on %s:\n%s", to, at.Name, out)
	}
	var all struct {
		Links []struct {
			Host, Stream string
			Via          string `json:"stream_via"`
		}
	}
	if err := at.JSON(&all, "links"); err != nil {
		t.Fatal(err)
	}
	for _, l := range all.Links {
		if l.Host == to && (l.Stream != "relayed" || l.Via != via) {
			t.Errorf("streams from %s to %s: %s %s, want relayed via %s", at.Name, to, l.Stream, l.Via, via)
		}
	}
}

// TestRelayAndBackToDirect: two hosts that lose each other go through a third, with the reason shown, and come back.
func TestRelayAndBackToDirect(t *testing.T) {
	t.Parallel()
	u, h := cloud(t, 3)
	rig.AwaitPath(t, 10*time.Second, h[1], h[2], "direct")
	agents := []*agent{startAgent(t, h[0], "a1"), startAgent(t, h[1], "a2"), startAgent(t, h[2], "a3")}
	converse(t, "239.6.6.6", agents...)

	u.Block(h[1], h[2])
	l := rig.AwaitPath(t, 15*time.Second, h[1], h[2], "relayed")
	if l.Via != "h1" || l.Reason == "" {
		t.Errorf("relayed via %q because %q, want h1 and a reason", l.Via, l.Reason)
	}
	rig.AwaitPath(t, 15*time.Second, h[2], h[1], "relayed")
	converse(t, "239.6.6.6", agents...)
	c := u.Capture(h[0])
	agents[1].do("send %s secret-on-the-relay 600", agents[2].ip4())
	agents[2].awaitGot("secret-on-the-relay", 3*time.Second)
	if c.Stop(); c.Count("udp and greater 600") < 2 || c.Grep("secret-on-the-relay") {
		t.Errorf("at the relay: %d long packets, want in and out; payload readable: %v", c.Count("udp and greater 600"), c.Grep("secret-on-the-relay"))
	}

	u.Unblock(h[1], h[2])
	rig.AwaitPath(t, 10*time.Second, h[1], h[2], "direct")
	rig.AwaitPath(t, 10*time.Second, h[2], h[1], "direct")
	converse(t, "239.6.6.6", agents...)
	if err := h[0].KnowsAlive(h...); err != nil {
		t.Error(err)
	}
}
