package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a UDP socket of which the runtime's poller hears only what somebody waits for. Of a socket of package net it
// hears whenever the kernel has sent something and its buffer has room again: a thread woken for nothing by every train, and
// by every answer to a ping. So an epoll set of its own watches the socket for reading, another for writing when the
// buffer was full, and the runtime's poller watches these two.
type socket struct {
	in, out *watch

	mu sync.RWMutex // held while fd is used, which never waits
	fd int          // -1: closed
}

// watch is an epoll set of one socket. Nobody reads its events: that it is readable is all that is asked of it.
type watch struct {
	file *os.File
	raw  syscall.RawConn
}

// newSocket takes a descriptor over; on error too, it is the socket's to close.
func newSocket(fd int) (s *socket, err error) {
	s = &socket{fd: fd}
	if s.in, err = newWatch(fd, unix.EPOLLIN); err == nil {
		s.out, err = newWatch(fd, unix.EPOLLONESHOT)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func newWatch(fd int, events uint32) (*watch, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events}); err == nil {
		err = unix.SetNonblock(ep, true) // else package os does not show it to the runtime's poller
	}
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("epoll_ctl", err), unix.Close(ep))
	}
	w := &watch{file: os.NewFile(uintptr(ep), "epoll")}
	if w.raw, err = w.file.SyscallConn(); err == nil {
		err = w.file.SetDeadline(time.Time{}) // fails when the runtime's poller did not take it
	}
	if err != nil {
		return nil, errors.Join(err, w.file.Close())
	}
	return w, nil
}

// rearm has the watch tell once more of events, at once if they are there already. ep is its descriptor, fd the socket's.
func rearm(ep, fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events | unix.EPOLLONESHOT}))
}

// control calls f with the descriptor; net.ErrClosed after close.
func (s *socket) control(f func(fd int) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	return f(s.fd)
}

func (s *socket) closed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fd < 0
}

// readUntil bounds how long reads wait; the zero time: for ever.
func (s *socket) readUntil(t time.Time) { _ = s.in.file.SetReadDeadline(t) } // closed: nobody reads

// dup returns another descriptor of the socket.
func (s *socket) dup() (f *os.File, err error) {
	err = s.control(func(fd int) error {
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		f = os.NewFile(uintptr(d), "udp")
		return nil
	})
	return f, err
}

// close ends reads and writes that wait.
func (s *socket) close() error {
	s.mu.Lock()
	err := unix.Close(s.fd)
	s.fd = -1
	s.mu.Unlock()
	for _, w := range []*watch{s.in, s.out} {
		if w != nil {
			err = errors.Join(err, w.file.Close())
		}
	}
	return err
}

// localAddr returns the address the socket is bound to.
func (s *socket) localAddr() (a netip.AddrPort, err error) {
	err = s.control(func(fd int) error {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return os.NewSyscallError("getsockname", err)
		}
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			a = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			a = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
		default:
			return fmt.Errorf("a socket of another family: %T", sa)
		}
		return nil
	})
	return a, err
}
