package udp

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A kernel that coalesces and segments: one message out, one in, of many datagrams.
func TestSegments(t *testing.T) {
	a, _ := open(t, Options{})
	if !a.Stats().CanSegment {
		t.Fatal("this kernel has no UDP_SEGMENT (Linux 4.18 and later have)")
	}
	b, port := open(t, Options{})
	buf := make([]byte, 2500)
	for i := range buf {
		buf[i] = byte(i / 1000)
	}
	if n, err := a.WriteBatch([]Message{{Buf: buf, Segment: 1000, Addr: to("127.0.0.1", port)}}); n != 1 || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	for i, m := range readN(t, b, 3, 2000) {
		if want := []int{1000, 1000, 500}[i]; m.N != want || m.Buf[0] != byte(i) {
			t.Errorf("datagram %d: %d bytes beginning with %d, want %d", i, m.N, m.Buf[0], want)
		}
	}

	g, port := open(t, Options{Coalesce: true})
	if !g.Stats().Coalesces {
		t.Fatal("this kernel has no UDP_GRO (Linux 5.0 and later have)")
	}
	if _, err := a.WriteBatch([]Message{{Buf: buf, Segment: 1000, Addr: to("127.0.0.1", port)}}); err != nil {
		t.Fatal(err)
	}
	total := 0
	for total < len(buf) {
		m := readN(t, g, 1, 1<<16)[0]
		if m.Segment != 0 && m.Segment != 1000 {
			t.Errorf("segment %d, want 1000", m.Segment)
		}
		total += m.N
	}
	if total != len(buf) {
		t.Errorf("read %d bytes, want %d", total, len(buf))
	}
}

// A full receive buffer drops in the kernel; the socket tells how many.
func TestReceiveDropsAreCounted(t *testing.T) {
	a, _ := open(t, Options{})
	b, port := open(t, Options{Buffer: 4096})
	ms := make([]Message, 200)
	for i := range ms {
		ms[i] = Message{Buf: make([]byte, 1000), Addr: to("127.0.0.1", port)}
	}
	if n, err := a.WriteBatch(ms); n != len(ms) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	drops := b.Stats().RxDrops
	if drops == 0 || drops >= 200 {
		t.Fatalf("%d drops of 200, want some", drops)
	}
	readN(t, b, 200-int(drops), 1000) // fails if the count is too low
}

func TestNoAllocation(t *testing.T) {
	a, port := open(t, Options{})
	w := a.NewWriter(32)
	out := make([]Message, 32)
	for i := range out {
		out[i] = Message{Buf: make([]byte, 1200), Addr: to("127.0.0.1", port)}
	}
	in := space(32, 1500)
	if n := testing.AllocsPerRun(200, func() { roundTrip(t, w, a, out, in) }); n >= 1 {
		t.Errorf("%v allocations for 32 datagrams there and back, want 0", n)
	}
}

func BenchmarkBatch(b *testing.B) {
	a, port := open(b, Options{})
	w := a.NewWriter(64)
	out := make([]Message, 64)
	for i := range out {
		out[i] = Message{Buf: make([]byte, 1200), Addr: to("127.0.0.1", port)}
	}
	in := space(64, 1500)
	b.SetBytes(64 * 1200)
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, w, a, out, in)
	}
}

