package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// stepFirstSecond: a group that is joined and sent to when the two attachments have just begun is served: a new bridge
// that trusts its snooping too early loses it for ten seconds. And what is said in one network is not heard in another.
func stepFirstSecond(t *testing.T, s *side) {
	name := "new" + s.engine
	s.h[0].MustWeft(append([]string{"network", "create", name}, s.options...)...)
	awaitNetwork(t, s.h[1], name)
	for i, group := range []string{s.group4(5), s.group6(5)} {
		new1 := startAgent(t, s.h[0], fmt.Sprintf("%s%d1", name, i), "--network", name)
		new2 := startAgent(t, s.h[1], fmt.Sprintf("%s%d2", name, i), "--network", name)
		new2.do("join %s", group)
		new1.do("flow %s 30 3 50 early", group)
		rig.Eventually(t, 3*time.Second, func() error {
			if got, _ := new2.flowed("early"); got < 10 {
				return fmt.Errorf("%d of 30 datagrams", got)
			}
			return nil
		})
		first := 0
		for n := range 10 {
			first += new2.got(fmt.Sprintf("early-%d", n))
		}
		if first == 0 {
			t.Errorf("%s: nothing of the first second arrived", group)
		}

		s.a[1].do("join %s", group)
		rig.Eventually(t, 10*time.Second, func() error { return membersIn(s.h[0], s.engine, group, 1) })
		new1.do("send %s of-the-new-one", group)
		s.a[0].do("send %s of-the-old-one", group)
		new1.Send("send " + s.a[1].ip4() + " across") // no route, no neighbour, no answer: it may fail
		new2.awaitGot("of-the-new-one", 3*time.Second)
		s.a[1].awaitGot("of-the-old-one", 3*time.Second)
		rig.During(t, 500*time.Millisecond, func() error {
			if s.a[1].got("of-the-new-one")+s.a[1].got("across")+new2.got("of-the-old-one") > 0 {
				return fmt.Errorf("%s and %s hear each other", name, s.engine)
			}
			return nil
		})
		s.a[1].do("leave %s", group)
		new1.Stop(5 * time.Second)
		new2.Stop(5 * time.Second)
	}
}

// membersIn checks how many members a host sees of a group in one network.
func membersIn(at *rig.Host, network, group string, want int) error {
	all, err := at.Groups()
	if err != nil {
		return err
	}
	n := 0
	for _, g := range all {
		if g.Network == network && g.Group == group {
			n += len(g.Members)
		}
	}
	if n != want {
		return fmt.Errorf("%s sees %d members of %s in %s, want %d", at.Name, n, group, network, want)
	}
	return nil
}

// stepGuards: what an attachment may not send arrives nowhere, neither on its host nor elsewhere.
func stepGuards(t *testing.T, s *side) {
	run := func(at *rig.Host, name string, cmd ...string) *rig.Process {
		return at.RunWith([]string{"--network", s.engine, "--name", name}, cmd...)
	}
	near, far := run(s.h[0], "near", python, script(t, "sniff.py")), run(s.h[1], "far", python, script(t, "sniff.py"))
	near.ExpectLine("^ready$", 10*time.Second)
	far.ExpectLine("^ready$", 10*time.Second)
	kinds := []string{"mac", "ip", "arp", "ra", "dhcp", "query", "stp"}
	forger := run(s.h[0], "forger", append([]string{
		"sh", "-c",
		`own=$(ip -4 -o addr show weft0 | awk '{ sub("/.*", "", $4); print $4 }'); script=$1; shift; for kind; do "$0" "$script" "$kind" "$own"; done; cat`,
		python, script(t, "forge.py"), "honest",
	}, append(kinds, "honest")...)...)
	for range len(kinds) + 2 {
		forger.ExpectLine("^sent$", 10*time.Second)
	}
	for _, p := range []*rig.Process{near, far} {
		rig.Eventually(t, 3*time.Second, func() error {
			if n := p.Count("^saw honest$"); n < 40 { // 20 before and 20 after the others
				return fmt.Errorf("%s saw %d honest frames of 40", p, n)
			}
			return nil
		})
		for _, kind := range kinds {
			if n := p.Count("^saw " + kind + "$"); n != 0 {
				t.Errorf("%s saw %d forged frames: %s", p, n, kind)
			}
		}
	}
	for _, p := range []*rig.Process{near, far, forger} {
		p.Stop(5 * time.Second)
	}
}

// stepManyGroups: an attachment has 64 groups; one that joins more changes nothing for others.
func stepManyGroups(t *testing.T, s *side) {
	greedy := startAgent(t, s.h[0], "greedy"+s.engine, "--network", s.engine)
	greedy.Send("many 239.100 300")
	greedy.ExpectLine("^joined 300$", 10*time.Second)
	converse(t, s.group4(6), s.a...)
	converse(t, s.group6(6), s.a...)
	of := func() int {
		all, err := s.h[1].Groups()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, g := range all {
			for _, m := range g.Members {
				if m.Attachment == greedy.name {
					n++
				}
			}
		}
		return n
	}
	rig.Eventually(t, 5*time.Second, func() error {
		if n := of(); n < 32 || n > 64 {
			return fmt.Errorf("h2 knows %d memberships of one attachment, want at most 64", n)
		}
		return nil
	})
	greedy.Stop(5 * time.Second)
}
