package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// network makes a network of Docker's that stands for a weft network of the same name.
func (e engine) network(name string, options ...string) {
	args := []string{"network", "create", "-d", "weft", "--ipam-driver", "weft", "-o", "weft.network=" + name, "--ipam-opt", "weft.network=" + name}
	e.Must(append(append(args, options...), name)...)
}

// place is a container and where it is.
type place struct {
	engine
	name, network string
}

// together says that containers reach each other, both ways, in both families.
func together(t *testing.T, all ...place) {
	t.Helper()
	for _, a := range all {
		for _, b := range all {
			if a == b {
				continue
			}
			for _, field := range []string{"IPAddress", "GlobalIPv6Address"} {
				a.pings(t, a.name, b.addr(b.name, b.network, field))
			}
		}
	}
}

// TestDockerSubnets: a network of two subnets by Docker's own command, given in either order; --ip chooses the subnet; containers of both
// subnets on two hosts reach each other directly, in both families, and by groups. One that weft made is joined without --subnet, and with
// all of them; its containers get addresses from the first subnet until that is full. Nothing is left.
func TestDockerSubnets(t *testing.T) {
	e := engines(t, 2)
	e[0].network("two", "--subnet", "10.92.0.0/29", "--subnet", "10.93.0.0/24", "--aux-address", "printer=10.93.0.9")
	e[1].network("two", "--subnet", "10.93.0.0/24", "--subnet", "10.92.0.0/29")
	for _, x := range e {
		rig.Eventually(t, 10*time.Second, func() error {
			all, err := x.Networks()
			for _, n := range all {
				if n.Name == "two" && (len(n.Subnets) < 2 || n.Subnets[0] != "10.92.0.0/29" || n.Subnets[1] != "10.93.0.0/24") {
					err = fmt.Errorf("%s has %+v", x.Name, n)
				}
			}
			return err
		})
	}
	a, b, c := place{e[0], "c1", "two"}, place{e[1], "c2", "two"}, place{e[0], "c3", "two"}
	e[0].sleeper("c1", "--network", "two", "--ip", "10.92.0.5")
	e[1].sleeper("c2", "--network", "two", "--ip", "10.93.0.50")
	e[0].sleeper("c3", "--network", "two", "--ip", "10.93.0.51")
	together(t, a, b, c)
	if out := e[0].Must("exec", "c1", "ip", "-4", "route"); !strings.Contains(out, "10.93.0.0/24 dev weft0 scope link") {
		t.Errorf("routes of a container in the first subnet:\n%s", out)
	}
	refused(t, e[1].Weft("run", "--network", "two", "--ip", "10.93.0.9", "--", "true"), 125, "10.93.0.9")

	const group = "239.1.9.2:1234"
	var chats []*rig.Process
	for i, ip := range []string{"10.92.0.6", "10.93.0.60"} {
		chats = append(chats, e[i].Attend("run", "-i", "--name", "chat", "--network", "two", "--ip", ip, rig.DockerImage, "weft", "chat", group, "n"))
	}
	rig.Eventually(t, 20*time.Second, func() error {
		all, err := e[0].Groups()
		members := 0
		for _, g := range all {
			if g.Group == "239.1.9.2" {
				members += len(g.Members)
			}
		}
		if err == nil && members != 2 {
			err = fmt.Errorf("%d members", members)
		}
		return err
	})
	for i, c := range chats {
		c.Send(fmt.Sprintf("hello from %d", i))
		rig.Eventually(t, 10*time.Second, func() error {
			if n := chats[1-i].Count(fmt.Sprintf("hello from %d", i)); n != 1 {
				return fmt.Errorf("%d's line was read %d times", i, n)
			}
			return nil
		})
	}

	// Routes are there again when container, Docker and weft have been away.
	e[0].Must("restart", "-t", "0", "c1")
	e[1].Restart()
	e[1].Docker.Kill9()
	e[1].Begin()
	together(t, a, b)

	// A network of weft's, joined by what it is called.
	e[0].MustWeft("network", "create", "made", "--subnet", "10.94.0.0/29", "--subnet", "10.95.0.0/24")
	rig.Eventually(t, 5*time.Second, func() error { // e[1] has heard of it
		all, err := e[1].Networks()
		if err == nil && !slices.ContainsFunc(all, func(n rig.NetworkStatus) bool { return n.Name == "made" }) {
			err = fmt.Errorf("%s knows %+v", e[1].Name, all)
		}
		return err
	})
	e[1].network("made")
	e[0].network("made", "--subnet", "10.95.0.0/24", "--subnet", "10.94.0.0/29")
	e[0].sleeper("other", "--network", "made", "--ip", "10.95.0.77")
	seen := map[string]bool{}
	var last place
	for i := range 6 { // of which there is room for five
		last = place{e[1], fmt.Sprintf("s%d", i), "made"}
		e[1].sleeper(last.name, "--network", "made")
		ip := e[1].addr(last.name, "made", "IPAddress")
		if first := netip.MustParsePrefix("10.94.0.0/29").Contains(netip.MustParseAddr(ip)); first != (i < 5) || seen[ip] {
			t.Errorf("container %d has the address %s", i+1, ip)
		}
		seen[ip] = true
	}
	together(t, place{e[1], "s0", "made"}, last, place{e[0], "other", "made"})

	// A container in two such networks.
	e[0].Must("network", "connect", "made", "c1")
	together(t, place{e[0], "c1", "made"}, last)
	together(t, a, b)

	for _, x := range e {
		x.Must(append([]string{"rm", "-f"}, strings.Fields(x.Must("ps", "-aq"))...)...)
		x.Must("network", "rm", "two", "made")
	}
	e[0].MustWeft("network", "rm", "made")
	for _, x := range e {
		x.clean(t)
	}
}

// TestDockerGrows: a network whose addresses are all in use grows by a subnet for a container. Containers that run already, on each host,
// reach it and are reached, in both families; and again after a restart of weft.
func TestDockerGrows(t *testing.T) {
	e := engines(t, 2, "--range", "10.200.0.0/20") // networks have 256 addresses, 253 to give
	var before []place
	for i, x := range e {
		x.network("weft")
		before = append(before, place{x, fmt.Sprintf("before%d", i), "weft"})
		x.sleeper(before[i].name, "--network", "weft")
	}
	together(t, before...)
	e[0].Must("network", "create", "-d", "weft", "--ipam-driver", "weft", "--ipam-opt", "weft.network=weft", "-o", "weft.ipv6=false", "four")
	e[0].sleeper("four", "--network", "four")
	fill(t, e[1].Host)
	after := place{e[0], "after", "weft"}
	e[0].sleeper("after", "--network", "weft")
	if ip := after.addr("after", "weft", "IPAddress"); netip.MustParsePrefix("10.200.0.0/24").Contains(netip.MustParseAddr(ip)) {
		t.Fatalf("%s is in the first subnet, which is full", ip)
	}
	together(t, append(before, after)...)
	e[0].pings(t, "four", after.addr("after", "weft", "IPAddress"))
	for _, x := range e {
		s, err := x.Status()
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range s.Warnings {
			t.Errorf("%s warns: %+v", x.Name, w)
		}
	}
	for _, x := range e {
		x.Restart()
	}
	together(t, append(before, after)...)
}
