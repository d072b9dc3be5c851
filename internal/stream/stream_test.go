package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/wire"
)

func TestOneSessionBothWays(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b := u.host(1), u.host(2)
		a.finds(b) // b cannot dial a: behind NAT
		a.echo()
		if _, err := b.Dial(t.Context(), a.id); !errors.Is(err, ErrUnreachable) {
			t.Errorf("nobody can reach a yet: %v", err)
		}
		ab, err := a.Dial(t.Context(), b.id)
		if err != nil {
			t.Fatal(err)
		}
		from, ba, err := b.Accept()
		if err != nil || from != a.id || ba.RemoteAddr().String() != a.id.String() || ab.RemoteAddr() != (Addr{b.id}) || ab.LocalAddr() != (Addr{a.id}) {
			t.Errorf("%v %v %v", from, ba.RemoteAddr(), err)
		}
		go func() { _, _ = io.Copy(ba, ba) }()
		say(t, ab, "over TCP")
		say(t, b.dial(t, a), "and back over the same")
		if s := b.Status(); len(s) != 1 || s[0].Initiator || s[0].Host != a.id || !s[0].Via.IsZero() || s[0].Streams != 2 {
			t.Errorf("%+v", s)
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		if len(u.conns) != 1 {
			t.Errorf("%d connections", len(u.conns))
		}
	})
}

// capture records what the dialler writes.
type capture struct {
	net.Conn
	mu  sync.Mutex
	out bytes.Buffer
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.out.Write(p)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// TestStrangersGetNothing: not one byte, and the connection ends at once, or, when the stranger is slow, in time.
func TestStrangersGetNothing(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b := u.host(1), u.host(2)
		a.finds(b)
		var tapped *capture
		u.tap = func(c net.Conn) net.Conn { tapped = &capture{Conn: c}; return tapped }
		a.dial(t, b)
		tapped.mu.Lock()
		whole := bytes.Clone(tapped.out.Bytes())
		tapped.mu.Unlock()
		u.tap = nil
		hello := whole[:3+handshake.HelloSize]
		damaged := bytes.Clone(hello)
		damaged[100] ^= 1
		for _, c := range []struct {
			name  string
			bytes []byte
			after time.Duration
		}{
			{"nothing", nil, HandshakeTime},
			{"the magic byte", hello[:1], HandshakeTime},
			{"half a hello", hello[:300], HandshakeTime},
			{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), 0},
			{"TLS", []byte{0x16, 3, 1, 2, 0, 1, 0}, 0},
			{"random", bytes.Repeat([]byte{wire.StreamMagic, 1, 9}, 200), 0},
			{"a length too large", []byte{wire.StreamMagic, 0xff, 0xff}, 0},
			{"a length of zero", []byte{wire.StreamMagic, 0, 0}, 0},
			{"a damaged hello", damaged, 0},
			{"a replayed hello", hello, 0},
			{"a replayed connection", whole, 0},
		} {
			conn, err := u.dial(t.Context(), netip.MustParseAddrPort("10.9.9.9:1"), b.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			go func() { _, _ = conn.Write(c.bytes) }()
			got, _ := io.ReadAll(conn)
			if len(got) != 0 {
				t.Errorf("%s: %d bytes of answer", c.name, len(got))
			}
			if d := time.Since(begin); d != c.after {
				t.Errorf("%s: closed after %v, want %v", c.name, d, c.after)
			}
			conn.Close()
		}
		if n := len(b.Status()); n != 1 {
			t.Errorf("%d sessions", n)
		}
		n := b.Counters()
		if n[DropSilent] != 3 || n[DropMagic] != 5 || n[DropHandshake] != 3 {
			t.Errorf("%v", n)
		}
	})
}