func roundTrip(t testing.TB, w Writer, c Conn, out, in []Message) {
	if n, err := w.WriteBatch(out); n != len(out) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	for got := 0; got < len(out); {
		n, err := c.ReadBatch(in)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
}

// A joined group is heard, another is not, and neither is one's own voice.
func TestGroups(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes a network namespace: run it as root")
	}
	runtime.LockOSThread() // never unlocked: the namespace goes with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal("unshare:", err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "e0"}, PeerName: "e1"}))
	index := map[string]int{}
	for i, name := range []string{"e0", "e1"} {
		l, err := netlink.LinkByName(name)
		must(err)
		must(netlink.LinkSetUp(l))
		index[name] = l.Attrs().Index
		for _, a := range []string{"192.0.2.%d/24", "2001:db8::%d/64"} {
			addr, err := netlink.ParseAddr(fmt.Sprintf(a, i+1))
			must(err)
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			must(netlink.AddrAdd(l, addr))
		}
		// Both ends are in one namespace: a source that is one's own address is no error here.
		must(os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/accept_local", []byte("1"), 0o644))
		must(os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("0"), 0o644))
	}
	// The kernel brings the carrier up in its own time, and drops before.
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		e0, err := netlink.LinkByName("e0")
		must(err)
		e1, err := netlink.LinkByName("e1")
		must(err)
		if e0.Attrs().OperState == netlink.OperUp && e1.Attrs().OperState == netlink.OperUp {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the interfaces are not up after 5 s")
		}
	}
	a, _ := open(t, Options{})
	if err := a.Multicast(index["e0"], 1); err != nil {
		t.Fatal(err)
	}
	b, port := open(t, Options{})
	for _, g := range []string{"239.1.2.3", "ff15::1:2:3"} {
		group := netip.MustParseAddr(g)
		other := group.Next()
		must(b.Join(group, index["e1"]))
		if n, err := a.WriteBatch([]Message{{Buf: []byte("other"), Addr: netip.AddrPortFrom(other, port)}, {Buf: []byte("group"), Addr: netip.AddrPortFrom(group, port)}}); n != 2 || err != nil {
			t.Fatalf("%s: wrote %d, %v: %+v", g, n, err, a.Stats())
		}
		if m := readN(t, b, 1, 100)[0]; string(m.Buf[:m.N]) != "group" {
			t.Errorf("%s: heard %q", g, m.Buf[:m.N])
		}
		must(b.Leave(group, index["e1"]))
		if err := b.Leave(group, index["e1"]); err == nil {
			t.Errorf("%s: left twice", g)
		}
		// Sockets of the group's own hear it, several of them, and nothing else on its port.
		must(a.MulticastOf(group, index["e0"], 1))
		var hear []Conn
		for range 2 {
			c, err := ListenGroup(netip.AddrPortFrom(group, 6784), index["e1"], Options{})
			must(err)
			t.Cleanup(func() { c.Close() })
			hear = append(hear, c)
		}
		if n, err := a.WriteBatch([]Message{{Buf: []byte("other"), Addr: netip.AddrPortFrom(other, 6784)}, {Buf: []byte("group"), Addr: netip.AddrPortFrom(group, 6784)}}); n != 2 || err != nil {
			t.Fatalf("%s: wrote %d, %v: %+v", g, n, err, a.Stats())
		}
		for _, c := range hear {
			if m := readN(t, c, 1, 100)[0]; string(m.Buf[:m.N]) != "group" {
				t.Errorf("%s: heard %q", g, m.Buf[:m.N])
			}
		}
	}
	only4, _ := open(t, Options{IPv4Only: true})
	if err := only4.MulticastOf(netip.MustParseAddr("ff15::1"), index["e0"], 1); err == nil {
		t.Error("a socket of IPv4 only is to multicast in IPv6")
	}
	if err := b.Join(netip.MustParseAddr("192.0.2.1"), index["e1"]); err == nil {
		t.Error("joined an address that is no group")
	}
	if s := a.Stats(); s.RxMessages != 0 || s.RxDrops != 0 {
		t.Errorf("the sender heard itself: %+v", s)
	}
}

// Whatever stands in a control buffer, reading it stays inside.
func FuzzSegment(f *testing.F) {
	var good [controlSpace]byte
	putSegment(&good, 1200)
	f.Add(good[:])
	f.Add(good[:3])
	f.Add([]byte{})
	gro := good
	gro[12] = unix.UDP_GRO
	gro[0] = byte(unix.CmsgLen(4))
	f.Add(gro[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := segment(b); n != 0 && len(b) < unix.CmsgLen(4) {
			t.Errorf("segment %d of %d bytes", n, len(b))
		}
	})
}
