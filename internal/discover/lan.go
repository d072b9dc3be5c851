package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/weft-net/weft/internal/netmon"
)

// LANPort is the UDP port of beacons on the local segment, whatever the port of the cluster's links.
const LANPort = 6787

// Groups of beacons: of the local scopes (RFC 2365 section 6.1, RFC 4291 section 2.7), and sent with a TTL of 1.
var (
	lanGroup4 = netip.MustParseAddr("239.255.102.116")
	lanGroup6 = netip.MustParseAddr("ff02::7765:6674")
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// maxLANAddrs is how many addresses of a host have beacons of their own.
const maxLANAddrs = 32

// lan finds hosts on the local segments by beacons: multicast in IPv4 and IPv6, and broadcast, which passes where multicast is filtered.
type lan struct {
	env Environment
	now func() time.Time

	mu     sync.Mutex // guards all below
	heard  heard
	conns  []*lanConn // empty until first used, and after Close
	self   Self       // as registered last
	reader sync.WaitGroup
	closed bool
}

// lanConn is the socket of one address family.
type lanConn struct {
	udp    *net.UDPConn
	p4     *ipv4.PacketConn
	p6     *ipv6.PacketConn
	joined map[int]bool // interfaces
}

func newLAN(e Environment) *lan { return &lan{env: e, now: time.Now} }

// Find returns who was heard of late. That needs time: a first call hears nobody yet.
func (l *lan) Find(ctx context.Context) (Found, error) {
	if err := l.open(ctx); err != nil {
		return Found{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	f := Found{Addrs: l.heard.list(now), Alive: true}
	if l.env.Key() == nil && !l.heard.stranger.IsZero() && now.Sub(l.heard.stranger) < heardLife {
		return f, errNeighbours
	}
	return f, nil
}

// errNeighbours says to a host without a token that there is a cluster, this one or another.
var errNeighbours = fault("if theirs is the cluster to join, give this host its token; if not, found this one without lan", "other hosts of weft are heard on this segment")

// Register sends beacons from each address of this host's.
func (l *lan) Register(ctx context.Context, self Self) error {
	if err := l.open(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	l.self = self
	l.mu.Unlock()
	return l.send()
}

func (l *lan) open(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	if len(l.conns) == 0 {
		var failed error
		for _, family := range []string{"udp4", "udp6"} {
			c, err := listenLAN(ctx, family)
			if err != nil {
				failed = err
				continue
			}
			l.conns = append(l.conns, c)
			l.reader.Go(func() { l.read(c) })
		}
		if len(l.conns) == 0 {
			return fault("another program has that port, or this system no multicast", "UDP port %d for beacons: %v", LANPort, failed)
		}
	}
	return l.join()
}

func listenLAN(ctx context.Context, family string) (*lanConn, error) {
	lc := net.ListenConfig{Control: shareBroadcast}
	pc, err := lc.ListenPacket(ctx, family, fmt.Sprintf(":%d", LANPort))
	if err != nil {
		return nil, err
	}
	u, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a socket of type %T", pc), pc.Close())
	}
	c := &lanConn{udp: u, joined: map[int]bool{}}
	if family == "udp4" {
		c.p4 = ipv4.NewPacketConn(u)
		err = errors.Join(c.p4.SetControlMessage(ipv4.FlagInterface, true), c.p4.SetMulticastTTL(1), c.p4.SetMulticastLoopback(false))
	} else {
		c.p6 = ipv6.NewPacketConn(u)
		err = errors.Join(c.p6.SetControlMessage(ipv6.FlagInterface, true), c.p6.SetMulticastHopLimit(1), c.p6.SetMulticastLoopback(false))
	}
	if err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return c, nil
}

// join joins the groups on interfaces that came. On one that vanished the kernel has left them.
func (l *lan) join() error {
	addrs := l.env.Interfaces()
	if len(addrs) == 0 {
		return fault("an address on one of the host's interfaces is all it takes", "this host has no address on any segment")
	}
	var failed error
	some := false
	for _, c := range l.conns {
		for i := range c.joined {
			if !slices.ContainsFunc(addrs, func(a netmon.Addr) bool { return a.Index == i }) {
				delete(c.joined, i)
			}
		}
		for _, a := range addrs {
			if c.joined[a.Index] || a.IP.Is4() != (c.p4 != nil) {
				some = some || c.joined[a.Index]
				continue
			}
			ifi := &net.Interface{Index: a.Index, Name: a.Interface}
			var err error
			if c.p4 != nil {
				err = c.p4.JoinGroup(ifi, net.UDPAddrFromAddrPort(netip.AddrPortFrom(lanGroup4, LANPort)))
			} else {
				err = c.p6.JoinGroup(ifi, net.UDPAddrFromAddrPort(netip.AddrPortFrom(lanGroup6, LANPort)))
			}
			if err != nil {
				failed = err // broadcast may do
				continue
			}
			c.joined[a.Index], some = true, true
		}
	}
	if !some && failed != nil {
		return fault("broadcasts are used; multicast may be switched off on this interface", "the group of beacons is not joined: %v", failed)
	}
	return nil
}

// read takes datagrams until the socket is closed.
func (l *lan) read(c *lanConn) {
	b := make([]byte, beaconLen+1)
	for {
		var n, index int
		var src net.Addr
		var err error
		if c.p4 != nil {
			var cm *ipv4.ControlMessage
			if n, cm, src, err = c.p4.ReadFrom(b); cm != nil {
				index = cm.IfIndex
			}
		} else {
			var cm *ipv6.ControlMessage
			if n, cm, src, err = c.p6.ReadFrom(b); cm != nil {
				index = cm.IfIndex
			}
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		from, ok := src.(*net.UDPAddr)
		if err != nil || !ok || !l.ours(index) {
			continue
		}
		addr := from.AddrPort().Addr().Unmap().WithZone("")
		if l.own(addr) {
			continue // a broadcast comes back
		}
		key := l.env.Key()
		l.mu.Lock()
		answer := l.heard.input(l.now(), b[:n], addr, key)
		l.mu.Unlock()
		if answer {
			_ = l.send() // the next one is due soon
		}
	}
}

// ours reports whether an interface is of the underlay: what programs in weft's own networks say is not heard.
func (l *lan) ours(index int) bool {
	return slices.ContainsFunc(l.env.Interfaces(), func(a netmon.Addr) bool { return a.Index == index })
}

func (l *lan) own(addr netip.Addr) bool {
	return slices.ContainsFunc(l.env.Interfaces(), func(a netmon.Addr) bool { return a.IP == addr })
}

// send sends a beacon from each address: to the group, and in IPv4 to everybody.
func (l *lan) send() error {
	key := l.env.Key()
	l.mu.Lock()
	self, conns := l.self, slices.Clone(l.conns)
	l.mu.Unlock()
	if key == nil || self.Port == 0 {
		return nil
	}
	sent := 0
	var failed error
	var b []byte
	for i, a := range l.env.Interfaces() {
		if i == maxLANAddrs {
			break
		}
		b = Beacon{Addr: netip.AddrPortFrom(a.IP, self.Port), Looking: self.Looking}.Encode(b[:0], *key)
		for _, c := range conns {
			for _, to := range c.groups(a) {
				if err := c.write(b, a, to); err != nil {
					failed = err
					continue
				}
				sent++
			}
		}
	}
	if sent == 0 && failed != nil {
		return fault("look at this host's firewall, UDP port 6787", "no beacon could be sent: %v", failed)
	}
	return nil
}

func (c *lanConn) groups(a netmon.Addr) []netip.Addr {
	switch {
	case a.IP.Is4() != (c.p4 != nil):
		return nil
	case a.IP.Is4():
		return []netip.Addr{lanGroup4, broadcast}
	}
	return []netip.Addr{lanGroup6}
}

func (c *lanConn) write(b []byte, a netmon.Addr, to netip.Addr) error {
	dst := net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, LANPort))
	var err error
	if c.p4 != nil {
		_, err = c.p4.WriteTo(b, &ipv4.ControlMessage{IfIndex: a.Index, Src: a.IP.AsSlice()}, dst)
	} else {
		_, err = c.p6.WriteTo(b, &ipv6.ControlMessage{IfIndex: a.Index, Src: a.IP.AsSlice()}, dst)
	}
	return err
}

// Withdraw falls silent: others forget this host after a while.
func (l *lan) Withdraw(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.self = Self{}
	return nil
}

func (l *lan) Close() error {
	l.mu.Lock()
	var err error
	for _, c := range l.conns {
		err = errors.Join(err, c.udp.Close())
	}
	l.conns, l.closed = nil, true
	l.mu.Unlock()
	l.reader.Wait()
	return err
}

// drops counts datagrams by the reason for which they were dropped.
func (l *lan) drops() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]uint64{}
	for i, name := range lanDropNames {
		out[name] = l.heard.counts[i]
	}
	return out
}
