package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// stepNoDirectPath: two hosts lose each other. Sealed goes through the third; plain says that it does not, and makes up for
// nothing.
func stepNoDirectPath(t *testing.T, s *stage) {
	sealed, plain := s.sides[0], s.sides[1]
	s.u.Block(s.h[1], s.h[2])
	for _, pair := range [][2]*rig.Host{{s.h[1], s.h[2]}, {s.h[2], s.h[1]}} {
		if l := rig.AwaitPath(t, 20*time.Second, pair[0], pair[1], "relayed"); l.Via != "h1" || l.Reason == "" {
			t.Errorf("%s: relayed via %q because %q, want h1 and a reason", pair[0].Name, l.Via, l.Reason)
		}
	}
	t.Run("sealed", func(t *testing.T) {
		converse(t, sealed.group4(7), sealed.a...)
		sealed.a[1].do("send %s relayed", sealed.a[2].ip6())
		sealed.a[2].awaitGot("relayed", 3*time.Second)
	})
	t.Run("plain", func(t *testing.T) {
		s.told(t, s.h[1], "no direct path", true)
		plain.a[1].Send("send " + plain.a[2].ip4() + " relayed")
		converse(t, plain.group4(7), plain.a[0], plain.a[1]) // the others go on
	})
	s.u.Unblock(s.h[1], s.h[2])
	rig.AwaitPath(t, 20*time.Second, s.h[1], s.h[2], "direct")
	rig.AwaitPath(t, 20*time.Second, s.h[2], s.h[1], "direct")
	for _, host := range s.h[1:] {
		s.told(t, host, "no direct path", false)
	}
	for _, d := range s.sides {
		converse(t, d.group6(7), d.a...)
	}
	if plain.a[2].got("relayed") > 0 {
		t.Error("a frame of a plain network went through a relay")
	}
}

// stepKilled: without its daemon a host goes on in plain networks, and in sealed ones once it has been started again.
func stepKilled(t *testing.T, s *stage) {
	sealed, plain := s.sides[0], s.sides[1]
	for _, d := range s.sides {
		for _, a := range d.a {
			a.do("join %s", d.group4(8))
		}
		for _, host := range s.h {
			rig.AwaitMembers(t, 10*time.Second, host, d.group4(8), 3)
		}
	}
	to := plain.a[1].ip4()
	s.h[1].Kill9()
	t.Run("plain", func(t *testing.T) {
		plain.a[1].do("send %s from-the-killed", plain.group4(8))
		plain.a[0].do("send %s to-the-killed", plain.group4(8))
		plain.a[2].do("send %s straight-to-the-killed", to)
		plain.a[0].awaitGot("from-the-killed", 3*time.Second)
		plain.a[1].awaitGot("to-the-killed", 3*time.Second)
		plain.a[1].awaitGot("straight-to-the-killed", 3*time.Second)
	})
	t.Run("sealed", func(t *testing.T) {
		s.h[1].Launch()
		began := time.Now()
		i := 0
		rig.Eventually(t, 6*time.Second, func() error { // TestKill9 holds 3 s, on a stage with less going on
			i++
			sealed.a[0].do("send %s there-%d", sealed.group4(8), i)
			sealed.a[1].do("send %s back-%d", sealed.group4(8), i)
			if there, back := sealed.a[1].Count("^got there-"), sealed.a[0].Count("^got back-"); there == 0 || back == 0 {
				return fmt.Errorf("of %d datagrams %d arrived, and %d of those of the restarted host", i, there, back)
			}
			return nil
		})
		t.Logf("traffic flows %v after the start", time.Since(began).Round(10*time.Millisecond))
	})
	s.h[1].AwaitUp(10 * time.Second)
	rig.AllKnowAll(t, 20*time.Second, s.h...)
	for _, d := range s.sides {
		for _, a := range d.a {
			a.do("leave %s", d.group4(8))
		}
		converse(t, d.group6(8), d.a...)
	}
}

// stepNAT: a host behind a NAT takes part in sealed networks; VXLAN crosses none, and it says so.
func stepNAT(t *testing.T, s *stage) {
	if s.six {
		return // no NAT there
	}
	home := s.u.NAT("nat", rig.NATOptions{}).Host("home")
	home.Up(s.h[0].Endpoint())
	rig.AllKnowAll(t, 15*time.Second, append([]*rig.Host{home}, s.h...)...)
	t.Run("sealed", func(t *testing.T) {
		awaitNetwork(t, home, "sealed")
		converse(t, s.sides[0].group4(9), append([]*agent{startAgent(t, home, "athome", "--network", "sealed")}, s.sides[0].a...)...)
	})
	t.Run("plain", func(t *testing.T) {
		awaitNetwork(t, home, "plain")
		rig.Eventually(t, 10*time.Second, func() error { // it takes a host a moment to find out that it is behind one
			home.Weft("network", "rm", "plain")
			if r := home.Weft("network", "create", "plain", "--plain"); r.Code != 1 {
				return fmt.Errorf("create --plain behind a NAT: exit %d", r.Code)
			}
			return nil
		})
		refused(t, home.Weft("network", "create", "plain", "--plain"), 1, "NAT")
		converse(t, s.sides[1].group4(9), s.sides[1].a...)
	})
	home.MustWeft("down", "--leave")
}

// stepNarrow: the underlay's packets become shorter than the networks' frames. Sealed cuts the frames and joins them again; plain
// names the hosts that long ones may not reach, and programs go on seeing one MTU.
func stepNarrow(t *testing.T, s *stage) {
	s.u.MTU(1280)
	t.Run("sealed", func(t *testing.T) {
		for _, to := range s.h[1:] {
			rig.Eventually(t, 10*time.Second, func() error {
				l, err := s.h[0].Link(to.Name)
				if err == nil && l.MTU > 1280 {
					err = fmt.Errorf("packets of %d bytes to %s, want at most 1280", l.MTU, to.Name)
				}
				return err
			})
		}
		s.sides[0].fullLength(t, "narrow")
	})
	t.Run("plain", func(t *testing.T) {
		s.told(t, s.h[0], "long ones may be lost", true)
		plain := s.sides[1]
		converse(t, plain.group4(10), plain.a...) // short ones are not
	})
	for _, d := range s.sides {
		for _, a := range d.a {
			if out := a.host.MustExec(a.beside("ip", "-o", "link", "show", "weft0")...); !hasMTU(out, s.mtu) {
				t.Errorf("%s: want MTU %d still: %s", a.name, s.mtu, out)
			}
		}
	}
}
