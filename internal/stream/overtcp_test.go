package stream

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/sealedtcp/sealedtcptest"
)

// FuzzWelcome: whatever a stranger sends, nothing is answered.
func FuzzWelcome(f *testing.F) {
	keys, err := ident.NewKeys()
	if err != nil {
		f.Fatal(err)
	}
	s := New(Config{Keys: keys, Name: "a", Known: func(ident.HostID) (ident.Card, bool) { return ident.Card{}, false }})
	f.Cleanup(s.Close)
	f.Add([]byte{0x77, 2, 0x48, 1, 1, 2, 0})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(append([]byte{0x77, 2, 0x48, 1, 1, 2, 0}, make([]byte, handshake.HelloSize)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &sealedtcptest.Tape{In: bytes.NewReader(b)}
		if _, _, err := s.welcome(c, "x"); err == nil || c.Out.Len() != 0 {
			t.Errorf("%d bytes answered, %v", c.Out.Len(), err)
		}
	})
}

// tcpPair returns two services that meet over loopback TCP.
func tcpPair(tb testing.TB) (a, b *Service) {
	tb.Helper()
	forgetTimers()
	ka, err := ident.NewKeys()
	if err != nil {
		tb.Fatal(err)
	}
	kb, err := ident.NewKeys()
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	known := func(id ident.HostID) (ident.Card, bool) {
		for _, k := range []ident.Keys{ka, kb} {
			if k.ID() == id {
				return k.Card(), true
			}
		}
		return ident.Card{}, false
	}
	at := []netip.AddrPort{netip.MustParseAddrPort(ln.Addr().String())}
	a = New(Config{Keys: ka, Name: "a", Known: known, Endpoints: func(ident.HostID) []netip.AddrPort { return at }})
	b = New(Config{Keys: kb, Name: "b", Known: known})
	done := make(chan error, 1)
	go func() { done <- b.Serve(ln) }()
	tb.Cleanup(func() {
		a.Close()
		b.Close()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return a, b
}

func TestOverTCP(t *testing.T) {
	a, b := tcpPair(t)
	c, err := a.Dial(t.Context(), b.id)
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := b.Accept()
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.New()
	go func() {
		rng := rand.New(rand.NewPCG(3, 4))
		p := make([]byte, 50_000)
		for range 100 {
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			n := rng.IntN(len(p))
			want.Write(p[:n])
			if _, err := c.Write(p[:n]); err != nil {
				t.Error(err)
			}
		}
		c.Close()
	}()
	got := sha256.New()
	if _, err := io.Copy(got, d); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("the bytes differ")
	}
	// The answer to a second stream comes after the first one's end: so yamux has stopped its close timer, which
	// would go off in real time inside another test's bubble.
	d.Close()
	if _, err := a.Dial(t.Context(), b.id); err != nil {
		t.Error(err)
	}
}

func BenchmarkTCP(bm *testing.B) {
	a, b := tcpPair(bm)
	c, err := a.Dial(bm.Context(), b.id)
	if err != nil {
		bm.Fatal(err)
	}
	_, d, err := b.Accept()
	if err != nil {
		bm.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, d) }()
	p := make([]byte, 64<<10)
	bm.SetBytes(int64(len(p)))
	bm.ReportAllocs()
	for bm.Loop() {
		if _, err := c.Write(p); err != nil {
			bm.Fatal(err)
		}
	}
}
