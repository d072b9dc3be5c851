package udp

import (
	"errors"
	"fmt"
	"net/netip"
)

// ListenGroup opens a socket that hears nothing but a group, of either address family, on the interface of an index, or the one that the
// routes name when it is 0. Several processes of a host may listen to one group and port.
func ListenGroup(group netip.AddrPort, ifindex int, o Options) (Conn, error) {
	if !group.Addr().IsMulticast() || group.Addr().Is4In6() {
		return nil, fmt.Errorf("udp: %v is not a group", group)
	}
	if o.reuse = true; group.Addr().Is6() {
		o.device = ifindex // else what comes for the group to other interfaces, where others have joined it, comes to this socket, too
	}
	c, err := listen(group, o)
	if err != nil {
		return nil, err
	}
	if err := c.Join(group.Addr(), ifindex); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
