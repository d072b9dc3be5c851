package ethersock

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

type conn struct{ f *os.File }

var _ Conn = (*conn)(nil)

// Open opens a socket for frames of an EtherType on the interface with an index, in the network namespace of the calling
// thread. It needs CAP_NET_RAW.
func Open(index int, etherType uint16) (Conn, error) {
	proto := etherType<<8 | etherType>>8                                                          // network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // hears nothing before bind
	if err != nil {
		return nil, fmt.Errorf("socket for Ethernet frames: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: index}); err != nil {
		return nil, errors.Join(fmt.Errorf("socket for Ethernet frames on interface %d: %w", index, err), unix.Close(fd))
	}
	return &conn{os.NewFile(uintptr(fd), "ethersock")}, nil
}

func (c *conn) Send(frame []byte) error {
	if _, err := c.f.Write(frame); err != nil {
		return closed("send frame", err)
	}
	return nil
}

func (c *conn) Receive(b []byte) (int, error) {
	n, err := c.f.Read(b)
	if err != nil {
		return 0, closed("receive frame", err)
	}
	return n, nil
}

func (c *conn) Close() error { return c.f.Close() }

func closed(op string, err error) error {
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	return fmt.Errorf("%s: %w", op, err)
}
