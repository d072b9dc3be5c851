package stream

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestStrangersAreBounded(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		b := u.host(2)
		open := func(source string) net.Conn {
			c, err := u.dial(t.Context(), netip.MustParseAddrPort(source), b.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		for range MaxPerSource {
			open("10.9.9.9:1")
		}
		synctest.Wait()
		begin := time.Now()
		if _, err := io.ReadAll(open("10.9.9.9:2")); err != nil || time.Since(begin) != 0 {
			t.Errorf("one too many of a source: %v after %v", err, time.Since(begin))
		}
		for i := range MaxStrangers - MaxPerSource {
			open(netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}), 1).String())
		}
		synctest.Wait()
		if _, err := io.ReadAll(open("12.0.0.1:2")); err != nil || time.Since(begin) != 0 {
			t.Errorf("one too many in all: %v after %v", err, time.Since(begin))
		}
		if n := b.Counters()[DropStrangers]; n != 2 {
			t.Errorf("%d", n)
		}
		time.Sleep(HandshakeTime) // fake time
		synctest.Wait()
		a := u.host(1)
		a.finds(b)
		a.dial(t, b)
		if n, sources := b.strangers.Len(); n != 0 || sources != 0 {
			t.Errorf("%d strangers left, of %d sources", n, sources)
		}
	})
}

func TestFullQueue(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, a2, a3, b := u.host(1), u.host(2), u.host(3), u.host(4)
		for i := range MaxAccepted {
			h := []*host{a, a2, a3}[i/100]
			h.finds(b)
			h.dial(t, b)
		}
		a3.finds(b)
		if _, err := a3.Dial(t.Context(), b.id); !errors.Is(err, ErrBusy) {
			t.Errorf("%v", err)
		}
		if _, _, err := b.Accept(); err != nil {
			t.Fatal(err)
		}
		a3.dial(t, b)
	})
}

func TestStreamsAreBounded(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b := u.host(1), u.host(2)
		a.finds(b)
		b.echo()
		var conns []*Conn
		for range MaxStreams {
			conns = append(conns, a.dial(t, b))
		}
		if _, err := a.Dial(t.Context(), b.id); !errors.Is(err, ErrBusy) {
			t.Errorf("one stream too many: %v", err)
		}
		conns[0].Close()
		synctest.Wait()
		say(t, a.dial(t, b), "a place is free again")
		for _, c := range conns { // yamux lets blocked reads spin while a session ends: not so many of them here
			c.Close()
		}
		synctest.Wait()
	})
}

// TestHungPeer: a host whose connection is dead without a sign is left within the keepalive's time.
func TestHungPeer(t *testing.T) {
	run(t, func(t *testing.T, u *underlay) {
		a, b := u.host(1), u.host(2)
		a.finds(b)
		var hole *blackhole
		u.tap = func(c net.Conn) net.Conn { hole = &blackhole{Conn: c}; return hole }
		b.echo()
		conn := a.dial(t, b)
		say(t, conn, "x")
		u.tap = nil
		hole.swallow()
		begin := time.Now()
		if _, err := a.Dial(t.Context(), b.id); err != nil { // the old session does not answer; a new one does
			t.Error(err)
		}
		if d := time.Since(begin); d > openTime {
			t.Errorf("dialling past a dead session took %v", d)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v", err)
		}
		if d := time.Since(begin); d > 2*keepAlive+time.Second {
			t.Errorf("noticed after %v", d)
		}
	})
}

// blackhole is a connection whose writes vanish when told so.
type blackhole struct {
	net.Conn
	mu   sync.Mutex
	dead bool
}

func (b *blackhole) swallow() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = true
}

func (b *blackhole) Write(p []byte) (int, error) {
	b.mu.Lock()
	dead := b.dead
	b.mu.Unlock()
	if dead {
		return len(p), nil
	}
	return b.Conn.Write(p)
}
