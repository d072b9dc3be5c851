package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestNATs: hosts behind NATs reach each other directly where a hole can be punched and through a host that both reach
// where it cannot; a NAT that is switched off and on is survived.
func TestNATs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options rig.NATOptions
		path    string
	}{
		"cone":      {rig.NATOptions{}, "direct"},
		"symmetric": {rig.NATOptions{Symmetric: true}, "relayed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := rig.New(t)
			u := w.Cloud()
			open := u.Host("h1")
			nats := []*rig.NAT{u.NAT("n2", c.options), u.NAT("n3", c.options)}
			h2, h3 := nats[0].Host("h2"), nats[1].Host("h3")
			rig.Found(t, open, h2, h3)
			l := rig.AwaitPath(t, 20*time.Second, h2, h3, c.path)
			if c.path == "relayed" && l.Via != open.Name {
				t.Errorf("relayed via %q, want %s", l.Via, open.Name)
			}
			a1, a2, a3 := startAgent(t, open, "a1"), startAgent(t, h2, "a2"), startAgent(t, h3, "a3")
			converse(t, "239.7.7.7", a1, a2, a3)

			nats[0].RebindNAT()
			for _, a := range []*agent{a1, a2, a3} {
				a.do("join 239.7.7.8")
			}
			// Whoever is behind the NAT speaks first: nobody outside can know its new endpoint.
			i := 0
			rig.Eventually(t, 15*time.Second, func() error {
				i++
				a1.do("send 239.7.7.8 to-2-%d", i)
				a2.do("send 239.7.7.8 from-2-%d", i)
				if a1.Count("^got from-2-") == 0 || a3.Count("^got from-2-") == 0 || a2.Count("^got to-2-") == 0 {
					return fmt.Errorf("a2 is not back: a1 got %d, a3 got %d, a2 got %d",
						a1.Count("^got from-2-"), a3.Count("^got from-2-"), a2.Count("^got to-2-"))
				}
				return nil
			})
		})
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
	converse(t, "239.6.6.6", agents...)
	c := u.Capture(h[0])
	agents[1].do("send %s secret-on-the-relay 600", agents[2].ip4())
	agents[2].awaitGot("secret-on-the-relay", 3*time.Second)
	if c.Stop(); c.Count("udp and greater 600") < 2 || c.Grep("secret-on-the-relay") {
		t.Errorf("at the relay: %d long packets, want in and out; payload readable: %v", c.Count("udp and greater 600"), c.Grep("secret-on-the-relay"))
	}

	u.Unblock(h[1], h[2])
	rig.AwaitPath(t, 30*time.Second, h[1], h[2], "direct")
	rig.AwaitPath(t, 30*time.Second, h[2], h[1], "direct")
	converse(t, "239.6.6.6", agents...)
	if err := h[0].KnowsAlive(h...); err != nil {
		t.Error(err)
	}
}

// TestIPv6Underlay: hosts that have IPv6 only.
func TestIPv6Underlay(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1, h2 := u.Host("h1"), u.Host("h2")
	for _, h := range []*rig.Host{h1, h2} {
		h.MustExec("ip", "-4", "addr", "flush", "dev", "eth0")
	}
	h1.Up()
	h2.Up(h1.IP6.String())
	rig.AllKnowAll(t, 15*time.Second, h1, h2)
	converse(t, "239.5.5.5", startAgent(t, h1, "a1"), startAgent(t, h2, "a2"))
}
