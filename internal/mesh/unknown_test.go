package mesh

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/wire"
)

// middle is a way to a node on which datagrams of one type are lost until mend is called. It returns its address.
func middle(t *testing.T, to *node, lost byte) (addr string, mend func()) {
	t.Helper()
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	front, back := listen(), listen()
	mended := make(chan struct{})
	var asker atomic.Pointer[net.UDPAddr]
	go func() {
		b := make([]byte, wire.MaxDatagram)
		for {
			n, from, err := front.ReadFromUDP(b)
			if err != nil {
				return
			}
			select {
			case <-mended:
			default:
				if b[0] == lost {
					continue
				}
			}
			asker.Store(from)
			_, _ = back.WriteToUDP(b[:n], &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: to.port})
		}
	}()
	go func() {
		b := make([]byte, wire.MaxDatagram)
		for {
			n, err := back.Read(b)
			if err != nil {
				return
			}
			_, _ = front.WriteToUDP(b[:n], asker.Load())
		}
	}()
	return front.LocalAddr().String(), func() { close(mended) }
}

// TestLastMessageLost: a joiner whose last handshake message is lost knows its host, which does not know it; it is let in all the same
// as soon as messages pass, and where it was killed and started again meanwhile.
func TestLastMessageLost(t *testing.T) {
	for _, killed := range []bool{false, true} {
		token := ident.NewToken()
		a := startNode(t, options{name: "a", token: token, founder: true})
		seed, mend := middle(t, a, wire.TypeFinish)
		b := startNode(t, options{name: "b", token: token, seeds: []string{seed}})
		eventually(t, 5*time.Second, "b takes a for known", func() bool { return b.Peer(a.self) != nil })
		if hosts := a.Hosts(); len(hosts) != 1 {
			t.Fatalf("a knows %v", hosts)
		}
		if killed {
			_ = b.Close()
			b = startNode(t, options{name: "b", token: token, keys: &b.keys, disk: b.disk, seeds: []string{seed}})
			eventually(t, 5*time.Second, "b takes a for known, again", func() bool { return b.Peer(a.self) != nil })
		}
		mend()
		eventually(t, 10*time.Second, "a knows b", func() bool { return a.linkedTo("b") && b.linkedTo("a") })
	}
}

// TestOlderDisk: a host that comes back with a disk on which a member is missing, its only peer, takes it in again.
func TestOlderDisk(t *testing.T) {
	token := ident.NewToken()
	a := startNode(t, options{name: "a", token: token, founder: true})
	a.disk.mu.Lock()
	old := &disk{own: a.disk.own}
	a.disk.mu.Unlock()
	b := startNode(t, options{name: "b", token: token, seeds: []string{a.addr()}})
	eventually(t, 5*time.Second, "linked", func() bool { return a.linkedTo("b") && b.linkedTo("a") })
	_ = a.Close()
	again := startNode(t, options{name: "a", token: token, keys: &a.keys, disk: old, port: a.port})
	eventually(t, 15*time.Second, "linked again", func() bool { return again.linkedTo("b") && b.linkedTo("a") })
}
