package ethersock

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sender sends frames on any interface of one network namespace, and hears nothing. It may be used by many goroutines.
type Sender struct {
	f   *os.File
	raw syscall.RawConn
}

// NewSender opens a socket in the network namespace of the calling thread. It needs CAP_NET_RAW.
func NewSender() (*Sender, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket for Ethernet frames: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ethersock")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Sender{f, raw}, nil
}

// Send sends a whole frame, header included, on the interface with an index. The kernel takes it for what its type says.
func (s *Sender) Send(index int, frame []byte) error {
	const typeAt = 12
	if len(frame) < typeAt+2 {
		return fmt.Errorf("send frame: of %d bytes", len(frame))
	}
	to := &unix.SockaddrLinklayer{Ifindex: index, Protocol: uint16(frame[typeAt+1])<<8 | uint16(frame[typeAt])} // network order
	var sent error
	err := s.raw.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), frame, unix.MSG_DONTWAIT, to) })
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// Close closes the socket.
func (s *Sender) Close() error { return s.f.Close() }
