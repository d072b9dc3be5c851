package nl_test

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/weft-net/weft/internal/nl"
)

func compareGroups(a, b nl.TunnelGroup) int {
	if c := a.Group.Compare(b.Group); c != 0 {
		return c
	}
	if c := a.Source.Compare(b.Source); c != 0 {
		return c
	}
	return a.VTEP.Compare(b.VTEP)
}

// TestVXLAN: what is set is what the kernel lists, in both families of the underlay, once however often it is set.
func TestVXLAN(t *testing.T) {
	for _, c := range []struct{ local, a, b string }{
		{"192.0.2.1", "192.0.2.2", "192.0.2.3"},
		{"2001:db8::1", "2001:db8::2", "2001:db8::3"},
	} {
		ns, h := open(t)
		run(t, ns, "ip", "link", "set", "lo", "up")
		want := nl.VXLAN{Name: "wx000007", VNI: 7, Port: 4789, Local: netip.MustParseAddr(c.local), MTU: 1400}
		l, err := h.EnsureVXLAN(want)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Up(l.Index); err != nil {
			t.Fatal(err)
		}
		a, b := netip.MustParseAddr(c.a), netip.MustParseAddr(c.b)
		mac := nl.MAC{2, 0, 0, 0, 0, 9}
		entries := []nl.TunnelEntry{{Link: l.Index, VTEP: a}, {Link: l.Index, VTEP: b}, {Link: l.Index, MAC: mac, VTEP: b}}
		for range 2 {
			for _, e := range append([]nl.TunnelEntry{{Link: l.Index, MAC: mac, VTEP: a}}, entries...) { // the last one stands
				if err := h.SetTunnelEntry(e); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, err := h.TunnelEntries(l.Index)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got, func(x, y nl.TunnelEntry) int {
			if c := slices.Compare(x.MAC[:], y.MAC[:]); c != 0 {
				return c
			}
			return x.VTEP.Compare(y.VTEP)
		})
		if !slices.Equal(got, entries) {
			t.Errorf("entries %v, want %v", got, entries)
		}
		g4, g6 := netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1")
		s4, s6 := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")
		groups := []nl.TunnelGroup{
			{Link: l.Index, Group: g4, VTEP: a},
			{Link: l.Index, Group: g4, VTEP: b},
			{Link: l.Index, Group: g4, Source: s4, VTEP: b},
			{Link: l.Index, Group: g6, VTEP: b},
			{Link: l.Index, Group: g6, Source: s6, VTEP: a},
		}
		for range 2 {
			for _, g := range groups {
				if err := h.SetTunnelGroup(g); err != nil {
					t.Fatal(err)
				}
			}
		}
		list, err := h.TunnelGroups(l.Index)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(list, compareGroups)
		if !slices.Equal(list, groups) {
			t.Errorf("groups %v, want %v", list, groups)
		}
		// The same again: adopted with all it has. From another address: another device.
		again, err := h.EnsureVXLAN(want)
		if err != nil || again.Index != l.Index {
			t.Errorf("taken over as %d (%v), want %d", again.Index, err, l.Index)
		}
		for range 2 {
			for _, g := range groups {
				if err := h.DeleteTunnelGroup(g); err != nil {
					t.Error(err)
				}
			}
			for _, e := range entries {
				if err := h.DeleteTunnelEntry(e); err != nil {
					t.Error(err)
				}
			}
		}
		list, _ = h.TunnelGroups(l.Index)
		got, _ = h.TunnelEntries(l.Index)
		if len(list)+len(got) != 0 {
			t.Errorf("left: %v %v", list, got)
		}
		want.Local = a
		if again, err = h.EnsureVXLAN(want); err != nil || again.Index == l.Index {
			t.Errorf("with another address: still %d (%v)", again.Index, err)
		}
	}
}

// TestVXLANPortTaken: another program's socket is named as the reason.
func TestVXLANPortTaken(t *testing.T) {
	ns, h := open(t)
	var c net.PacketConn
	if err := ns.Do(func() error {
		var err error
		c, err = net.ListenPacket("udp4", ":4789")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	l, err := h.EnsureVXLAN(nl.VXLAN{Name: "wx000007", VNI: 7, Port: 4789, Local: netip.MustParseAddr("192.0.2.1"), MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Up(l.Index); !errors.Is(err, nl.ErrPortTaken) {
		t.Errorf("up: %v, want %v", err, nl.ErrPortTaken)
	}
}