func TestBarredHost(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b, c := u.host(1), u.host(2), u.host(3)
		a.finds(b)
		b.finds(a)
		b.echo()
		conn := a.dial(t, b)
		say(t, conn, "welcome")
		u.mu.Lock()
		u.barred[a.id] = true
		u.mu.Unlock()
		b.Drop(a.id)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a barred host's stream: %v", err)
		}
		synctest.Wait()
		if _, err := b.Dial(t.Context(), a.id); !errors.Is(err, ErrUnknown) {
			t.Errorf("dialling a barred host: %v", err)
		}
		_, err := a.Dial(t.Context(), b.id)
		var no *handshake.Refusal
		if !errors.As(err, &no) || no.Code != handshake.CodeUnknown {
			t.Errorf("a barred host dials: %v", err)
		}
		if n := len(b.Status()); n != 0 {
			t.Errorf("%d sessions", n)
		}
		// Barred for c only: c's relay does not help.
		u.mu.Lock()
		a.relays = []ident.HostID{c.id}
		u.mu.Unlock()
		if _, err := a.Dial(t.Context(), b.id); err == nil {
			t.Error("a barred host got in by a relay")
		}
	})
}

func TestOtherClusterAndWrongHost(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b := u.host(1), u.host(2)
		u.cluster = ident.NewToken().Cluster
		x := u.host(3)
		a.finds(x)
		x.finds(a)
		if _, err := a.Dial(t.Context(), x.id); !errors.Is(err, errHandshake) || !strings.Contains(err.Error(), "another cluster") {
			t.Errorf("%v", err)
		}
		if _, err := x.Dial(t.Context(), a.id); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%v", err)
		}
		// Another host at the endpoint cannot pose as b.
		u.mu.Lock()
		a.endpoints[b.id] = []netip.AddrPort{a.addr, x.addr}
		u.mu.Unlock()
		if _, err := a.Dial(t.Context(), b.id); err == nil {
			t.Error("a host was taken for another one")
		}
		// Any of several endpoints may be the right one.
		u.mu.Lock()
		a.endpoints[b.id] = append(a.endpoints[b.id], netip.MustParseAddrPort("10.1.1.1:1"), b.addr, b.addr)
		u.mu.Unlock()
		a.dial(t, b)
		synctest.Wait()
		if n := len(b.Status()); n != 1 {
			t.Errorf("%d sessions: only the winner counts", n)
		}
	})
}

func TestRelay(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, r, c := u.host(1), u.host(2), u.host(3)
		for _, h := range []*host{a, c} {
			h.finds(r, a, c)
			h.relays = []ident.HostID{r.id}
		}
		u.cut = func(from, to netip.AddrPort) bool { return from != r.addr && to != r.addr }
		c.echo()
		if _, err := a.Dial(t.Context(), c.id); !errors.Is(err, ErrUnreachable) {
			t.Errorf("the relay knows no way to c yet: %v", err)
		}
		c.Keep([]ident.HostID{r.id}) // as a host behind NAT does
		synctest.Wait()
		conn := a.dial(t, c)
		say(t, conn, "by way of r")
		if conn.Via() != r.id || conn.RemoteAddr() != (Addr{c.id}) {
			t.Errorf("via %v, to %v", conn.Via(), conn.RemoteAddr())
		}
		big := strings.Repeat("0123456789abcdef", 1<<14)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.WriteString(conn, big)
			_ = conn.CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		<-done
		if err != nil || string(got) != big {
			t.Errorf("%d of %d bytes, %v", len(got), len(big), err)
		}
		if n := r.Counters()[CountSpliced]; n != 1 {
			t.Errorf("%d spliced", n)
		}
		// The other way on the same session, and more streams in it.
		a.echo()
		back := c.dial(t, a)
		say(t, back, "back")
		if back.Via() != r.id || r.Counters()[CountSpliced] != 1 {
			t.Errorf("via %v, %d spliced", back.Via(), r.Counters()[CountSpliced])
		}
		// The relay goes away.
		r.Close()
		if _, err := back.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after the relay's end: %v", err)
		}
		synctest.Wait()
		if n := len(a.Status()) + len(c.Status()); n != 0 {
			t.Errorf("%d sessions left", n)
		}
	})
}

