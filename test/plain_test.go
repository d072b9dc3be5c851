package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestPlainNetwork: a plain network says loudly what it is, and the kernel carries it with the daemon or without. What it
// carries, and to whom, is TestConformance.
func TestPlainNetwork(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 3)
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
	var a []*agent
	for i, host := range h {
		a = append(a, startAgent(t, host, fmt.Sprintf("a%d", i+1), "--network", "open"))
	}
	for _, host := range h {
		if show := host.MustWeft("network", "show", "open"); strings.Contains(show, "problem") {
			t.Errorf("%s: %s", host.Name, show)
		}
	}
	if r := h[1].Weft("network", "create", "open"); r.Code != 1 {
		t.Errorf("create without --plain of a plain network: exit %d, want 1\n%s", r.Code, r.Stderr)
	}
	converse(t, "239.3.3.3", a...)
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

// TestPlainRefused: what a plain network cannot be is said with its reason. Paths that it cannot use: TestConformance.
func TestPlainRefused(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
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
}

// TestPlainPortClosed: UDP port 4789 is closed on the way to a host, or open for short packets only, while weft's own port is
// open: said on the side whose packets are lost, with the fix, and no more when the way is open.
func TestPlainPortClosed(t *testing.T) {
	t.Parallel()
	u, h := cloud(t, 2)
	h[0].MustWeft("network", "create", "plain", "--plain")
	awaitNetwork(t, h[1], "plain")
	s := &stage{u: u, h: h}
	open, wide := u.BlockPort(h[0], h[1], 4789), u.BlackHoleFrom(h[1], h[0], 1300)
	a, b := startAgent(t, h[0], "a", "--network", "plain"), startAgent(t, h[1], "b", "--network", "plain")
	const closed, long = "open UDP port 4789", "no packets of 1450 bytes"
	began := time.Now()
	s.told(t, h[0], closed, true)
	s.told(t, h[1], long, true) // of the other way
	t.Logf("told after %v", time.Since(began).Round(100*time.Millisecond))
	s.told(t, h[0], long, false)
	s.told(t, h[1], closed, false)
	b.do("send %s this-way", a.ip4())
	a.awaitGot("this-way", 3*time.Second)
	open()
	wide()
	began = time.Now()
	s.told(t, h[0], closed, false)
	s.told(t, h[1], long, false)
	t.Logf("open again: told after %v", time.Since(began).Round(100*time.Millisecond))
	a.do("send %s that-way", b.ip4())
	b.awaitGot("that-way", 3*time.Second)

	// A daemon that is only dead is no closed port.
	to := b.ip4()
	h[1].Kill9()
	rig.During(t, 5*time.Second, func() error {
		if out := h[0].MustWeft("network", "show", "plain"); strings.Contains(out, closed) {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	a.do("send %s to-the-killed", to)
	b.awaitGot("to-the-killed", 3*time.Second)
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
