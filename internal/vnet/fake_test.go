package vnet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/netns/netnstest"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/nl/nltest"
	"github.com/weft-net/weft/internal/tap"
	"github.com/weft-net/weft/internal/tap/taptest"
	"github.com/weft-net/weft/internal/vnet"
)

var spec = vnet.Spec{Name: "weft", VNI: 0xabcde, MTU: 1400}

type memory struct {
	mu sync.Mutex
	b  []byte
}

func (m *memory) Load() ([]byte, error) { m.mu.Lock(); defer m.mu.Unlock(); return m.b, nil }
func (m *memory) Save(b []byte) error   { m.mu.Lock(); defer m.mu.Unlock(); m.b = b; return nil }

func mac(n byte) nl.MAC { return nl.MAC{2, 0, 0, 0, 0, n} }

func ip4(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 32, 0, n}) }

func ip6(n byte) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:9::%x", n))
}

// fake is a host without a kernel.
type fake struct {
	t     *testing.T
	ns    *netnstest.System
	net   *nltest.Net
	host  netns.Namespace
	store memory
	guard guard

	mu   sync.Mutex
	told []string // what the callbacks got
}

// guard records ports as text.
type guard map[string]string

func (g guard) SetUplink(bridge, uplink string) error { g[uplink] = "uplink of " + bridge; return nil }
func (g guard) SetPort(bridge, port string, _ uint32, mac nl.MAC, ips []netip.Addr) error {
	g[port] = fmt.Sprintf("port of %s %s %v", bridge, mac, ips)
	return nil
}
func (g guard) DelPort(port string) error { delete(g, port); return nil }
func (g guard) DelBridge(bridge string) error {
	delete(g, strings.Replace(bridge, "wb", "wu", 1))
	return nil
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, ns: netnstest.New(), net: nltest.New(), guard: guard{}}
	f.host, _ = f.ns.Current()
	return f
}

