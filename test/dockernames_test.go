package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// server is the name service's address in a network.
func (e engine) server(t *testing.T, network string) string {
	t.Helper()
	var all struct {
		Networks []struct{ Name, DNS string }
	}
	if err := e.JSON(&all, "networks"); err != nil {
		t.Fatal(err)
	}
	for _, n := range all.Networks {
		if n.Name == network {
			return n.DNS
		}
	}
	t.Fatalf("no network %s on %s: %+v", network, e.Name, all)
	return ""
}

// resolves waits until a container is told these IPv4 addresses of a name, and no others; none: that there is no such name.
func resolves(t *testing.T, e engine, container, name string, want ...string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	rig.Eventually(t, 10*time.Second, func() error {
		r := e.Docker.Run("exec", container, "nslookup", "-type=a", name)
		var got []string
		_, answer, _ := strings.Cut(r.Stdout, "\n\n") // before: who was asked
		for line := range strings.Lines(answer) {
			if ip, ok := strings.CutPrefix(strings.TrimSpace(line), "Address: "); ok {
				got = append(got, ip)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("%s on %s: %s is %q, want %q\n%s%s", container, e.Name, name, got, want, r.Stdout, r.Stderr)
		}
		return nil
	})
}

// TestDockerNames: containers on other hosts are found by the names that Docker has for them: their own, their hostname, aliases; also
// after weft was killed, and after docker rename; not when they are gone.
func TestDockerNames(t *testing.T) {
	e := engines(t, 2)
	for _, x := range e {
		x.party()
	}
	dns := []string{"--network", "party", "--dns", e[0].server(t, "party")}
	e[0].sleeper("ask", dns...)
	e[1].sleeper("web_1", append(dns, "--network-alias", "shop", "--hostname", "www")...)
	e[1].sleeper("web_2", append(dns, "--network-alias", "shop")...)
	one, two := e[1].addr("web_1", "party", "IPAddress"), e[1].addr("web_2", "party", "IPAddress")
	ask := func(name string, want ...string) { t.Helper(); resolves(t, e[0], "ask", name, want...) }
	ask("web_1", one)
	ask("web_2.party.weft.internal", two)
	ask("www", one)
	ask("shop", one, two)
	resolves(t, e[1], "web_1", "ask", e[0].addr("ask", "party", "IPAddress"))

	e[1].Host.Kill9()
	e[1].Must("rename", "web_2", "store") // while nobody watches
	e[1].Restart()
	ask("store", two)
	ask("web_2")
	e[1].Must("rename", "store", "store_2")
	ask("store_2", two)
	e[1].Must("network", "disconnect", "party", "web_1")
	ask("shop", two)
	ask("web_1")
	e[1].Must("network", "connect", "--alias", "again", "party", "web_1")
	ask("again", e[1].addr("web_1", "party", "IPAddress"))
	e[1].Must("rm", "-f", "web_1", "store_2")
	ask("shop")
}
