package vnet_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/vnet"
)

var (
	vtep1, vtep2, vtep3 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	vtep4               = netip.MustParseAddr("192.0.2.4")

	plainSpec = vnet.Spec{Name: spec.Name, VNI: spec.VNI, MTU: spec.MTU, Local: vtep1}
)

// TestPlainStateAsText is the whole of a plain network: who gets frames, and copies of which group and source.
func TestPlainStateAsText(t *testing.T) {
	f := newFake(t)
	f.ns.AddPath("/box")
	v := f.new()
	dev, err := v.Ensure(t.Context(), plainSpec)
	if err != nil || dev != nil {
		t.Fatalf("device %v, error %v, want neither", dev, err)
	}
	if _, err := v.Attach(t.Context(), fakeSpec("/box")); err != nil {
		t.Fatal(err)
	}
	set := func(v *vnet.VNet) {
		t.Helper()
		if _, err := v.SetRemotes(spec.VNI, []vnet.Remote{
			{MAC: mac(50), IPs: []netip.Addr{ip4(50)}, VTEP: vtep2},
			{MAC: mac(51), IPs: []netip.Addr{ip4(51)}, VTEP: vtep3},
			{MAC: mac(52), IPs: []netip.Addr{ip4(52)}}, // on a host that VXLAN does not reach
		}); err != nil {
			t.Fatal(err)
		}
		if err := v.SetWanted(spec.VNI, []vnet.Group{
			// One wants a source, one all: the one for all is in both entries.
			{Addr: netip.MustParseAddr("232.1.1.1"), At: []vnet.At{{VTEP: vtep2, Sources: []netip.Addr{ip4(9)}}, {VTEP: vtep3}}},
			// Who cannot be reached has no say: what only it wants would find no entry and go to all.
			{Addr: netip.MustParseAddr("232.1.1.2"), Sources: []netip.Addr{ip4(8), ip4(9)}, At: []vnet.At{{VTEP: vtep2, Sources: []netip.Addr{ip4(9)}}, {Sources: []netip.Addr{ip4(8)}}}},
			{Addr: netip.MustParseAddr("239.1.1.3"), At: []vnet.At{{}}},
			{Addr: netip.MustParseAddr("224.0.0.251"), At: []vnet.At{{VTEP: vtep2}}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	set(v)
	want := `fdb wv6wycnq3ei5ygv 02:00:00:00:00:01
fdb wx0abcde 02:00:00:00:00:32
fdb wx0abcde 02:00:00:00:00:33
fdb wx0abcde 02:00:00:00:00:34
mdb wx0abcde 232.1.1.1 exclude=true []
mdb wx0abcde 232.1.1.2 exclude=false [10.32.0.9]
neigh wb0abcde 10.32.0.1 02:00:00:00:00:01
neigh wb0abcde 10.32.0.50 02:00:00:00:00:32
neigh wb0abcde 10.32.0.51 02:00:00:00:00:33
neigh wb0abcde 10.32.0.52 02:00:00:00:00:34
neigh wb0abcde fe80::ff:fe00:1 02:00:00:00:00:01
neigh wb0abcde fe80::ff:fe00:32 02:00:00:00:00:32
neigh wb0abcde fe80::ff:fe00:33 02:00:00:00:00:33
neigh wb0abcde fe80::ff:fe00:34 02:00:00:00:00:34
net:[1] link wb0abcde bridge up
net:[1] link wv6wycnq3ei5ygv veth attachment of wb0abcde up
net:[1] link wx0abcde vxlan uplink of wb0abcde up
net:[2] link weft0 veth up 10.32.0.1/20 groups
tunnel wx0abcde (*,232.1.1.1) to 192.0.2.3
tunnel wx0abcde (10.32.0.9,232.1.1.1) to 192.0.2.2
tunnel wx0abcde (10.32.0.9,232.1.1.1) to 192.0.2.3
tunnel wx0abcde (10.32.0.9,232.1.1.2) to 192.0.2.2
tunnel wx0abcde 00:00:00:00:00:00 to 192.0.2.2
tunnel wx0abcde 00:00:00:00:00:00 to 192.0.2.3
tunnel wx0abcde 02:00:00:00:00:32 to 192.0.2.2
tunnel wx0abcde 02:00:00:00:00:33 to 192.0.2.3`
	if got := f.net.String(); got != want {
		t.Errorf("state:\n%s\nwant:\n%s", got, want)
	}

	// The next daemon finds all of it and changes none of it.
	if err := v.Down(); err != nil {
		t.Fatal(err)
	}
	v = f.new()
	if _, err := v.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Ensure(t.Context(), plainSpec); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); got != want {
		t.Errorf("adopted:\n%s\nwant:\n%s", got, want)
	}
	set(v)
	if got := f.net.String(); got != want {
		t.Errorf("set again:\n%s\nwant:\n%s", got, want)
	}
	// From another address: another device, told the same.
	if err := v.SetLocal(spec.VNI, vtep4); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); strings.Contains(got, "tunnel") {
		t.Errorf("moved:\n%s", got)
	}
	set(v)
	if got := f.net.String(); got != want {
		t.Errorf("moved and set again:\n%s\nwant:\n%s", got, want)
	}
	if _, err := v.SetRemotes(spec.VNI, nil); err != nil {
		t.Fatal(err)
	}
	if err := v.SetWanted(spec.VNI, nil); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); strings.Contains(got, "tunnel") || strings.Contains(got, "mdb") || strings.Contains(got, "fdb wx") {
		t.Errorf("after withdrawal:\n%s", got)
	}
	removed, err := v.Clean()
	if err != nil || strings.Join(removed, " ") != "wb0abcde wv6wycnq3ei5ygv wx0abcde" {
		t.Errorf("removed %v (%v)", removed, err)
	}
}

// TestPlainAllOrNothing fails each single change of making a plain network, in turn.
func TestPlainAllOrNothing(t *testing.T) {
	for i := 1; ; i++ {
		f := newFake(t)
		v := f.new()
		f.net.FailAt(i)
		_, err := v.Ensure(t.Context(), plainSpec)
		if !f.net.Revive() {
			return
		}
		if err == nil {
			t.Fatalf("change %d failed, ensure did not", i)
		}
		if got := f.net.String(); got != "" {
			t.Errorf("change %d failed, left behind:\n%s", i, got)
		}
	}
}

// TestOneEngine: what an earlier run had with the other engine goes when the network comes up, whichever that is.
func TestOneEngine(t *testing.T) {
	for _, c := range []struct {
		first, then vnet.Spec
		gone        string
	}{{plainSpec, spec, "wx0abcde"}, {spec, plainSpec, "wu0abcde"}} {
		f := newFake(t)
		f.ns.AddPath("/box")
		v := f.new()
		if _, err := v.Ensure(t.Context(), c.first); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Attach(t.Context(), fakeSpec("/box")); err != nil {
			t.Fatal(err)
		}
		if err := v.Down(); err != nil {
			t.Fatal(err)
		}
		v = f.new()
		if _, err := v.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Ensure(t.Context(), c.then); err != nil {
			t.Fatal(err)
		}
		if got := f.net.String(); strings.Contains(got, c.gone) {
			t.Errorf("%s is still there:\n%s", c.gone, got)
		}
	}
}

// TestManySources: more sources than the bridge takes become all of them, on the device as well.
func TestManySources(t *testing.T) {
	f := newFake(t)
	v := f.new()
	if _, err := v.Ensure(t.Context(), plainSpec); err != nil {
		t.Fatal(err)
	}
	var many []netip.Addr
	for i := range byte(40) {
		many = append(many, ip4(i+1))
	}
	if err := v.SetWanted(spec.VNI, []vnet.Group{{Addr: netip.MustParseAddr("232.1.1.1"), At: []vnet.At{{VTEP: vtep2, Sources: many}, {VTEP: vtep3, Sources: many[:1]}}}}); err != nil {
		t.Fatal(err)
	}
	got := f.net.String()
	if !strings.Contains(got, "mdb wx0abcde 232.1.1.1 exclude=true []") || strings.Count(got, "tunnel") != 2 || strings.Count(got, "(*,232.1.1.1)") != 2 {
		t.Errorf("state:\n%s", got)
	}
}
