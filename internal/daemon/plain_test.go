package daemon

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/vnet"
)

// TestSealedStands: where one name was defined with both engines, the network is sealed, whoever comes first and
// whoever created what.
func TestSealedStands(t *testing.T) {
	low, high := ident.HostID{1}, ident.HostID{2}
	sealed := networkRecord{VNI: 7, Subnet: netip.MustParsePrefix("10.32.0.0/20")}
	plain := networkRecord{VNI: 7, Subnet: netip.MustParsePrefix("10.32.16.0/20"), Plain: true}
	for _, creators := range [][2]ident.HostID{{low, high}, {high, low}} {
		sealed.Creator, plain.Creator = creators[0], creators[1]
		for _, order := range [][]networkRecord{{sealed, plain}, {plain, sealed}, {plain, sealed, plain}} {
			d := &definition{name: "films", rec: order[0]}
			for _, r := range order {
				d.merge(r.Creator, r, true)
			}
			if d.rec.Plain || d.conflict == "" || len(d.subnets) != 2 {
				t.Errorf("plain %v, conflict %q, subnets %v", d.rec.Plain, d.conflict, d.subnets)
			}
		}
	}
}

// TestWantedAt: each host is told once, with what all its members want together.
func TestWantedAt(t *testing.T) {
	a := netip.MustParseAddr
	g, s1, s2 := a("232.1.1.1"), a("10.0.0.1"), a("10.0.0.2")
	h1, h2, h3, self := ident.HostID{1}, ident.HostID{2}, ident.HostID{3}, ident.HostID{9}
	include := func(h ident.HostID, s ...netip.Addr) fdb.Member {
		return fdb.Member{Host: h, Group: g, Mode: fdb.Include, Sources: s}
	}
	got := wantedAt([]fdb.Member{
		include(h1, s1), include(h1, s2), include(h2, s1),
		{Host: h2, Group: g, Mode: fdb.Exclude, Sources: []netip.Addr{s2}},
		include(h3, s2), include(self, s1),
	}, self, map[ident.HostID]netip.Addr{h1: a("192.0.2.1"), h2: a("192.0.2.2")})
	want := []vnet.Group{{Addr: g, At: []vnet.At{
		{VTEP: a("192.0.2.1"), Sources: []netip.Addr{s1, s2}}, {VTEP: a("192.0.2.2")}, {Sources: []netip.Addr{s2}},
	}}}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

// TestPatient: a kernel that could not is asked again, but not by every second's attempt.
func TestPatient(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		asked, answer := 0, errors.New("no module")
		ask := patient(func() error { asked++; return answer })
		for range 10 {
			if ask() == nil || asked != 1 {
				t.Fatalf("asked %d times", asked)
			}
		}
		<-time.After(probeEvery)
		answer = nil
		if ask() != nil || asked != 2 {
			t.Errorf("asked %d times", asked)
		}
		<-time.After(time.Hour)
		if ask() != nil || asked != 2 {
			t.Errorf("asked %d times", asked)
		}
	})
}

func TestPacketNeed(t *testing.T) {
	if got := packetNeed(1400, netip.MustParseAddr("192.0.2.1")); got != 1450 { // RFC 7348 section 5: 50 bytes
		t.Errorf("%d over IPv4, want 1450", got)
	}
	if got := packetNeed(1400, netip.MustParseAddr("2001:db8::1")); got != 1470 {
		t.Errorf("%d over IPv6, want 1470", got)
	}
}
