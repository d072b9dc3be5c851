package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestClustersMeet: two clusters that grew apart, each of two hosts with programs that have the same addresses, are introduced to each other
// from both sides: each is told, none of them changes (token, hosts, addresses, networks), no link is cut, and programs talk on with those
// of their own cluster only.
func TestClustersMeet(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	one := []*rig.Host{u.Host("h1"), u.Host("h2")}
	two := []*rig.Host{u.Host("h3"), u.Host("h4")}
	rig.Found(t, one...)
	two[0].Up()
	token := strings.TrimSpace(two[0].MustWeft("token"))
	two[1].Up(two[0].Endpoint(), "--token", token)
	rig.AllKnowAll(t, 15*time.Second, two...)
	a, b := startAgent(t, one[0], "a"), startAgent(t, one[1], "b")
	c, d := startAgent(t, two[0], "c"), startAgent(t, two[1], "d")
	if a.ip4() != c.ip4() || b.ip4() != d.ip4() {
		t.Fatalf("addresses %s %s and %s %s: the clusters do not overlap", a.ip4(), b.ip4(), c.ip4(), d.ip4())
	}
	converse(t, "239.4.6.1", a, b)
	converse(t, "239.4.6.1", c, d)
	view := func(h *rig.Host) string {
		return h.MustWeft("token") + h.MustWeft("ipam") + h.MustWeft("networks")
	}
	before := map[*rig.Host]string{}
	all := append(append([]*rig.Host{}, one...), two...)
	for _, h := range all {
		before[h] = view(h)
	}

	one[0].MustWeft("connect", two[0].Endpoint())
	two[1].MustWeft("connect", one[1].Endpoint())
	for _, x := range [][2]*rig.Host{{one[0], two[0]}, {two[1], one[1]}} {
		rig.Eventually(t, 12*time.Second, func() error {
			said := strings.Join(strings.Fields(x[0].Weft("status").Stdout), " ")
			if want := x[1].IP.String() + ":6783 takes TCP but not this token"; !strings.Contains(said, want) || !strings.Contains(said, "two clusters never become one") {
				return fmt.Errorf("%s does not say %q: %s", x[0].Name, want, said)
			}
			said = strings.Join(strings.Fields(x[1].Weft("status").Stdout), " ")
			if want := "someone at " + x[0].IP.String(); !strings.Contains(said, want) {
				return fmt.Errorf("%s does not say %q: %s", x[1].Name, want, said)
			}
			return nil
		})
	}
	converse(t, "239.4.6.2", a, b)
	converse(t, "239.4.6.2", c, d)
	for _, h := range all {
		if now := view(h); now != before[h] {
			t.Errorf("%s was\n%s\nand is\n%s", h.Name, before[h], now)
		}
		hosts, err := h.Hosts()
		if err != nil || len(hosts) != 2 {
			t.Errorf("%s knows %v, %v, want two hosts", h.Name, hosts, err)
		}
		for _, line := range h.Daemon().Errors() {
			if strings.Contains(line, "link down") || strings.Contains(line, "state=dead") {
				t.Errorf("%s: %s", h.Name, line)
			}
		}
	}
	// A host of the one that is started with the other's token is refused, and resumes as it was.
	two[1].Daemon().Stop(10 * time.Second)
	refused(t, two[1].Weft("up", one[0].Endpoint(), "--token", w.Token()), 1, "belongs to cluster", "weft down --leave")
	two[1].Up()
	rig.AllKnowAll(t, 20*time.Second, two...)
	converse(t, "239.4.6.3", c, d)
}
