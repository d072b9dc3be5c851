package udp

import (
	"errors"
	"net/netip"
)

// ListenGroup opens a socket that hears nothing but an IPv4 group, on the interface of an index, or the one that the
// routes name when it is 0. Several processes of a host may listen to one group and port.
func ListenGroup(group netip.AddrPort, ifindex int, o Options) (Conn, error) {
	o.reuse = true
	c, err := listen("udp4", group.String(), o)
	if err != nil {
		return nil, err
	}
	if err := c.Join(group.Addr(), ifindex); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
