package test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestSubnets: a network of two subnets is one network: programs in one reach those in the other on every host, by unicast in both families
// and by groups, --ip chooses the subnet, and a full one leaves what is free in the other. A network whose subnet is carved grows by
// another when all its addresses are in use, also for programs that were there before. What cannot be is refused in one sentence.
func TestSubnets(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
	rig.MulticastProbe(t, h[0], h[1])
	h[0].Up("--range", "10.200.0.0/20") // networks have 256 addresses, 253 to give
	h[1].Up(h[0].Endpoint())
	h[2].Up(h[0].Endpoint())
	rig.AllKnowAll(t, 15*time.Second, h...)

	two := []string{"network", "create", "two", "--subnet", "10.61.0.0/24", "--subnet", "10.62.0.0/28"}
	h[0].MustWeft(two...)
	for _, x := range h[1:] {
		rig.Eventually(t, 5*time.Second, func() error {
			if r := x.Weft(two...); r.Code != 0 && !strings.Contains(r.Stderr, "already") {
				return fmt.Errorf("%s: %s", x.Name, r.Stderr)
			}
			return nil
		})
	}
	a := startAgent(t, h[0], "a", "--network", "two", "--ip", "10.61.0.77")
	b := startAgent(t, h[1], "b", "--network", "two", "--ip", "10.62.0.9")
	c := startAgent(t, h[2], "c", "--network", "two", "--ip", "10.61.0.78")
	for _, x := range [][2]*agent{{a, b}, {b, a}, {b, c}, {a, c}} {
		reach(t, x[0], x[1])
	}
	converse(t, "239.4.7.1", a, b, c)
	subnets := func(at *rig.Host, network string) (out []string) {
		var v struct {
			IPAM []struct {
				Network, Subnet string
				Used, Free      int
			} `json:"ipam"`
		}
		if err := at.JSON(&v, "ipam"); err != nil {
			t.Fatal(err)
		}
		used := map[string][2]int{}
		for _, r := range v.IPAM {
			if r.Network == network {
				n := used[r.Subnet]
				used[r.Subnet] = [2]int{n[0] + r.Used, n[1] + r.Free}
			}
		}
		for s, n := range used {
			out = append(out, fmt.Sprintf("%s %d %d", s, n[0], n[1]))
		}
		slices.Sort(out)
		return out
	}
	for _, x := range h {
		rig.Eventually(t, 10*time.Second, func() error {
			if got, want := subnets(x, "two"), []string{"10.61.0.0/24 2 251", "10.62.0.0/28 1 12"}; !slices.Equal(got, want) {
				return fmt.Errorf("%s shows %v, want %v", x.Name, got, want)
			}
			return nil
		})
	}

	for _, x := range []struct {
		say  string
		args []string
	}{
		{`10\.63\.0\.0/25 overlaps --subnet 10\.63\.0\.0/24`, []string{"network", "create", "bad", "--subnet", "10.63.0.0/24", "--subnet", "10.63.0.0/25"}},
		{`10\.63\.0\.1/24: did you mean 10\.63\.0\.0/24`, []string{"network", "create", "bad", "--subnet", "10.64.0.0/24", "--subnet", "10.63.0.1/24"}},
		{"--subnet6 goes with one --subnet", []string{"network", "create", "bad", "--subnet", "10.63.0.0/24", "--subnet", "10.64.0.0/24", "--subnet6", "fd00:1::/64"}},
	} {
		refused(t, h[0].Weft(x.args...), 2, x.say)
	}
	refused(t, h[0].Weft("network", "create", "bad", "--subnet", "10.63.0.0/24", "--subnet", "10.62.0.8/29"), 1, `10\.62\.0\.8/29 overlaps 10\.62\.0\.0/28 of network two`)
	refused(t, h[0].Weft("run", "--network", "two", "--ip", "10.63.0.5", "--", "true"), 125, `10\.63\.0\.5 is not in the network's subnet`)
	if out := h[0].MustWeft("networks"); strings.Contains(out, "bad") {
		t.Errorf("what was refused is there:\n%s", out)
	}

	// The default network is full after 253 addresses and grows, on the host that needs one.
	first := startAgent(t, h[0], "first")
	fill(t, h[1])
	further := startAgent(t, h[2], "further")
	seen := map[string]string{}
	all, err := h[0].Attachments()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range all {
		for _, ip := range x.IPs {
			if other := seen[ip]; other != "" {
				t.Errorf("%s was given to %s and to %s", ip, other, x.Name)
			}
			seen[ip] = x.Name
		}
	}
	if ip := further.ip4(); netip.MustParsePrefix("10.200.0.0/24").Contains(netip.MustParseAddr(ip)) {
		t.Fatalf("%s is in the first subnet, which is full", ip)
	}
	reach(t, first, further) // which was there before its subnet was
	reach(t, further, first)
	converse(t, "239.4.7.2", first, further)
	for _, x := range h {
		rig.Eventually(t, 10*time.Second, func() error {
			if got := subnets(x, "weft"); len(got) < 2 {
				return fmt.Errorf("%s shows %v", x.Name, got)
			}
			return nil
		})
	}
	// It is so after a restart of the host that added it, and of all others.
	for _, x := range h {
		x.Restart()
	}
	rig.AllKnowAll(t, 20*time.Second, h...)
	rig.Eventually(t, 10*time.Second, func() error { _, err := h[0].Attachment(further.name); return err })
	reach(t, first, further)
	reach(t, a, b)
}

// fill makes 256 attachments of a host to the default network.
func fill(t *testing.T, h *rig.Host) {
	t.Helper()
	var spaces []string
	for i := range 16 {
		name := fmt.Sprintf("%s-%d", h.NS, i)
		spaces = append(spaces, name)
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", name, err, out)
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	}
	script := fmt.Sprintf(`set -e
for ns in %s; do
	for k in $(seq 16); do %s attach --netns /run/netns/$ns --name $ns-$k >/dev/null; done
done`, strings.Join(spaces, " "), h.WeftPath())
	began := time.Now()
	h.MustExec("sh", "-c", script)
	t.Logf("256 attachments in %v", time.Since(began).Round(time.Second))
}

// reach waits until one program reaches another, in both families.
func reach(t *testing.T, from, to *agent) {
	t.Helper()
	for _, ip := range []string{to.ip4(), to.ip6()} {
		rig.Eventually(t, 10*time.Second, func() error {
			if n, out := from.ping(ip, 1, 100, "-W", "1"); n != 1 {
				return fmt.Errorf("%s does not reach %s at %s: %s", from.name, to.name, ip, out)
			}
			return nil
		})
	}
}
