package nl

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// watchBuffer is the receive buffer of a watcher in bytes. When it overflows both events are told.
const watchBuffer = 1 << 20

type watcher struct {
	file  *os.File
	ready chan struct{}
	mask  atomic.Uint32
}

func (h *handle) Watch() (Watcher, error) {
	w := &watcher{ready: make(chan struct{}, 1)}
	err := h.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) // less only overflows sooner
		groups := uint32(1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_MDB-1))
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
			_ = unix.Close(fd)
			return err
		}
		w.file = os.NewFile(uintptr(fd), "netlink")
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("watch interfaces and groups: %w", err)
	}
	raw, err := w.file.SyscallConn()
	if err != nil {
		_ = w.file.Close()
		return nil, fmt.Errorf("watch interfaces and groups: %w", err)
	}
	go w.receive(raw)
	return w, nil
}

func (w *watcher) Ready() <-chan struct{} { return w.ready }
func (w *watcher) Take() Event            { return Event(w.mask.Swap(0)) }
func (w *watcher) Close() error           { return w.file.Close() }

// receive ends when the file is closed.
func (w *watcher) receive(raw syscall.RawConn) {
	buf := make([]byte, 1<<16)
	for {
		var n int
		var from unix.Sockaddr
		var err error
		if raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(err, unix.EAGAIN)
		}) != nil {
			return
		}
		if err != nil { // ENOBUFS: notifications were lost
			w.tell(LinksChanged | GroupsChanged)
			continue
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // not from the kernel
		}
		w.tell(eventOf(buf[:n]))
	}
}

// eventOf looks at the types of the messages in one datagram; what cannot be read counts as
// a change.
func eventOf(b []byte) Event {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return LinksChanged | GroupsChanged
	}
	var e Event
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			e |= LinksChanged
		case unix.RTM_NEWMDB, unix.RTM_DELMDB:
			if learned(m.Data) {
				e |= GroupsChanged
			}
		}
	}
	return e
}

func (w *watcher) tell(e Event) {
	if e == 0 {
		return
	}
	w.mask.Or(uint32(e))
	select {
	case w.ready <- struct{}{}:
	default:
	}
}
