package edge

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/sealedtcp/sealedtcptest"
)

// party is a process with edges: it keeps what comes.
type party struct {
	*Set
	at netip.AddrPort

	mu     sync.Mutex
	cond   *sync.Cond
	up     map[uint64]bool
	got    map[uint64][][]byte
	failed []error
	hold   chan struct{} // if there is one, Input waits for it
}

func (p *party) Changed(epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, p.up[epoch] = p.Find(epoch)
	p.cond.Broadcast()
}

func (p *party) Input(epoch uint64, ds [][]byte) {
	if p.hold != nil {
		<-p.hold
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range ds {
		p.got[epoch] = append(p.got[epoch], bytes.Clone(d))
	}
	p.cond.Broadcast()
}

func (p *party) Failed(_ uint64, _ netip.AddrPort, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = append(p.failed, err)
	p.cond.Broadcast()
}

// await waits until something is so; it is asked with the lock held.
func (p *party) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late := false
	timer := time.AfterFunc(20*time.Second, func() {
		p.mu.Lock()
		late = true
		p.mu.Unlock()
		p.cond.Broadcast()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !ok() {
		if late {
			t.Fatalf("%s: not within 20 s", what)
		}
		p.cond.Wait()
	}
}

func key(tb testing.TB, secret byte) *buskey.Bus {
	tb.Helper()
	k, err := buskey.New(ident.Token{Secret: ident.Secret{secret}}, "test")
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func newParty(tb testing.TB, epoch uint64, listens bool, keys ...*buskey.Bus) *party {
	tb.Helper()
	p := &party{up: map[uint64]bool{}, got: map[uint64][][]byte{}}
	p.cond = sync.NewCond(&p.mu)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p.at = netip.MustParseAddrPort(ln.Addr().String())
	if p.Set, err = New(Config{Epoch: epoch, Name: "test", Port: p.at.Port(), Keys: keys, Handler: p}); err != nil {
		tb.Fatal(err)
	}
	if !listens {
		ln.Close()
	} else {
		done := make(chan error, 1)
		go func() { done <- p.Serve(ln) }()
		tb.Cleanup(func() {
			p.Close()
			if err := <-done; err != nil {
				tb.Error(err)
			}
		})
	}
	tb.Cleanup(p.Close)
	return p
}

func pair(tb testing.TB) (a, b *party) {
	tb.Helper()
	a, b = newParty(tb, 1, true, key(tb, 1)), newParty(tb, 2, true, key(tb, 1))
	a.Dial(0, b.at)
	a.await(tb, "an edge", func() bool { return a.up[2] })
	b.await(tb, "an edge", func() bool { return b.up[1] })
	return a, b
}

// TestEdge: datagrams come as they were sent, both ways; each end knows the other, and that it is gone.
func TestEdge(t *testing.T) {
	a, b := pair(t)
	for i, x := range []*party{a, b} {
		y := []*party{b, a}[i]
		var train []byte
		for n := range 50 {
			train = append(train, bytes.Repeat([]byte{byte(n)}, 1400)...)
		}
		x.Send(uint64(2-i), train, 1400)
		x.Send(uint64(2-i), []byte("short"), 1400)
		x.Send(uint64(2-i), train[:2900], 1400)
		x.Send(uint64(2-i), make([]byte, MaxFrame+1), 0)
		y.await(t, "datagrams", func() bool { return len(y.got[uint64(1+i)]) == 54 })
		got := y.got[uint64(1+i)]
		for n := range 50 {
			if len(got[n]) != 1400 || got[n][0] != byte(n) {
				t.Fatalf("datagram %d: %d bytes, the first %d", n, len(got[n]), got[n][0])
			}
		}
		if string(got[50]) != "short" || len(got[53]) != 100 {
			t.Errorf("%q, %d", got[50], len(got[53]))
		}
		if n := x.Counters()[DropTooLong]; n != 1 {
			t.Errorf("%d too long", n)
		}
	}
	if p, ok := a.Find(2); !ok || p.Listens != b.at || !p.Dialled || p.Addr != b.at {
		t.Errorf("%+v", p)
	}
	if p, ok := b.Find(1); !ok || p.Listens != a.at || p.Dialled {
		t.Errorf("%+v", p)
	}
	a.Hang(2)
	b.await(t, "the end", func() bool { return !b.up[1] })
	a.await(t, "the end", func() bool { return !a.up[2] })
	a.Send(2, []byte("nobody"), 0)
	if n := a.Counters()[DropNoEdge]; n != 1 {
		t.Errorf("%d without an edge", n)
	}
	if len(a.Status())+len(b.Status()) != 0 {
		t.Error("edges are left")
	}
}

// TestBothDial: two that dial each other at once come to use one edge; what was sent on either arrives.
func TestBothDial(t *testing.T) {
	a, b := newParty(t, 1, true, key(t, 1)), newParty(t, 2, true, key(t, 1))
	a.Dial(2, b.at)
	b.Dial(1, a.at)
	a.await(t, "an edge", func() bool { return a.up[2] })
	b.await(t, "an edge", func() bool { return b.up[1] })
	for range 20 {
		a.Send(2, []byte("x"), 0)
		b.Send(1, []byte("y"), 0)
	}
	a.await(t, "datagrams", func() bool { return len(a.got[2]) == 20 })
	b.await(t, "datagrams", func() bool { return len(b.got[1]) == 20 })
}

// TestKeys: a member with another token of the ring is let in; one whose token is in no ring gets no byte, and is counted.
func TestKeys(t *testing.T) {
	b := newParty(t, 2, true, key(t, 1), key(t, 2))
	a := newParty(t, 1, false, key(t, 2))
	a.Dial(2, b.at)
	a.await(t, "an edge", func() bool { return a.up[2] })

	c := newParty(t, 3, false, key(t, 3))
	var read int
	c.cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return counting{nc, &read}, err
	}
	c.Dial(2, b.at)
	c.await(t, "a refusal", func() bool { return len(c.failed) == 1 })
	if !errors.Is(c.failed[0], ErrHandshake) || read != 0 {
		t.Errorf("%v; %d bytes", c.failed, read)
	}
	if n := b.Counters()[DropHandshake]; n != 1 {
		t.Errorf("%d handshakes refused", n)
	}
	check(t, b.SetKeys([]*buskey.Bus{key(t, 1), key(t, 3)}))
	c.Dial(2, b.at)
	c.await(t, "an edge", func() bool { return c.up[2] })
}

type counting struct {
	net.Conn
	n *int
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	*c.n += n
	return n, err
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSelf: a process that dials itself, by a seed that is its own, is told so.
func TestSelf(t *testing.T) {
	a := newParty(t, 1, true, key(t, 1))
	a.Dial(0, a.at)
	a.await(t, "a refusal", func() bool { return len(a.failed) == 1 })
	if !errors.Is(a.failed[0], ErrSelf) {
		t.Error(a.failed[0])
	}
}

// TestStrangers: who says nothing, or what no member says, gets nothing, takes a place for a while only, and no place of others.
func TestStrangers(t *testing.T) {
	b := newParty(t, 2, true, key(t, 1))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", b.at.String())
		check(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	for _, say := range []string{"GET / HTTP/1.1\r\n\r\n", "\x77\xff\xff", "\x77\x00\x00", "\x77\x00\x05hello"} {
		c := dial()
		_, err := c.Write([]byte(say))
		check(t, err)
		check(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: %q, %v", say, got, err)
		}
	}
	if n := b.Counters()[DropMagic]; n != 4 {
		t.Errorf("%d strangers counted", n)
	}
	var silent []net.Conn
	for range MaxPerSource {
		silent = append(silent, dial())
	}
	last := dial()
	check(t, last.SetDeadline(time.Now().Add(10*time.Second)))
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more than %d of a source: %v", MaxPerSource, err)
	}
	if n := b.Counters()[DropStrangers]; n != 1 {
		t.Errorf("%d strangers too many counted", n)
	}
	for _, c := range silent { // they are closed when their time is over
		check(t, c.SetDeadline(time.Now().Add(2*HandshakeTime)))
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	if n := b.Counters()[DropSilent]; n != MaxPerSource {
		t.Errorf("%d silent ones counted", n)
	}
	a := newParty(t, 1, false, key(t, 1))
	a.Dial(2, b.at)
	a.await(t, "an edge, after all that", func() bool { return a.up[2] })
}

// TestSlow: who does not read costs what the queue holds; Send does not wait, and what has no room is counted.
func TestSlow(t *testing.T) {
	a, b := pair(t)
	b.hold = make(chan struct{})
	defer close(b.hold)
	train := make([]byte, 60*1000)
	began, sent := time.Now(), 0
	for a.Counters()[DropQueue] == 0 {
		a.Send(2, train, 1000)
		if sent += len(train); sent > 256<<20 || time.Since(began) > 30*time.Second {
			t.Fatalf("%d bytes are on their way to one that does not read", sent)
		}
	}
	if n := a.Counters()[DropQueue]; n%60 != 0 {
		t.Errorf("%d datagrams dropped: a train is dropped as a whole", n)
	}
}

// TestFrames: what is no frame ends the edge.
func TestFrames(t *testing.T) {
	a, b := pair(t)
	c := a.edges[2][0]
	c.mu.Lock()
	c.pending = []byte{0, 1, 'x', 0, 0, 0}
	c.mu.Unlock()
	c.cond.Broadcast()
	b.await(t, "the end", func() bool { return !b.up[1] })
	if len(b.got[1]) != 1 || b.Counters()[DropMalformed] != 1 {
		t.Errorf("%q, %v", b.got[1], b.Counters())
	}
}

// TestNobody: where nobody listens, that is told.
func TestNobody(t *testing.T) {
	a := newParty(t, 1, false, key(t, 1))
	a.Dial(2, a.at)
	a.await(t, "a failure", func() bool { return len(a.failed) == 1 })
	if a.Counters()[DropDial] != 1 {
		t.Errorf("%v, %v", a.failed, a.Counters())
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte{0, 1, 'x', 0, 2, 'y'}, 3)
	f.Add([]byte{0, 0}, 0)
	f.Add([]byte{0xff, 0xff, 1}, 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		whole, bad := frames(b)
		// In two pieces it is the same.
		cut = min(max(cut, 0), len(b))
		var fs [][]byte
		rest, early := split(bytes.Clone(b[:cut]), &fs)
		first := slices.Clone(fs)
		if !early {
			second, late := frames(append(bytes.Clone(rest), b[cut:]...))
			first, early = append(first, second...), late
		}
		if early != bad || !slices.EqualFunc(whole, first, bytes.Equal) {
			t.Errorf("%d frames, %v; cut at %d: %d, %v", len(whole), bad, cut, len(first), early)
		}
		size := 0
		for _, x := range whole {
			if size += 2 + len(x); len(x) == 0 || len(x) > MaxFrame || int(binary.BigEndian.Uint16(b[size-2-len(x):])) != len(x) {
				t.Errorf("a frame of %d bytes", len(x))
			}
		}
	})
}

func frames(b []byte) (fs [][]byte, bad bool) {
	_, bad = split(b, &fs)
	return fs, bad
}

// FuzzWelcome: whatever a stranger sends, nothing is answered.
func FuzzWelcome(f *testing.F) {
	b := newParty(f, 2, false, key(f, 1), key(f, 2))
	f.Add([]byte{0x77, 2, 0x48, 1, 1, 2, 0})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(append([]byte{0x77, 2, 0x48, 1, 1, 1, 0}, make([]byte, 600)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &sealedtcptest.Tape{In: bytes.NewReader(in)}
		if _, err := b.welcome(c, netip.MustParseAddrPort("10.0.0.1:1")); err == nil || c.Out.Len() != 0 {
			t.Errorf("%d bytes answered, %v", c.Out.Len(), err)
		}
	})
}

func BenchmarkEdge(bm *testing.B) {
	a, b := pair(bm)
	train := make([]byte, 44*1400)
	bm.SetBytes(int64(len(train)))
	bm.ReportAllocs()
	for bm.Loop() {
		for {
			before := a.Counters()[DropQueue]
			a.Send(2, train, 1400)
			if a.Counters()[DropQueue] == before {
				break
			}
		}
	}
	_ = b
}
