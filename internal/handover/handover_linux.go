package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/unixsock"
)

// Listener takes hand-over connections. Its methods may be called from any goroutine.
type Listener struct{ l *unixsock.Listener }

// Listen opens the socket in a run directory. It replaces the one that is there: whoever may listen holds the lock of the
// state directory.
func Listen(runDir string) (*Listener, error) {
	l, err := unixsock.Listen(filepath.Join(runDir, SocketName), "")
	if err != nil {
		return nil, fmt.Errorf("for hand-overs: %w", err)
	}
	return &Listener{l}, nil
}

// Accept returns the next connection of root; others are closed without a word. After Close: net.ErrClosed.
func (l *Listener) Accept() (*Conn, error) {
	for {
		uc, err := l.l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		c := &Conn{uc: uc}
		if c.check() == nil {
			return c, nil
		}
		_ = c.Close()
	}
}

// Close stops listening and removes the socket, unless another daemon has put its own there.
func (l *Listener) Close() error { return l.l.Close() }

// Conn is one hand-over. One goroutine at a time sends, one receives.
type Conn struct {
	uc  *net.UnixConn
	pid int
}

// Dial connects to the daemon of a run directory; ErrNobody when none listens there.
func Dial(runDir string) (*Conn, error) {
	path := filepath.Join(runDir, SocketName)
	uc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("%w at %s", ErrNobody, path)
	case err != nil:
		return nil, err
	}
	c := &Conn{uc: uc}
	if err := c.check(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// check asks the kernel who the other end is.
func (c *Conn) check() error {
	raw, err := c.uc.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return err
	}
	if c.pid = int(cred.Pid); cred.Uid != 0 {
		return ErrNotRoot
	}
	return nil
}

// PID is the process at the other end.
func (c *Conn) PID() int { return c.pid }

// SetDeadline bounds sending and receiving.
func (c *Conn) SetDeadline(t time.Time) error { return c.uc.SetDeadline(t) }

// Close ends the connection; the other end reads io.EOF.
func (c *Conn) Close() error { return c.uc.Close() }

// Send sends a message with at most MaxDescriptors descriptors. The files stay the caller's.
func (c *Conn) Send(kind byte, body []byte, files ...*os.File) error {
	if len(files) > MaxDescriptors || len(body) > 1<<32-1 {
		return ErrTooLong
	}
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)))
	err := descriptors(files, nil, func(fds []int) error {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		n, _, err := c.uc.WriteMsgUnix(head, rights, nil)
		if err == nil && n < len(head) { // the descriptors went with the first byte
			_, err = c.uc.Write(head[n:])
		}
		return err
	})
	if err == nil && len(body) > 0 {
		_, err = c.uc.Write(body)
	}
	if err != nil {
		return fmt.Errorf("hand-over: send: %w", err)
	}
	return nil
}

// descriptors calls f with the numbers of files, none of which is closed meanwhile. (File.Fd would make them block.)
func descriptors(files []*os.File, fds []int, f func([]int) error) error {
	if len(files) == 0 {
		return f(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = descriptors(files[1:], append(fds, int(fd)), f) }); cerr != nil {
		return cerr
	}
	return err
}

// Receive returns the next message, of at most limit bytes, and its descriptors, which are the caller's to close. io.EOF
// says that the other end closed, or is dead.
func (c *Conn) Receive(limit int) (kind byte, body []byte, files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			files = nil
		}
	}()
	head := make([]byte, header)
	space := make([]byte, unix.CmsgSpace(4*MaxDescriptors))
	for n := 0; n < header; {
		k, oob, _, _, err := c.uc.ReadMsgUnix(head[n:], space)
		if err != nil {
			return 0, nil, files, fmt.Errorf("hand-over: receive: %w", err)
		}
		more, err := received(space[:oob])
		files = append(files, more...)
		if err != nil {
			return 0, nil, files, fmt.Errorf("hand-over: receive: %w", err)
		}
		n += k
	}
	size := binary.BigEndian.Uint32(head[1:])
	if uint64(size) > uint64(limit) {
		return 0, nil, files, ErrTooLong
	}
	body = make([]byte, size)
	for n := 0; n < len(body); {
		k, err := c.uc.Read(body[n:])
		if err != nil {
			return 0, nil, files, fmt.Errorf("hand-over: receive: %w", err)
		}
		n += k
	}
	return head[0], body, files, nil
}

// received makes files of the descriptors in control messages.
func received(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if errors.Is(err, unix.EINVAL) {
			continue // of another type
		}
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}
