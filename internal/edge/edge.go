// Package edge carries datagrams between members of a bus over TCP: for those that UDP does not reach.
//
// An edge is a sealed connection of two processes that hold the bus's token. Either may have dialled. Datagrams keep their
// order in it; what is sent faster than the connection takes it is dropped and counted, for who sends must never wait.
//
//	initiator                                                responder
//	[wire.StreamMagic][length 2][hello of package handshake]  →
//	                                                          ←   [length 2][reply]
//	[length 2][finish]                                        →
//	records of package sealedtcp                              ↔   records
//
// The handshake is a first contact under a secret that follows from the bus's key: Noise XXpsk0, with keys drawn for the
// process. What it tells is the epoch of each end. A stranger gets no byte. Inside the records are frames:
// [length 2][datagram].
package edge

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/sealedtcp"
)

// Handler takes what edges bring. Its methods are called by the goroutines of edges, none with a lock of the Set held.
type Handler interface {
	// Changed tells that a member has its first edge now, or lost the last one: Find tells which. It may come late or twice.
	Changed(epoch uint64)
	// Input takes datagrams; they are the caller's again when it returns.
	Input(epoch uint64, datagrams [][]byte)
	// Failed tells that nothing came of a Dial.
	Failed(epoch uint64, to netip.AddrPort, err error)
}

// Config is what a Set is made of.
type Config struct {
	Epoch   uint64 // of this process
	Name    string // of the bus, a DNS label
	Port    uint16 // where this process listens, by UDP at least
	Keys    []*buskey.Bus
	Handler Handler
	// Dial connects; nil means net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Peer is the other end of an edge.
type Peer struct {
	Epoch   uint64
	Addr    netip.AddrPort // of the TCP connection
	Listens netip.AddrPort // where it should be reached; of one behind a NAT not so
	Dialled bool           // from here
}

// Errors of Failed.
var (
	ErrBusy      = errors.New("too many connections")
	ErrSelf      = errors.New("this address is the process's own")
	ErrHandshake = errors.New("no member of this bus, or with another token")
)

// Set holds the edges of a process. Its methods may be called by any goroutine; none waits for the network.
type Set struct {
	cfg  Config
	keys ident.Keys
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	strangers *sealedtcp.Strangers

	hsMu     sync.Mutex
	machines []machine // by key, the first is ours; under hsMu

	mu       sync.RWMutex // guards all below; not held across I/O
	closed   bool
	listener net.Listener
	edges    map[uint64][]*conn // the one to be used first
	count    int
	dialling map[netip.AddrPort]bool

	counters map[string]*atomic.Uint64
}

type machine struct {
	cluster ident.ClusterID
	secret  ident.Secret
	hs      *handshake.Machine
}

// New makes a Set. Close ends it.
func New(cfg Config) (*Set, error) {
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: dialTime}).DialContext
	}
	keys, err := ident.NewKeys()
	if err != nil {
		return nil, fmt.Errorf("edge: %w", err)
	}
	s := &Set{
		cfg: cfg, keys: keys, edges: map[uint64][]*conn{}, dialling: map[netip.AddrPort]bool{},
		strangers: sealedtcp.NewStrangers(MaxStrangers, MaxPerSource),
		counters:  make(map[string]*atomic.Uint64, len(Names)),
	}
	for _, n := range Names {
		s.counters[n] = new(atomic.Uint64)
	}
	if err := s.SetKeys(cfg.Keys); err != nil {
		return nil, err
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.wg.Go(s.janitor)
	return s, nil
}

