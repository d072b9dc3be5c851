package mesh

import (
	"context"
	"fmt"
	"io"
	"log" //nolint:depguard // memberlist takes no other logger
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/wire"
)

// startMembers starts memberlist (SWIM with Lifeguard) over our links and streams. Hosts are known
// to it by HostID: its node name is the id in hex, its address the id in the form of an IPv6 address.
func (m *Mesh) startMembers() error {
	c := memberlist.DefaultLANConfig()
	c.Name = m.self.String()
	c.AdvertiseAddr = m.self.Addr().String()
	c.AdvertisePort = 1
	c.BindAddr, c.BindPort = "::", 1
	c.Transport = (*memberTransport)(m)
	c.Events = (*memberEvents)(m)
	c.Logger = log.New(io.Discard, "", 0) // what matters of it we log ourselves
	c.DisableTcpPings = true              // links heal by themselves; a stream proves nothing about them
	c.RequireNodeNames = true
	c.EnableCompression = false // an LZW table of 90 kB for a ping of 60 bytes
	c.UDPBufferSize = wire.MinPath - wire.RelayTotal - wire.LinkHeader - wire.Tag - 1
	c.DeadNodeReclaimTime = time.Second
	c.GossipToTheDeadTime = time.Minute
	c.GossipInterval = 500 * time.Millisecond // an idle host sleeps most of the time
	ml, err := memberlist.Create(c)
	if err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	m.members = ml
	return nil
}

// joinMembers merges our member list with that of a host we have a path to. What fails is tried again
// soon: the host may have heard of us a moment later than we of it.
func (m *Mesh) joinMembers(now time.Time, id ident.HostID) {
	m.lastJoin = now
	if m.dirStale { // the stream must find the host
		m.list()
	}
	m.done.Go(func() {
		node := id.String() + "/" + net.JoinHostPort(id.Addr().String(), "1")
		if _, err := m.members.Join([]string{node}); err != nil && m.ctx.Err() == nil {
			m.log.Debug("membership join failed", "host", id.Short(), "err", err)
			_ = m.do(func() { m.lastJoin = now.Add(rejoinSoon - rejoinEvery) })
		}
	})
}

// memberTransport is memberlist's network: packets over links, streams over package stream.
type memberTransport Mesh

var _ memberlist.NodeAwareTransport = (*memberTransport)(nil)

func (t *memberTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IP(t.self[:]), 1, nil
}

func (t *memberTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *memberTransport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	id, err := memberID(addr)
	if err != nil {
		return time.Time{}, err
	}
	plain := make([]byte, 1+len(b))
	plain[0] = wire.KindMember
	copy(plain[1:], b)
	// No path is loss, which memberlist is made for; an error here would only be logged.
	_ = (*Mesh)(t).Send(id, plain)
	return time.Now(), nil
}

func (t *memberTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

func (t *memberTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *memberTransport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	id, err := memberID(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	return t.streams.Dial(ctx, id)
}

func (t *memberTransport) StreamCh() <-chan net.Conn { return t.conns }

func (t *memberTransport) Shutdown() error { return nil }

func memberID(addr memberlist.Address) (ident.HostID, error) {
	if addr.Name != "" {
		return ident.ParseHostID(addr.Name)
	}
	ap, err := netip.ParseAddrPort(addr.Addr)
	if err != nil {
		return ident.HostID{}, fmt.Errorf("membership: address %q: %w", addr.Addr, err)
	}
	return ident.HostID(ap.Addr().As16()), nil
}

// memberEvents hears of joins and deaths. memberlist calls it under its own lock and waits for the loop
// to take the event; so the loop never calls memberlist itself.
type memberEvents Mesh

func (e *memberEvents) NotifyJoin(n *memberlist.Node)   { e.tell(n, liveAlive) }
func (e *memberEvents) NotifyUpdate(n *memberlist.Node) { e.tell(n, liveAlive) }

// NotifyLeave hears of deaths and of goodbyes, which memberlist does not tell apart here: these come by KindBye.
func (e *memberEvents) NotifyLeave(n *memberlist.Node) { e.tell(n, liveDead) }

func (e *memberEvents) tell(n *memberlist.Node, l liveness) {
	id, err := ident.ParseHostID(n.Name)
	if err != nil || id == e.self {
		return
	}
	select {
	case e.do_ <- func() { (*Mesh)(e).setLive(id, l) }:
	case <-e.ctx.Done():
	}
}

// serveStreams runs the listener of streams.
func (m *Mesh) serveStreams() {
	if err := m.streams.Serve(m.cfg.Listener); err != nil && m.ctx.Err() == nil {
		m.log.Error("stream listener stopped", "err", err)
	}
}

// acceptStreams hands streams that other hosts opened to memberlist, their only user so far.
func (m *Mesh) acceptStreams() {
	for {
		_, conn, err := m.streams.Accept()
		if err != nil {
			return
		}
		select {
		case m.conns <- conn:
		case <-m.ctx.Done():
			_ = conn.Close()
			return
		}
	}
}
