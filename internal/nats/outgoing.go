package nats

import (
	"errors"
	"os"
	"time"

	"github.com/weft-net/weft/internal/broker"
	"github.com/weft-net/weft/internal/natsproto"
	"github.com/weft-net/weft/internal/subject"
)

// The side of a connection that writes: messages gather in a bounded buffer, whoever brings them, and one goroutine sends it.

const (
	// writePiece is how much is written at a time: a client that takes none of it for writeTime is slow.
	writePiece = 64 << 10
	// keepBuffer is how large a buffer may be that is kept for the next time.
	keepBuffer = 64 << 10
)

// sub is a client's subscription; the connection's lock guards max and got.
type sub struct {
	*broker.Subscription
	sid string
	max int // ends after this many; 0: never
	got int
}

var _ broker.Sink = (*conn)(nil)

// Deliver implements broker.Sink.
func (c *conn) Deliver(bs *broker.Subscription, m *broker.Message) <-chan struct{} {
	sb, _ := bs.Data.(*sub)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || sb.max > 0 && sb.got >= sb.max {
		return nil
	}
	return c.message(sb, m.Subject, m.Reply, m.Header, m.Payload)
}

// message adds a message for a subscription; the lock is held.
func (c *conn) message(sb *sub, subj string, reply, header, payload []byte) <-chan struct{} {
	if sb.got++; sb.max > 0 && sb.got == sb.max {
		c.spent = append(c.spent, sb)
	}
	if !c.headers {
		header = nil
	}
	had := len(c.out)
	c.out = natsproto.AppendMessage(c.out, subj, sb.sid, reply, header, payload)
	c.waiting++
	return c.added(len(c.out) - had)
}

// say adds a line of the protocol.
func (c *conn) say(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.out = append(c.out, line...)
		c.added(len(line))
	}
}

// added counts what was put into the buffer, and has it written; the lock is held.
func (c *conn) added(n int) (pressed <-chan struct{}) {
	all := c.s.pending.Add(int64(n))
	mine := len(c.out) + c.writing
	switch most := c.s.cfg.MaxPending; {
	case mine > most, all > MaxPendingAll && mine > pendingFree:
		c.s.drops[dropUnread].Add(c.waiting)
		c.endLocked("Slow Consumer", dropSlow)
	case mine > most/4*3:
		pressed = c.wait
	}
	select {
	case c.signal <- struct{}{}:
	default:
	}
	return pressed
}

// end has the connection end once a reason is said, if there is one; kind is what it counts as, or -1.
func (c *conn) end(reason string, kind drop) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(reason, kind)
}

func (c *conn) endLocked(reason string, kind drop) {
	if c.ended {
		return
	}
	c.ended = true
	if kind >= 0 {
		c.s.drops[kind].Add(1)
	}
	if kind == dropSlow {
		c.s.log.Warn("a NATS client does not keep up, and is disconnected", "client", c.id, "name", c.name, "from", c.nc.RemoteAddr().String(), "bytes", len(c.out)+c.writing)
		c.s.pending.Add(-int64(len(c.out)))
		c.out = nil // what is being written ends with a whole message, and the reason follows
	}
	if reason != "" {
		had := len(c.out)
		c.out = natsproto.AppendError(c.out, reason)
		c.s.pending.Add(int64(len(c.out) - had))
	}
	_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // the reader wakes up, and ends
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

// write sends what gathers, until the connection ends and the rest has left.
func (c *conn) write() {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	var spare []byte
	for {
		c.mu.Lock()
		b, ended, spent := c.out, c.ended, c.spent
		c.out, c.writing, c.spent, c.waiting = spare[:0], len(b), nil, 0
		c.mu.Unlock()
		spare = nil
		for _, sb := range spent {
			c.forget(sb)
		}
		if len(b) > 0 {
			err := c.flush(b, ended)
			c.mu.Lock()
			c.writing = 0
			close(c.wait)
			c.wait = make(chan struct{})
			c.mu.Unlock()
			c.s.pending.Add(-int64(len(b)))
			if err != nil {
				kind := drop(-1)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					kind = dropSlow
				}
				c.end("", kind)
				c.discard()
				return
			}
			if cap(b) <= keepBuffer {
				spare = b
			}
			continue
		}
		spare = b
		if ended {
			return
		}
		select {
		case <-c.signal:
		case <-ping.C:
			c.pings++
			switch {
			case c.heard.Swap(false):
				c.pings = 0
			case c.pings > maxPings:
				c.end("Stale Connection", dropStale)
				continue
			}
			c.say(natsproto.PingLine)
		}
	}
}

// discard empties the buffer of a connection to which nothing can be written any more.
func (c *conn) discard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.pending.Add(-int64(len(c.out)))
	c.out = nil
}

// flush writes a buffer. When the connection ends meanwhile there is a time for all of it.
func (c *conn) flush(b []byte, ended bool) error {
	for len(b) > 0 {
		limit := writeTime
		if ended {
			limit = stopTime
		}
		_ = c.nc.SetWriteDeadline(time.Now().Add(limit))
		n, err := c.nc.Write(b[:min(len(b), writePiece)])
		b = b[n:]
		if err != nil {
			if n > 0 && errors.Is(err, os.ErrDeadlineExceeded) && !ended {
				continue // slow, and alive
			}
			return err
		}
	}
	return nil
}

// forget ends a subscription.
func (c *conn) forget(sb *sub) {
	c.s.cfg.Broker.Unsubscribe(sb.Subscription)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subs[sb.sid] == sb {
		delete(c.subs, sb.sid)
	}
}

// nobody tells a client that its request has no responder, on the subscription that waits for the reply.
func (c *conn) nobody(reply []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, sb := range c.subs {
		if !c.ended && subject.Overlap(sb.Pattern, string(reply)) && (sb.max == 0 || sb.got < sb.max) {
			c.message(sb, string(reply), nil, []byte(natsproto.NoResponders), nil)
			return
		}
	}
}
