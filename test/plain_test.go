package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// plainCloud makes three hosts with a plain network and an agent on each.
func plainCloud(t *testing.T, prepare func(*rig.Host), address func(*rig.Host) string) (*rig.Underlay, []*rig.Host, []*agent) {
	t.Helper()
	w := rig.New(t)
	u := w.Cloud()
	var h []*rig.Host
	for i := range 3 {
		h = append(h, u.Host(fmt.Sprintf("h%d", i+1)))
	}
	rig.MulticastProbe(t, h[0], h[1])
	for _, host := range h {
		prepare(host)
	}
	h[0].Up()
	for _, host := range h[1:] {
		host.Up(address(h[0]))
	}
	rig.AllKnowAll(t, 15*time.Second, h...)
	r := h[0].Weft("network", "create", "open", "--plain")
	if r.Code != 0 || !strings.Contains(r.Stderr, "PLAIN") {
		t.Fatalf("create --plain: exit %d, want 0 and a loud word on stderr\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	rig.Eventually(t, 5*time.Second, func() error {
		for _, host := range h {
			if show := host.Weft("network", "show", "open"); !strings.Contains(show.Stdout, "NOT encrypted") {
				return fmt.Errorf("%s: weft network show does not say it: %s%s", host.Name, show.Stdout, show.Stderr)
			}
		}
		return nil
	})
	var agents []*agent
	for i, host := range h {
		agents = append(agents, startAgent(t, host, fmt.Sprintf("a%d", i+1), "--network", "open"))
	}
	for _, host := range h {
		rig.Eventually(t, 5*time.Second, func() error {
			all, err := host.Attachments()
			if err == nil && len(all) != len(agents) {
				err = fmt.Errorf("%s knows %d attachments", host.Name, len(all))
			}
			return err
		})
	}
	for _, host := range h {
		if show := host.MustWeft("network", "show", "open"); strings.Contains(show, "problem") {
			t.Errorf("%s: %s", host.Name, show)
		}
	}
	return u, h, agents
}

// plainTalk shows unicast, groups, sources and what all get, and that a host without members gets no copy.
func plainTalk(t *testing.T, u *rig.Underlay, h []*rig.Host, a []*agent, six bool) {
	t.Helper()
	asm, ssm, all, local := "239.3.3.3", "232.3.3.3", "224.0.0.251", (*agent).ip4
	if six {
		asm, ssm, all, local = "ff15::3333", "ff35::3333", "ff02::1%weft0", (*agent).ip6
	}
	a[0].do("send %s unicast", local(a[2]))
	a[2].awaitGot("unicast", 5*time.Second)
	converse(t, asm, a...)

	// One member: the third host has an attachment and gets nothing.
	a[1].do("join %s", asm)
	rig.AwaitMembers(t, 10*time.Second, h[0], asm, 1)
	at := u.Capture(h[2])
	member := u.Capture(h[1])
	a[0].do("flow %s 50 1 100 selective", asm)
	a[0].ExpectLine("^flowed selective", 10*time.Second)
	rig.Eventually(t, 5*time.Second, func() error {
		if got, _ := a[1].flowed("selective"); got != 50 {
			return fmt.Errorf("the member got %d of 50", got)
		}
		return nil
	})
	if _, n := a[1].flowed("selective"); n != 50 {
		t.Errorf("the member got %d datagrams, want 50", n)
	}
	if n := at.Count("udp port 4789"); n != 0 || at.Grep("selective-") {
		t.Errorf("%s has no member and got %d VXLAN packets", h[2].Name, n)
	}
	if !member.Grep("selective-") {
		t.Error("the payload is not readable on the underlay: this is no plain network, or the capture proves nothing")
	}
	a[1].do("leave %s", asm)

	// One wants a source, another all: the first hears one, the second both.
	a[1].do("join %s %s", ssm, local(a[0]))
	rig.Eventually(t, 10*time.Second, func() error {
		for _, host := range []*rig.Host{h[0], h[2]} {
			if err := sourceMember(host, ssm, local(a[0])); err != nil {
				return err
			}
		}
		return nil
	})
	a[2].do("send %s not-wanted", ssm)
	a[0].do("send %s wanted", ssm)
	a[1].awaitGot("wanted", 5*time.Second)
	a[2].do("join %s", ssm)
	rig.Eventually(t, 10*time.Second, func() error {
		groups, err := h[0].Groups()
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.Group == ssm && g.Source == "*" && len(g.Members) == 1 {
				return nil
			}
		}
		return fmt.Errorf("no (*,G) member of %s: %+v", ssm, groups)
	})
	a[0].do("send %s for-both", ssm)
	a[1].awaitGot("for-both", 5*time.Second)
	a[2].awaitGot("for-both", 5*time.Second)
	if a[1].got("not-wanted") > 0 {
		t.Error("a member of (S,G) got another source")
	}
	a[1].do("leave %s %s", ssm, local(a[0]))
	a[2].do("leave %s", ssm)

	// What all get.
	everywhere, _, _ := strings.Cut(all, "%")
	a[1].do("join %s", everywhere)
	a[2].do("join %s", everywhere)
	a[0].do("send %s everyone", all)
	a[1].awaitGot("everyone", 5*time.Second)
	a[2].awaitGot("everyone", 5*time.Second)
}