// TestRelaysAreNotChained: a relay serves direct sessions only, so nothing goes in circles.
func TestRelaysAreNotChained(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, r, q, c := u.host(1), u.host(2), u.host(3), u.host(4)
		a.finds(r)
		r.finds(q)
		q.finds(c)
		a.relays, r.relays = []ident.HostID{r.id}, []ident.HostID{q.id}
		if _, err := a.Dial(t.Context(), c.id); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%v", err)
		}
		conn := r.dial(t, c) // r itself may use q
		if conn.Via() != q.id {
			t.Errorf("via %v", conn.Via())
		}
		if _, err := a.Dial(t.Context(), c.id); !errors.Is(err, ErrUnreachable) {
			t.Errorf("spliced into a relayed session: %v", err)
		}
	})
}

func TestRelayedSessionGivesWayToDirect(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, r, c := u.host(1), u.host(2), u.host(3)
		for _, h := range []*host{a, c, r} {
			h.finds(r, a, c)
		}
		a.relays = []ident.HostID{r.id}
		open := false
		u.cut = func(from, to netip.AddrPort) bool { return !open && from != r.addr && to != r.addr }
		c.echo()
		a.Keep([]ident.HostID{c.id})
		old := a.dial(t, c)
		say(t, old, "relayed")
		if old.Via() != r.id {
			t.Fatal("not relayed")
		}
		u.mu.Lock()
		open = true
		u.mu.Unlock()
		time.Sleep(upgradePeriod + 5*time.Second) // fake time
		synctest.Wait()
		conn := a.dial(t, c)
		if !conn.Via().IsZero() {
			t.Error("still relayed")
		}
		say(t, conn, "direct")
		say(t, old, "the old stream goes on")
		old.Close()
		time.Sleep(drainGrace + 3*janitorPeriod) // fake time
		synctest.Wait()
		for _, h := range []*host{a, c} {
			for _, s := range h.Status() {
				if s.Host != r.id && !s.Via.IsZero() {
					t.Errorf("the relayed session stays: %+v", s)
				}
			}
		}
	})
}

// TestSimultaneous: both dial at once. No stream is lost, and one session stays, the one begun by the lower id.
func TestSimultaneous(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b := u.host(1), u.host(2)
		a.finds(b)
		b.finds(a)
		a.echo()
		b.echo()
		u.cut = nil
		conns := make(chan *Conn, 2)
		for _, p := range [][2]*host{{a, b}, {b, a}} {
			go func() {
				c, err := p[0].Dial(context.Background(), p[1].id)
				if err != nil {
					t.Error(err)
					conns <- nil
					return
				}
				conns <- c.(*Conn)
			}()
		}
		x, y := <-conns, <-conns
		if x == nil || y == nil {
			return
		}
		for range 10 {
			say(t, x, "one")
			say(t, y, "two")
			time.Sleep(time.Second) // fake time
		}
		x.Close()
		y.Close()
		time.Sleep(drainGrace + 3*janitorPeriod) // fake time
		synctest.Wait()
		low := a
		if b.id.Less(a.id) {
			low = b
		}
		for _, h := range []*host{a, b} {
			s := h.Status()
			if len(s) != 1 {
				t.Fatalf("%d sessions: %+v", len(s), s)
			}
			if s[0].Initiator != (h == low) {
				t.Errorf("the session of the higher id was kept: %+v", s[0])
			}
		}
	})
}

