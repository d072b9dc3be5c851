package vnet_test

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/tap"
	"github.com/weft-net/weft/internal/tap/taptest"
	"github.com/weft-net/weft/internal/vnet"
)

// TestHandedOverNetworkStays: of a network that is handed over nothing is removed or made anew, attachments or not; what
// the tables no longer say goes, the rest is not written again.
func TestHandedOverNetworkStays(t *testing.T) {
	f := newFake(t)
	old := f.new()
	dev, err := old.Ensure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if old.Device(spec.VNI) != dev || old.Device(spec.VNI+1) != nil {
		t.Error("Device is another one")
	}
	remotes := []vnet.Remote{{MAC: mac(50), IPs: []netip.Addr{ip4(50)}}, {MAC: mac(51), IPs: []netip.Addr{ip4(51)}}}
	groups := []vnet.Group{{Addr: netip.MustParseAddr("239.1.1.1")}, {Addr: netip.MustParseAddr("239.1.1.2")}}
	if _, err := old.SetRemotes(spec.VNI, remotes); err != nil {
		t.Fatal(err)
	}
	if err := old.SetWanted(spec.VNI, groups); err != nil {
		t.Fatal(err)
	}
	want := f.net.String()

	next, err := vnet.New(vnet.Config{
		Host: f.host, NL: f.net, Netns: f.ns, Store: &f.store, Guard: f.guard, Log: slog.New(slog.DiscardHandler), Keep: []uint32{spec.VNI},
		OpenTAP: func(name string) (tap.Device, error) { return &fakeTAP{Device: taptest.New(name), f: f}, nil }, // the interface is there
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := next.Reconcile(t.Context())
	if err != nil || len(r.Removed) != 0 {
		t.Fatalf("removed %v, %v", r.Removed, err)
	}
	if got := f.net.String(); got != want {
		t.Fatalf("after Reconcile:\n%s\nwant:\n%s", got, want)
	}
	if _, err := next.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); got != want {
		t.Fatalf("after Ensure:\n%s\nwant:\n%s", got, want)
	}
	if _, err := next.SetRemotes(spec.VNI, remotes[:1]); err != nil {
		t.Fatal(err)
	}
	if err := next.SetWanted(spec.VNI, groups[:1]); err != nil {
		t.Fatal(err)
	}
	got := f.net.String()
	for text, there := range map[string]bool{"00:32": true, "00:33": false, "239.1.1.1": true, "239.1.1.2": false} {
		if strings.Contains(got, text) != there {
			t.Errorf("%s: want %v\n%s", text, there, got)
		}
	}
}
