package daemon

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/weft-net/weft/internal/netmon"
	"github.com/weft-net/weft/internal/netmon/netmontest"
)

// TestUnderlayMTU: an own address is asked for its interface, not for the route to it, which is the loopback's; and what has
// changed is read anew.
func TestUnderlayMTU(t *testing.T) {
	own, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	mon := &netmontest.Monitor{}
	u := &underlay{mon: mon, log: slog.New(slog.DiscardHandler)}
	for _, mtu := range []int{1500, 9000, 1280} {
		mon.Set([]netmon.Addr{{IP: own, MTU: mtu}}, nil, 65535)
		if err := u.read(); err != nil {
			t.Fatal(err)
		}
		if got := u.MTU(own); got != mtu {
			t.Errorf("MTU %d of an own address, want %d", got, mtu)
		}
		if got := u.InterfaceMTU(own); got != mtu {
			t.Errorf("interface MTU %d, want %d", got, mtu)
		}
		if got := u.MTU(other); got != 65535 {
			t.Errorf("MTU %d of the way to another host, want the route's", got)
		}
		if got := u.InterfaceMTU(other); got != 0 {
			t.Errorf("interface MTU %d of an address that is not here", got)
		}
	}
}
