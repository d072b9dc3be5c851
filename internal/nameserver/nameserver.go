// Package nameserver answers the DNS queries of attachments: from the names of their network, or by asking the host's resolvers.
//
// One Server is for all networks of a host. Of each it holds a table of names (package names), told of changes whether the
// network is up here or not, and, once it is up, sockets in a network namespace that is plugged into it: so only attachments of
// the network can ask, and nobody can ask for another network's names.
//
// A query is answered by the goroutine that reads the socket, without a lock that anybody holds for long and without
// allocating. What is not of the domain goes to a goroutine of its own, which asks the host's resolvers (forward.go).
package nameserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weft-net/weft/internal/dns"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/names"
)

// Port is where queries come, by UDP and TCP.
const Port = 53

// Config is what a Server needs.
type Config struct {
	// Upstream returns the host's resolvers, in their order; it is asked before each query that is passed on.
	Upstream func() []netip.AddrPort
	// Own reports whether an address is the host's own in a network: what comes from there while the same is being asked has
	// come back to us by way of the host's resolvers.
	Own func(netip.Addr) bool
	Log *slog.Logger
}

// Server is the name service of one host.
type Server struct {
	cfg     Config
	port    int
	forward *forwarder
	counts  counts
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu       sync.RWMutex // guards all below
	networks map[uint32]*network
	alive    map[ident.HostID]bool
	servers  atomic.Pointer[[]netip.Addr] // of all networks that are up; written with mu held
}

// network is one network's names, and its sockets while it is up.
type network struct {
	s *Server

	mu    sync.RWMutex // guards the table; taken after Server.mu
	table *names.Table

	up atomic.Pointer[listening]
}

// listening is what a network that is up is served with.
type listening struct {
	zone    *names.Zone
	subnets []netip.Prefix
	udp     []*net.UDPConn
	tcp     []*net.TCPListener
	conns   connections
}

// New returns a Server that serves no network yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, port: Port, networks: map[uint32]*network{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.forward = newForwarder(s)
	s.servers.Store(&[]netip.Addr{})
	return s
}

// Close stops serving and waits until all has ended.
func (s *Server) Close() {
	s.cancel()
	s.mu.Lock()
	for _, n := range s.networks {
		n.stop()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Change lets f change the names of a network. Queries of that network wait meanwhile.
func (s *Server) Change(vni uint32, f func(*names.Table)) {
	n := s.network(vni)
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n.table)
}

// SetAlive says whose names count, in all networks.
func (s *Server) SetAlive(alive map[ident.HostID]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if maps.Equal(alive, s.alive) {
		return
	}
	s.alive = alive
	for _, n := range s.networks {
		n.mu.Lock()
		n.table.SetAlive(alive)
		n.mu.Unlock()
	}
}

func (s *Server) network(vni uint32) *network {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[vni]
	if n == nil {
		n = &network{s: s, table: names.New()}
		n.table.SetAlive(s.alive)
		s.networks[vni] = n
	}
	return n
}

// Serve answers queries at the zone's servers, from sources in the subnets. Sockets are opened inside in, which is to run a function in the
// namespace where those addresses are; they stay there. What was served in this network before ends.
func (s *Server) Serve(vni uint32, zone *names.Zone, subnets []netip.Prefix, in func(func() error) error) error {
	n := s.network(vni)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return net.ErrClosed
	}
	n.stop()
	l := &listening{zone: zone, subnets: subnets, conns: newConnections()}
	if err := in(func() error { return l.open(s.port) }); err != nil {
		l.close()
		return fmt.Errorf("name service: %w", err)
	}
	n.up.Store(l)
	s.listServersLocked()
	for _, c := range l.udp {
		s.wg.Go(func() { n.serveUDP(l, c) })
	}
	for _, t := range l.tcp {
		s.wg.Go(func() { n.serveTCP(l, t) })
	}
	return nil
}

// Zone returns how a network is served; nil when it is not.
func (s *Server) Zone(vni uint32) *names.Zone {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := s.networks[vni]; n != nil {
		if l := n.up.Load(); l != nil {
			return l.zone
		}
	}
	return nil
}

// Stop ends serving a network; its names stay.
func (s *Server) Stop(vni uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.networks[vni]; n != nil {
		n.stop()
		s.listServersLocked()
	}
}

