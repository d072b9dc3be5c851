package bus

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/udp"
)

// readBatch is how many messages one read takes: with UDP_GRO each holds up to 64 KiB.
const readBatch = 16

// groupOf returns the underlay group of a bus: in 239.192.0.0/14, organisation-local (RFC 2365), its low bits from the bus's id.
func groupOf(k *buskey.Bus) netip.AddrPort {
	id := k.ID()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 192 | byte(id>>16)&3, byte(id >> 8), byte(id)}), GroupPort)
}

// joinGroup opens the socket that hears the group, and sets by which interface packets to it leave.
func (b *Bus) joinGroup() error {
	ifi, err := multicastInterface(b.cfg.Interface, b.to.Addr())
	if err != nil {
		return err
	}
	g, err := udp.ListenGroup(b.to, ifi.Index, udp.Options{Coalesce: true})
	if err != nil {
		return err
	}
	if err := b.conn.Multicast(ifi.Index, b.cfg.TTL); err != nil {
		return errors.Join(err, g.Close())
	}
	b.group = g
	return nil
}

// multicastInterface returns the interface of a name; without one, that of the route to the group, else the first that
// is up, can multicast and has an IPv4 address.
func multicastInterface(name string, group netip.Addr) (net.Interface, error) {
	if name != "" {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return net.Interface{}, fmt.Errorf("interface %s: %w", name, err)
		}
		return *ifi, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return net.Interface{}, fmt.Errorf("list the interfaces: %w", err)
	}
	var routed netip.Addr
	// Connecting a UDP socket sends nothing and shows which address the system would send from.
	if c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, 9))); err == nil {
		routed = c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		_ = c.Close()
	}
	var first net.Interface
	for _, ifi := range all {
		const want = net.FlagUp | net.FlagMulticast
		if ifi.Flags&want != want || ifi.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, ok := netip.AddrFromSlice(n.IP)
			if ip = ip.Unmap(); !ok || !ip.Is4() {
				continue
			}
			if ip == routed {
				return ifi, nil
			}
			if first.Index == 0 {
				first = ifi
			}
		}
	}
	if first.Index == 0 {
		return first, errors.New("no interface is up, can multicast and has an IPv4 address")
	}
	return first, nil
}

// read takes packets off a socket and gives them to the node, a batch under one lock.
func (b *Bus) read(c udp.Conn, group bool) {
	ms := make([]udp.Message, readBatch)
	for i := range ms {
		ms[i].Buf = make([]byte, 64<<10)
	}
	for {
		n, err := c.ReadBatch(ms)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // of one datagram mostly: an ICMP error for an earlier one, say
			case <-b.life.Done():
				return
			case <-time.After(time.Millisecond):
			}
			continue
		}
		now := time.Now()
		b.mu.Lock()
		for i := range ms[:n] {
			m := &ms[i]
			if m.Truncated {
				continue
			}
			for rest, size := m.Buf[:m.N], m.Segment; len(rest) > 0; {
				k := len(rest)
				if size > 0 {
					k = min(k, size)
				}
				b.node.Packet(now, m.Addr, group, rest[:k])
				rest = rest[k:]
			}
		}
		b.earlier(b.node.Done(now))
		b.mu.Unlock()
		b.changed.tell()
	}
}

// Send implements rmcast.Wire.
func (b *Bus) Send(buf []byte, segment int, group bool, to []netip.AddrPort) {
	if segment >= len(buf) {
		segment = 0
	}
	p := b.out.Get().(*[]udp.Message)
	ms := (*p)[:0]
	if group && b.group != nil {
		ms = append(ms, udp.Message{Buf: buf, Addr: b.to, Segment: segment})
	}
	for _, a := range to {
		ms = append(ms, udp.Message{Buf: buf, Addr: a, Segment: segment})
	}
	_, _ = b.conn.WriteBatch(ms) // what is refused is counted in the socket's statistics, and lost packets are repaired
	clear(ms)
	*p = ms[:0]
	b.out.Put(p)
}

// socketStats reads the counters of a socket that may not be there.
type socketStats struct{ c udp.Conn }

func (s socketStats) stats() (messages, bytes, drops uint64) {
	if s.c == nil {
		return 0, 0, 0
	}
	st := s.c.Stats()
	return st.RxMessages, st.RxBytes, st.RxDrops
}
