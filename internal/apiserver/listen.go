package apiserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/unixsock"
)

// SocketName is the API's socket in the run directory.
const SocketName = "weft.sock"

// Group is the group whose members may use the API.
const Group = "weft"

// ErrRunning is wrapped by Listen's error when another daemon answers at the socket.
var ErrRunning = errors.New("weft is already running")

// Listen opens RUN_DIR/weft.sock: root:weft 0660 when the group exists, else 0600. It replaces
// the socket of a daemon that died and refuses to replace that of one that lives (ErrRunning).
// Closing the listener removes the socket.
func Listen(runDir string) (*Listener, error) {
	path := filepath.Join(runDir, SocketName)
	if !unixsock.Fits(path) {
		return nil, fmt.Errorf("run directory %s: its path is too long for a socket; use a shorter one (--run-dir)", runDir)
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	if unixsock.Answered(path) {
		return nil, fmt.Errorf("%w: it answers at %s", ErrRunning, path)
	}
	l, err := unixsock.Listen(path, Group)
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: l}, nil
}

// Adopt takes over the listener of another daemon, which handed it over by File. The file is the caller's to close.
func Adopt(runDir string, f *os.File) (*Listener, error) {
	l, err := unixsock.Adopt(filepath.Join(runDir, SocketName), f)
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: l}, nil
}

// Listener removes its socket when closed, unless another daemon has put its own there, or was given it.
type Listener struct {
	*unixsock.Listener

	mu     sync.Mutex // guards all below
	halted chan struct{}
	given  bool
}

// Accept waits for a connection, and for Resume while the listener is halted.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
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
	l.mu.Lock()
	given := l.given
	l.mu.Unlock()
	end := l.Listener.Close
	if given {
		end = l.UnixListener.Close
	}
	err := end()
	l.Resume()
	return err
}
