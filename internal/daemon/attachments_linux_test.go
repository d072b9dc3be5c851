package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/vnet"
)

// What renews an attachment is told from what replaces it by the namespace itself, not by its path.
func TestAlike(t *testing.T) {
	const own = "/proc/self/ns/net"
	ns, err := netns.OS().Path(own)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	link := filepath.Join(t.TempDir(), "ns")
	if err := os.Symlink(own, link); err != nil {
		t.Fatal(err)
	}
	have := vnet.Attachment{AttachSpec: vnet.AttachSpec{
		Kind: vnet.KindNetns, Netns: "/old/path", Interface: "eth0", IPs: []netip.Prefix{netip.MustParsePrefix("10.32.0.2/20")},
	}, NS: ns.ID()}
	addr := netip.MustParseAddr("10.32.0.2")
	for name, c := range map[string]struct {
		want vnet.AttachSpec
		addr netip.Addr
		ok   bool
	}{
		"the same":          {vnet.AttachSpec{Kind: vnet.KindNetns, Netns: link, Interface: "eth0"}, addr, true},
		"any interface":     {vnet.AttachSpec{Kind: vnet.KindNetns, Netns: own}, netip.Addr{}, true},
		"another interface": {vnet.AttachSpec{Kind: vnet.KindNetns, Netns: own, Interface: "eth1"}, addr, false},
		"another address":   {vnet.AttachSpec{Kind: vnet.KindNetns, Netns: own}, netip.MustParseAddr("10.32.0.3"), false},
		"no namespace":      {vnet.AttachSpec{Kind: vnet.KindNetns, Netns: link + "x"}, addr, false},
		"a process":         {vnet.AttachSpec{Kind: vnet.KindPID, PID: 7}, addr, false},
	} {
		if got := alike(have, c.want, c.addr); got != c.ok {
			t.Errorf("%s: %v, want %v", name, got, c.ok)
		}
	}
	have.NS.Ino++
	if alike(have, vnet.AttachSpec{Kind: vnet.KindNetns, Netns: own}, addr) {
		t.Error("a namespace made anew under the old path counts as the old one")
	}
}
