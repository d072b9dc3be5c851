package udp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t testing.TB, o Options) (Conn, uint16) {
	t.Helper()
	c, err := Listen(0, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, c.LocalAddr().Port()
}

func to(ip string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(ip), port)
}

func space(n, size int) []Message {
	ms := make([]Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, size)
	}
	return ms
}

// readN reads until n messages are there; in 10 s, or the socket is closed and the test fails.
func readN(t testing.TB, c Conn, n, size int) []Message {
	t.Helper()
	defer time.AfterFunc(10*time.Second, func() { _ = c.Close() }).Stop()
	var all []Message
	for len(all) < n {
		ms := space(n, size)
		k, err := c.ReadBatch(ms)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ms[:k]...)
	}
	return all
}

func TestBothFamilies(t *testing.T) {
	a, aPort := open(t, Options{})
	b, bPort := open(t, Options{})
	for _, ip := range []string{"127.0.0.1", "::1"} {
		n, err := a.WriteBatch([]Message{{Buf: []byte("one"), Addr: to(ip, bPort)}, {Buf: []byte("two!"), Addr: to(ip, bPort)}})
		if n != 2 || err != nil {
			t.Fatalf("%s: wrote %d, %v", ip, n, err)
		}
		for i, m := range readN(t, b, 2, 100) {
			if want := []string{"one", "two!"}[i]; string(m.Buf[:m.N]) != want || m.Addr != to(ip, aPort) || m.Truncated {
				t.Errorf("%s: got %q from %v (truncated %v), want %q from %v", ip, m.Buf[:m.N], m.Addr, m.Truncated, want, to(ip, aPort))
			}
		}
	}
	if s := b.Stats(); s.RxMessages != 4 || s.RxBytes != 14 {
		t.Errorf("stats %+v, want 4 messages of 14 bytes", s)
	}
}

func TestIPv4Only(t *testing.T) {
	a, aPort := open(t, Options{IPv4Only: true})
	if got := a.LocalAddr().Addr(); !got.Is4() {
		t.Fatalf("bound to %v, want 0.0.0.0", got)
	}
	n, err := a.WriteBatch([]Message{{Buf: []byte("x"), Addr: to("::1", aPort)}, {Buf: []byte("y"), Addr: to("127.0.0.1", aPort)}})
	if n != 1 || err != nil {
		t.Fatalf("wrote %d, %v; want the IPv4 message only", n, err)
	}
	if got := readN(t, a, 1, 10)[0]; string(got.Buf[:got.N]) != "y" || got.Addr != to("127.0.0.1", aPort) {
		t.Errorf("read %q from %v", got.Buf[:got.N], got.Addr)
	}
}

func TestTruncation(t *testing.T) {
	a, port := open(t, Options{})
	if _, err := a.WriteBatch([]Message{{Buf: bytes.Repeat([]byte{7}, 500), Addr: to("127.0.0.1", port)}}); err != nil {
		t.Fatal(err)
	}
	m := readN(t, a, 1, 100)[0]
	if m.N != 100 || !m.Truncated || a.Stats().RxTruncated != 1 {
		t.Errorf("N %d truncated %v counted %d, want 100, true, 1", m.N, m.Truncated, a.Stats().RxTruncated)
	}
}

// A refused message is counted by name and does not stop those after it.
func TestRefusedMessages(t *testing.T) {
	a, port := open(t, Options{})
	ms := []Message{
		{Buf: make([]byte, 65530), Addr: to("127.0.0.1", port)}, // more than an IPv4 datagram holds
		{Buf: []byte("a"), Addr: to("127.0.0.1", port)},
		{Buf: []byte("b")}, // no address: ::, port 0
		{Buf: []byte("c"), Addr: to("127.0.0.1", port)},
	}
	n, err := a.WriteBatch(ms)
	if n != 2 || err != nil {
		t.Fatalf("wrote %d, %v; want 2", n, err)
	}
	if ms[0].N != 0 || ms[1].N != 1 || ms[2].N != 0 || ms[3].N != 1 {
		t.Errorf("N = %d %d %d %d, want 0 1 0 1", ms[0].N, ms[1].N, ms[2].N, ms[3].N)
	}
	if s := a.Stats(); s.TxErrors["emsgsize"] != 1 || s.TxErrors["einval"] != 1 || s.TxMessages != 2 {
		t.Errorf("stats %+v, want one emsgsize and one einval", s)
	}
}

func TestCloseWakesReaderAndWriterFails(t *testing.T) {
	a, port := open(t, Options{})
	done := make(chan error)
	go func() {
		_, err := a.ReadBatch(space(1, 10))
		done <- err
	}()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("blocked read: %v, want net.ErrClosed", err)
	}
	if _, err := a.WriteBatch([]Message{{Buf: []byte("x"), Addr: to("127.0.0.1", port)}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v, want net.ErrClosed", err)
	}
	if _, err := a.ReadBatch(space(1, 10)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v, want net.ErrClosed", err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	_ = a.Stats() // must not panic
}

func TestPortInUse(t *testing.T) {
	_, port := open(t, Options{})
	if _, err := Listen(int(port), Options{}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second listen: %v, want address in use", err)
	}
}

// Batches longer than MaxBatch, from many goroutines, through pooled state and through own writers.
func TestConcurrentWriters(t *testing.T) {
	a, _ := open(t, Options{})
	b, port := open(t, Options{})
	const writers, each = 4, MaxBatch + 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var wr Writer = a
			if w%2 == 0 {
				wr = a.NewWriter(16)
			}
			ms := make([]Message, each)
			for i := range ms {
				ms[i] = Message{Buf: []byte{byte(w), byte(i)}, Addr: to("127.0.0.1", port)}
			}
			if n, err := wr.WriteBatch(ms); n != each || err != nil {
				t.Errorf("writer %d: %d, %v", w, n, err)
			}
		})
	}
	seen := map[[2]byte]bool{}
	for _, m := range readN(t, b, writers*each, 10) {
		seen[[2]byte(m.Buf[:2])] = true
	}
	wg.Wait()
	if len(seen) != writers*each {
		t.Errorf("%d different messages, want %d", len(seen), writers*each)
	}
}

func TestEmptyRead(t *testing.T) {
	a, _ := open(t, Options{})
	if _, err := a.ReadBatch(nil); !errors.Is(err, ErrEmptyBatch) {
		t.Errorf("got %v", err)
	}
	if n, err := a.WriteBatch(nil); n != 0 || err != nil {
		t.Errorf("empty write: %d, %v", n, err)
	}
}
