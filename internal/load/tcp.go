package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Sink takes TCP connections, reads each to its end and answers with the number of bytes, 8 of them, big endian.
type Sink struct {
	ln   net.Listener
	done sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

// maxConns bounds the connections of a Sink at a time.
const maxConns = 16

// Sinks starts a Sink on a port.
func Sinks(port int) (*Sink, error) {
	ln, err := net.Listen("tcp4", net.JoinHostPort("", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	s := &Sink{ln: ln, conns: map[net.Conn]struct{}{}}
	s.done.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			full := len(s.conns) >= maxConns
			if !full {
				s.conns[c] = struct{}{}
			}
			s.mu.Unlock()
			if full {
				_ = c.Close()
				continue
			}
			s.done.Go(func() { s.swallow(c) })
		}
	})
	return s, nil
}

func (s *Sink) swallow(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	var n uint64
	for b := make([]byte, 256<<10); ; {
		k, err := c.Read(b)
		n += uint64(k)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return
		}
	}
	_, _ = c.Write(binary.BigEndian.AppendUint64(nil, n)) // who is gone learns nothing
}

// Close ends the Sink and its connections.
func (s *Sink) Close() error {
	err := s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
	return err
}

// Transfer is bytes to send to a Sink by one TCP connection, for a time.
type Transfer struct {
	To       netip.AddrPort
	Duration time.Duration
	Mbit     int // at most so many Mbit/s; 0: as fast as it goes
}

// drainTime is how long the last bytes of a Transfer may take to arrive.
const drainTime = 10 * time.Second

// Transferred is what a Transfer came to: bytes that arrived, until the Sink said so.
type Transferred struct {
	Bytes   uint64  `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// Send sends.
func (t Transfer) Send(ctx context.Context) (Transferred, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp4", t.To.String())
	if err != nil {
		return Transferred{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	c := conn.(*net.TCPConn)
	if t.Mbit > 0 {
		if err := limitRate(c, uint64(t.Mbit)*1e6/8); err != nil {
			return Transferred{}, err
		}
	}
	began := time.Now()
	if err := c.SetDeadline(began.Add(t.Duration + drainTime)); err != nil {
		return Transferred{}, err
	}
	for b := make([]byte, 128<<10); time.Since(began) < t.Duration && ctx.Err() == nil; {
		if _, err := c.Write(b); err != nil {
			return Transferred{}, fmt.Errorf("send to %s: %w", t.To, errors.Join(ctx.Err(), err))
		}
	}
	var answer [8]byte
	if err := c.CloseWrite(); err != nil {
		return Transferred{}, fmt.Errorf("send to %s: %w", t.To, err)
	}
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return Transferred{}, fmt.Errorf("send to %s: the receiver did not say what came: %w", t.To, errors.Join(ctx.Err(), err))
	}
	return Transferred{Bytes: binary.BigEndian.Uint64(answer[:]), Seconds: time.Since(began).Seconds()}, nil
}
