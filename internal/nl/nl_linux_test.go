package nl_test

import (
	"errors"
	"net/netip"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
)

func open(t *testing.T) (netns.Namespace, nl.Handle) {
	t.Helper()
	ns, err := netns.OS().New()
	if err != nil {
		t.Fatalf("this test needs root, to make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	h, err := nl.OS().Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return ns, h
}

func run(t *testing.T, ns netns.Namespace, argv ...string) string {
	t.Helper()
	var out []byte
	if err := ns.Do(func() error {
		var err error
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	}); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// port makes a bridge with one veth port and returns both.
func port(t *testing.T, h nl.Handle, kind nl.PortKind) (bridge, p nl.Link) {
	t.Helper()
	bridge, err := h.EnsureBridge(nl.Bridge{Name: "wb000001", MTU: 1400, MAC: nl.MAC{2, 0, 0, 0, 0, 9}})
	if err != nil {
		t.Fatal(err)
	}
	p, err = h.AddVeth(nl.Veth{Name: "wvx", Inner: "weft0", MAC: nl.MAC{2, 0, 0, 0, 0, 1}, MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetPort(bridge.Index, p.Index, kind); err != nil {
		t.Fatal(err)
	}
	return bridge, p
}

func wants(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s lacks %q:\n%s", what, p, text)
		}
	}
}

// TestBridgeSettings reads back with iproute2 what was written.
func TestBridgeSettings(t *testing.T) {
	ns, h := open(t)
	b, p := port(t, h, nl.Uplink)
	if !b.Up || !b.Snooping || b.Kind != "bridge" || b.MTU != 1400 || b.MAC != (nl.MAC{2, 0, 0, 0, 0, 9}) {
		t.Errorf("bridge %+v", b)
	}
	settings := []string{
		"mcast_snooping 1", "mcast_querier 1", "mcast_hash_max 65536", "mcast_query_response_interval 100 ",
		"mcast_startup_query_interval 100 ", "mcast_query_interval 12500 ", "mcast_igmp_version 3", "mcast_mld_version 2", "addrgenmode none",
	}
	wants(t, "bridge", run(t, ns, "ip", "-d", "link", "show", "wb000001"), settings...)
	wants(t, "bridge", run(t, ns, "ip", "addr", "show", "wb000001"), "inet6 fe80::1/64 scope link")
	wants(t, "uplink", run(t, ns, "bridge", "-d", "link", "show", "dev", "wvx"),
		"learning off", " flood off", "mcast_flood on", "bcast_flood on", "mcast_router 0", "neigh_suppress on", "isolated on")
	if err := h.SetPort(b.Index, p.Index, nl.AttachmentPort); err != nil {
		t.Fatal(err)
	}
	wants(t, "attachment", run(t, ns, "bridge", "-d", "link", "show", "dev", "wvx"),
		"learning off", " flood off", "mcast_flood on", "mcast_router 0", "fastleave on")
	wants(t, "host end", run(t, ns, "ip", "-d", "link", "show", "wvx"), "addrgenmode none")

	// Spoilt by another program, set right again with its ports in place.
	run(t, ns, "ip", "link", "set", "wb000001", "type", "bridge", "mcast_snooping", "0", "mcast_querier", "0", "mcast_hash_max", "512")
	run(t, ns, "sysctl", "-qw", "net.ipv6.conf.wb000001.disable_ipv6=1")
	again, err := h.EnsureBridge(nl.Bridge{Name: "wb000001", MTU: 1400, MAC: nl.MAC{2, 0, 0, 0, 0, 9}})
	if err != nil || again.Index != b.Index {
		t.Fatalf("ensure again: %+v, %v", again, err)
	}
	wants(t, "bridge", run(t, ns, "ip", "-d", "link", "show", "wb000001"), settings...)
	wants(t, "bridge", run(t, ns, "ip", "addr", "show", "wb000001"), "inet6 fe80::1/64 scope link")

	run(t, ns, "ip", "link", "add", "wb000002", "type", "veth", "peer", "name", "x")
	if _, err := h.EnsureBridge(nl.Bridge{Name: "wb000002", MTU: 1400}); err == nil || !strings.Contains(err.Error(), "veth") {
		t.Errorf("a veth as bridge: %v", err)
	}
}

func TestTables(t *testing.T) {
	ns, h := open(t)
	b, p := port(t, h, nl.Uplink)
	mac := nl.MAC{2, 0, 0, 0, 0, 50}
	fdb := nl.FDBEntry{Port: p.Index, MAC: mac}
	for range 2 { // replaced, not refused
		if err := h.SetFDB(fdb); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := h.FDB(b.Index); err != nil || !reflect.DeepEqual(got, []nl.FDBEntry{fdb}) {
		t.Errorf("FDB %v, %v", got, err)
	}
	wants(t, "FDB", run(t, ns, "bridge", "fdb", "show", "dev", "wvx"), "02:00:00:00:00:32 master wb000001 static")
	for _, ip := range []string{"10.9.0.50", "fd00:9::50", "fe80::50"} {
		n := nl.Neighbour{IP: netip.MustParseAddr(ip), MAC: mac}
		if err := h.SetNeighbour(b.Index, n); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := h.Neighbours(b.Index); err != nil || len(got) != 3 {
		t.Errorf("neighbours %v, %v", got, err)
	}
	for range 2 { // the second time there is nothing
		if err := h.DeleteFDB(fdb); err != nil {
			t.Error(err)
		}
		if err := h.DeleteNeighbour(b.Index, nl.Neighbour{IP: netip.MustParseAddr("fd00:9::50"), MAC: mac}); err != nil {
			t.Error(err)
		}
	}
	if got, err := h.Neighbours(b.Index); err != nil || len(got) != 2 {
		t.Errorf("neighbours %v, %v", got, err)
	}
}

// TestMDBRoundTrip writes entries and reads them back from the kernel.
func TestMDBRoundTrip(t *testing.T) {
	_, h := open(t)
	b, p := port(t, h, nl.Uplink)
	addr := netip.MustParseAddr
	w, err := h.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	entries := []nl.MDBEntry{
		{Group: addr("239.1.2.3"), Exclude: true},
		{Group: addr("232.1.1.1"), Sources: []netip.Addr{addr("10.0.0.1"), addr("10.0.0.2")}},
		{Group: addr("ff15::1234"), Exclude: true},
		{Group: addr("ff3e::1"), Sources: []netip.Addr{addr("fd00::1")}},
		{Group: addr("232.1.1.1"), Sources: []netip.Addr{addr("10.0.0.2")}},
		{Group: addr("232.1.1.1"), Exclude: true},
	}
	for _, e := range entries {
		e.Bridge, e.Port, e.Permanent = b.Index, p.Index, true
		if err := h.SetGroup(e); err != nil {
			t.Fatal(err)
		}
		got, err := h.MDB()
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, g := range got {
			found = found || g.Port == p.Index && g.Bridge == b.Index && g.Permanent && g.Equal(e)
		}
		if !found {
			t.Errorf("%+v is not in %+v", e, got)
		}
	}
	for range 2 {
		for _, e := range entries {
			e.Bridge, e.Port = b.Index, p.Index
			if err := h.DeleteGroup(e); err != nil {
				t.Error(err)
			}
		}
	}
	if got, err := h.MDB(); err != nil || len(got) != 0 {
		t.Errorf("left: %+v, %v", got, err)
	}
	if e := w.Take(); e&nl.GroupsChanged != 0 {
		t.Error("own entries are told as changes")
	}
}

func TestVethAndConfigure(t *testing.T) {
	_, h := open(t)
	inner, hi := open(t)
	v := nl.Veth{Name: "wvx", Inner: "weft0", NS: inner, MAC: nl.MAC{2, 0, 0, 0, 0, 1}, MTU: 1280}
	l, err := h.AddVeth(v)
	if err != nil || l.MTU != 1280 || l.Kind != "veth" {
		t.Fatalf("%+v, %v", l, err)
	}
	v.Name = "wvy"
	if _, err := h.AddVeth(v); !errors.Is(err, nl.ErrExists) {
		t.Errorf("inner name taken: %v", err)
	}
	if err := h.Up(l.Index); err != nil {
		t.Fatal(err)
	}
	run(t, inner, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1") // as Docker does
	cfg := nl.Interface{Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/20"), netip.MustParsePrefix("fd00:9::1/64")}, MulticastRoute: true}
	for range 2 {
		if err := hi.Configure("weft0", cfg); err != nil {
			t.Fatal(err)
		}
	}
	out := run(t, inner, "ip", "addr", "show", "weft0")
	wants(t, "inner end", out, "link/ether 02:00:00:00:00:01", "mtu 1280", "10.9.0.1/20 brd 10.9.15.255", "fd00:9::1/64", "fe80::ff:fe00:1/64", "LOWER_UP")
	if strings.Contains(out, "tentative") {
		t.Errorf("an address is being checked for duplicates:\n%s", out)
	}
	wants(t, "routes", run(t, inner, "ip", "route", "get", "239.1.2.3"), "dev weft0")
	wants(t, "routes", run(t, inner, "ip", "-6", "route", "get", "ff15::1"), "dev weft0")
	wants(t, "lo", run(t, inner, "ip", "link", "show", "lo"), "UP")
	if err := hi.Configure("weft9", cfg); !errors.Is(err, nl.ErrNotFound) {
		t.Errorf("no such interface: %v", err)
	}
	for range 2 {
		if err := h.Delete("wvx"); err != nil {
			t.Error(err)
		}
	}
	if ls, err := hi.Links(); err != nil || len(ls) != 1 {
		t.Errorf("left inside: %+v, %v", ls, err)
	}
}

// TestSecondInterface: where a container has another interface first, groups still go to ours.
func TestSecondInterface(t *testing.T) {
	_, h := open(t)
	inner, hi := open(t)
	for i, name := range []string{"eth0", "weft0"} {
		l, err := h.AddVeth(nl.Veth{Name: "wvx" + name, Inner: name, NS: inner, MAC: nl.MAC{2, 0, 0, 0, 0, byte(i)}, MTU: 1400})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Up(l.Index); err != nil {
			t.Fatal(err)
		}
		if err := hi.Configure(name, nl.Interface{
			Addrs:          []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 1}), 24)},
			MulticastRoute: name == "weft0",
		}); err != nil {
			t.Fatal(err)
		}
	}
	run(t, inner, "ip", "route", "add", "default", "via", "10.0.0.254")
	wants(t, "routes", run(t, inner, "ip", "route", "get", "239.1.2.3"), "dev weft0")
	wants(t, "routes", run(t, inner, "ip", "-6", "route", "get", "ff15::1"), "dev weft0")
	routes, err := hi.Routes()
	if err != nil || len(routes) != 2 {
		t.Errorf("routes %v, %v", routes, err)
	}
}

func TestWatchTellsOfLinks(t *testing.T) {
	_, h := open(t)
	w, err := h.Watch()
	if err != nil {
		t.Fatal(err)
	}
	port(t, h, nl.AttachmentPort)
	select {
	case <-w.Ready():
		if w.Take()&nl.LinksChanged == 0 {
			t.Error("told of something else")
		}
	case <-time.After(2 * time.Second):
		t.Error("told of nothing")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
