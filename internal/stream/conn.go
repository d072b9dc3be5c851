package stream

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/weft-net/weft/internal/ident"
)

// Addr is the address of an end of a stream: a host.
type Addr struct{ Host ident.HostID }

// Network returns "weft".
func (Addr) Network() string { return "weft" }

// String returns the host's id.
func (a Addr) String() string { return a.Host.String() }

// Conn is a stream between two hosts, authenticated and sealed end to end.
//
// Read returns io.EOF after the other end closed the stream, and io.ErrUnexpectedEOF when the session
// ended and nothing says that the stream was complete.
type Conn struct {
	st      *yamux.Stream
	x       *session
	once    sync.Once
	onClose func() // set before the Conn is handed out
	closed  chan struct{}
}

var _ net.Conn = (*Conn)(nil)

func (x *session) conn(st *yamux.Stream) *Conn {
	return &Conn{st: st, x: x, closed: make(chan struct{})}
}

// Read reads from the stream.
func (c *Conn) Read(p []byte) (int, error) {
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := c.st.Read(p)
	switch {
	case err == nil:
	case c.isClosed():
		err = net.ErrClosed
	case errors.Is(err, io.EOF) && c.x.mux.IsClosed():
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Write writes to the stream; it blocks while the other end does not read.
func (c *Conn) Write(p []byte) (int, error) {
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := c.st.Write(p)
	if err != nil && c.isClosed() {
		err = net.ErrClosed
	}
	return n, err
}

// CloseWrite ends the stream in our direction; the other end reads io.EOF after what was written.
func (c *Conn) CloseWrite() error { return c.st.Close() }

// Close ends the stream. What was written before still arrives. Blocked calls return net.ErrClosed.
func (c *Conn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.closed)
		err = c.st.Close()
		_ = c.st.SetDeadline(time.Unix(1, 0)) // wakes blocked calls
		if c.onClose != nil {
			c.onClose()
		}
	})
	return err
}

func (c *Conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// LocalAddr returns this host's Addr.
func (c *Conn) LocalAddr() net.Addr { return Addr{c.x.s.id} }

// RemoteAddr returns the other host's Addr.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.x.peer} }

// Via returns the relay that splices the stream, or the zero HostID.
func (c *Conn) Via() ident.HostID { return c.x.via }

// SetDeadline bounds blocked and later calls of Read and Write.
func (c *Conn) SetDeadline(t time.Time) error { return c.deadline(t, c.st.SetDeadline) }

// SetReadDeadline bounds Read.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.deadline(t, c.st.SetReadDeadline) }

// SetWriteDeadline bounds Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.deadline(t, c.st.SetWriteDeadline) }

func (c *Conn) deadline(t time.Time, set func(time.Time) error) error {
	if c.isClosed() {
		return net.ErrClosed
	}
	return set(t)
}
