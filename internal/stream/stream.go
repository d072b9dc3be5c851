// Package stream gives reliable byte streams between hosts: Noise over TCP, many streams in one connection, either way.
//
// A session is an authenticated connection of two hosts. It goes over TCP or, where neither can dial the other, inside
// a stream that a relay splices; the relay sees only what is sealed between the ends. Streams are opened from
// both ends of a session, so a host behind NAT that dialled us can be reached by us.
//
// On a TCP connection, and on a spliced stream:
//
//	initiator                                                responder
//	[wire.StreamMagic][length 2][hello of package handshake]  →
//	                                                          ←   [length 2][reply]
//	records (package sealedtcp)                               ↔   records
//
// The first record of the initiator is empty and proves that the hello was no replay. A stranger gets no byte. Inside
// the records is yamux; each of its streams begins with an operation, drawn in session.go, that is answered by one byte.
package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/sealedtcp"
)

// Config is what a Service is made of. Its functions may be called by any goroutine at any time, Known during
// handshakes also under a lock of the Service: they must not wait for anything that waits for the Service.
type Config struct {
	Keys    ident.Keys
	Cluster ident.ClusterID
	Name    string // of this host
	// Known returns the card of a host that is admitted and not barred; nobody else is talked to.
	Known func(ident.HostID) (ident.Card, bool)
	// Endpoints returns where a host may listen, most promising first; MaxEndpoints of them are tried. nil: nowhere.
	Endpoints func(ident.HostID) []netip.AddrPort
	// Relays returns the hosts that may reach dst, best first; MaxRelays of them are tried. nil: none.
	Relays func(dst ident.HostID) []ident.HostID
	// Services take streams of operations other than that of Accept, such as OpBench: each is called for every stream, on a
	// goroutine of its own, and returns when it is done with it; Close waits for that.
	Services map[byte]func(from ident.HostID, conn net.Conn)
	// Dial connects; nil means net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	Log  *slog.Logger
}

// Errors that callers tell apart.
var (
	// ErrClosed is returned after Close. It wraps net.ErrClosed.
	ErrClosed = fmt.Errorf("stream: service stopped: %w", net.ErrClosed)
	// ErrUnknown says that a host is not in the cluster's state, or is barred.
	ErrUnknown = errors.New("not an admitted host")
	// ErrUnreachable says that neither an endpoint nor a relay led to the host.
	ErrUnreachable = errors.New("unreachable")
	// ErrBusy says that a bound of the other host, or of ours, is reached.
	ErrBusy = errors.New("too many streams")
)

// Service holds the sessions of a host. Its methods may be called by any goroutine.
type Service struct {
	cfg  Config
	id   ident.HostID
	log  *slog.Logger
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	accepted chan accepted
	queue    chan struct{} // a place in accepted, taken before the opener is told so

	strangers *sealedtcp.Strangers

	hsMu sync.Mutex
	hs   *handshake.Machine // under hsMu

	mu        sync.Mutex // guards all below; never held across I/O, and hsMu is not taken under it
	closed    bool
	listeners map[net.Listener]struct{}
	sessions  map[ident.HostID][]*session
	count     int // of sessions
	dialling  map[dialKey]*dialling
	keepers   map[ident.HostID]context.CancelFunc
	splices   map[ident.HostID]int
	spliced   int
	counters  map[string]uint64
}

type accepted struct {
	from ident.HostID
	conn *Conn
}

// New makes a Service. It does nothing until Serve, Dial or Keep is called; Close ends it.
func New(cfg Config) *Service {
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		cfg:       cfg,
		id:        cfg.Keys.ID(),
		log:       cfg.Log,
		accepted:  make(chan accepted, MaxAccepted),
		queue:     make(chan struct{}, MaxAccepted),
		listeners: map[net.Listener]struct{}{},
		sessions:  map[ident.HostID][]*session{},
		dialling:  map[dialKey]*dialling{},
		keepers:   map[ident.HostID]context.CancelFunc{},
		strangers: sealedtcp.NewStrangers(MaxStrangers, MaxPerSource),
		splices:   map[ident.HostID]int{},
		counters:  make(map[string]uint64, len(Counts)+len(Drops)),
	}
	for _, n := range slices.Concat(Counts, Drops) {
		s.counters[n] = 0
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	suites := []seal.Suite{seal.SuiteChaCha, seal.SuiteAES}
	if seal.Preferred() == seal.SuiteAES {
		suites = []seal.Suite{seal.SuiteAES, seal.SuiteChaCha}
	}
	card := cfg.Keys.Card()
	s.hs = handshake.New(handshake.Config{
		Keys: cfg.Keys, Cluster: cfg.Cluster, Domain: "stream", Known: cfg.Known,
		Self: func(time.Time) handshake.Info { return handshake.Info{Card: card, Name: cfg.Name, Suites: suites} },
		Load: unlimited, // strangers are bounded by connection, and TCP has proved their address
	})
	s.wg.Go(s.janitor)
	return s
}

