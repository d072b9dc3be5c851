package udp

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ListenGroup opens a socket that hears nothing but an IPv4 group, on the interface of an index, or the one that the
// routes name when it is 0. Several processes of a host may listen to one group and port.
func ListenGroup(group netip.AddrPort, ifindex int, o Options) (Conn, error) {
	if !group.Addr().Is4() {
		return nil, fmt.Errorf("udp: %v is not an IPv4 group", group)
	}
	o.reuse = true
	c, err := listen(&unix.SockaddrInet4{Port: int(group.Port()), Addr: group.Addr().As4()}, unix.AF_INET, o)
	if err != nil {
		return nil, err
	}
	if err := c.Join(group.Addr(), ifindex); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
