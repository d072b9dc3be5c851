//go:build !linux

package udp

import (
	"fmt"
	"net"
	"net/netip"
)

// ListenGroup opens a socket that hears an IPv4 group, on the interface of an index, or the one that the system chooses
// when it is 0. Several processes of a host may listen to one group and port.
func ListenGroup(group netip.AddrPort, ifindex int, o Options) (Conn, error) {
	var ifi *net.Interface
	if ifindex != 0 {
		var err error
		if ifi, err = net.InterfaceByIndex(ifindex); err != nil {
			return nil, fmt.Errorf("udp group %v: %w", group, err)
		}
	}
	u, err := net.ListenMulticastUDP("udp4", ifi, net.UDPAddrFromAddrPort(group))
	if err != nil {
		return nil, fmt.Errorf("udp group %v: %w", group, err)
	}
	size := o.Buffer
	if size == 0 {
		size = DefaultBuffer
	}
	_ = u.SetReadBuffer(size) // best effort: the system's limit holds
	return &conn{u: u}, nil
}
