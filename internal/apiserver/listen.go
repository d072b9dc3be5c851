package apiserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// SocketName is the API's socket in the run directory.
const SocketName = "weft.sock"

// Group is the group whose members may use the API.
const Group = "weft"

// maxSocketPath is what sockaddr_un holds on Linux, less the final zero.
const maxSocketPath = 107

// ErrRunning is wrapped by Listen's error when another daemon answers at the socket.
var ErrRunning = errors.New("weft is already running")

// Listen opens RUN_DIR/weft.sock: root:weft 0660 when the group exists, else 0600. It replaces
// the socket of a daemon that died and refuses to replace that of one that lives (ErrRunning).
// Closing the listener removes the socket.
func Listen(runDir string) (*Listener, error) {
	path := filepath.Join(runDir, SocketName)
	if len(path)+len(privatePattern)+10 > maxSocketPath {
		return nil, fmt.Errorf("run directory %s: its path is too long for a socket; use a shorter one (--run-dir)", runDir)
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("%w: it answers at %s", ErrRunning, path)
	}
	return bind(runDir, path)
}

const privatePattern = ".sock"

// bind makes the socket in a directory nobody else may enter and moves it to its place once it has
// its owner and mode: at no moment may others open it, whatever the umask.
func bind(runDir, path string) (*Listener, error) {
	private, err := os.MkdirTemp(runDir, privatePattern)
	if err != nil {
		return nil, fmt.Errorf("make the socket: %w", err)
	}
	defer func() { _ = os.RemoveAll(private) }()
	birth := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: birth, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	info, err := admit(birth)
	if err == nil {
		err = os.Rename(birth, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("make the socket: %w", err)
	}
	return &Listener{UnixListener: l, path: path, info: info}, nil
}

// admit gives the socket its group and mode.
func admit(path string) (fs.FileInfo, error) {
	mode := fs.FileMode(0o600)
	if g, err := user.LookupGroup(Group); err == nil {
		gid, err := strconv.Atoi(g.Gid)
		if err == nil && os.Chown(path, -1, gid) == nil {
			mode = 0o660
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// Adopt takes over the listener of another daemon, which handed it over by File. The file is the caller's to close.
func Adopt(runDir string, f *os.File) (*Listener, error) {
	path := filepath.Join(runDir, SocketName)
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the socket: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	info, err := os.Lstat(path)
	if !ok || err != nil {
		return nil, errors.Join(fmt.Errorf("take over the socket: not that of %s", path), err, l.Close())
	}
	u.SetUnlinkOnClose(false)
	return &Listener{UnixListener: u, path: path, info: info}, nil
}

// Listener removes its socket when closed, unless another daemon has put its own there, or was given it.
type Listener struct {
	*net.UnixListener
	path string
	info fs.FileInfo

	mu     sync.Mutex // guards all below
	halted chan struct{}
	given  bool
}

// Addr returns the socket's final place.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Accept waits for a connection, and for Resume while the listener is halted.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.UnixListener.Accept()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return c, err
		}
		l.mu.Lock()
		halted := l.halted
		l.mu.Unlock()
		if halted != nil {
			<-halted
		}
	}
}

// Halt leaves new connections waiting in the kernel: for Resume, or for another daemon.
func (l *Listener) Halt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.halted == nil {
		l.halted = make(chan struct{})
		_ = l.SetDeadline(time.Unix(1, 0)) // closed: nobody accepts
	}
}

// Resume accepts connections again.
func (l *Listener) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.halted != nil {
		_ = l.SetDeadline(time.Time{}) // closed: Accept says so
		close(l.halted)
		l.halted = nil
	}
}

// Give says that another daemon has the listener now: Close leaves the socket where it is.
func (l *Listener) Give() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given = true
}

// Keep undoes Give: the socket is this daemon's.
func (l *Listener) Keep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given = false
}

// Close stops listening and removes the socket.
func (l *Listener) Close() error {
	err := l.UnixListener.Close()
	l.Resume()
	l.mu.Lock()
	given := l.given
	l.mu.Unlock()
	if given {
		return err
	}
	if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(now, l.info) {
		return errors.Join(err, os.Remove(l.path))
	}
	return err
}
