package guard

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestUnknownVTEP: packets of a plain network come in from its hosts only, those of other programs on the port from
// anybody, and a fragment that hides its number from nobody.
func TestUnknownVTEP(t *testing.T) {
	l := newLab(t)
	host := netip.MustParseAddr("127.0.0.1")
	lo, err := netlink.LinkByName("lo")
	l.check(err)
	l.check(netlink.LinkSetUp(lo))
	for _, a := range []string{"192.0.2.7/32", "192.0.2.8/32"} {
		addr, err := netlink.ParseAddr(a)
		l.check(err)
		l.check(netlink.AddrAdd(lo, addr))
	}
	hear, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	l.check(err)
	t.Cleanup(func() { _ = unix.Close(hear) })
	tv := unix.NsecToTimeval(int64(time.Second))
	l.check(unix.SetsockoptTimeval(hear, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	l.check(unix.Bind(hear, &unix.SockaddrInet4{Port: 4789}))
	send := func(from string, vni uint32, text string) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		l.check(err)
		defer func() { _ = unix.Close(fd) }()
		l.check(unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(from).As4()}))
		b := append([]byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}, text...)
		l.check(unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Port: 4789, Addr: host.As4()}))
	}
	next := func() string {
		b := make([]byte, 100)
		n, _, err := unix.Recvfrom(hear, b, 0)
		if err != nil {
			return err.Error()
		}
		return string(bytes.TrimLeft(b[8:n], "\x00"))
	}
	g := l.open(desired(func(d *Desired) {
		d.VXLANPort = 4789
		d.Networks = append(d.Networks, Network{Bridge: "wb00002b", Uplink: "wx00002b", VNI: 0x2b, VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.7")}})
	}))
	send("192.0.2.8", 0x2b, "unknown")
	send("192.0.2.8", 0x2c, "another program's")
	send("192.0.2.7", 0x2b, "known")
	for _, want := range []string{"another program's", "known"} {
		if got := next(); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
	if n := l.counter(g, dropVTEP); n != 1 {
		t.Errorf("%d packets counted as %s, want 1", n, dropVTEP)
	}
}
