//go:build linux || darwin

package edge

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// holdLittle bounds what the kernel takes of a connection without having sent it (TCP_NOTSENT_LOWAT, in tcp(7) and Apple's tcp(4)). What
// it does not take waits in the edge's queue, where it is counted, and is dropped when it is too much.
func holdLittle(nc net.Conn) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// Linux before 3.12 has no such option: then the send buffer is the bound, as elsewhere.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
}