// Serve accepts connections until ln fails or the service is closed, which returns nil. It closes ln.
func (s *Service) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if s.ctx.Err() != nil {
				return nil
			}
			if sealedtcp.Passes(err) {
				s.inc(CountAcceptFailed)
				if !s.pause(acceptPause) {
					return nil
				}
				continue
			}
			return fmt.Errorf("stream: accept: %w", err)
		}
		if !s.spawn(func() { s.serveConn(conn) }) {
			conn.Close()
			return nil
		}
	}
}

// Accept returns the next stream that another host opened to this one. The host is authenticated end to end.
func (s *Service) Accept() (from ident.HostID, conn net.Conn, err error) {
	select {
	case a := <-s.accepted:
		<-s.queue
		return a.from, a.conn, nil
	case <-s.ctx.Done():
		return from, nil, ErrClosed
	}
}

// Dial opens a stream to a host: over a session with it, else over a new one to its endpoints, else through a relay. It
// returns when the other host has taken the stream. The error wraps ErrUnknown, ErrUnreachable, ErrBusy or ErrClosed where it can.
func (s *Service) Dial(ctx context.Context, to ident.HostID) (net.Conn, error) {
	return s.DialService(ctx, to, opStream)
}

// DialService is Dial for an operation that the other host has among its Services. The error wraps ErrRefused where it
// has not.
func (s *Service) DialService(ctx context.Context, to ident.HostID, op byte) (net.Conn, error) {
	if to == s.id {
		return nil, fmt.Errorf("stream to %s: this host itself", to.Short())
	}
	if _, ok := s.cfg.Known(to); !ok {
		return nil, fmt.Errorf("stream to %s: %w", to.Short(), ErrUnknown)
	}
	var last error
	for range maxTries { // a session may end, or be given up for another one, while a stream is opened on it
		sess, err := s.connect(ctx, to, false)
		if err != nil {
			return nil, fmt.Errorf("stream to %s: %w", to.Short(), err)
		}
		c, err := sess.open(ctx, op, ident.HostID{})
		if err == nil {
			return c, nil
		}
		last = err
		if errors.Is(err, ErrBusy) || errors.Is(err, ErrRefused) || ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("stream to %s: %w", to.Short(), last)
}

// Drop closes all sessions with a host, their streams included.
func (s *Service) Drop(id ident.HostID) {
	s.mu.Lock()
	gone := slices.Clone(s.sessions[id])
	s.mu.Unlock()
	for _, x := range gone {
		x.close()
	}
}

// Close ends all sessions and waits for the service's goroutines. Calling it again does nothing.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	s.stop()
	var gone []*session
	for _, l := range s.sessions {
		gone = append(gone, l...)
	}
	for ln := range s.listeners {
		ln.Close()
	}
	s.mu.Unlock()
	for _, x := range gone {
		x.close()
	}
	s.wg.Wait()
	for { // nobody will accept these
		select {
		case a := <-s.accepted:
			<-s.queue
			a.conn.Close()
			continue
		default:
		}
		return
	}
}

// Status describes a session.
type Status struct {
	Host      ident.HostID
	Via       ident.HostID // the relay, zero for a direct session
	Endpoint  string       // where the TCP connection goes; empty when relayed
	Initiator bool
	Streams   int
	Draining  bool // to be closed when its last stream ends: another one is preferred
	Since     time.Time
}

// Status returns the sessions, ordered by host and age.
func (s *Service) Status() []Status {
	s.mu.Lock()
	var all []*session
	for _, l := range s.sessions {
		all = append(all, l...)
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *session) int {
		if a.peer != b.peer {
			if a.peer.Less(b.peer) {
				return -1
			}
			return 1
		}
		return a.since.Compare(b.since)
	})
	out := make([]Status, len(all))
	for i, x := range all {
		out[i] = Status{
			Host: x.peer, Via: x.via, Endpoint: x.endpoint, Initiator: x.initiator,
			Streams: x.mux.NumStreams(), Draining: x.draining.Load(), Since: x.since,
		}
	}
	return out
}

// Counters returns how often each named thing happened since New.
func (s *Service) Counters() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counters)
}

func (s *Service) inc(name string) {
	s.mu.Lock()
	s.counters[name]++
	s.mu.Unlock()
}

// spawn runs f as one of the goroutines that Close waits for; false when the service is closed.
func (s *Service) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// pause waits; false when the service was closed meanwhile.
func (s *Service) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}
