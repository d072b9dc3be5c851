package udptest

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/weft-net/weft/internal/udp"
)

func TestNetwork(t *testing.T) {
	var lost int
	n := &Network{Deliver: func(_, _ netip.AddrPort, p []byte) bool {
		if string(p) == "lose" {
			lost++
			return false
		}
		return true
	}}
	at := func(s string) (udp.Conn, netip.AddrPort) {
		a := netip.MustParseAddrPort(s)
		c, err := n.Listen(a)
		if err != nil {
			t.Fatal(err)
		}
		return c, a
	}
	a, addrA := at("192.0.2.1:6783")
	b, addrB := at("192.0.2.2:6783")
	if _, err := n.Listen(addrA); err == nil {
		t.Error("one address twice")
	}
	group := netip.MustParseAddrPort("239.1.2.3:6783")
	if err := b.Join(group.Addr(), 1); err != nil {
		t.Fatal(err)
	}
	ms := []udp.Message{{Buf: []byte("lose"), Addr: addrB}, {Buf: []byte("aabbc"), Segment: 2, Addr: addrB}, {Buf: []byte("group"), Addr: group}}
	if k, err := a.WriteBatch(ms); k != 3 || err != nil {
		t.Fatal(k, err)
	}
	in := make([]udp.Message, 8)
	for i := range in {
		in[i].Buf = make([]byte, 4)
	}
	k, err := b.ReadBatch(in)
	if k != 4 || err != nil || lost != 1 {
		t.Fatalf("read %d, %v, lost %d; want 4, nil, 1", k, err, lost)
	}
	for i, want := range []string{"aa", "bb", "c", "grou"} {
		if got := string(in[i].Buf[:in[i].N]); got != want || in[i].Addr != addrA || in[i].Truncated != (i == 3) {
			t.Errorf("message %d: %q from %v, truncated %v", i, got, in[i].Addr, in[i].Truncated)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReadBatch(in); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
}
