//go:build !linux

package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Listen opens the socket on port, 0 for any.
func Listen(port int, o Options) (Conn, error) {
	network := "udp"
	if o.IPv4Only {
		network = "udp4"
	}
	pc, err := (&net.ListenConfig{}).ListenPacket(context.Background(), network, ":"+strconv.Itoa(port))
	if err != nil {
		return nil, fmt.Errorf("udp port %d: %w (is another weft running?)", port, err)
	}
	u := pc.(*net.UDPConn)
	size := o.Buffer
	if size == 0 {
		size = DefaultBuffer
	}
	_ = u.SetReadBuffer(size) // best effort: the system's limit holds
	_ = u.SetWriteBuffer(size)
	return &conn{u: u}, nil
}

type conn struct {
	u    *net.UDPConn
	n    counters
	once sync.Once
	err  error
}

var _ Conn = (*conn)(nil)

func (c *conn) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, ErrEmptyBatch
	}
	n, addr, err := c.u.ReadFromUDPAddrPort(ms[0].Buf)
	if err != nil {
		return 0, fmt.Errorf("udp read: %w", err)
	}
	ms[0].N, ms[0].Segment, ms[0].Truncated = n, 0, false
	ms[0].Addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	c.n.rxMessages.Add(1)
	c.n.rxBytes.Add(uint64(n))
	return 1, nil
}

func (c *conn) WriteBatch(ms []Message) (int, error) {
	sent := 0
	for i := range ms {
		m := &ms[i]
		m.N = 0
		n, err := c.u.WriteToUDPAddrPort(m.Buf, m.Addr)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !c.n.refused(err) {
				return sent, fmt.Errorf("udp write: %w", err)
			}
			continue
		}
		m.N = n
		sent++
		c.n.txMessages.Add(1)
		c.n.txBytes.Add(uint64(n))
	}
	return sent, nil
}

func (c *conn) NewWriter(int) Writer { return c }

func (c *conn) Join(group netip.Addr, ifindex int) error {
	ifi, err := interfaceOf(ifindex)
	if err != nil {
		return fmt.Errorf("join %v: %w", group, err)
	}
	a := &net.UDPAddr{IP: group.AsSlice()}
	if group.Is4() {
		return ipv4.NewPacketConn(c.u).JoinGroup(ifi, a)
	}
	return ipv6.NewPacketConn(c.u).JoinGroup(ifi, a)
}

func (c *conn) Leave(group netip.Addr, ifindex int) error {
	ifi, err := interfaceOf(ifindex)
	if err != nil {
		return fmt.Errorf("leave %v: %w", group, err)
	}
	a := &net.UDPAddr{IP: group.AsSlice()}
	if group.Is4() {
		return ipv4.NewPacketConn(c.u).LeaveGroup(ifi, a)
	}
	return ipv6.NewPacketConn(c.u).LeaveGroup(ifi, a)
}

func (c *conn) Multicast(ifindex, ttl int) error {
	err, err6 := c.multicast(false, ifindex, ttl), c.multicast(true, ifindex, ttl)
	if err != nil && err6 != nil { // a socket may have one family only
		return errors.Join(err, err6)
	}
	return nil
}

func (c *conn) MulticastOf(group netip.Addr, ifindex, ttl int) error {
	return c.multicast(!group.Unmap().Is4(), ifindex, ttl)
}

func (c *conn) multicast(v6 bool, ifindex, ttl int) error {
	if ttl == 0 {
		ttl = 1
	}
	ifi, err := interfaceOf(ifindex)
	switch {
	case err != nil:
	case v6:
		p := ipv6.NewPacketConn(c.u)
		err = errors.Join(p.SetMulticastHopLimit(ttl), p.SetMulticastLoopback(false), p.SetMulticastInterface(ifi))
	default:
		p := ipv4.NewPacketConn(c.u)
		err = errors.Join(p.SetMulticastTTL(ttl), p.SetMulticastLoopback(false), p.SetMulticastInterface(ifi))
	}
	if err != nil {
		return fmt.Errorf("udp: multicast by interface %d: %w", ifindex, err)
	}
	return nil
}

// interfaceOf returns the interface of an index; nil, which leaves it to the system, for 0.
func interfaceOf(index int) (*net.Interface, error) {
	if index == 0 {
		return nil, nil
	}
	return net.InterfaceByIndex(index)
}

// Adopt is for Linux.
func Adopt(*os.File, Options) (Conn, error) { return nil, errors.ErrUnsupported }

// File is for Linux.
func File(Conn) (*os.File, error) { return nil, errors.ErrUnsupported }

func (c *conn) Halt() { _ = c.u.SetReadDeadline(time.Unix(1, 0)) } // closed: nobody reads

func (c *conn) Resume() { _ = c.u.SetReadDeadline(time.Time{}) }

func (c *conn) LocalAddr() netip.AddrPort {
	return c.u.LocalAddr().(*net.UDPAddr).AddrPort()
}

func (c *conn) Stats() Stats { return c.n.stats() }

func (c *conn) Close() error {
	c.once.Do(func() { c.err = c.u.Close() })
	return c.err
}

// refused counts err under its errno name and reports whether it concerns one message only.
func (c *counters) refused(err error) bool {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return false
	}
	c.errs[errnoIndex(no)].Add(1)
	return true
}
