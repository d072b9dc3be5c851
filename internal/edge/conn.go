package edge

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/sealedtcp"
)

var errFrame = errors.New("a frame of no length, or too long")

// buffered reads a connection by large pieces: a record has a header of its own.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func buffer(nc net.Conn) *buffered {
	return &buffered{nc, bufio.NewReaderSize(nc, 2*sealedtcp.MaxRecord)}
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// conn is an edge: one goroutine reads, another writes what is queued.
type conn struct {
	s      *Set
	peer   Peer
	sealed *sealedtcp.Conn
	born   time.Time
	took   atomic.Int64 // when bytes came last, in unix nanoseconds
	done   chan struct{}

	mu      sync.Mutex
	cond    *sync.Cond
	pending []byte // frames
	ending  bool   // after what is queued
	ended   bool
	once    sync.Once
}

func newConn(s *Set, sealed *sealedtcp.Conn, p Peer) *conn {
	c := &conn{s: s, peer: p, sealed: sealed, born: time.Now(), done: make(chan struct{})}
	c.cond = sync.NewCond(&c.mu)
	c.took.Store(c.born.UnixNano())
	return c
}

// better reports whether to send by a rather than b. Ends that dialled each other at once find the same.
func (c *conn) better(o *conn) bool {
	if d := c.born.Sub(o.born); d > newer || d < -newer {
		return d > 0
	}
	return c.leads() && !o.leads()
}

func (c *conn) leads() bool { return c.peer.Dialled == (c.s.cfg.Epoch < c.peer.Epoch) }

// queue takes datagrams that leave together, or drops them.
func (c *conn) queue(buf []byte, segment int) {
	n := (len(buf) + segment - 1) / segment
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended || c.ending:
		c.s.counters[DropNoEdge].Add(uint64(n))
		return
	case len(c.pending)+len(buf)+2*n > MaxQueue:
		c.s.counters[DropQueue].Add(uint64(n))
		return
	}
	c.s.counters[CountTxBytes].Add(uint64(len(buf)))
	for len(buf) > 0 {
		k := min(segment, len(buf))
		c.pending = append(binary.BigEndian.AppendUint16(c.pending, uint16(k)), buf[:k]...)
		buf = buf[k:]
	}
	c.cond.Signal()
}

// write sends what is queued until the edge ends.
func (c *conn) write() {
	defer c.close()
	defer close(c.done)
	var out []byte
	small := 0 // how often in a row little was queued
	for {
		c.mu.Lock()
		for len(c.pending) == 0 && !c.ended && !c.ending {
			c.cond.Wait()
		}
		if c.ended || len(c.pending) == 0 {
			c.mu.Unlock()
			return
		}
		out, c.pending = c.pending, out[:0]
		c.mu.Unlock()
		for rest := out; len(rest) > 0; {
			k := min(len(rest), 4*sealedtcp.MaxRecord)
			if c.sealed.SetWriteDeadline(time.Now().Add(writeTime)) != nil {
				return
			}
			if _, err := c.sealed.Write(rest[:k]); err != nil {
				return
			}
			rest = rest[k:]
		}
		if small++; len(out) >= cap(out)/8 {
			small = 0
		} else if small > spareRounds && cap(out) > keepSpare {
			out = nil
		}
	}
}

// read hands over what comes until the edge ends.
func (c *conn) read(to Handler) error {
	buf := make([]byte, 0, 2*sealedtcp.MaxRecord)
	var frames [][]byte
	for {
		n, err := c.sealed.Read(buf[len(buf):cap(buf)])
		if err != nil {
			return err
		}
		buf = buf[:len(buf)+n]
		c.took.Store(time.Now().UnixNano())
		rest, bad := split(buf, &frames)
		if len(frames) > 0 {
			total := 0
			for _, f := range frames {
				total += len(f)
			}
			c.s.counters[CountRxBytes].Add(uint64(total))
			to.Input(c.peer.Epoch, frames)
		}
		if bad {
			return errFrame
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
	}
}

// split finds the whole frames at the beginning of b and returns what is left, the beginning of another one.
func split(b []byte, frames *[][]byte) (rest []byte, bad bool) {
	*frames = (*frames)[:0]
	for len(b) >= 2 {
		n := int(binary.BigEndian.Uint16(b))
		if n == 0 || n > MaxFrame {
			return nil, true
		}
		if len(b) < 2+n {
			break
		}
		*frames = append(*frames, b[2:2+n])
		b = b[2+n:]
	}
	return b, false
}

// finish ends the edge after what is queued.
func (c *conn) finish() {
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
	c.cond.Broadcast()
}

// finished waits until what was queued has left, a moment at most.
func (c *conn) finished() {
	t := time.NewTimer(time.Second / 4)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
	}
}

// close ends the edge at once.
func (c *conn) close() {
	c.once.Do(func() {
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
		c.cond.Broadcast()
		c.sealed.Close()
	})
}
