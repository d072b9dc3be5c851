package netmon

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host makes a namespace with an underlay interface and what must not be taken for one. It goes with the test's thread.
func host(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes a network namespace: run it as root")
	}
	runtime.LockOSThread() // never unlocked: the namespace goes with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal("unshare:", err)
	}
	add(t, "e0", 1450, "192.0.2.7/24", "2001:db8::7/64", "169.254.3.3/16")
	add(t, "wb2a", 1400, "10.32.0.1/12")
	add(t, "weft0", 1400, "10.32.0.9/12")
	add(t, "wbond0", 1500, "198.51.100.1/24") // not of weft's making
	down := add(t, "e1", 1500, "203.0.113.1/24")
	must(t, netlink.LinkSetDown(down))
}

func add(t *testing.T, name string, mtu int, addrs ...string) netlink.Link {
	t.Helper()
	l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}, PeerName: "p" + name}
	must(t, netlink.LinkAdd(l))
	peer, err := netlink.LinkByName("p" + name)
	must(t, err)
	must(t, netlink.LinkSetUp(l))
	must(t, netlink.LinkSetUp(peer)) // no carrier without it
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		must(t, err)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		must(t, netlink.AddrAdd(l, a))
	}
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnderlay(t *testing.T) {
	host(t)
	addrs, err := System().Addrs()
	must(t, err)
	var got []string
	for _, a := range addrs {
		got = append(got, a.Interface+" "+a.IP.String()+" "+a.Prefix.String())
	}
	slices.Sort(got)
	want := []string{"e0 192.0.2.7 192.0.2.0/24", "e0 2001:db8::7 2001:db8::/64", "wbond0 198.51.100.1 198.51.100.0/24"}
	if !slices.Equal(got, want) {
		t.Errorf("addresses %q, want %q", got, want)
	}

	routes, err := System().Routes()
	must(t, err)
	got = nil
	for _, r := range routes {
		got = append(got, r.Interface+" "+r.Prefix.String())
	}
	slices.Sort(got)
	want = []string{"e0 192.0.2.0/24", "e0 2001:db8::/64", "wbond0 198.51.100.0/24"}
	if !slices.Equal(got, want) {
		t.Errorf("routes %q, want %q", got, want)
	}

	for to, want := range map[string]int{"192.0.2.99": 1450, "2001:db8::99": 1450, "::ffff:198.51.100.2": 1500} {
		if n, err := System().PathMTU(netip.MustParseAddr(to)); n != want || err != nil {
			t.Errorf("MTU to %s: %d, %v; want %d", to, n, err, want)
		}
	}
	if _, err := System().PathMTU(netip.MustParseAddr("8.8.8.8")); err == nil {
		t.Error("an address without route has an MTU")
	}
	e0, err := netlink.LinkByName("e0")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: e0.Attrs().Index, MTU: 1300, Gw: net.IPv4(192, 0, 2, 1)}))
	if n, err := System().PathMTU(netip.MustParseAddr("8.8.8.8")); n != 1300 || err != nil {
		t.Errorf("MTU of the route: %d, %v; want 1300", n, err)
	}
}

func TestWatch(t *testing.T) {
	host(t)
	ctx, cancel := context.WithCancel(t.Context())
	hints, err := System().Watch(ctx)
	must(t, err)
	add(t, "e2", 1500, "192.0.2.200/32")
	if _, ok := <-hints; !ok {
		t.Fatal("closed before its context")
	}
	cancel()
	for range hints { // ends when closed
	}
}

func TestOwnNames(t *testing.T) {
	for name, want := range map[string]bool{
		"wb2a": true, "wu00ff": true, "wv1": true, "weft0": true, "wbond0": false, "wb": false, "wlan0": false, "eth0": false, "webcam": false,
	} {
		if ours(name) != want {
			t.Errorf("ours(%q) = %v", name, !want)
		}
	}
}
