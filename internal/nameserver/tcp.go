package nameserver

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/dns"
)

// Bounds of connections of one network.
const (
	maxConns       = 128
	maxConnsSource = 16
	// idleTime is how long a connection may say nothing (RFC 7766 section 6.2.3: a few seconds).
	idleTime = 10 * time.Second
	// slowTime is how long a query may take to come, and its answer to be taken.
	slowTime = 5 * time.Second
)

// connections are those of one network that is up.
type connections struct {
	mu     sync.Mutex // guards all below
	all    map[*net.TCPConn]netip.Addr
	by     map[netip.Addr]int
	closed bool
}

func newConnections() connections {
	return connections{all: map[*net.TCPConn]netip.Addr{}, by: map[netip.Addr]int{}}
}

// add takes a connection, or refuses it.
func (c *connections) add(conn *net.TCPConn, from netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.all) >= maxConns || c.by[from] >= maxConnsSource {
		return false
	}
	c.all[conn] = from
	c.by[from]++
	return true
}

func (c *connections) remove(conn *net.TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := c.all[conn]
	delete(c.all, conn)
	if c.by[from]--; c.by[from] <= 0 {
		delete(c.by, from)
	}
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.all {
		_ = conn.Close()
	}
}

// serveTCP takes connections until the listener is closed.
func (n *network) serveTCP(l *listening, t *net.TCPListener) {
	for {
		conn, err := t.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say: the next one may find some
			n.s.counts.drop(dropReceive)
			select {
			case <-n.s.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !l.knows(from) {
			n.s.counts.drop(dropForeign)
			_ = conn.Close()
			continue
		}
		if !l.conns.add(conn, from) {
			n.s.counts.drop(dropTCPFull)
			_ = conn.Close()
			continue
		}
		n.s.wg.Go(func() {
			n.converse(l, conn, from)
			l.conns.remove(conn)
			_ = conn.Close()
		})
	}
}

// converse answers queries of one connection, one after the other.
func (n *network) converse(l *listening, conn *net.TCPConn, from netip.Addr) {
	d := newDesk(0)
	for {
		packet, err := read(conn, d.in[:])
		if errors.Is(err, errLength) {
			n.s.counts.drop(dropMalformed)
			return
		}
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() && len(packet) > 0 {
				n.s.counts.drop(dropTCPSlow)
			}
			return
		}
		d.out = append(d.out[:0], 0, 0)
		answer, pass := n.answer(l, d, packet, true)
		if pass {
			answer = n.pass(d, from)
		}
		if answer == nil {
			return
		}
		binary.BigEndian.PutUint16(answer, uint16(len(answer)-2))
		_ = conn.SetWriteDeadline(time.Now().Add(slowTime))
		if _, err := conn.Write(answer); err != nil {
			n.s.counts.drop(dropTCPSlow)
			return
		}
		if cap(answer) <= 16<<10 { // a long one is not kept for the next
			d.out = answer
		}
	}
}

// pass asks the host's resolvers and waits.
func (n *network) pass(d *desk, from netip.Addr) []byte {
	done := make(chan []byte, 1)
	if reason := n.s.forward.ask(&d.q, true, from, func(q *dns.Query, b []byte) {
		done <- append([]byte{0, 0}, q.Readdress(b, dns.MaxTCP)...)
	}); reason != "" {
		n.s.counts.drop(reason)
		return d.q.AppendFail(d.out, dns.ServFail)
	}
	return <-done
}

var errLength = errors.New("a length that no query has")

// read reads one message: its length in two bytes, then itself. It waits idleTime for its first byte. On an error what came is returned, if anything.
func read(conn net.Conn, b []byte) ([]byte, error) {
	_ = conn.SetReadDeadline(time.Now().Add(idleTime))
	if n, err := conn.Read(b[:1]); err != nil {
		return b[:n], err
	}
	_ = conn.SetReadDeadline(time.Now().Add(slowTime))
	if _, err := io.ReadFull(conn, b[1:2]); err != nil {
		return b[:1], err
	}
	size := int(binary.BigEndian.Uint16(b))
	if size < dns.HeaderLen || size > len(b) {
		return b[:2], errLength
	}
	if _, err := io.ReadFull(conn, b[:size]); err != nil {
		return b[:2], err
	}
	return b[:size], nil
}

// readAnswer reads one message of a resolver, within the deadline that was set.
func readAnswer(conn net.Conn, b []byte) (int, error) {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, b[:n])
	return n, err
}
