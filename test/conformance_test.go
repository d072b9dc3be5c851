package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// stage is a cluster of three hosts in a cloud, with a sealed and a plain network and an agent in each on every host.
type stage struct {
	u     *rig.Underlay
	h     []*rig.Host
	six   bool // the underlay has IPv6 only
	mtu   int  // of networks
	sides []*side
}

// side is one of a stage's networks.
type side struct {
	*stage
	engine  string // sealed, plain: the network's name, too
	options []string
	a       []*agent
	net     int // a byte of its own in groups: weft groups lists those of all networks
}

func (s *side) plain() bool { return s.engine == "plain" }

// group4 and group6 are groups of this side only; ssm4 and ssm6 source-specific ones (RFC 4607).
func (s *side) group4(n int) string { return fmt.Sprintf("239.%d.%d.1", s.net, n) }
func (s *side) group6(n int) string { return fmt.Sprintf("ff15::%x:%x", s.net, n) }
func (s *side) ssm4(n int) string   { return fmt.Sprintf("232.%d.%d.1", s.net, n) }
func (s *side) ssm6(n int) string   { return fmt.Sprintf("ff35::%x:%x", s.net, n) }

// step is one thing that networks promise. Where the engines differ by design there are two ways to play it, on one stage
// after the other; where both are touched by one fault, together has both.
type step struct {
	name     string
	play     func(*testing.T, *side)
	together func(*testing.T, *stage)
	sizes    bool // depends on MTUs: played on every stage
}

// conformance is the script: what the engines promise alike, and what a plain network refuses instead.
var conformance = []step{
	{name: "programs chat", play: stepChat},
	{name: "unicast, neighbours, TTL", play: stepUnicast},
	{name: "frames of full length, one MTU", play: stepFullLength, sizes: true},
	{name: "a source-specific member hears its source", play: stepSources},
	{name: "copies for members only", play: stepCopies},
	{name: "what all get", play: stepAll},
	{name: "a group in the first second, and networks apart", play: stepFirstSecond},
	{name: "mDNS", play: stepMDNS},
	{name: "guards", play: stepGuards},
	{name: "64 groups", play: stepManyGroups},
	{name: "no direct path", together: stepNoDirectPath},
	{name: "the daemon killed", together: stepKilled},
	{name: "behind a NAT", together: stepNAT},
	{name: "an underlay narrower than the frames", together: stepNarrow, sizes: true},
}

// TestConformance plays one script over both engines, IPv4 and IPv6 underlays, and MTUs from 1280 to 9000: all of it on two
// stages, what depends on lengths on all.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		six  bool
		mtu  int
		full bool
	}{
		{six: false, mtu: 1400, full: true},
		{six: true, mtu: 1280, full: true},
		{six: false, mtu: 1280},
		{six: true, mtu: 1500},
		{six: false, mtu: 9000},
		{six: true, mtu: 9000},
	} {
		family := "IPv4"
		if c.six {
			family = "IPv6"
		}
		t.Run(fmt.Sprintf("%s underlay, MTU %d", family, c.mtu), func(t *testing.T) {
			t.Parallel()
			s := newStage(t, c.six, c.mtu, c.full)
			for _, step := range conformance {
				if !c.full && !step.sizes {
					continue
				}
				if !t.Run(step.name, func(t *testing.T) { step.on(t, s) }) {
					return // what follows needs a stage in order
				}
			}
		})
	}
}

func (p step) on(t *testing.T, s *stage) {
	if p.together != nil {
		p.together(t, s)
		return
	}
	for _, side := range s.sides {
		t.Run(side.engine, func(t *testing.T) { p.play(t, side) })
	}
}

// newStage founds the cluster. A plain network whose frames are longer than the underlay's packets is refused; then the underlay
// gets as wide as it must be.
func newStage(t *testing.T, six bool, mtu int, probe bool) *stage {
	t.Helper()
	w := rig.New(t)
	s := &stage{u: w.Cloud(), six: six, mtu: mtu}
	for i := range 3 {
		s.h = append(s.h, s.u.Host(fmt.Sprintf("h%d", i+1)))
	}
	s.h[1].DockerFirewall()
	if probe {
		rig.MulticastProbe(t, s.h[0], s.h[1])
	}
	seed, headers := s.h[0].Endpoint(), 20+8+8+14
	if six {
		for _, host := range s.h {
			host.MustExec("ip", "-4", "addr", "flush", "dev", "eth0")
		}
		seed, headers = "["+s.h[0].IP6.String()+"]:6783", 40+8+8+14
	}
	s.h[0].Up("--mtu", fmt.Sprint(mtu))
	for _, host := range s.h[1:] {
		host.Up(seed)
	}
	rig.AllKnowAll(t, 15*time.Second, s.h...)
	s.h[0].MustWeft("network", "create", "sealed")
	create := []string{"network", "create", "plain", "--plain"}
	if need := mtu + headers; need > 1500 {
		refused(t, s.h[0].Weft(create...), 1, fmt.Sprint(need), "1500", "sealed")
		if out := s.h[0].MustWeft("networks"); strings.Contains(out, "plain") {
			t.Errorf("the refused network is there:\n%s", out)
		}
		s.u.MTU(need)
	}
	rig.Eventually(t, 5*time.Second, func() error { // it takes a moment to see that an interface has changed
		if r := s.h[0].Weft(create...); r.Code != 0 {
			return fmt.Errorf("weft network create plain: %s", r.Stderr)
		}
		return nil
	})
	for i, engine := range []string{"sealed", "plain"} {
		d := &side{stage: s, engine: engine, net: 40 + 10*i}
		if d.plain() {
			d.options = []string{"--plain"}
		}
		for j, host := range s.h {
			awaitNetwork(t, host, engine)
			d.a = append(d.a, startAgent(t, host, fmt.Sprintf("%s%d", engine, j+1), "--network", engine))
		}
		s.sides = append(s.sides, d)
	}
	for _, host := range s.h {
		rig.Eventually(t, 10*time.Second, func() error {
			all, err := host.Attachments()
			if err == nil && len(all) != 6 {
				err = fmt.Errorf("%s knows %d attachments", host.Name, len(all))
			}
			if out := host.MustWeft("network", "show", "plain"); err == nil && strings.Contains(out, "problem") {
				err = fmt.Errorf("%s: %s", host.Name, out)
			}
			return err
		})
	}
	return s
}

// awaitNetwork waits until a host knows a network.
func awaitNetwork(t *testing.T, at *rig.Host, name string) {
	t.Helper()
	rig.Eventually(t, 5*time.Second, func() error {
		all, err := at.Networks()
		if err == nil && !slices.ContainsFunc(all, func(n rig.NetworkStatus) bool { return n.Name == name }) {
			err = fmt.Errorf("%s does not know network %s: %+v", at.Name, name, all)
		}
		return err
	})
}

// told waits until a plain network's problem is shown where people look, or is no more.
func (s *stage) told(t *testing.T, at *rig.Host, text string, want bool) {
	t.Helper()
	rig.Eventually(t, 20*time.Second, func() error {
		for _, cmd := range [][]string{{"network", "show", "plain"}, {"status"}} {
			if out := at.Weft(cmd...).Stdout; strings.Contains(out, text) != want {
				return fmt.Errorf("%s: %q is shown by weft %s: want %v\n%s", at.Name, text, strings.Join(cmd, " "), want, out)
			}
		}
		return nil
	})
}