// listServersLocked lists our own addresses: queries are never passed on to them.
func (s *Server) listServersLocked() {
	var all []netip.Addr
	for _, n := range s.networks {
		if l := n.up.Load(); l != nil {
			all = append(all, l.zone.Servers()...)
		}
	}
	s.servers.Store(&all)
}

func (n *network) stop() {
	if l := n.up.Swap(nil); l != nil {
		l.close()
	}
}

func (l *listening) open(port int) error {
	for _, a := range l.zone.Servers() {
		at := netip.AddrPortFrom(a, uint16(port))
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		l.udp = append(l.udp, u)
		t, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		l.tcp = append(l.tcp, t)
	}
	return nil
}

func (l *listening) close() {
	for _, c := range l.udp {
		_ = c.Close()
	}
	for _, t := range l.tcp {
		_ = t.Close()
	}
	l.conns.close()
}

// knows reports whether an address is one of the network's, link-local ones included.
func (l *listening) knows(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || slices.ContainsFunc(l.subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// maxQuery is the longest query that is looked at, in bytes. A question with its EDNS record has about 300 at most; what options others put
// beside is not looked at.
const maxQuery = 2048

// desk is what a goroutine answers queries with, one after the other.
type desk struct {
	q     dns.Query
	r     dns.Response
	asker names.Asker
	in    [maxQuery + 2]byte
	out   []byte
}

func newDesk(size int) *desk {
	return &desk{out: make([]byte, 0, size), asker: names.Asker{Turn: rand.Uint32()}}
}

// serveUDP answers what comes by one socket until that is closed.
func (n *network) serveUDP(l *listening, conn *net.UDPConn) {
	d := newDesk(dns.MaxUDP)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(d.in[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			n.s.counts.drop(dropReceive)
			continue
		}
		addr := from.Addr().Unmap()
		switch {
		case size > maxQuery:
			n.s.counts.drop(dropMalformed)
			continue
		case !l.knows(addr):
			n.s.counts.drop(dropForeign)
			continue
		}
		answer, pass := n.answer(l, d, d.in[:size], false)
		if pass {
			limit := d.limit()
			if reason := n.s.forward.ask(&d.q, false, addr, func(q *dns.Query, b []byte) {
				n.s.counts.sent(conn.WriteToUDPAddrPort(q.Readdress(b, limit), from))
			}); reason != "" {
				n.s.counts.drop(reason)
				answer = d.q.AppendFail(d.out, dns.ServFail)
			}
		}
		if answer != nil {
			n.s.counts.sent(conn.WriteToUDPAddrPort(answer, from))
		}
	}
}

// limit is how long the answer to a query by UDP may be.
func (d *desk) limit() int { return min(int(d.q.Size), dns.MaxUDP) }

// answer returns the answer to a query, appended to d.out; nil when there is none. pass: others are to be asked.
func (n *network) answer(l *listening, d *desk, packet []byte, tcp bool) (answer []byte, pass bool) {
	n.s.counts.queries.Add(1)
	if err := dns.ParseQuery(packet, &d.q); err != nil {
		switch {
		case errors.Is(err, dns.ErrResponse):
			n.s.counts.drop(dropResponse)
			return nil, false
		case errors.Is(err, dns.ErrShort):
			n.s.counts.drop(dropMalformed)
			return nil, false
		case errors.Is(err, dns.ErrOpcode):
			n.s.counts.drop(dropOperation)
			return d.q.AppendFail(d.out, dns.NotImp), false
		}
		n.s.counts.drop(dropMalformed)
		return d.q.AppendFail(d.out, dns.FormErr), false
	}
	if d.q.Version != 0 {
		return d.q.AppendFail(d.out, dns.BadVers), false
	}
	limit := dns.MaxTCP
	if !tcp {
		limit = d.limit()
	}
	d.r.Begin(&d.q, d.out, limit)
	n.mu.RLock()
	verdict := n.table.Answer(l.zone, &d.q, &d.r, &d.asker)
	n.mu.RUnlock()
	if verdict == names.Answered {
		return d.r.Finish(), false
	}
	if !d.q.Recursive() {
		return d.q.AppendFail(d.out, dns.Refused), false
	}
	return nil, true
}