// TestPlainNetwork: the kernel carries a plain network, selectively, with the daemon or without.
func TestPlainNetwork(t *testing.T) {
	t.Parallel()
	u, h, a := plainCloud(t, func(*rig.Host) {}, (*rig.Host).Endpoint)
	if r := h[1].Weft("network", "create", "open"); r.Code != 1 {
		t.Errorf("create without --plain of a plain network: exit %d, want 1\n%s", r.Code, r.Stderr)
	}
	plainTalk(t, u, h, a, false)
	if groups := h[0].MustWeft("groups"); strings.Contains(groups, "open") && !strings.Contains(groups, "-") {
		t.Errorf("counters of a plain network:\n%s", groups)
	}

	index := func() string { return h[1].MustExec("sh", "-c", "cat /sys/class/net/wx*/ifindex") }
	was := index()

	// The daemon is killed; its programs go on, both ways, and also once the others take it for dead.
	const group = "239.3.3.4"
	for _, x := range a {
		x.do("join %s", group)
	}
	for _, host := range h {
		rig.AwaitMembers(t, 10*time.Second, host, group, 3)
	}
	address := a[1].ip4()
	h[1].Kill9()
	talk := func(when string) {
		t.Helper()
		a[1].do("send %s from-%s", group, when)
		a[0].do("send %s to-%s", group, when)
		a[0].do("send %s uni-%s", address, when)
		a[0].awaitGot("from-"+when, 3*time.Second)
		a[2].awaitGot("from-"+when, 3*time.Second)
		a[1].awaitGot("to-"+when, 3*time.Second)
		a[1].awaitGot("uni-"+when, 3*time.Second)
	}
	talk("killed")
	rig.Eventually(t, 20*time.Second, func() error {
		if h[0].KnowsAlive(h[1]) == nil {
			return fmt.Errorf("%s is still alive", h[1].Name)
		}
		return nil
	})
	talk("dead")

	// Started again: adopted as it is, and not a datagram of a flow is lost over it.
	a[0].do("flow %s 400 4 60 through", group)
	a[1].do("flow %s 400 4 60 back", group)
	h[1].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	a[0].ExpectLine("^flowed through", 10*time.Second)
	a[1].ExpectLine("^flowed back", 10*time.Second)
	rig.Eventually(t, 5*time.Second, func() error {
		to, _ := a[1].flowed("through")
		from, _ := a[0].flowed("back")
		if to != 400 || from != 400 {
			return fmt.Errorf("over the restart %d and %d of 400 arrived", to, from)
		}
		return nil
	})
	if now := index(); now != was {
		t.Errorf("the VXLAN device is number %s, was %s: made anew", now, was)
	}
	talk("again")

	h[1].MustWeft("down")
	h[1].Daemon().Wait(10 * time.Second)
	talk("down")
	h[1].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	for _, host := range []*rig.Host{h[1], h[0]} {
		rig.Eventually(t, 5*time.Second, knownTo(h[2], host, true))
		host.MustWeft("down", "--clean")
		host.Daemon().Wait(10 * time.Second)
		if left := host.Leftovers(); left != "" {
			t.Errorf("%s: left after down --clean:\n%s", host.Name, left)
		}
		// Nobody sends to it any more, though it is only down for the others.
		rig.Eventually(t, 5*time.Second, knownTo(h[2], host, false))
	}
}

