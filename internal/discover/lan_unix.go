//go:build unix

package discover

import (
	"errors"
	"syscall"
)

// shareBroadcast lets several hosts of one machine, and a daemon and its successor, hear beacons, and broadcast them.
func shareBroadcast(_, _ string, c syscall.RawConn) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) {
		err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1), syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1))
	}), err)
}
