//go:build !linux && !darwin

package edge

import "net"

// holdLittle does nothing: the system has no bound for what it has taken and not sent but the send buffer.
func holdLittle(net.Conn) {}
