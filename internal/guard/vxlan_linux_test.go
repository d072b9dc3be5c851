package guard

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
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

// TestShortFragmentHidesNothing: the first fragment of an IPv6 packet may be so short that the number is in the second. Input
// sees fragments before they are joined.
func TestShortFragmentHidesNothing(t *testing.T) {
	l := newLab(t)
	l.sysctl("ipv6/conf/lo/disable_ipv6", "0")
	lo, err := netlink.LinkByName("lo")
	l.check(err)
	l.check(netlink.LinkSetUp(lo))
	from, to := netip.MustParseAddr("2001:db8::8"), netip.IPv6Loopback()
	addr, err := netlink.ParseAddr(from.String() + "/128")
	l.check(err)
	addr.Flags = unix.IFA_F_NODAD
	l.check(netlink.AddrAdd(lo, addr))
	hear, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	l.check(err)
	t.Cleanup(func() { _ = unix.Close(hear) })
	tv := unix.NsecToTimeval(int64(300 * time.Millisecond))
	l.check(unix.SetsockoptTimeval(hear, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	l.check(unix.Bind(hear, &unix.SockaddrInet6{Port: 4789}))
	raw, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	l.check(err)
	t.Cleanup(func() { _ = unix.Close(raw) })
	send := func(id byte, first int, vni uint32) {
		u := udp(4000, 4789, []byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0, 'f', 'r', 'a', 'g', 'm', 'e', 'n', 't'})
		pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, 0, 0, byte(len(u)), 0, 0, 0, 17})
		binary.BigEndian.PutUint16(u[6:], ^sum(0, slices.Concat(pseudo, u)))
		for _, f := range [][]byte{
			append([]byte{17, 0, 0, 1, 0, 0, 0, id}, u[:first]...),           // RFC 8200 section 4.5: offset 0, more to come
			append([]byte{17, 0, 0, byte(first), 0, 0, 0, id}, u[first:]...), // offset in units of 8, times 8
		} {
			l.check(unix.Sendto(raw, ipv6(from, to, 44, f), 0, &unix.SockaddrInet6{Addr: to.As16()}))
		}
	}
	next := func() bool {
		b := make([]byte, 100)
		n, _, err := unix.Recvfrom(hear, b, 0)
		return err == nil && bytes.Contains(b[:n], []byte("fragment"))
	}
	if send(1, 8, 0x2b); !next() {
		t.Fatal("without a guard the packet does not arrive: the test proves nothing")
	}
	g := l.open(desired(func(d *Desired) {
		d.VXLANPort = 4789
		d.Networks = append(d.Networks, Network{Bridge: "wb00002b", Uplink: "wx00002b", VNI: 0x2b})
	}))
	if send(2, 8, 0x2b); next() {
		t.Error("a first fragment without the number got through")
	}
	if send(3, 16, 0x2b); next() {
		t.Error("a fragmented packet of an unknown host got through")
	}
	if send(4, 16, 0x2c); !next() {
		t.Error("another program's fragments don't arrive")
	}
	if n := l.counter(g, dropVTEP); n != 2 {
		t.Errorf("%d packets counted, want 2", n)
	}
}
