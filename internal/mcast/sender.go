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

// An IPv6 address is not usable until no other host has objected to it (RFC 4862 section 5.4):
// a second by default, waited for in steps.
const (
	tentativeStep  = 100 * time.Millisecond
	tentativeSteps = 30
)

// Sender sends to a group.
type Sender struct {
	to    *net.UDPAddr
	conns []*net.UDPConn // one per interface
}

// NewSender opens a sender to the target's group through the interface named, or those that fit
// when name is empty. ttl, 1 to 255, is how many routers away the group is heard, plus one.
func NewSender(ctx context.Context, t Target, iface string, ttl int) (*Sender, error) {
	if t.Source.IsValid() {
		return nil, fmt.Errorf("send to %s: a sender does not choose the source; leave %s out", t, t.Source)
	}
	if ttl < 1 || ttl > 255 {
		return nil, fmt.Errorf("send to %s: ttl %d is not 1 to 255", t, ttl)
	}
	ifaces, err := interfaces(iface, t.Group)
	if err != nil {
		return nil, fmt.Errorf("send to %s: %w", t, err)
	}
	s := &Sender{to: &net.UDPAddr{IP: t.Group.AsSlice(), Port: int(t.Port)}}
	var errs []error
	for _, ifi := range ifaces {
		c, err := openSender(ctx, ifi, t.Group, ttl)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.conns = append(s.conns, c)
	}
	if len(s.conns) == 0 {
		return nil, fmt.Errorf("send to %s: %w", t, errors.Join(errs...))
	}
	return s, nil
}

// openSender binds an address of the interface, so that it is known which datagrams are our own.
func openSender(ctx context.Context, ifi net.Interface, group netip.Addr, ttl int) (*net.UDPConn, error) {
	from, err := address(ifi, group)
	if err != nil {
		return nil, err
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	for i := 0; err != nil && from.Is6() && i < tentativeSteps; i++ {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(tentativeStep):
		}
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	}
	if err != nil {
		return nil, err
	}
	if group.Is4() {
		p := ipv4.NewPacketConn(c)
		err = errors.Join(p.SetMulticastInterface(&ifi), p.SetMulticastTTL(ttl), p.SetMulticastLoopback(true))
	} else {
		p := ipv6.NewPacketConn(c)
		err = errors.Join(p.SetMulticastInterface(&ifi), p.SetMulticastHopLimit(ttl), p.SetMulticastLoopback(true))
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("on %s: %w", ifi.Name, err)
	}
	return c, nil
}

// Send sends one datagram of at most MaxDatagram bytes on each interface.
func (s *Sender) Send(b []byte) error {
	if len(b) > MaxDatagram {
		return fmt.Errorf("send to %s: %d bytes are more than a datagram holds (%d)", s.to, len(b), MaxDatagram)
	}
	for _, c := range s.conns {
		if _, err := c.WriteToUDP(b, s.to); err != nil {
			return fmt.Errorf("send to %s: %w", s.to, err)
		}
	}
	return nil
}

// Own reports whether a datagram from this address was sent by s.
func (s *Sender) Own(from netip.AddrPort) bool {
	for _, c := range s.conns {
		own, ok := addrPort(c.LocalAddr())
		if ok && own.Port() == from.Port() && own.Addr().WithZone("") == from.Addr().WithZone("") {
			return true
		}
	}
	return false
}

// Close releases the sockets.
func (s *Sender) Close() error {
	var errs []error
	for _, c := range s.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