func (f *fake) new() *vnet.VNet {
	f.t.Helper()
	v, err := vnet.New(vnet.Config{
		Host: f.host, NL: f.net, Netns: f.ns, Store: &f.store, Guard: f.guard, Log: slog.New(slog.DiscardHandler),
		OpenTAP: func(name string) (tap.Device, error) {
			f.net.AddLink(f.host.ID(), name, "tun")
			return &fakeTAP{Device: taptest.New(name), f: f}, nil
		},
		OnMembers: func(vni uint32, m []vnet.Membership) { f.tell(fmt.Sprint("members ", vni, m)) },
		OnGone:    func(a vnet.Attachment, reason string) { f.tell("gone " + a.Name + ": " + reason) },
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

func (f *fake) tell(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, s)
}

// fakeTAP goes away when it is closed, as the kernel's does.
type fakeTAP struct {
	*taptest.Device
	f *fake
}

func (d *fakeTAP) Close() error {
	d.f.net.RemoveLink(d.f.host.ID(), d.Name())
	return d.Device.Close()
}

func fakeSpec(path string) vnet.AttachSpec {
	return vnet.AttachSpec{
		Network: spec.Name, Name: "a", Kind: vnet.KindNetns, Netns: path, MAC: mac(1),
		IPs: []netip.Prefix{netip.PrefixFrom(ip4(1), 20)}, MulticastRoute: true,
	}
}

// TestStateAsText is the whole of what a network with one attachment and one remote is.
func TestStateAsText(t *testing.T) {
	f := newFake(t)
	f.ns.AddPath("/box")
	v := f.new()
	if _, err := v.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Attach(t.Context(), fakeSpec("/box")); err != nil {
		t.Fatal(err)
	}
	remotes := []vnet.Remote{{MAC: mac(50), IPs: []netip.Addr{ip4(50)}}, {MAC: mac(1), IPs: []netip.Addr{ip4(1)}}}
	for _, want := range []int{2, 0} { // an address and that of the link; not those of the attachment here
		if fresh, err := v.SetRemotes(spec.VNI, remotes); err != nil || len(fresh) != want || want > 0 && fresh[0].MAC != mac(50) {
			t.Fatalf("new to the bridge: %+v, %v", fresh, err)
		}
	}
	if err := v.SetWanted(spec.VNI, []vnet.Group{
		{Addr: netip.MustParseAddr("232.1.1.1"), Sources: []netip.Addr{ip4(3)}},
		{Addr: netip.MustParseAddr("232.1.1.1"), Sources: []netip.Addr{ip4(2), ip4(3)}},
		{Addr: netip.MustParseAddr("224.0.0.251")},
		{Addr: netip.MustParseAddr("ff02::1")},
	}); err != nil {
		t.Fatal(err)
	}
	want := `fdb wu0abcde 02:00:00:00:00:32
fdb wv6wycnq3ei5ygv 02:00:00:00:00:01
mdb wu0abcde 232.1.1.1 exclude=false [10.32.0.2 10.32.0.3]
neigh wb0abcde 10.32.0.1 02:00:00:00:00:01
neigh wb0abcde 10.32.0.50 02:00:00:00:00:32
neigh wb0abcde fe80::ff:fe00:1 02:00:00:00:00:01
neigh wb0abcde fe80::ff:fe00:32 02:00:00:00:00:32
net:[1] link wb0abcde bridge up
net:[1] link wu0abcde tun uplink of wb0abcde up
net:[1] link wv6wycnq3ei5ygv veth attachment of wb0abcde up
net:[2] link weft0 veth up 10.32.0.1/20 groups`
	if got := f.net.String(); got != want {
		t.Errorf("state:\n%s\nwant:\n%s", got, want)
	}
	// Withdrawn again: only what is local stays.
	if _, err := v.SetRemotes(spec.VNI, nil); err != nil {
		t.Fatal(err)
	}
	if err := v.SetWanted(spec.VNI, nil); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); strings.Contains(got, "0:32") || strings.Contains(got, "mdb") || !strings.Contains(got, "neigh wb0abcde 10.32.0.1 ") {
		t.Errorf("after withdrawal:\n%s", got)
	}
}

// TestAttachAllOrNothing fails each single change of an attach, in turn.
func TestAttachAllOrNothing(t *testing.T) {
	for i := 1; ; i++ {
		f := newFake(t)
		f.ns.AddPath("/box")
		v := f.new()
		if _, err := v.Ensure(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		before, guarded := f.net.String(), len(f.guard)
		f.net.FailAt(i)
		_, err := v.Attach(t.Context(), fakeSpec("/box"))
		if !f.net.Revive() {
			if err != nil {
				t.Fatal(err)
			}
			if i < 6 {
				t.Errorf("an attach makes only %d changes?", i-1)
			}
			return
		}
		if err == nil {
			t.Fatalf("change %d failed, attach did not", i)
		}
		if got := f.net.String(); got != before || len(f.guard) != guarded || len(v.Attachments()) != 0 {
			t.Errorf("change %d failed, left behind:\n%s\nguard %v", i, got, f.guard)
		}
	}
}

// TestEnsureAllOrNothing does the same for a network.
func TestEnsureAllOrNothing(t *testing.T) {
	for i := 1; ; i++ {
		f := newFake(t)
		v := f.new()
		f.net.FailAt(i)
		_, err := v.Ensure(t.Context(), spec)
		if !f.net.Revive() {
			return
		}
		if err == nil {
			t.Fatalf("change %d failed, ensure did not", i)
		}
		if got := f.net.String(); got != "" || len(f.guard) != 0 {
			t.Errorf("change %d failed, left behind:\n%s\nguard %v", i, got, f.guard)
		}
	}
}

// TestKilledAtAnyMoment kills the daemon at each change of ensure and attach; the next one
// adopts or removes all that is there.
func TestKilledAtAnyMoment(t *testing.T) {
	for i := 1; ; i++ {
		f := newFake(t)
		f.ns.AddPath("/box")
		v := f.new()
		f.net.CrashAt(i)
		_, _ = v.Ensure(t.Context(), spec)
		_, attached := v.Attach(t.Context(), fakeSpec("/box"))
		killed := f.net.Revive()
		f.net.RemoveLink(f.host.ID(), vnet.UplinkName(spec.VNI)) // its descriptor is closed

		v = f.new()
		report, err := v.Reconcile(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !killed {
			if attached != nil || len(report.Adopted) != 1 || len(report.Removed) != 0 {
				t.Errorf("not killed: %v, %+v", attached, report)
			}
			return
		}
		if got := f.net.String(); got != "" || len(report.Adopted) != 0 {
			t.Errorf("killed at change %d, left behind:\n%s\n%+v", i, got, report)
		}
		if _, err := v.Ensure(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Attach(t.Context(), fakeSpec("/box")); err != nil {
			t.Errorf("killed at change %d, attach again: %v", i, err)
		}
	}
}

// TestRunTells follows a life under fake time.
func TestRunTells(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		f := newFake(t)
		f.ns.AddProcess(77)
		v := f.new()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- v.Run(ctx) }()
		_, err := v.Ensure(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		s := fakeSpec("")
		s.Kind, s.PID = vnet.KindRun, 77
		a, err := v.Attach(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		expect := func(d time.Duration, want ...string) {
			t.Helper()
			<-time.After(d)
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			if fmt.Sprint(f.told) != fmt.Sprint(want) {
				t.Errorf("told %q, want %q", f.told, want)
			}
			f.told = nil
		}
		expect(100*time.Millisecond, "members 703710 []")
		group := netip.MustParseAddr("239.1.2.3")
		f.net.Join(f.host.ID(), a.Port, nl.MDBEntry{Group: group, Exclude: true})
		expect(49 * time.Millisecond)
		expect(2*time.Millisecond, "members 703710 [{a 239.1.2.3 true []}]")
		// Nothing new: nothing told, however many hints.
		f.net.Join(f.host.ID(), a.Port, nl.MDBEntry{Group: group, Exclude: true})
		expect(time.Second)
		f.net.Join(f.host.ID(), a.Port, nl.MDBEntry{Group: group, Sources: []netip.Addr{ip4(9)}})
		expect(100*time.Millisecond, "members 703710 [{a 239.1.2.3 false [10.32.0.9]}]")
		// INCLUDE of nothing is no membership.
		f.net.Join(f.host.ID(), a.Port, nl.MDBEntry{Group: group})
		expect(100*time.Millisecond, "members 703710 []")
		// No notification tells of this one.
		f.net.SetSnooping(f.host.ID(), vnet.BridgeName(spec.VNI), false)
		expect(5 * time.Second)
		if n := v.Stats().SnoopingRestored; n != 1 {
			t.Errorf("snooping restored %d times", n)
		}
		f.ns.EndProcess(77)
		expect(time.Second, "gone a: process 77 has ended")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := v.Down(); err != nil {
			t.Error(err)
		}
	})
}

// TestSetSubnets: attachments that are there and those that come have routes to the subnets that they are not in, and to no others.
func TestSetSubnets(t *testing.T) {
	f := newFake(t)
	f.ns.AddPath("/box")
	v := f.new()
	if _, err := v.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	own, more := netip.MustParsePrefix("10.32.0.0/20"), netip.MustParsePrefix("10.61.0.0/24")
	if _, err := v.Attach(t.Context(), fakeSpec("/box")); err != nil {
		t.Fatal(err)
	}
	if _, err := v.SetSubnets(spec.VNI, []netip.Prefix{own}); err != nil {
		t.Fatal(err)
	}
	if s := f.net.String(); strings.Contains(s, " to "+own.String()) {
		t.Errorf("a route to its own subnet:\n%s", s)
	}
	for range 2 {
		if _, err := v.SetSubnets(spec.VNI, []netip.Prefix{own, more}); err != nil {
			t.Fatal(err)
		}
	}
	if s := f.net.String(); strings.Count(s, " to "+more.String()) != 1 {
		t.Errorf("want one route to %s:\n%s", more, s)
	}
	if _, err := v.SetSubnets(99, nil); !errors.Is(err, vnet.ErrNoNetwork) {
		t.Errorf("%v, want no network", err)
	}
}