// knownTo checks whether a host's kernel sends frames to another, and takes packets from it.
func knownTo(at, host *rig.Host, want bool) func() error {
	return func() error {
		for _, cmd := range []string{"bridge fdb show | grep dst", "nft list set inet weft vteps4"} {
			out := at.Exec("sh", "-c", cmd).Stdout
			if strings.Contains(out, host.IP.String()) != want {
				return fmt.Errorf("%s has %s: want %v\n%s", at.Name, host.Name, want, out)
			}
		}
		return nil
	}
}

// TestPlainNetworkIPv6: the same over an underlay without IPv4.
func TestPlainNetworkIPv6(t *testing.T) {
	t.Parallel()
	u, h, a := plainCloud(t, func(h *rig.Host) { h.MustExec("ip", "-4", "addr", "flush", "dev", "eth0") },
		func(h *rig.Host) string { return "[" + h.IP6.String() + "]:6783" })
	plainTalk(t, u, h, a, true)
}

// TestPlainRefused: what a plain network cannot do is said with its reason.
func TestPlainRefused(t *testing.T) {
	t.Parallel()
	u, h := cloud(t, 3)
	// Another program has the port.
	taken := h[0].Start(python, "-c", "import socket,time; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',4789)); print('taken',flush=True); time.sleep(600)")
	taken.ExpectLine("^taken$", 5*time.Second)
	r := h[0].Weft("network", "create", "open", "--plain")
	if r.Code != 1 || !strings.Contains(r.Stderr, "port") {
		t.Errorf("create --plain with the port taken: exit %d\n%s", r.Code, r.Stderr)
	}
	if all, err := h[0].Networks(); err != nil || len(all) != 1 {
		t.Errorf("networks after the refusal: %+v (%v)", all, err)
	}
	taken.Kill9()
	h[0].MustWeft("network", "create", "open", "--plain")

	// A sealed network stays sealed.
	h[0].MustWeft("network", "create", "red")
	rig.Eventually(t, 5*time.Second, func() error {
		all, err := h[1].Networks()
		if err == nil && len(all) != 3 {
			err = fmt.Errorf("networks: %+v", all)
		}
		return err
	})
	if r := h[1].Weft("network", "create", "red", "--plain"); r.Code != 1 || !strings.Contains(r.Stderr, "sealed") {
		t.Errorf("create --plain of a sealed network: exit %d\n%s", r.Code, r.Stderr)
	}
	h[1].MustWeft("network", "create", "open", "--plain")

	for _, host := range h[:2] {
		if s := host.Weft("status"); !strings.Contains(s.Stdout, "PLAIN") {
			t.Errorf("%s: status does not say that the network is plain:\n%s", host.Name, s.Stdout)
		}
	}

	// VXLAN crosses no NAT.
	home := u.NAT("nat", rig.NATOptions{}).Host("home")
	home.Up(h[0].Endpoint())
	rig.AllKnowAll(t, 15*time.Second, h[0], home)
	r = home.Weft("network", "create", "open", "--plain")
	rig.Eventually(t, 10*time.Second, func() error { // it takes a host a moment to find out
		if show := home.Weft("network", "show", "open").Stdout; r.Code == 0 && !strings.Contains(show, "NAT") || r.Code != 0 && !strings.Contains(r.Stderr, "NAT") {
			return fmt.Errorf("create --plain behind a NAT: exit %d\n%s\n%s", r.Code, r.Stderr, show)
		}
		return nil
	})

	// There are no relays: a direct path that ends is told, not made up for; and that it is back.
	a, b := startAgent(t, h[0], "a", "--network", "open"), startAgent(t, h[1], "b", "--network", "open")
	to := b.ip4()
	a.do("send %s direct", to)
	b.awaitGot("direct", 5*time.Second)
	u.BlockUDP(h[0], h[1])
	rig.AwaitPath(t, 20*time.Second, h[0], h[1], "relayed")
	problem := func(want bool) func() error {
		return func() error {
			for _, cmd := range [][]string{{"network", "show", "open"}, {"status"}} {
				out := h[0].Weft(cmd...).Stdout
				if strings.Contains(out, "no direct path") != want {
					return fmt.Errorf("weft %s:\n%s", strings.Join(cmd, " "), out)
				}
			}
			return nil
		}
	}
	rig.Eventually(t, 5*time.Second, problem(true))
	a.do("send %s through-a-relay", to)
	u.Unblock(h[0], h[1])
	rig.AwaitPath(t, 60*time.Second, h[0], h[1], "direct")
	rig.Eventually(t, 5*time.Second, problem(false))
	a.do("send %s direct-again", to)
	b.awaitGot("direct-again", 5*time.Second)
	if b.got("through-a-relay") > 0 {
		t.Error("a frame of a plain network went through a relay")
	}
}

