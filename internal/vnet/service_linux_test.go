package vnet_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/vnet"
)

// TestServiceIsReached: attachments reach a service, in both families, and it ends with its sockets.
func TestServiceIsReached(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", 1)
	ns, err := w.v.Serve(t.Context(), spec.VNI, vnet.Service{MAC: mac(99), IPs: []netip.Prefix{netip.PrefixFrom(ip4(99), 20), netip.PrefixFrom(ip6(99), 64)}})
	if err != nil {
		t.Fatal(err)
	}
	var conns []*net.UDPConn
	if err := ns.Do(func() error {
		for _, at := range []netip.Addr{ip4(99), ip6(99)} {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 53)))
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := ns.Close(); err != nil { // the sockets keep it
		t.Fatal(err)
	}
	for i, local := range []string{"0.0.0.0:0", "[::]:0"} {
		s := socket(t, a, []string{"udp4", "udp6"}[i], local)
		send(t, s, conns[i].LocalAddr().String(), "question")
		b := make([]byte, 100)
		_ = conns[i].SetReadDeadline(time.Now().Add(5 * time.Second))
		n, from, err := conns[i].ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "question" {
			t.Fatalf("%v from %v: %q, %v", conns[i].LocalAddr(), from, b[:n], err)
		}
		if _, err := conns[i].WriteToUDPAddrPort([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		received(t, s, "answer", 5*time.Second)
	}
	w.awaitMembers(2 * time.Second) // what the service's own interface joined is nobody's
	for _, c := range conns {
		_ = c.Close()
	}
	eventually(t, 10*time.Second, "the port goes with the namespace", func() error {
		if w.v.Serves(spec.VNI) {
			return errors.New("still there")
		}
		return nil
	})
}
