package guard

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/internal/goldentest"
)

func sample() Desired {
	return Desired{
		Ports: []Port{
			{Name: "wv2", Bridge: "wb2b", MAC: [6]byte{2, 0, 0, 0, 0, 0xb}, IPs: []netip.Addr{netip.MustParseAddr("10.32.0.11")}},
			{Name: "wv1", Bridge: "wb2a", MAC: [6]byte{2, 0, 0, 0, 0, 0xa}, IPs: []netip.Addr{netip.MustParseAddr("10.32.0.10"), netip.MustParseAddr("fd00:9::a")}},
		},
		Networks: []Network{
			{Bridge: "wb2a", Uplink: "wu2a"},
			{
				Bridge: "wb2b", Rate: 50, GroupRate: 2000,
				AllowGroups: []netip.Prefix{netip.MustParsePrefix("239.0.0.0/8"), netip.MustParsePrefix("ff15::/16")},
				DenyGroups:  []netip.Prefix{netip.MustParsePrefix("239.1.2.3/32")},
			},
		},
		ControlPort: 6783,
	}
}

func TestRulesGolden(t *testing.T) {
	goldentest.Compare(t, "empty.nft", Rules(Desired{ControlPort: 6783}).String())
	goldentest.Compare(t, "sample.nft", Rules(sample()).String())
	goldentest.Compare(t, "plain.nft", hostOnly(plainSample()))
}

// plainSample has one sealed and one plain network.
func plainSample() Desired {
	return Desired{
		Networks: []Network{
			{Bridge: "wb2a", Uplink: "wu2a"},
			{Bridge: "wb2b", Uplink: "wx2b", VNI: 0xabcde, VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}},
		},
		ControlPort: 6783, VXLANPort: 4789,
	}
}

func hostOnly(d Desired) string { return (&Ruleset{Tables: []Table{hostTable(d)}}).String() }

// VTEPs come and go without a change of rules.
func TestVTEPsAreElements(t *testing.T) {
	a, b := plainSample(), plainSample()
	b.Networks[1].VTEPs = nil
	if d := cmp.Diff(Rules(a).skeleton(), Rules(b).skeleton()); d != "" {
		t.Errorf("VTEPs change rules:\n%s", d)
	}
}

// The order in which ports and networks are given does not matter to the sets; ports and uplinks do not change the rules.
func TestPortsAreElements(t *testing.T) {
	a, b := sample(), sample()
	slices.Reverse(b.Ports)
	if cmp.Diff(Rules(a).String(), Rules(b).String()) != "" {
		t.Error("the order of ports shows")
	}
	b.Ports = b.Ports[:1]
	b.Networks[0].Uplink = ""
	if d := cmp.Diff(Rules(a).skeleton(), Rules(b).skeleton()); d != "" {
		t.Errorf("ports or uplinks change rules:\n%s", d)
	}
	b.Networks[1].Rate = 51
	if Rules(a).skeleton() == Rules(b).skeleton() {
		t.Error("a rate changes no rule")
	}
}

// Whatever cannot be read must end in a drop: a chain for attachments' frames has no way out at its end.
func TestChainsOfPortsEndClosed(t *testing.T) {
	open := map[string]bool{"broadcasts": true, "from_uplink": true, "to_many": true, "pre": true, "fw": true, "ou": true}
	for _, c := range bridgeTable(sample()).Chains {
		last := c.Rules[len(c.Rules)-1]
		closed := len(last.Matches) == 0 && last.Limit == nil && (last.Verdict == drop || last.Verdict == goTo)
		if !open[c.Name] && !closed {
			t.Errorf("chain %s ends with %q", c.Name, last.text())
		}
	}
}

// Every drop is counted under a declared name, every declared name is used, every chain and set named in a rule exists.
func TestRulesReferToWhatExists(t *testing.T) {
	for _, table := range Rules(sample()).Tables {
		used := map[string]bool{}
		chain := func(n string) bool {
			return slices.ContainsFunc(table.Chains, func(c Chain) bool { return c.Name == n })
		}
		set := func(n string) bool { return slices.ContainsFunc(table.Sets, func(s Set) bool { return s.Name == n }) }
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				if r.Verdict == drop && r.Counter == "" {
					t.Errorf("%s: %q drops uncounted", c.Name, r.text())
				}
				used[r.Counter] = true
				if r.Target != "" && !chain(r.Target) {
					t.Errorf("%s: no chain %s", c.Name, r.Target)
				}
				for _, m := range r.Matches {
					if m.set != "" && !set(m.set) {
						t.Errorf("%s: no set %s", c.Name, m.set)
					}
				}
			}
		}
		for _, n := range table.Counters {
			if !used[n] {
				t.Errorf("table %s: counter %s counts nothing", table.Family, n)
			}
		}
	}
}

func TestDesiredIsChecked(t *testing.T) {
	for want, spoil := range map[string]func(*Desired){
		"interface":     func(d *Desired) { d.Ports[0].Name = "eth0" },
		"at most 15":    func(d *Desired) { d.Ports[0].Name = "wv" + strings.Repeat("x", 14) },
		"wb…":           func(d *Desired) { d.Ports[0].Bridge = "" },
		"of a station":  func(d *Desired) { d.Ports[0].MAC[0] = 1 },
		"to send from":  func(d *Desired) { d.Ports[0].IPs = []netip.Addr{netip.MustParseAddr("224.0.0.1")} },
		"addresses, at": func(d *Desired) { d.Ports[0].IPs = make([]netip.Addr, MaxPortAddrs+1) },
		"wv1 twice":     func(d *Desired) { d.Ports[0].Name = "wv1" },
		"wb2a twice":    func(d *Desired) { d.Networks[1].Bridge = "wb2a" },
		"networks, at":  func(d *Desired) { d.Networks = make([]Network, MaxNetworks+1) },
		"ports, at":     func(d *Desired) { d.Ports = make([]Port, MaxPorts+1) },
		"of groups":     func(d *Desired) { d.Networks[0].DenyGroups = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
		"not a range":   func(d *Desired) { d.Networks[0].AllowGroups = []netip.Prefix{{}} },
		"more than 256": func(d *Desired) { d.Networks[0].DenyGroups = make([]netip.Prefix, MaxGroups+1) },
	} {
		d := sample()
		spoil(&d)
		if err := d.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	d := sample()
	if err := d.check(); err != nil {
		t.Error(err)
	}
}

func TestDiff(t *testing.T) {
	gone, added := diff([]string{"a", "b", "d"}, []string{"b", "c", "d", "e"})
	if !slices.Equal(gone, []string{"a"}) || !slices.Equal(added, []string{"c", "e"}) {
		t.Errorf("gone %q added %q", gone, added)
	}
	if gone, added = diff(nil, nil); gone != nil || added != nil {
		t.Errorf("gone %q added %q", gone, added)
	}
}

func TestLinkLocal(t *testing.T) {
	if got := linkLocal([6]byte{0x02, 0x42, 0xac, 0x11, 0, 2}).String(); got != "fe80::42:acff:fe11:2" {
		t.Error(got)
	}
}
