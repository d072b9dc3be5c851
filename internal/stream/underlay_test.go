package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/ident"
)

// underlay joins the hosts of a test by net.Pipe. It runs in a synctest bubble: time is fake, and a goroutine
// that outlives its service fails the test.
type underlay struct {
	t  *testing.T
	mu sync.Mutex

	cluster   ident.ClusterID
	cards     map[ident.HostID]ident.Card
	barred    map[ident.HostID]bool
	listeners map[netip.AddrPort]*listener
	cut       func(from, to netip.AddrPort) bool // called under mu
	conns     []net.Conn
	tap       func(c net.Conn) net.Conn // wraps the dialler's end
}

// host is a host in a test.
type host struct {
	*Service
	u         *underlay
	keys      ident.Keys
	addr      netip.AddrPort
	endpoints map[ident.HostID][]netip.AddrPort // under u.mu
	relays    []ident.HostID
	served    chan error
}

// forgetTimers empties the sync.Pool in which yamux keeps its timers: a timer must not cross bubbles, and a pool
// is empty after two collections.
func forgetTimers() {
	runtime.GC()
	runtime.GC()
}

// run calls f in a bubble of its own.
func run(t *testing.T, f func(t *testing.T, u *underlay)) {
	t.Helper()
	forgetTimers()
	bubbletest.Run(t, func(t *testing.T) {
		f(t, &underlay{
			t: t, cluster: ident.NewToken().Cluster, cards: map[ident.HostID]ident.Card{},
			barred: map[ident.HostID]bool{}, listeners: map[netip.AddrPort]*listener{},
		})
		synctest.Wait()
	})
}

func (u *underlay) host(n int) *host {
	u.t.Helper()
	keys, err := ident.NewKeys()
	if err != nil {
		u.t.Fatal(err)
	}
	h := &host{
		u: u, keys: keys, served: make(chan error, 1), endpoints: map[ident.HostID][]netip.AddrPort{},
		addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 6783),
	}
	h.Service = New(Config{
		Keys: keys, Cluster: u.cluster, Name: fmt.Sprint("h", n), Log: slog.New(slog.DiscardHandler),
		Known: func(id ident.HostID) (ident.Card, bool) {
			u.mu.Lock()
			defer u.mu.Unlock()
			c, ok := u.cards[id]
			return c, ok && !u.barred[id]
		},
		Endpoints: func(id ident.HostID) []netip.AddrPort {
			u.mu.Lock()
			defer u.mu.Unlock()
			return slices.Clone(h.endpoints[id])
		},
		Relays: func(ident.HostID) []ident.HostID {
			u.mu.Lock()
			defer u.mu.Unlock()
			return slices.Clone(h.relays)
		},
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) { return u.dial(ctx, h.addr, addr) },
	})
	ln := &listener{u: u, addr: h.addr, conns: make(chan net.Conn), done: make(chan struct{})}
	u.mu.Lock()
	u.cards[h.id] = keys.Card()
	u.listeners[h.addr] = ln
	u.mu.Unlock()
	go func() { h.served <- h.Serve(ln) }()
	u.t.Cleanup(func() { // inside the bubble
		h.Close()
		h.Close()
		if err := <-h.served; err != nil {
			u.t.Errorf("serve: %v", err)
		}
	})
	return h
}

// finds tells h the endpoints of others.
func (h *host) finds(others ...*host) {
	h.u.mu.Lock()
	defer h.u.mu.Unlock()
	for _, o := range others {
		h.endpoints[o.id] = []netip.AddrPort{o.addr}
	}
}

func (u *underlay) dial(ctx context.Context, from netip.AddrPort, to string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	ln, tap := u.listeners[ap], u.tap
	cut := u.cut != nil && u.cut(from, ap)
	u.mu.Unlock()
	if ln == nil {
		return nil, errors.New("connection refused")
	}
	if cut {
		<-ctx.Done() // as where packets vanish
		return nil, ctx.Err()
	}
	a, b := net.Pipe()
	near := net.Conn(&addressed{a, from, ap})
	if tap != nil {
		near = tap(near)
	}
	select {
	case ln.conns <- &addressed{b, ap, from}:
	case <-ln.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	u.mu.Lock()
	u.conns = append(u.conns, near)
	u.mu.Unlock()
	return near, nil
}

// sever closes all connections of the underlay.
func (u *underlay) sever() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.conns {
		c.Close()
	}
	u.conns = nil
}

type addressed struct {
	net.Conn
	local, remote netip.AddrPort
}

func (c *addressed) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *addressed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

type listener struct {
	u     *underlay
	addr  netip.AddrPort
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

// echo answers everything that is said to h.
func (h *host) echo() {
	go func() {
		for {
			_, c, err := h.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// say writes a line to c and wants it back.
func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write: %v", err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("read: %q, %v", b, err)
	}
}

func (h *host) dial(t *testing.T, to *host) *Conn {
	t.Helper()
	c, err := h.Dial(t.Context(), to.id)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn)
}
