package guard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lab is a network namespace of its own with a weft bridge: two attachments and an uplink, each a veth whose other end
// is spoken to with raw frames. It vanishes with the test's thread. Subtests would run elsewhere: tests loop instead.
type lab struct {
	t        *testing.T
	bridge   *netlink.Bridge
	a, b, up *wire
	seq      uint32
}

const labBridge, labUplink = "wb2a", "wu2a"

var (
	macA, macB = [6]byte{2, 0, 0, 0, 0, 0xa}, [6]byte{2, 0, 0, 0, 0, 0xb}
	macX       = [6]byte{2, 0, 0, 0, 0, 0xe} // nobody's
	ip4A, ip4B = netip.MustParseAddr("10.32.0.10"), netip.MustParseAddr("10.32.0.11")
	ip6A, ip6B = netip.MustParseAddr("fd00:9::a"), netip.MustParseAddr("fd00:9::b")
	llA        = linkLocal(macA)
)

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests make network namespaces: run them as root")
	}
	runtime.LockOSThread() // never unlocked: the namespace goes with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal("unshare:", err)
	}
	l := &lab{t: t}
	l.sysctl("ipv6/conf/default/disable_ipv6", "1")
	l.sysctl("ipv6/conf/all/disable_ipv6", "1")
	lo, err := netlink.LinkByName("lo")
	l.check(err)
	l.check(netlink.LinkSetUp(lo))
	off := false
	l.bridge = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: labBridge}, MulticastSnooping: &off}
	l.check(netlink.LinkAdd(l.bridge))
	l.check(netlink.LinkSetUp(l.bridge))
	l.a, l.b, l.up = l.port("wv1", "pa"), l.port("wv2", "pb"), l.port(labUplink, "pu")
	l.settle()
	return l
}

// settle waits until the bridge forwards from every port to every other: the kernel brings carriers up in its own time.
func (l *lab) settle() {
	l.t.Helper()
	wires := []*wire{l.a, l.b, l.up}
	for i, from := range wires {
		for j, to := range wires {
			if i == j {
				continue
			}
			ready := ether(broadcastMAC, macX[:], 0x88b5, make([]byte, 46))
			l.until("the bridge forwards", func() bool { from.send(ready); return to.poll() != nil })
		}
	}
	for i, from := range wires { // what was sent above has arrived when this has
		last := ether(broadcastMAC, macX[:], 0x88b6, append(make([]byte, 45), byte(i)))
		from.send(last)
		for j, to := range wires {
			for i != j && !bytes.Equal(to.receive(), last) {
			}
		}
	}
}

func (l *lab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) sysctl(name, value string) {
	l.t.Helper()
	l.check(os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644))
}

// port adds a veth to the bridge and opens its far end.
func (l *lab) port(name, far string) *wire {
	l.t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: l.bridge.Index}, PeerName: far}
	l.check(netlink.LinkAdd(v))
	peer, err := netlink.LinkByName(far)
	l.check(err)
	l.check(netlink.LinkSetUp(v))
	l.check(netlink.LinkSetUp(peer))
	return openWire(l.t, peer.Attrs().Index)
}

// desired is the lab's state; change may alter it.
func desired(change ...func(*Desired)) Desired {
	d := Desired{
		Ports: []Port{
			{Name: "wv1", Bridge: labBridge, MAC: macA, IPs: []netip.Addr{ip4A, ip6A}},
			{Name: "wv2", Bridge: labBridge, MAC: macB, IPs: []netip.Addr{ip4B, ip6B}},
		},
		Networks:    []Network{{Bridge: labBridge, Uplink: labUplink}},
		ControlPort: 6783,
	}
	for _, f := range change {
		f(&d)
	}
	return d
}

// open installs d.
func (l *lab) open(d Desired) *Guard {
	l.t.Helper()
	g, err := Open(Options{})
	l.check(err)
	l.check(g.Apply(d))
	return g
}

func (l *lab) counter(g *Guard, name string) uint64 {
	l.t.Helper()
	cs, err := g.Counters()
	l.check(err)
	c, ok := cs[name]
	if !ok {
		l.t.Fatalf("no counter %q", name)
	}
	return c.Packets
}

// until polls for what happens in the kernel without telling anyone.
func (l *lab) until(what string, ok func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(3 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: has not happened in 3 s", what)
		}
	}
}

