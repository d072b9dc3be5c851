package vnet_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/vnet"
)

func dockerSpec() vnet.AttachSpec {
	return vnet.AttachSpec{
		Network: spec.Name, Name: "docker-1", Kind: vnet.KindDocker, MAC: mac(1), MTU: 1300,
		IPs: []netip.Prefix{netip.PrefixFrom(ip4(1), 20), netip.PrefixFrom(ip6(1), 64)},
	}
}

// TestDockerMoves: the inner end of a container's veth lies in the host's namespace until Docker takes it, and when Docker has brought
// it back; a new daemon keeps it wherever it is, and Detach removes it from there.
func TestDockerMoves(t *testing.T) {
	f := newFake(t)
	box := f.ns.AddPath("/box")
	v := f.new()
	if _, err := v.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	empty := f.net.String()
	a, err := v.Attach(t.Context(), dockerSpec())
	if err != nil {
		t.Fatal(err)
	}
	inner := vnet.InnerName(spec.Name, "docker-1")
	if a.Interface != inner || a.Port == inner {
		t.Errorf("port %s, interface %s, want %s", a.Port, a.Interface, inner)
	}
	at := func(v *vnet.VNet, want bool) {
		t.Helper()
		home, err := v.AtHome()
		if err != nil || home[a.Port] != want {
			t.Errorf("at home: %v, %v, want %v\n%s", home, err, want, f.net)
		}
	}
	again := func() *vnet.VNet {
		t.Helper()
		f.net.RemoveLink(f.host.ID(), vnet.UplinkName(spec.VNI)) // its descriptor is closed
		v := f.new()
		r, err := v.Reconcile(t.Context())
		if err != nil || len(r.Adopted) != 1 || len(r.Removed) != 0 {
			t.Errorf("taken over: %+v, %v", r, err)
		}
		if _, err := v.Ensure(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Attach(t.Context(), dockerSpec()); err != nil {
			t.Errorf("the same again: %v", err)
		}
		return v
	}
	at(v, true)
	if !strings.Contains(f.net.String(), "link "+inner+" veth\n") {
		t.Errorf("the inner end should be down, without an address:\n%s", f.net)
	}
	v = again()
	at(v, true)
	f.net.Move(f.host.ID(), inner, box, "weft0")
	at(v, false)
	v = again()
	at(v, false)
	f.net.Move(box, "weft0", f.host.ID(), inner)
	at(v, true)
	v = again()
	if err := v.Detach(spec.Name, "docker-1"); err != nil {
		t.Fatal(err)
	}
	if got := f.net.String(); got != empty {
		t.Errorf("left behind:\n%s\nwant\n%s", got, empty)
	}
}

// TestDockerAllOrNothing fails each single change in turn.
func TestDockerAllOrNothing(t *testing.T) {
	for i := 1; ; i++ {
		f := newFake(t)
		v := f.new()
		if _, err := v.Ensure(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		before := f.net.String()
		f.net.FailAt(i)
		_, err := v.Attach(t.Context(), dockerSpec())
		if !f.net.Revive() {
			return
		}
		if got := f.net.String(); err == nil || got != before || len(v.Attachments()) != 0 {
			t.Errorf("change %d failed (%v), left behind:\n%s", i, err, got)
		}
	}
}

// TestDockerRefuses: what a container's attachment cannot have.
func TestDockerRefuses(t *testing.T) {
	f := newFake(t)
	v := f.new()
	if _, err := v.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*vnet.AttachSpec){
		"a process":                func(s *vnet.AttachSpec) { s.PID = 1 },
		"a namespace":              func(s *vnet.AttachSpec) { s.Netns = "/box" },
		"a route":                  func(s *vnet.AttachSpec) { s.MulticastRoute = true },
		"more than the network's":  func(s *vnet.AttachSpec) { s.MTU = 1500 },
		"less than IPv6 allows":    func(s *vnet.AttachSpec) { s.MTU = 576 },
		"an MTU of another's kind": func(s *vnet.AttachSpec) { s.Kind = vnet.KindExpose },
	} {
		s := dockerSpec()
		change(&s)
		if _, err := v.Attach(t.Context(), s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestDockerSubnets: a container that runs when its network gets another subnet is found by its interface, and gets the route; one that
// Docker is about to fetch later; one that nobody finds is named.
func TestDockerSubnets(t *testing.T) {
	f := newFake(t)
	box := f.ns.AddPath("/box")
	v := f.new()
	if _, err := v.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	own, own6 := netip.MustParsePrefix("10.32.0.0/20"), netip.PrefixFrom(ip6(1), 64).Masked()
	more, more6 := netip.MustParsePrefix("10.61.0.0/24"), netip.MustParsePrefix("fd00:61::/64")
	set := func(want string, subnets ...netip.Prefix) {
		t.Helper()
		unreached, err := v.SetSubnets(spec.VNI, subnets)
		if got := strings.Join(unreached, " "); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	routes := func(want ...string) {
		t.Helper()
		var got []string
		for line := range strings.Lines(f.net.String()) {
			if i := strings.Index(line, " to "); i >= 0 && strings.Contains(line, " link ") {
				got = append(got, strings.Fields(line)[2]+strings.TrimSpace(line[i:]))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("routes %q, want %q", got, want)
		}
	}
	set("", own)
	fetch := func(name string, to netns.ID, as string) {
		f.net.Move(f.host.ID(), vnet.InnerName(spec.Name, name), to, as)
	}
	for i := byte(1); i <= 3; i++ {
		s := dockerSpec()
		s.Name, s.MAC, s.IPs = "docker-"+string('0'+i), mac(i), []netip.Prefix{netip.PrefixFrom(ip4(i), 20)}
		if i == 1 {
			s.IPs = append(s.IPs, netip.PrefixFrom(ip6(i), 64))
		}
		if _, err := v.Attach(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	fetch("docker-1", box, "weft0")
	fetch("docker-3", netns.ID{Dev: 4, Ino: 999}, "weft0") // where no process is to be seen
	set("", own, own6)                                     // of which it needs none
	set("docker-3", own, own6, more, more6)
	routes("weft0to 10.61.0.0/24 to fd00:61::/64")
	lost := f.ns.AddPath("/lost")
	fetch("docker-2", lost, "weft1")
	set("docker-3", own, own6, more, more6)
	routes("weft0to 10.61.0.0/24 to fd00:61::/64", "weft1to 10.61.0.0/24")
	for range 100 {
		set("docker-3", own, own6, more, more6)
	}
	if err := v.Detach(spec.Name, "docker-3"); err != nil {
		t.Fatal(err)
	}
	set("", own, own6, more, more6)
}
