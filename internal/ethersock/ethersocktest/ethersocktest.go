// Package ethersocktest is a segment of fake sockets: what one sends, all others receive.
package ethersocktest

import (
	"net"
	"slices"
	"sync"

	"github.com/weft-net/weft/internal/ethersock"
)

// Queue is how many frames wait for one socket; more are lost.
const Queue = 64

// Segment joins sockets. Its zero value has none.
type Segment struct {
	mu    sync.Mutex
	conns []*conn
}

type conn struct {
	s    *Segment
	in   chan []byte
	done chan struct{}
	once sync.Once
}

var _ ethersock.Conn = (*conn)(nil)

// Open returns a socket on the segment.
func (s *Segment) Open() ethersock.Conn {
	c := &conn{s: s, in: make(chan []byte, Queue), done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	return c
}

func (c *conn) Send(frame []byte) error {
	select {
	case <-c.done:
		return net.ErrClosed
	default:
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, o := range c.s.conns {
		if o != c {
			select {
			case o.in <- slices.Clone(frame):
			default:
			}
		}
	}
	return nil
}

func (c *conn) Receive(b []byte) (int, error) {
	select {
	case f := <-c.in:
		return copy(b, f), nil
	case <-c.done:
		return 0, net.ErrClosed
	}
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}
