package udp

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

// TestListenGroup: several sockets of a host hear one group and port, and nothing but that group.
func TestListenGroup(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	from, err := Listen(0, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if err := from.Multicast(lo.Index, 0); err != nil {
		t.Fatal(err)
	}
	group, other := netip.MustParseAddrPort("239.193.7.9:6784"), netip.MustParseAddrPort("239.193.7.10:6784")
	var hear []Conn
	for range 2 {
		c, err := ListenGroup(group, lo.Index, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		hear = append(hear, c)
	}
	for _, m := range []struct {
		to   netip.AddrPort
		text string
	}{{other, "not for us"}, {group, "for us"}} {
		if _, err := from.WriteBatch([]Message{{Buf: []byte(m.text), Addr: m.to}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range hear {
		ms := []Message{{Buf: make([]byte, 100)}}
		if _, err := c.ReadBatch(ms); err != nil || string(ms[0].Buf[:ms[0].N]) != "for us" {
			t.Errorf("%q, %v", ms[0].Buf[:ms[0].N], err)
		}
	}
	if _, err := ListenGroup(netip.MustParseAddrPort("127.0.0.1:0"), lo.Index, Options{}); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("an address that is no group is taken: %v", err)
	}
}
