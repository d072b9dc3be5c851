//go:build !linux

package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// ListenGroup opens a socket that hears a group, of either address family, on the interface of an index, or the one that the system chooses
// when it is 0. Several processes of a host may listen to one group and port.
func ListenGroup(group netip.AddrPort, ifindex int, o Options) (Conn, error) {
	if !group.Addr().IsMulticast() || group.Addr().Is4In6() {
		return nil, fmt.Errorf("udp: %v is not a group", group)
	}
	network := "udp6"
	if group.Addr().Is4() {
		network = "udp4"
	}
	// Package net binds a group's port for all addresses, and so that others may, too.
	pc, err := (&net.ListenConfig{}).ListenPacket(context.Background(), network, group.String())
	if err != nil {
		return nil, fmt.Errorf("udp group %v: %w", group, err)
	}
	u := pc.(*net.UDPConn)
	size := o.Buffer
	if size == 0 {
		size = DefaultBuffer
	}
	_ = u.SetReadBuffer(size) // best effort: the system's limit holds
	// On Windows it is the one who listens that says whether the host's own datagrams come back. They would be counted, and dropped.
	if group.Addr().Is4() {
		_ = ipv4.NewPacketConn(u).SetMulticastLoopback(false)
	} else {
		_ = ipv6.NewPacketConn(u).SetMulticastLoopback(false)
	}
	c := &conn{u: u}
	if err := c.Join(group.Addr(), ifindex); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
