// Package nats serves clients of NATS: any NATS client library is a client of weft by it.
//
// It is the protocol between clients and a server, no more: publish, subscribe, queue groups, headers, request and reply with
// no-responders. Accounts, JetStream and clusters of servers are not there; who asks for them is answered as nats-server
// answers where they are not configured. A connection has two goroutines: one reads and publishes, one writes what gathered.
package nats

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/broker"
	"github.com/weft-net/weft/internal/natsproto"
)

// Limits and times where Config says nothing else.
const (
	// MaxConnections at a time.
	MaxConnections = 4096
	// MaxPending is how many bytes wait for a client at most; one with more is a slow consumer.
	MaxPending = 8 << 20
	// MaxPendingAll is the bound for all clients together. When it is reached, whoever has more than pendingFree waiting is slow.
	MaxPendingAll = 256 << 20
	pendingFree   = 256 << 10

	authTime     = 2 * time.Second // for TLS, and then for CONNECT where a token is asked for
	writeTime    = 10 * time.Second
	pingInterval = 2 * time.Minute
	maxPings     = 2               // that were not answered
	stopTime     = time.Second     // for what waits to be written when the server stops
	sayTime      = 2 * time.Second // for a reason to be heard
)

// protocolVersion is the nats-server whose client protocol this is: clients compare it before they use a feature.
const protocolVersion = "2.10.0"

// Config says how to serve. Broker is needed.
type Config struct {
	Broker  *broker.Broker
	Name    string // of this host
	Version string // of weft
	// Token, if not empty, is what clients must show.
	Token string
	// TLS, if not nil, is what clients must speak after the first line.
	TLS *tls.Config
	// MaxPending in place of the constant; 0: that.
	MaxPending int
	// Log gets connections at level Debug, and slow consumers at Warn; nil: nothing.
	Log *slog.Logger
}

// Server has the connections.
type Server struct {
	cfg  Config
	id   string
	log  *slog.Logger
	next atomic.Uint64

	pending atomic.Int64 // bytes that wait, all connections together
	total   atomic.Uint64
	drops   [dropKinds]atomic.Uint64

	mu    sync.Mutex // guards all below
	conns map[*conn]struct{}
	done  sync.WaitGroup
	over  bool
}

// drop is why a connection was ended or a message not delivered.
type drop int

const (
	dropSlow     drop = iota // clients that did not keep up
	dropUnread               // messages that waited for those
	dropProtocol             // connections whose client broke the protocol
	dropPayload              // that sent a message that is too large
	dropAuth                 // that had no token, or a wrong one
	dropTLS                  // that spoke no TLS
	dropStale                // that answered no ping
	dropFull                 // beyond MaxConnections
	dropSubject              // messages and subscriptions with a bad subject
	dropSubs                 // subscriptions beyond the bound
	dropUnsent               // messages that the bus did not take
	dropKinds
)

var dropNames = [dropKinds]string{"slow_consumer", "unread_message", "protocol", "payload_too_large", "authorization", "tls", "stale", "too_many_connections", "bad_subject", "too_many_subscriptions", "bus_unavailable"}

// New makes a server.
func New(cfg Config) *Server {
	if cfg.MaxPending == 0 {
		cfg.MaxPending = MaxPending
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (Go 1.24)
	return &Server{cfg: cfg, id: "WEFT" + hex.EncodeToString(id[:]), log: cfg.Log, conns: map[*conn]struct{}{}}
}

// Status is what the server has to do.
type Status struct {
	Connections int
	Total       uint64 // connections since the start
	Pending     int64  // bytes that wait to be read by clients
}

// Status returns the figures of the moment.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{Connections: len(s.conns), Total: s.total.Load(), Pending: s.pending.Load()}
}

// Drops counts what was refused or dropped, by reason.
func (s *Server) Drops() map[string]uint64 {
	out := map[string]uint64{}
	for i, name := range dropNames {
		out[name] = s.drops[i].Load()
	}
	return out
}

// Serve takes connections from l until ctx ends, and closes it. What waits for clients then has a second to leave.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	undo := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer undo()
	var failed error
	pause := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				break
			}
			// Out of descriptors, say: it passes.
			s.log.Warn("a NATS client was not accepted", "err", err)
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		s.take(ctx, nc)
	}
	if ctx.Err() == nil {
		failed = fmt.Errorf("serve NATS clients on %s: the listener was closed", l.Addr())
	}
	_ = l.Close()
	s.mu.Lock()
	s.over = true
	for c := range s.conns {
		c.end("", -1)
	}
	s.mu.Unlock()
	s.done.Wait()
	return failed
}

// take begins to serve a connection.
func (s *Server) take(ctx context.Context, nc net.Conn) {
	s.total.Add(1)
	c := &conn{s: s, nc: nc, id: s.next.Add(1), router: s.cfg.Broker.Router(), subs: map[string]*sub{}, signal: make(chan struct{}, 1), wait: make(chan struct{})}
	s.mu.Lock()
	full := len(s.conns) >= MaxConnections || s.over
	if !full {
		s.conns[c] = struct{}{}
		s.done.Add(1)
	}
	s.mu.Unlock()
	if full {
		s.drops[dropFull].Add(1)
		_ = nc.SetDeadline(time.Now().Add(sayTime))
		_, _ = nc.Write(natsproto.AppendError(nil, "maximum connections exceeded")) // a few bytes: the socket's buffer takes them
		_ = nc.Close()
		return
	}
	go func() {
		defer s.done.Done()
		c.serve(ctx)
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
}

// info is what the server says first.
func (s *Server) info(c *conn) natsproto.Info {
	i := natsproto.Info{
		ID: s.id, Name: s.cfg.Name, Version: protocolVersion, Proto: 1, Go: runtime.Version(), Headers: true, MaxPayload: natsproto.MaxPayload,
		AuthRequired: s.cfg.Token != "", TLSRequired: s.cfg.TLS != nil, ClientID: c.id, Weft: s.cfg.Version,
	}
	if host, port, err := net.SplitHostPort(c.nc.LocalAddr().String()); err == nil {
		i.Host = host
		i.Port, _ = strconv.Atoi(port)
	}
	if host, _, err := net.SplitHostPort(c.nc.RemoteAddr().String()); err == nil {
		i.ClientIP = host
	}
	return i
}

// authorized compares a client's token in constant time.
func (s *Server) authorized(o natsproto.Options) bool {
	return s.cfg.Token == "" || subtle.ConstantTimeCompare([]byte(o.Token), []byte(s.cfg.Token)) == 1
}