// SetKeys replaces the keys under which members are believed. The first is the one that this process dials with.
func (s *Set) SetKeys(keys []*buskey.Bus) error {
	s.hsMu.Lock()
	defer s.hsMu.Unlock()
	var ms []machine
	for _, k := range keys {
		cluster, secret, err := k.Edge()
		if err != nil {
			return fmt.Errorf("edge: %w", err)
		}
		if i := slices.IndexFunc(s.machines, func(m machine) bool { return m.secret == secret }); i >= 0 {
			ms = append(ms, s.machines[i])
			continue
		}
		ms = append(ms, machine{cluster, secret, handshake.New(handshake.Config{
			Keys: s.keys, Cluster: cluster, Domain: "bus " + s.cfg.Name, Load: unlimited, Rand: rand.Reader,
			Secret: func() ident.Secret { return secret }, Self: s.info,
		})})
	}
	s.machines = ms
	return nil
}

func (s *Set) info(time.Time) handshake.Info {
	suites := []seal.Suite{seal.SuiteChaCha, seal.SuiteAES}
	if seal.Preferred() == seal.SuiteAES {
		suites = []seal.Suite{seal.SuiteAES, seal.SuiteChaCha}
	}
	return handshake.Info{Name: s.cfg.Name, Suites: suites, Port: s.cfg.Port, Boot: s.cfg.Epoch}
}

// Find returns the other end of the edge to a member; false when there is none.
func (s *Set) Find(epoch uint64) (Peer, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.edges[epoch]; len(l) > 0 {
		return l[0].peer, true
	}
	return Peer{}, false
}

// Send queues datagrams of segment bytes each (the last may be shorter) for a member: all of them, or none when there is no room.
func (s *Set) Send(epoch uint64, buf []byte, segment int) {
	s.mu.RLock()
	var c *conn
	if l := s.edges[epoch]; len(l) > 0 {
		c = l[0]
	}
	s.mu.RUnlock()
	if c == nil {
		s.inc(DropNoEdge)
		return
	}
	if segment <= 0 || segment > len(buf) {
		segment = len(buf)
	}
	if segment > MaxFrame {
		s.inc(DropTooLong)
		return
	}
	c.queue(buf, segment)
}

// Hang ends the edges to a member.
func (s *Set) Hang(epoch uint64) {
	s.mu.Lock()
	l := slices.Clone(s.edges[epoch])
	s.mu.Unlock()
	for _, c := range l {
		c.finish()
	}
}

// Status returns the other ends of all edges, by epoch.
func (s *Set) Status() []Peer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ps := make([]Peer, 0, len(s.edges))
	for _, l := range s.edges {
		ps = append(ps, l[0].peer)
	}
	slices.SortFunc(ps, func(a, b Peer) int {
		if a.Epoch < b.Epoch {
			return -1
		}
		return 1
	})
	return ps
}

// Counters returns how often each named thing happened since New.
func (s *Set) Counters() map[string]uint64 {
	m := make(map[string]uint64, len(s.counters))
	for n, c := range s.counters {
		m[n] = c.Load()
	}
	return m
}

func (s *Set) inc(name string) { s.counters[name].Add(1) }

// Close ends all edges, once they have sent what is queued or a moment later, and waits for the set's goroutines.
func (s *Set) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return
	}
	s.closed = true
	if s.listener != nil {
		s.listener.Close()
	}
	var all []*conn
	for _, l := range s.edges {
		all = append(all, l...)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.finish()
	}
	for _, c := range all {
		c.finished()
	}
	s.stop()
	s.wg.Wait()
}

// spawn runs f as one of the goroutines that Close waits for; false when the set is closed.
func (s *Set) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// janitor ends edges that have a better one beside them and carry nothing, and forgets handshakes that were not finished.
func (s *Set) janitor() {
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		s.hsMu.Lock()
		for _, m := range s.machines {
			m.hs.Tick(now)
		}
		s.hsMu.Unlock()
		s.mu.Lock()
		var gone []*conn
		for _, l := range s.edges {
			for _, c := range l[1:] {
				if now.UnixNano()-c.took.Load() > int64(surplus) {
					gone = append(gone, c)
				}
			}
		}
		s.mu.Unlock()
		for _, c := range gone {
			c.finish()
		}
	}
}
