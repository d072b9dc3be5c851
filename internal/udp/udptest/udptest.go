// Package udptest is an underlay in memory: sockets with the contract of package udp, and a hook to lose datagrams.
package udptest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"github.com/weft-net/weft/internal/udp"
)

// QueueLimit is how many datagrams wait at a socket before more are dropped, as in a kernel.
const QueueLimit = 1024

// Network joins sockets. Its zero value is ready; Deliver may be set before the first Listen.
type Network struct {
	// Deliver, if set, decides whether a datagram arrives. It is called by the writer without locks held.
	Deliver func(from, to netip.AddrPort, payload []byte) bool

	mu     sync.Mutex
	conns  map[netip.AddrPort]*conn
	groups map[netip.AddrPort]map[*conn]bool // group and port → who joined
}

// Listen returns a socket at an address, which must be free.
func (n *Network) Listen(at netip.AddrPort) (udp.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil {
		n.conns = map[netip.AddrPort]*conn{}
		n.groups = map[netip.AddrPort]map[*conn]bool{}
	}
	if n.conns[at] != nil {
		return nil, fmt.Errorf("udptest %v: address in use", at)
	}
	c := &conn{net: n, at: at, queue: make(chan datagram, QueueLimit), done: make(chan struct{})}
	n.conns[at] = c
	return c, nil
}

// receivers returns the sockets a datagram of c to an address reaches.
func (n *Network) receivers(from *conn, to netip.AddrPort) []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	if to.Addr().IsMulticast() {
		var rs []*conn
		for c := range n.groups[to] {
			if c != from {
				rs = append(rs, c)
			}
		}
		return rs
	}
	if c := n.conns[to]; c != nil {
		return []*conn{c}
	}
	return nil
}

type datagram struct {
	from    netip.AddrPort
	payload []byte
}

type conn struct {
	net   *Network
	at    netip.AddrPort
	queue chan datagram
	done  chan struct{}
	once  sync.Once
	halt  halt

	rx, rxBytes, rxDrops, truncated, tx, txBytes atomic.Uint64
}

var _ udp.Conn = (*conn)(nil)

func (c *conn) ReadBatch(ms []udp.Message) (int, error) {
	if len(ms) == 0 {
		return 0, udp.ErrEmptyBatch
	}
	select { // a closed socket reads nothing more, whatever is queued
	case <-c.done:
		return 0, net.ErrClosed
	default:
	}
	halted := c.halt.now()
	select {
	case <-halted:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	select {
	case <-c.done:
		return 0, net.ErrClosed
	case <-halted:
		return 0, os.ErrDeadlineExceeded
	case d := <-c.queue:
		c.fill(&ms[0], d)
	}
	for i := 1; i < len(ms); i++ {
		select {
		case d := <-c.queue:
			c.fill(&ms[i], d)
		default:
			return i, nil
		}
	}
	return len(ms), nil
}

func (c *conn) fill(m *udp.Message, d datagram) {
	m.N = copy(m.Buf, d.payload)
	m.Addr, m.Segment, m.Truncated = d.from, 0, m.N < len(d.payload)
	if m.Truncated {
		c.truncated.Add(1)
	}
	c.rx.Add(1)
	c.rxBytes.Add(uint64(m.N))
}

func (c *conn) WriteBatch(ms []udp.Message) (int, error) {
	for i := range ms {
		select {
		case <-c.done:
			return i, net.ErrClosed
		default:
		}
		m := &ms[i]
		size := len(m.Buf)
		if m.Segment > 0 {
			size = m.Segment
		}
		for rest := m.Buf; ; {
			k := min(size, len(rest))
			c.send(m.Addr, rest[:k])
			if rest = rest[k:]; len(rest) == 0 {
				break
			}
		}
		m.N = len(m.Buf)
		c.tx.Add(1)
		c.txBytes.Add(uint64(m.N))
	}
	return len(ms), nil
}

func (c *conn) send(to netip.AddrPort, payload []byte) {
	if c.net.Deliver != nil && !c.net.Deliver(c.at, to, payload) {
		return
	}
	for _, r := range c.net.receivers(c, to) {
		select {
		case r.queue <- datagram{c.at, append([]byte(nil), payload...)}:
		default:
			r.rxDrops.Add(1)
		}
	}
}

func (c *conn) NewWriter(int) udp.Writer { return c }

func (c *conn) Join(group netip.Addr, _ int) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	k := netip.AddrPortFrom(group, c.at.Port())
	if c.net.groups[k] == nil {
		c.net.groups[k] = map[*conn]bool{}
	}
	c.net.groups[k][c] = true
	return nil
}

func (c *conn) Leave(group netip.Addr, _ int) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	delete(c.net.groups[netip.AddrPortFrom(group, c.at.Port())], c)
	return nil
}

func (c *conn) Multicast(int, int) error { return nil }

func (c *conn) MulticastOf(netip.Addr, int, int) error { return nil }

func (c *conn) Halt() { c.halt.set(true) }

func (c *conn) Resume() { c.halt.set(false) }

// halt is a channel that is closed while reading is halted.
type halt struct {
	mu sync.Mutex
	ch chan struct{}
	on bool
}

func (h *halt) now() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ch == nil {
		h.ch = make(chan struct{})
	}
	return h.ch
}

func (h *halt) set(on bool) {
	ch := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if on && !h.on {
		close(ch)
	} else if !on && h.on {
		h.ch = make(chan struct{})
	}
	h.on = on
}

func (c *conn) LocalAddr() netip.AddrPort { return c.at }

func (c *conn) Stats() udp.Stats {
	return udp.Stats{
		RxMessages: c.rx.Load(), RxBytes: c.rxBytes.Load(), RxTruncated: c.truncated.Load(), RxDrops: c.rxDrops.Load(),
		TxMessages: c.tx.Load(), TxBytes: c.txBytes.Load(), TxErrors: map[string]uint64{}, CanSegment: true,
	}
}

func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		delete(c.net.conns, c.at)
		for _, g := range c.net.groups {
			delete(g, c)
		}
	})
	return nil
}