func TestCloseSemantics(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b := u.host(1), u.host(2)
		a.finds(b)
		pair := func() (*Conn, *Conn) {
			x := a.dial(t, b)
			_, y, err := b.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return x, y.(*Conn)
		}
		x, y := pair()
		_, _ = io.WriteString(x, "last words")
		x.Close()
		if got, err := io.ReadAll(y); string(got) != "last words" || err != nil {
			t.Errorf("%q %v", got, err)
		}
		for _, err := range []error{x.Close(), x.SetDeadline(time.Now())} {
			if err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
		if _, err := x.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		if _, err := x.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		y.Close()

		x, _ = pair()
		errs := make(chan error)
		go func() { _, err := x.Read(make([]byte, 1)); errs <- err }()
		synctest.Wait()
		x.Close()
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a blocked read: %v", err)
		}

		x, _ = pair()
		_ = x.SetReadDeadline(time.Now().Add(time.Second))
		var ne net.Error
		if _, err := x.Read(make([]byte, 1)); !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("deadline: %v", err)
		}

		x, y = pair()
		go func() { _, err := x.Read(make([]byte, 1)); errs <- err }()
		u.sever()
		if err := <-errs; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a session cut: %v", err)
		}
		if _, err := io.ReadAll(y); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a session cut, other end: %v", err)
		}

		b.Close()
		if _, _, err := b.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		if _, err := b.Dial(t.Context(), a.id); err == nil {
			t.Error("a closed service dials")
		}
		a.Close()
		if _, err := a.Dial(t.Context(), b.id); !errors.Is(err, ErrClosed) {
			t.Errorf("dial: %v", err)
		}
	})
}

func TestIdleAndKeep(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b, c := u.host(1), u.host(2), u.host(3)
		a.finds(b, c)
		a.echo()
		c.echo()
		a.Keep([]ident.HostID{b.id, a.id})
		conn := a.dial(t, c)
		say(t, conn, "x")
		time.Sleep(10 * time.Minute) // fake time
		if n := len(a.Status()); n != 2 {
			t.Errorf("%d sessions: one is kept, one in use", n)
		}
		conn.Close()
		time.Sleep(IdleTime + 5*time.Second) // fake time
		synctest.Wait()
		if s := a.Status(); len(s) != 1 || s[0].Host != b.id {
			t.Errorf("%+v", s)
		}
		// A kept session that breaks comes back.
		u.sever()
		time.Sleep(2 * time.Second) // fake time
		synctest.Wait()
		say(t, b.dial(t, a), "again")
		// A host away for long is found again within the longest pause.
		cut := true
		u.mu.Lock()
		u.cut = func(_, _ netip.AddrPort) bool { return cut }
		u.mu.Unlock()
		u.sever()
		time.Sleep(5 * time.Minute) // fake time
		if n := len(b.Status()); n != 0 {
			t.Errorf("%d sessions through a cut", n)
		}
		u.mu.Lock()
		cut = false
		u.mu.Unlock()
		time.Sleep(backOffMax*3/2 + dialTime) // fake time
		synctest.Wait()
		if n := len(b.Status()); n != 1 {
			t.Errorf("%d sessions after the cut", n)
		}
		a.Keep(nil)
		time.Sleep(IdleTime + closeTime + 5*time.Second) // fake time
		synctest.Wait()
		if n := len(b.Status()); n != 0 {
			t.Errorf("%d sessions that nobody keeps", n)
		}
	})
}

// TestServices: streams of another operation go to its service; a host without it refuses, as an older one does.
func TestServices(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b := u.host(1), u.host(2)
		a.finds(b)
		if _, err := a.DialService(t.Context(), b.id, OpBench); !errors.Is(err, ErrRefused) {
			t.Errorf("a host without the service: %v", err)
		}
		if n := b.Counters()[DropOperation]; n != 1 {
			t.Errorf("%d refusals counted", n)
		}
		b.cfg.Services = map[byte]func(ident.HostID, net.Conn){OpBench: func(from ident.HostID, c net.Conn) {
			if from == a.id {
				_, _ = io.Copy(c, c)
			}
		}}
		c, err := a.DialService(t.Context(), b.id, OpBench)
		if err != nil {
			t.Fatal(err)
		}
		say(t, c, "to the service")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
