package mesh

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

func (n *node) at() netip.AddrPort { return netip.MustParseAddrPort(n.addr()) }

// TestFound: hosts meet by addresses that somebody listed, their own and wrong ones among them; a host whose peers have all changed finds the new
// ones; what is no longer listed is no longer tried.
func TestFound(t *testing.T) {
	token := ident.NewToken()
	a := startNode(t, options{name: "a", token: token, founder: true})
	b := startNode(t, options{name: "b", token: token})
	stranger := startNode(t, options{name: "s", token: ident.NewToken(), founder: true})
	nobody := netip.MustParseAddrPort("127.0.0.1:9")
	list := []netip.AddrPort{a.at(), b.at(), stranger.at(), nobody}
	for _, n := range []*node{a, b} {
		if err := n.SetFound(list); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 5*time.Second, "a and b meet", func() bool { return a.linkedTo("b") && b.linkedTo("a") })
	eventually(t, 5*time.Second, "each knows whose the addresses are", func() bool {
		x, y := a.Found(), b.Found()
		return x[a.at()] == FoundOwn && x[b.at()] == FoundLinked && x[nobody] == FoundTrying && y[b.at()] == FoundOwn && y[a.at()] == FoundLinked && len(x) == 4
	})
	if len(a.Links()) != 1 || len(stranger.Links()) != 0 {
		t.Errorf("links %v, the stranger's %v", a.Links(), stranger.Links())
	}
	_ = b.Close()
	c := startNode(t, options{name: "c", token: token, seeds: []string{a.addr()}})
	eventually(t, 5*time.Second, "c is in", func() bool { return a.linkedTo("c") && c.linkedTo("a") })
	_ = a.Close()
	again := startNode(t, options{name: "b", token: token, keys: &b.keys, disk: b.disk}) // where it knew a it finds nobody
	if err := again.SetFound([]netip.AddrPort{nobody, c.at()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "b finds c", func() bool { return again.linkedTo("c") && c.linkedTo("b") })
	if err := again.SetFound(nil); err != nil || len(again.Found()) != 0 {
		t.Errorf("%v, still to be tried: %v", err, again.Found())
	}
}

// TestFoundByAnotherName: an own address that a host cannot know (a NAT's) is noticed by the answer, and is no warning.
func TestFoundByAnotherName(t *testing.T) {
	a := startNode(t, options{name: "a", token: ident.NewToken(), founder: true})
	alias := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), uint16(a.port))
	if err := a.SetFound([]netip.AddrPort{alias}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "a knows itself", func() bool { return a.Found()[alias] == FoundOwn })
	if w := a.Warnings(); len(w) != 0 || a.gaveUp() != nil || a.Refused() != "" {
		t.Errorf("warnings %v, %v, %q", w, a.gaveUp(), a.Refused())
	}
}

// TestFoundIsBounded: a liar's list is cut.
func TestFoundIsBounded(t *testing.T) {
	a := startNode(t, options{name: "a", token: ident.NewToken(), founder: true})
	var list []netip.AddrPort
	for i := range maxFound + 100 {
		list = append(list, netip.MustParseAddrPort(fmt.Sprintf("127.1.%d.%d:9", i/256, i%256)))
	}
	if err := a.SetFound(list); err != nil || len(a.Found()) != maxFound {
		t.Errorf("%d addresses, %v; want %d", len(a.Found()), err, maxFound)
	}
	used := a.Limits()["found"]
	if used != [2]int{maxFound, maxFound} {
		t.Errorf("limits say %v", used)
	}
}
