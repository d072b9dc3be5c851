package mcast

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// receiveBuffer is asked of the kernel, in bytes: what arrives while the output is slow.
const receiveBuffer = 4 << 20

// Receiver is a socket that is a member of a group.
type Receiver struct {
	target Target
	conn   *net.UDPConn
	p4     *ipv4.PacketConn // one of the two
	p6     *ipv6.PacketConn
	joined map[int]bool // interfaces, by index
}

// Listen joins the target's group on the interface named, or on those that fit when name is empty.
// Several receivers on one machine may share group and port.
func Listen(ctx context.Context, t Target, iface string) (*Receiver, error) {
	ifaces, err := interfaces(iface, t.Group)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", t, err)
	}
	network := "udp6"
	if t.Group.Is4() {
		network = "udp4"
	}
	// For a group, Go binds the wildcard address with address reuse: the one way that works on
	// every system. What else comes to the port is sorted out in wanted.
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, network, netip.AddrPortFrom(t.Group, t.Port).String())
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", t, err)
	}
	r := &Receiver{target: t, conn: pc.(*net.UDPConn), joined: map[int]bool{}}
	_ = r.conn.SetReadBuffer(receiveBuffer) // the kernel's limit may be lower: then that
	if err := r.join(ifaces); err != nil {
		_ = r.conn.Close()
		return nil, fmt.Errorf("join %s: %w", t, err)
	}
	return r, nil
}

// join joins on all interfaces; one success is enough.
func (r *Receiver) join(ifaces []net.Interface) error {
	group := &net.UDPAddr{IP: r.target.Group.AsSlice()}
	source := &net.UDPAddr{IP: r.target.Source.AsSlice()}
	joinOn := func(ifi *net.Interface) error {
		if r.target.Source.IsValid() {
			return r.p6.JoinSourceSpecificGroup(ifi, group, source)
		}
		return r.p6.JoinGroup(ifi, group)
	}
	if r.target.Group.Is4() {
		r.p4 = ipv4.NewPacketConn(r.conn)
		_ = r.p4.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true) // Windows cannot
		joinOn = func(ifi *net.Interface) error {
			if r.target.Source.IsValid() {
				return r.p4.JoinSourceSpecificGroup(ifi, group, source)
			}
			return r.p4.JoinGroup(ifi, group)
		}
	} else {
		r.p6 = ipv6.NewPacketConn(r.conn)
		_ = r.p6.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	}
	var errs []error
	for _, ifi := range ifaces {
		if err := joinOn(&ifi); err != nil {
			errs = append(errs, fmt.Errorf("on %s: %w", ifi.Name, err))
			continue
		}
		r.joined[ifi.Index] = true
	}
	if len(r.joined) == 0 {
		return errors.Join(errs...)
	}
	return nil
}

// Read waits for the next datagram to the group and copies its payload to b. Payloads longer than b
// are cut: give it MaxDatagram bytes.
func (r *Receiver) Read(b []byte) (int, netip.AddrPort, error) {
	for {
		n, dst, ifIndex, src, err := r.read(b)
		if err != nil {
			return 0, netip.AddrPort{}, err
		}
		from, ok := addrPort(src)
		if ok && r.wanted(dst, ifIndex, from.Addr()) {
			return n, from, nil
		}
	}
}

func (r *Receiver) read(b []byte) (n int, dst net.IP, ifIndex int, src net.Addr, err error) {
	if r.p4 != nil {
		var cm *ipv4.ControlMessage
		if n, cm, src, err = r.p4.ReadFrom(b); cm != nil {
			dst, ifIndex = cm.Dst, cm.IfIndex
		}
		return n, dst, ifIndex, src, err
	}
	var cm *ipv6.ControlMessage
	if n, cm, src, err = r.p6.ReadFrom(b); cm != nil {
		dst, ifIndex = cm.Dst, cm.IfIndex
	}
	return n, dst, ifIndex, src, err
}

// wanted reports whether a datagram belongs to the membership. The port is shared: unicast comes to
// it, other groups joined by other programs do, and other sources when one of those wants them.
func (r *Receiver) wanted(dst net.IP, ifIndex int, from netip.Addr) bool {
	if dst != nil {
		to, ok := netip.AddrFromSlice(dst)
		if !ok || to.Unmap() != r.target.Group {
			return false
		}
	}
	if ifIndex != 0 && !r.joined[ifIndex] {
		return false
	}
	return !r.target.Source.IsValid() || from.WithZone("") == r.target.Source
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}

// SetReadDeadline makes Read fail with os.ErrDeadlineExceeded from t on.
func (r *Receiver) SetReadDeadline(t time.Time) error { return r.conn.SetReadDeadline(t) }

// Close leaves the group.
func (r *Receiver) Close() error { return r.conn.Close() }
