package bus

import (
	"net/netip"
	"testing"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/ident"
)

// TestGroupsOf: groups follow from the token and the name, and are of the ranges that are meant for that.
func TestGroupsOf(t *testing.T) {
	ranges := [2]netip.Prefix{netip.MustParsePrefix("239.192.0.0/14"), netip.MustParsePrefix("ff15::/64")}
	seen := map[netip.AddrPort]bool{}
	for i := range byte(50) {
		k, err := buskey.New(ident.Token{Secret: ident.Secret{i}}, "test")
		check(t, err)
		gs := groupsOf(k)
		if gs != groupsOf(k) {
			t.Error("the groups of a key differ")
		}
		for f, g := range gs {
			if !ranges[f].Contains(g.Addr()) || g.Port() != GroupPort || seen[g] {
				t.Errorf("group %v", g)
			}
			seen[g] = true
		}
		if b := gs[1].Addr().As16(); b[12]&0x80 == 0 {
			t.Errorf("%v has a group id that is not a host's to choose (RFC 3307)", gs[1])
		}
	}
}

// TestGroupsOff: with NoMulticast there are none.
func TestGroupsOff(t *testing.T) {
	if gs := newWorld(t, false).join().Groups(); len(gs) != 0 {
		t.Errorf("%+v", gs)
	}
}
