package udp

import (
	"errors"
	"net/netip"
	"os"
	"testing"
)

// TestAdoptedSocket: what arrives while nobody reads is read by whoever takes the socket over, on the same port; the one
// before may be closed, or go on.
func TestAdoptedSocket(t *testing.T) {
	old, err := Listen(0, Options{Coalesce: true})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	peer, err := Listen(0, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), old.LocalAddr().Port())
	say := func(text string) {
		t.Helper()
		if n, err := peer.WriteBatch([]Message{{Buf: []byte(text), Addr: to}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	hear := func(c Conn, want string) {
		t.Helper()
		ms := []Message{{Buf: make([]byte, 64<<10)}}
		n, err := c.ReadBatch(ms)
		if n != 1 || err != nil || string(ms[0].Buf[:ms[0].N]) != want {
			t.Fatalf("%d messages, %q, %v; want %q", n, ms[0].Buf[:ms[0].N], err, want)
		}
	}
	say("before")
	hear(old, "before")
	ended := make(chan error, 1)
	go func() {
		_, err := old.ReadBatch([]Message{{Buf: make([]byte, 64<<10)}})
		ended <- err
	}()
	old.Halt()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("halted: %v", err)
	}
	say("meanwhile")
	if _, err := old.ReadBatch([]Message{{Buf: make([]byte, 64<<10)}}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a halted socket reads: %v", err)
	}
	old.Resume()
	hear(old, "meanwhile")

	old.Halt()
	say("handed over")
	f, err := File(old)
	if err != nil {
		t.Fatal(err)
	}
	next, err := Adopt(f, Options{Coalesce: true})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	_ = f.Close()
	hear(next, "handed over")
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	say("after")
	hear(next, "after")
	if next.LocalAddr() != old.LocalAddr() && next.LocalAddr().Port() != to.Port() {
		t.Errorf("at %v", next.LocalAddr())
	}
	if s := next.Stats(); !s.Coalesces || s.RcvBuffer == 0 {
		t.Errorf("%+v", s)
	}
	if _, err := next.WriteBatch([]Message{{Buf: []byte("back"), Addr: netip.AddrPortFrom(to.Addr(), peer.LocalAddr().Port())}}); err != nil {
		t.Error(err)
	}
	hear(peer, "back")

	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := Adopt(null, Options{}); err == nil {
		t.Error("a socket was made of /dev/null")
	}
}
