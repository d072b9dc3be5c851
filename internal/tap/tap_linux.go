package tap

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/gso"
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
		ready  func(fd uintptr) bool
		space  []byte
		frames [][]byte
		n      int
		err    error
	}
	// The same of Write, for one goroutine at a time.
	wr struct {
		sync.Mutex
		ready func(fd uintptr) bool
		bufs  [][]byte
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
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make TAP %s: %w", name, err)
	}
	d, err := take(name, fd)
	if err != nil {
		return nil, fmt.Errorf("make TAP %s: %w", name, err)
	}
	return d, nil
}

// take makes a Device of a descriptor that has its interface; it owns the descriptor.
func take(name string, fd int) (*device, error) {
	setOffloads(fd)
	// The descriptor is non-blocking already: os.NewFile puts it into Go's poller. It must
	// happen after TUNSETIFF, before that the descriptor polls as broken.
	d := &device{name: name, file: os.NewFile(uintptr(fd), clone)}
	var err error
	if d.raw, err = d.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, d.file.Close())
	}
	d.rd.ready, d.wr.ready = d.readReady, d.writeReady
	return d, nil
}

// Adopt takes over the TAP interface of another process, which handed it over by File. The file is the caller's to close.
func Adopt(name string, f *os.File) (Device, error) {
	fail := func(err error) (Device, error) { return nil, fmt.Errorf("take over TAP %s: %w", name, err) }
	raw, err := f.SyscallConn()
	if err != nil {
		return fail(err)
	}
	fd := -1
	cerr := raw.Control(func(given uintptr) {
		var req *unix.Ifreq
		if req, err = unix.NewIfreq(name); err != nil {
			return
		}
		if err = unix.IoctlIfreq(int(given), unix.TUNGETIFF, req); err != nil {
			return
		}
		if req.Name() != name || req.Uint16()&(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR) != unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR {
			err = fmt.Errorf("it is interface %s of another kind", req.Name())
			return
		}
		if fd, err = unix.FcntlInt(given, unix.F_DUPFD_CLOEXEC, 3); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return fail(err)
	}
	d, err := take(name, fd)
	if err != nil {
		return fail(err)
	}
	return d, nil
}

// File returns the descriptor of an interface, for Adopt in another process. It stays the Device's.
func File(d Device) (*os.File, error) {
	own, ok := d.(*device)
	if !ok {
		return nil, errors.New("not a TAP of the kernel's")
	}
	return own.file, nil
}

func (d *device) Halt() { _ = d.file.SetReadDeadline(time.Unix(1, 0)) } // closed: nobody reads

func (d *device) Resume() { _ = d.file.SetReadDeadline(time.Time{}) }

func (d *device) Name() string { return d.name }

func (d *device) Refused() uint64 { return d.refused.Load() }

// setOffloads asks for what the kernel has: UDP segmentation came in 6.2, the rest is old.
func setOffloads(fd int) {
	const (
		uso4 = 0x20 // TUN_F_USO4 and 6 of linux/if_tun.h
		uso6 = 0x40
		tso  = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	)
	for _, set := range []int{tso | uso4 | uso6, tso, unix.TUN_F_CSUM} {
		if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, set) == nil {
			return
		}
	}
}

func (d *device) Read(space []byte, frames [][]byte) (int, error) {
	if len(frames) == 0 || len(space) < gso.MaxFrame {
		return 0, fmt.Errorf("read TAP %s: space of %d bytes for %d frames", d.name, len(space), len(frames))
	}
	d.rd.space, d.rd.frames = space, frames
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
	for d.rd.n < len(d.rd.frames) && len(d.rd.space) >= gso.MaxFrame {
		size, err := rawRead(fd, d.rd.space)
		switch {
		case err == nil && size < gso.HeaderLen: // not with this kernel
		case err == nil:
			d.rd.frames[d.rd.n] = d.rd.space[:size:size]
			d.rd.space = d.rd.space[size:]
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
	d.wr.Lock()
	defer d.wr.Unlock()
	d.wr.bufs, d.wr.n, d.wr.err = bufs, 0, nil
	err := d.raw.Write(d.wr.ready)
	d.wr.bufs = nil
	if err = cmp.Or(err, d.wr.err); err != nil {
		return d.wr.n, d.wrap("write", err)
	}
	return d.wr.n, nil
}

// writeReady writes what is left; false tells the poller to wait.
func (d *device) writeReady(fd uintptr) bool {
	for len(d.wr.bufs) > 0 {
		err := rawWrite(fd, d.wr.bufs[0])
		switch {
		case err == nil:
			d.wr.n++
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false
		case errors.Is(err, unix.EBADFD): // somebody deleted the interface
			d.wr.err = err
			return true
		default:
			d.refused.Add(1)
		}
		d.wr.bufs = d.wr.bufs[1:]
	}
	return true
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
