package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // yamux takes no other logger
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/sealedtcp"
)

// A stream begins with its opener's
//
//	0           1                 17
//	+-----------+-----------------+
//	| operation | HostID          |
//	+-----------+-----------------+
//
// and is answered by one byte, a status. The HostID is zero but in relaying.
const (
	opStream  = 1 // to the program at the other end
	opRelay   = 2 // be spliced to HostID, by a host with a direct session
	opRelayed = 3 // from HostID, by way of the opener; a handshake follows
	opHold    = 4 // keeps the session open; carries nothing

	// OpBench is to a measurement's endpoint. Hosts that do not know an operation answer statusRefused.
	OpBench = 5

	opSize = 17

	statusOK          = 1
	statusBusy        = 2
	statusUnreachable = 3
	statusRefused     = 4
)

var (
	// ErrRefused says that the other host does not take streams of that operation: it is older, or has no such service.
	ErrRefused  = errors.New("refused")
	errDraining = errors.New("session is given up for another one")
)

// session is an authenticated connection with another host.
type session struct {
	s         *Service
	peer      ident.HostID
	via       ident.HostID // relay, or zero
	endpoint  string
	initiator bool
	since     time.Time
	under     *sealedtcp.Conn
	mux       *yamux.Session

	draining atomic.Bool  // no new streams
	incoming atomic.Int32 // streams of the other host that run
	idle     atomic.Int64 // unix nanoseconds since when it has no streams, 0 while it has some; the janitor's
}

func (x *session) direct() bool { return x.via.IsZero() }

// close ends the session and its streams. The connection goes first: between its own shutdown and the end of the
// connection yamux lets every blocked Read spin.
func (x *session) close() {
	x.under.Close()
	_ = x.mux.Close()
}

// lead reports whether the host of the lower id began the session.
func (x *session) lead() bool { return x.initiator == x.s.id.Less(x.peer) }

// better reports whether a is to be used rather than b. Both ends find the same, but for the age of
// sessions that the same side began; only the host of the lower id gives sessions up.
func better(a, b *session) bool {
	if a.direct() != b.direct() {
		return a.direct()
	}
	if a.lead() != b.lead() {
		return a.lead()
	}
	return a.since.After(b.since)
}

// adopt makes a session of a sealed connection and begins to serve it. On error the connection is closed.
func (s *Service) adopt(r *sealedtcp.Conn, peer, via ident.HostID, initiator bool) (*session, error) {
	cfg := yamux.DefaultConfig()
	cfg.AcceptBacklog = MaxStreams
	cfg.KeepAliveInterval = keepAlive
	cfg.ConnectionWriteTimeout = keepAlive
	cfg.StreamOpenTimeout = 2 * keepAlive
	cfg.StreamCloseTimeout = closeTime
	cfg.MaxStreamWindowSize = Window
	cfg.LogOutput, cfg.Logger = nil, log.New(io.Discard, "", 0) // what fails is told to who asked for it
	mk := yamux.Server
	if initiator {
		mk = yamux.Client
	}
	x := &session{s: s, peer: peer, via: via, initiator: initiator, since: time.Now(), under: r}
	if via.IsZero() {
		x.endpoint = r.RemoteAddr().String()
	}
	mux, err := mk(r, cfg)
	if err != nil {
		r.Close()
		return nil, err
	}
	x.mux = mux

	s.mu.Lock()
	if s.closed || s.count >= MaxSessions {
		err := ErrClosed
		if !s.closed {
			err = ErrBusy
			s.counters[DropSessions]++
		}
		s.mu.Unlock()
		x.close()
		return nil, err
	}
	var crowded *session // a peer that vanished and came back leaves dead sessions behind
	if l := s.sessions[peer]; len(l) >= MaxPerHost {
		crowded = slices.MinFunc(l, func(a, b *session) int { return a.since.Compare(b.since) })
		s.counters[DropSessions]++
	}
	s.sessions[peer] = append(s.sessions[peer], x)
	s.count++
	s.counters[CountSessions]++
	s.wg.Go(x.serve)
	s.mu.Unlock()
	if crowded != nil {
		crowded.close()
	}
	if _, ok := s.cfg.Known(peer); !ok { // barred during the handshake, and Drop was too early to see the session
		x.close()
		return nil, ErrUnknown
	}
	s.log.Debug("session", "host", peer, "via", via, "endpoint", x.endpoint, "initiator", initiator)
	s.settle(peer)
	return x, nil
}

// best returns the session to use with a host, nil when there is none.
func (s *Service) best(id ident.HostID, directOnly bool) (b *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions[id] {
		if x.draining.Load() || x.mux.IsClosed() || directOnly && !x.direct() {
			continue
		}
		if b == nil || better(x, b) {
			b = x
		}
	}
	return b
}

// settle gives up all sessions with a host but the best, when that is ours to do. Streams in use go on.
func (s *Service) settle(id ident.HostID) {
	if !s.id.Less(id) {
		return
	}
	b := s.best(id, false)
	s.mu.Lock()
	rest := slices.Clone(s.sessions[id])
	s.mu.Unlock()
	for _, x := range rest {
		if x != b && !x.draining.Swap(true) {
			_ = x.mux.GoAway() // the other end opens nothing more on it; fails only with the session
		}
	}
}

