package udp

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the kernel refuses to cut goes in pieces, whole and in order, and is not tried again.
func TestUncut(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the namespace goes with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("this test needs root, to make a network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetMTU(lo, 1300) // shorter than the datagrams: EINVAL
	}
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	a, _ := open(t, Options{IPv4Only: true})
	b, port := open(t, Options{IPv4Only: true})
	buf := make([]byte, 69*1400+7)
	for i := range buf {
		buf[i] = byte(i / 1400)
	}
	dst := to("127.0.0.1", port)
	w := a.NewWriter(8).(*batch)
	for round := range 3 {
		before := len(w.hdrs)
		ms := []Message{{Buf: []byte("before"), Addr: dst}, {Buf: buf[:40*1400+7], Segment: 1400, Addr: dst}, {Buf: []byte("after"), Addr: dst}}
		if n, err := w.WriteBatch(ms); n != 3 || err != nil || ms[1].N != 40*1400+7 || len(w.hdrs) != before {
			t.Fatalf("round %d: wrote %d, %v, %d bytes: %+v", round, n, err, ms[1].N, a.Stats())
		}
		got := readN(t, b, 43, 2000)
		if string(got[0].Buf[:got[0].N]) != "before" || string(got[42].Buf[:got[42].N]) != "after" {
			t.Errorf("round %d: out of order", round)
		}
		for i, m := range got[1:42] {
			want := 1400
			if i == 40 {
				want = 7
			}
			if m.N != want || m.Buf[0] != byte(i) {
				t.Errorf("round %d: datagram %d: %d bytes beginning with %d, want %d", round, i, m.N, m.Buf[0], want)
			}
		}
		if !w.c.uncut.has(dst) || w.c.uncut.has(to("127.0.0.1", port+1)) {
			t.Errorf("round %d: not remembered, or another is", round)
		}
	}
	if s := a.Stats(); len(s.TxErrors) != 0 {
		t.Errorf("%+v", s)
	}
	if n, err := w.WriteBatch([]Message{{Buf: buf, Segment: 1 << 15, Addr: to("127.0.0.1", 0)}}); n != 0 || err != nil {
		t.Errorf("to no port: wrote %d, %v", n, err)
	}
}

// The memory of refusals is bounded.
func TestUncutIsBounded(t *testing.T) {
	var s uncutSet
	for i := range 2 * maxUncut {
		s.add(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1))
		s.add(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1))
	}
	if n := len(*s.list.Load()); n != maxUncut {
		t.Errorf("%d endpoints, want %d", n, maxUncut)
	}
	if s.has(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 0}), 1)) {
		t.Error("the oldest is still there")
	}
}
