package bus

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/edge"
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/udp"
)

// TCP says what a member does for those that UDP does not reach.
type TCP int

// The choices.
const (
	// TCPListen dials, and listens on the TCP port of the number of the UDP port. Where another process keeps that port it only dials.
	TCPListen TCP = iota
	// TCPDial only dials: members that UDP does not reach are found if they listen, or by way of one that does.
	TCPDial
	// TCPOff has members reached by UDP or not at all.
	TCPOff
)

// Path is how this process's packets reach a member, beside multicast.
type Path int

// The paths.
const (
	PathUDP    Path = iota
	PathTCP         // a connection that one of the two has made: UDP does not reach it
	PathMember      // another member passes them on: UDP does not reach it, and neither of the two can dial the other
)

// String returns the path in lower case.
func (p Path) String() string { return [...]string{"udp", "tcp", "member"}[p] }

// portTries is how many ports are tried for one that is free for both UDP and TCP.
const portTries = 8

// listen opens the UDP socket, and the TCP listener on the same port, nil if there is to be none.
func (b *Bus) listen() (ln net.Listener, err error) {
	for try := 1; ; try++ {
		if b.conn, err = udp.Listen(b.cfg.Listen, udp.Options{Coalesce: true}); err != nil || b.cfg.TCP != TCPListen {
			break
		}
		port := int(b.conn.LocalAddr().Port())
		if ln, err = net.Listen("tcp", ":"+strconv.Itoa(port)); err == nil {
			break
		}
		if b.cfg.Listen != 0 || try == portTries {
			b.log.Warn("members that UDP does not reach cannot dial this one: its TCP port is taken", "port", port, "error", err)
			err = nil
			break
		}
		_ = b.conn.Close()
	}
	if err == nil && b.cfg.socket != nil {
		b.conn = b.cfg.socket(b.conn)
	}
	return ln, err
}

// connect prepares edges; nil: there are to be none.
func (b *Bus) connect(keys []*buskey.Bus) (rmcast.Edges, error) {
	if b.cfg.TCP == TCPOff {
		return nil, nil
	}
	var err error
	b.edges, err = edge.New(edge.Config{
		Epoch: uint64(b.self), Name: b.cfg.Name, Port: b.conn.LocalAddr().Port(), Keys: keys, Handler: (*edgeHandler)(b),
	})
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	return (*dials)(b), nil
}

// dials is the Edges of the node; the bus's lock is held.
type dials Bus

var _ rmcast.Edges = (*dials)(nil)

// Dial implements rmcast.Edges.
func (d *dials) Dial(id rmcast.ID, addr netip.AddrPort) { d.edges.Dial(uint64(id), addr) }

// Hang implements rmcast.Edges.
func (d *dials) Hang(id rmcast.ID) { d.edges.Hang(uint64(id)) }

// edgeHandler gives the node what edges bring.
type edgeHandler Bus

var _ edge.Handler = (*edgeHandler)(nil)

// Changed implements edge.Handler.
func (h *edgeHandler) Changed(epoch uint64) {
	b := (*Bus)(h)
	b.mu.Lock()
	now := time.Now()
	if p, up := b.edges.Find(epoch); up { // asked under the lock: what is so now
		b.earlier(b.node.EdgeUp(now, rmcast.ID(epoch), p.Listens))
	} else {
		b.earlier(b.node.EdgeDown(now, rmcast.ID(epoch)))
	}
	b.mu.Unlock()
	b.changed.tell()
}

// Input implements edge.Handler.
func (h *edgeHandler) Input(epoch uint64, datagrams [][]byte) {
	b := (*Bus)(h)
	b.mu.Lock()
	now := time.Now()
	for _, d := range datagrams {
		b.node.EdgePacket(now, rmcast.ID(epoch), d)
	}
	b.earlier(b.node.Done(now))
	b.mu.Unlock()
	b.changed.tell()
}

// Failed implements edge.Handler.
func (h *edgeHandler) Failed(epoch uint64, to netip.AddrPort, err error) {
	b := (*Bus)(h)
	b.mu.Lock()
	b.earlier(b.node.EdgeFailed(time.Now(), rmcast.ID(epoch), to, err.Error(), errors.Is(err, edge.ErrSelf)))
	b.mu.Unlock()
}

// edgeStats adds what edges count to a bus's statistics.
func (b *Bus) edgeStats(s *Stats, n *rmcast.NodeStats) {
	s.Forwarded = n.Forwarded
	s.Dropped["no_way"] = n.NoWay + n.NoEdge
	if b.edges == nil {
		return
	}
	s.Edges = len(b.edges.Status())
	for name, v := range b.edges.Counters() {
		switch name {
		case edge.CountRxBytes:
			s.EdgeBytes += v
		case edge.CountTxBytes, edge.CountDialled, edge.CountAccepted, edge.CountEnded:
		default:
			s.Dropped["tcp_"+name] = v
		}
	}
}
