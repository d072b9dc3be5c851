package vnet_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/vnet"
)

var service = vnet.Service{MAC: mac(99), IPs: []netip.Prefix{netip.PrefixFrom(ip4(99), 20)}}

// TestService is the whole of what a service in a network is: a port like others, which no remote can take the place of.
func TestService(t *testing.T) {
	f := newFake(t)
	v := f.new()
	if _, err := v.Serve(t.Context(), spec.VNI, service); err == nil {
		t.Error("a service in no network")
	}
	if _, err := v.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	before, guarded := f.net.String(), len(f.guard)
	ns, err := v.Serve(t.Context(), spec.VNI, service)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.SetRemotes(spec.VNI, []vnet.Remote{{MAC: mac(99), IPs: []netip.Addr{ip4(99)}}}); err != nil {
		t.Fatal(err)
	}
	want := `fdb PORT 02:00:00:00:00:63
neigh wb0abcde 10.32.0.99 02:00:00:00:00:63
neigh wb0abcde fe80::ff:fe00:63 02:00:00:00:00:63
net:[1] link wb0abcde bridge up
net:[1] link wu0abcde tun uplink of wb0abcde up
net:[1] link PORT veth attachment of wb0abcde up
net:[2] link weft0 veth up 10.32.0.99/20`
	port := vnet.ServicePort(spec.Name)
	got := strings.ReplaceAll(f.net.String(), port, "PORT")
	if got != want || ns.ID().Ino != 2 || !v.Serves(spec.VNI) || len(v.Attachments()) != 0 || len(f.guard) != guarded+1 {
		t.Errorf("state:\n%s\nwant:\n%s\nguard %v", got, want, f.guard)
	}
	if _, err := v.SetRemotes(spec.VNI, nil); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); !strings.Contains(got, "neigh wb0abcde 10.32.0.99 ") {
		t.Errorf("the service is forgotten:\n%s", got)
	}
	other := service
	other.IPs = []netip.Prefix{netip.PrefixFrom(ip4(98), 20)}
	if _, err := v.Serve(t.Context(), spec.VNI, other); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); strings.Contains(got, "10.32.0.99") || !strings.Contains(got, "10.32.0.98/20") || strings.Count(got, port+" veth") != 1 {
		t.Errorf("served anew:\n%s", got)
	}
	if err := v.Remove(spec.VNI); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); got != "" || len(f.guard) != 0 {
		t.Errorf("left after the network: %s, %v", got, f.guard)
	}
	if _, err := v.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); got != before {
		t.Errorf("anew:\n%s", got)
	}
	if _, err := v.Serve(t.Context(), spec.VNI, service); err != nil {
		t.Fatal(err)
	}
	if err := v.Down(); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); strings.Contains(got, port) {
		t.Errorf("left after the daemon:\n%s", got)
	}
}

// TestServiceAllOrNothing fails each single change of it, in turn.
func TestServiceAllOrNothing(t *testing.T) {
	for i := 1; ; i++ {
		f := newFake(t)
		v := f.new()
		if _, err := v.Ensure(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		before, guarded := f.net.String(), len(f.guard)
		f.net.FailAt(i)
		_, err := v.Serve(t.Context(), spec.VNI, service)
		if !f.net.Revive() {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if err == nil {
			t.Fatalf("change %d failed, Serve did not", i)
		}
		if got := f.net.String(); got != before || len(f.guard) != guarded || v.Serves(spec.VNI) {
			t.Errorf("change %d failed, left behind:\n%s\nguard %v", i, got, f.guard)
		}
	}
}
