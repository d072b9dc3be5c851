package tap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const clone = "/dev/net/tun"

type device struct {
	name    string
	file    *os.File
	raw     syscall.RawConn
	refused atomic.Uint64
	closed  atomic.Bool // RawConn's own error for this is not exported

	// What Read gives to readReady: a closure made once, so that Read allocates nothing.
	// Owned by the one goroutine that reads.
	rd struct {
		ready func(fd uintptr) bool
		bufs  [][]byte
		sizes []int
		n     int
		err   error
	}
}

// Open makes the TAP interface name in the network namespace of the calling thread and
// returns it, down and without an address. An interface of that name that another process
// holds open: an error that Is EBUSY.
func Open(name string) (Device, error) {
	req, err := unix.NewIfreq(name)
	if err != nil || name == "" {
		return nil, fmt.Errorf("make TAP %q: not an interface name", name)
	}
	fd, err := unix.Open(clone, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make TAP %s: open %s: %w (is the tun module there? try: modprobe tun)", name, clone, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make TAP %s: %w", name, err)
	}
	// The descriptor is non-blocking already: os.NewFile puts it into Go's poller. It must
	// happen after TUNSETIFF, before that the descriptor polls as broken.
	d := &device{name: name, file: os.NewFile(uintptr(fd), clone)}
	if d.raw, err = d.file.SyscallConn(); err != nil {
		_ = d.file.Close()
		return nil, fmt.Errorf("make TAP %s: %w", name, err)
	}
	d.rd.ready = d.readReady
	return d, nil
}

func (d *device) Name() string { return d.name }

func (d *device) Refused() uint64 { return d.refused.Load() }

func (d *device) Read(bufs [][]byte, sizes []int) (int, error) {
	if len(bufs) == 0 || len(sizes) == 0 {
		return 0, nil
	}
	d.rd.bufs, d.rd.sizes = bufs[:min(len(bufs), len(sizes))], sizes
	d.rd.n, d.rd.err = 0, nil
	if err := d.raw.Read(d.rd.ready); err != nil {
		return 0, d.wrap("read", err)
	}
	if d.rd.n == 0 && d.rd.err != nil {
		return 0, d.wrap("read", d.rd.err)
	}
	return d.rd.n, nil
}

// readReady drains the queue; false tells the poller to wait.
func (d *device) readReady(fd uintptr) bool {
	for d.rd.n < len(d.rd.bufs) {
		size, err := unix.Read(int(fd), d.rd.bufs[d.rd.n])
		switch {
		case err == nil:
			d.rd.sizes[d.rd.n] = size
			d.rd.n++
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return d.rd.n > 0
		default:
			d.rd.err = err
			return true
		}
	}
	return true
}

func (d *device) Write(bufs [][]byte) (int, error) {
	n := 0
	for _, b := range bufs {
		_, err := d.file.Write(b)
		switch {
		case err == nil:
			n++
		case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADFD):
			return n, d.wrap("write", err) // EBADFD: somebody deleted the interface
		default:
			d.refused.Add(1)
		}
	}
	return n, nil
}

func (d *device) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	if err := d.file.Close(); err != nil {
		return d.wrap("close", err)
	}
	return nil
}

func (d *device) wrap(op string, err error) error {
	if d.closed.Load() || errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("%s TAP %s: %w", op, d.name, net.ErrClosed)
	}
	return fmt.Errorf("%s TAP %s: %w", op, d.name, err)
}