// sentinel is a good frame that no other is equal to: what was sent before it has arrived, or never will.
func (l *lab) sentinel() []byte {
	l.seq++
	return ether(macB[:], macA[:], 0x0800, ipv4(ip4A, ip4B, 17, udp(4000, 4000, fmt.Appendf(nil, "sentinel %d", l.seq))))
}

// arrivals sends frames by from and returns what reached to before a sentinel that was sent last by via.
func (l *lab) arrivals(from, to *wire, frames ...[]byte) [][]byte {
	l.t.Helper()
	for _, f := range frames {
		from.send(f)
	}
	s := l.sentinel()
	if to != l.b { // the sentinel must reach the other wire too
		s = ether(broadcastMAC, macA[:], 0x0800, ipv4(ip4A, netip.MustParseAddr("10.47.255.255"), 17, udp(4000, 4000, fmt.Appendf(nil, "sentinel %d", l.seq))))
	}
	l.a.send(s)
	var got [][]byte
	for {
		f := to.receive()
		if bytes.Equal(f, s) {
			return got
		}
		got = append(got, f)
	}
}

// wire is the far end of a port.
type wire struct {
	t     *testing.T
	fd    int
	index int
}

func openWire(t *testing.T, index int) *wire {
	t.Helper()
	all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	w := &wire{t, fd, index}
	tv := unix.NsecToTimeval(int64(3 * time.Second))
	for _, err := range []error{
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: index}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *wire) send(frame []byte) {
	w.t.Helper()
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index, Halen: 6}); err != nil {
		w.t.Fatalf("send frame: %v", err)
	}
}

// receive returns the next frame that came over the wire; none within the time-out ends the test.
func (w *wire) receive() []byte {
	w.t.Helper()
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			w.t.Fatalf("nothing arrived: %v", err)
		}
		if sll, ok := from.(*unix.SockaddrLinklayer); ok && sll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		return buf[:n]
	}
}

// poll is receive without waiting; nil when nothing is there.
func (w *wire) poll() []byte {
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(w.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			return nil
		}
		if sll, ok := from.(*unix.SockaddrLinklayer); ok && sll.Pkttype != unix.PACKET_OUTGOING {
			return buf[:n]
		}
	}
}

var broadcastMAC = []byte{255, 255, 255, 255, 255, 255}

func ether(dst, src []byte, typ uint16, payload []byte) []byte {
	f := append(append(append([]byte(nil), dst...), src...), byte(typ>>8), byte(typ))
	return append(f, payload...)
}

func ipv4(src, dst netip.Addr, proto byte, payload []byte) []byte {
	return ipv4Fragment(src, dst, proto, 0, payload)
}

func ipv4Fragment(src, dst netip.Addr, proto byte, frag uint16, payload []byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(h[6:], frag)
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^sum(0, h))
	return append(h, payload...)
}

func ipv6(src, dst netip.Addr, next byte, payload []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(h, payload...)
}

func udp(sport, dport uint16, payload []byte) []byte {
	h := binary.BigEndian.AppendUint16(nil, sport)
	h = binary.BigEndian.AppendUint16(h, dport)
	h = binary.BigEndian.AppendUint16(h, uint16(8+len(payload)))
	return append(append(h, 0, 0), payload...) // no checksum: allowed in IPv4
}

func icmp6(typ byte, body ...[]byte) []byte {
	return bytes.Join(append([][]byte{{typ, 0, 0, 0}}, body...), nil)
}

// nd is a solicitation or advertisement.
func nd(typ byte, target netip.Addr, options ...[]byte) []byte {
	return icmp6(typ, append([][]byte{{0, 0, 0, 0}, target.AsSlice()}, options...)...)
}

func option(typ byte, body []byte) []byte { return append([]byte{typ, 1}, body...) }

func arp(op byte, mac [6]byte, ip netip.Addr, target netip.Addr) []byte {
	return bytes.Join([][]byte{{0, 1, 8, 0, 6, 4, 0, op}, mac[:], ip.AsSlice(), make([]byte, 6), target.AsSlice()}, nil)
}

// sum is the Internet checksum (RFC 1071) of b, not yet inverted.
func sum(s uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

func hostMAC(l *lab) []byte {
	ifi, err := net.InterfaceByName(labBridge)
	l.check(err)
	return ifi.HardwareAddr
}