// serve takes the streams that the other host opens, until the session ends.
func (x *session) serve() {
	s := x.s
	defer func() {
		x.close()
		s.mu.Lock()
		s.sessions[x.peer] = slices.DeleteFunc(s.sessions[x.peer], func(o *session) bool { return o == x })
		if len(s.sessions[x.peer]) == 0 {
			delete(s.sessions, x.peer)
		}
		s.count--
		s.mu.Unlock()
	}()
	for {
		st, err := x.mux.AcceptStream()
		if err != nil {
			return
		}
		c := x.conn(st)
		if x.incoming.Add(1) > MaxStreams {
			x.incoming.Add(-1)
			s.inc(DropStreams)
			_ = answer(c, statusBusy)
			c.Close()
			continue
		}
		if !s.spawn(func() { x.take(c) }) {
			c.Close()
			return
		}
	}
}

// take reads a stream's operation and carries it out. The place in incoming is given back when the stream is closed.
func (x *session) take(c *Conn) {
	c.onClose = func() { x.incoming.Add(-1) }
	var op [opSize]byte
	_ = c.SetDeadline(time.Now().Add(openTime))
	if _, err := io.ReadFull(c, op[:]); err != nil {
		c.Close()
		return
	}
	id := ident.HostID(op[1:])
	switch op[0] {
	case opStream:
		x.takeStream(c)
	case opHold:
		_ = c.SetDeadline(time.Time{})
		if answer(c, statusOK) == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(c, 1)) // until the holder closes it, or the session ends
		}
		c.Close()
	case opRelay:
		x.s.relay(x, c, id)
	case opRelayed:
		if !x.direct() || answer(c, statusOK) != nil {
			x.s.inc(DropOperation)
			c.Close()
			return
		}
		x.s.receive(c, "relay "+x.peer.String(), x.peer, &id)
	default:
		x.serveWith(c, x.s.cfg.Services[op[0]])
	}
}

// serveWith has a service take a stream; nil: there is none.
func (x *session) serveWith(c *Conn, service func(ident.HostID, net.Conn)) {
	defer c.Close()
	if service == nil {
		x.s.inc(DropOperation)
		_ = answer(c, statusRefused)
		return
	}
	if answer(c, statusOK) != nil {
		return
	}
	_ = c.SetDeadline(time.Time{})
	x.s.inc(CountAccepted)
	service(x.peer, c)
}

func (x *session) takeStream(c *Conn) {
	s := x.s
	select {
	case s.queue <- struct{}{}:
	default:
		s.inc(DropQueue)
		_ = answer(c, statusBusy)
		c.Close()
		return
	}
	if err := answer(c, statusOK); err != nil {
		<-s.queue
		c.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	s.inc(CountAccepted)
	s.accepted <- accepted{x.peer, c} // has room: the place in queue is ours
}

func answer(c net.Conn, status byte) error {
	_, err := c.Write([]byte{status})
	return err
}

// open opens a stream for an operation and waits until the other host has agreed.
func (x *session) open(ctx context.Context, op byte, id ident.HostID) (*Conn, error) {
	asker := ctx
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	st, err := x.mux.OpenStream()
	if err != nil {
		if errors.Is(err, yamux.ErrRemoteGoAway) {
			x.draining.Store(true)
			err = errDraining
		}
		return nil, err
	}
	c := x.conn(st)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	status, err := c.ask(op, id)
	if !stop() && err == nil { // the deadline is set, or about to be
		err = ctx.Err()
	}
	if err == nil {
		switch status {
		case statusOK:
			return c, nil
		case statusBusy:
			err = ErrBusy
		case statusUnreachable:
			err = ErrUnreachable
		default:
			err = fmt.Errorf("%w (status %d)", ErrRefused, status)
		}
	} else if ctx.Err() != nil {
		err = ctx.Err()
		if asker.Err() == nil { // the peer is gone or stuck; keepalive will tell. Until then others are not sent there.
			x.draining.Store(true)
		}
	}
	c.Close()
	return nil, err
}

func (c *Conn) ask(op byte, id ident.HostID) (byte, error) {
	var b [opSize]byte
	b[0] = op
	copy(b[1:], id[:])
	if _, err := c.Write(b[:]); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(c, b[:1])
	return b[0], err
}

// janitor closes sessions that nobody uses.
func (s *Service) janitor() {
	for s.pause(janitorPeriod) {
		now := time.Now()
		s.hsMu.Lock()
		s.hs.Tick(now)
		s.hsMu.Unlock()
		s.mu.Lock()
		var gone []*session
		for _, l := range s.sessions {
			for _, x := range l {
				if x.idleFor(now) > IdleTime || x.draining.Load() && x.idleFor(now) > drainGrace {
					gone = append(gone, x)
				}
			}
		}
		s.mu.Unlock()
		for _, x := range gone {
			x.close()
		}
	}
}

// idleFor returns how long the session has been seen without streams. Only the janitor calls it.
func (x *session) idleFor(now time.Time) time.Duration {
	if x.mux.NumStreams() > 0 {
		x.idle.Store(0)
		return 0
	}
	if x.idle.CompareAndSwap(0, now.UnixNano()) {
		return 0
	}
	return time.Duration(now.UnixNano() - x.idle.Load())
}