// TestPlainMoves: a host whose underlay address changes goes on from its new one.
func TestPlainMoves(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	for _, host := range h {
		host.MustWeft("network", "create", "open", "--plain")
		rig.Eventually(t, 5*time.Second, func() error {
			all, err := h[1].Networks()
			if err == nil && len(all) != 2 {
				err = fmt.Errorf("networks: %+v", all)
			}
			return err
		})
	}
	a, b := startAgent(t, h[0], "a", "--network", "open"), startAgent(t, h[1], "b", "--network", "open")
	converse(t, "239.3.3.5", a, b)
	moved := h[1].IP.Next()
	gateway := netip.AddrFrom4([4]byte{h[1].IP.As4()[0], h[1].IP.As4()[1], h[1].IP.As4()[2], 1})
	h[1].MustExec("ip", "addr", "del", h[1].IP.String()+"/24", "dev", "eth0")
	h[1].MustExec("ip", "addr", "add", moved.String()+"/24", "dev", "eth0")
	h[1].MustExec("ip", "route", "replace", "default", "via", gateway.String())
	to := b.ip4()
	i := 0
	rig.Eventually(t, 30*time.Second, func() error {
		i++
		a.do("send %s moved-%d", to, i)
		b.do("send %s back-%d", a.ip4(), i)
		if there, back := b.Count("^got moved-"), a.Count("^got back-"); there == 0 || back == 0 {
			return fmt.Errorf("of %d datagrams %d arrived and %d came back\n%s", i, there, back, h[0].MustWeft("network", "show", "open"))
		}
		return nil
	})
	for _, g := range []*agent{a, b} {
		g.do("join 239.3.3.6")
	}
	i = 0
	rig.Eventually(t, 10*time.Second, func() error { // the kernel's entries follow the group's members, not at once
		i++
		a.do("send 239.3.3.6 group-there-%d", i)
		b.do("send 239.3.3.6 group-back-%d", i)
		if there, back := b.Count("^got group-there-"), a.Count("^got group-back-"); there == 0 || back == 0 {
			return fmt.Errorf("of %d datagrams to the group %d arrived and %d came back", i, there, back)
		}
		return nil
	})
}
