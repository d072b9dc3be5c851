package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestNetworkIsolation: what is said in one network is not heard in another, on the same host or elsewhere.
func TestNetworkIsolation(t *testing.T) {
	t.Parallel()
	const group = "239.2.2.2"
	_, h := cloud(t, 2)
	h[0].MustWeft("network", "create", "red")
	rig.Eventually(t, 5*time.Second, func() error {
		all, err := h[1].Networks()
		if err != nil {
			return err
		}
		for _, n := range all {
			if n.Name == "red" {
				if n.Engine != "sealed" {
					return fmt.Errorf("engine %q, want sealed", n.Engine)
				}
				return nil
			}
		}
		return fmt.Errorf("h2 does not know network red: %+v", all)
	})
	red1, red2 := startAgent(t, h[0], "red1", "--network", "red"), startAgent(t, h[1], "red2", "--network", "red")
	blue1, blue2 := startAgent(t, h[0], "blue1"), startAgent(t, h[1], "blue2")
	everyone := []*agent{red1, red2, blue1, blue2}
	for _, a := range everyone {
		a.do("join %s", group)
		a.do("join ff15::2222")
	}
	for _, host := range h {
		rig.Eventually(t, 10*time.Second, func() error {
			all, err := host.Groups()
			if err != nil {
				return err
			}
			for _, want := range []string{"red", "weft"} {
				n := 0
				for _, g := range all {
					if g.Network == want && g.Group == group {
						n += len(g.Members)
					}
				}
				if n != 2 {
					return fmt.Errorf("%s sees %d members of %s in %s, want 2", host.Name, n, group, want)
				}
			}
			return nil
		})
	}
	for _, to := range []string{group, "ff15::2222"} {
		red1.do("send %s red-%s", to, to)
		blue1.do("send %s blue-%s", to, to)
		red2.awaitGot("red-"+to, 3*time.Second)
		blue2.awaitGot("blue-"+to, 3*time.Second)
	}
	// Unicast to an address of the other network: no route, no neighbour, no answer.
	red1.Send("send " + blue2.ip4() + " across")
	red1.Send("send " + blue1.ip6() + " across")
	rig.During(t, time.Second, func() error {
		for _, a := range everyone {
			colour := a.name[:3]
			for _, text := range []string{"red-" + group, "red-ff15::2222", "blue-" + group, "blue-ff15::2222", "across"} {
				if a.got(text) > 0 && text[:3] != colour {
					return fmt.Errorf("%s heard %q", a.name, text)
				}
			}
		}
		return nil
	})
}

// TestBigFrames: networks whose frames are longer than the underlay's packets lose nothing; the underlay may say its
// MTU or hide it.
func TestBigFrames(t *testing.T) {
	const group = "239.2.2.3"
	for _, c := range []struct {
		name   string
		mtu    int
		narrow func(*rig.Underlay)
	}{
		{"1500 told", 1500, func(u *rig.Underlay) { u.MTU(1280) }},
		{"9000 told", 9000, func(u *rig.Underlay) { u.MTU(1280) }},
		{"9000 hidden", 9000, func(u *rig.Underlay) { u.BlackHole(1280) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := rig.New(t)
			u := w.Cloud()
			h1, h2 := u.Host("h1"), u.Host("h2")
			c.narrow(u)
			mtu := fmt.Sprint(c.mtu)
			h1.Up("--mtu", mtu)
			h2.Up(h1.Endpoint(), "--mtu", mtu)
			rig.AllKnowAll(t, 15*time.Second, h1, h2)
			a, b := startAgent(t, h1, "a"), startAgent(t, h2, "b")
			b.do("join %s", group)
			rig.AwaitMembers(t, 10*time.Second, h1, group, 1)
			to6 := b.ip6()
			for i, d := range []struct {
				to   string
				size int
			}{
				{group, c.mtu - 28},
				{b.ip4(), c.mtu - 28},
				{to6, c.mtu - 48},
				{group, 20000}, // fragments of the sender's own IP
			} {
				text := fmt.Sprintf("big-%d-%d", i, d.size)
				a.do("send %s %s %d", d.to, text, d.size)
				b.awaitGot(text, 5*time.Second)
				if n := b.Count(fmt.Sprintf("^got %s %d ", text, d.size)); n != 1 {
					t.Errorf("%d bytes to %s: arrived %d times whole", d.size, d.to, n)
				}
			}
		})
	}
}
