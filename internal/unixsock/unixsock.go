// Package unixsock listens at unix sockets of the file system that at no moment anybody may open who should not, whatever
// the umask: a socket is born where nobody else may enter, and moves to its place once it has its group and mode.
package unixsock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// maxPath is what sockaddr_un holds on Linux, less the final zero.
	maxPath = 107
	// private begins the name of the directory in which a socket is born; os.MkdirTemp adds up to ten digits.
	private = ".sock"
	birth   = "s"
)

// Fits reports whether a socket can be made at a path: it must not be too long.
func Fits(path string) bool {
	born := len(filepath.Dir(path)) + len("/") + len(private) + 10 + len("/") + len(birth)
	return max(len(path), born) <= maxPath
}

// Answered reports whether a process listens at a path.
func Answered(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// Listener removes its socket when closed, unless another process has put its own there.
type Listener struct {
	*net.UnixListener
	path string
	info fs.FileInfo
}

// Listen makes a socket, in place of what is there: its owner's and of a group, 0660, or 0600 when group is empty or there is
// no such group. Ask Fits and Answered before.
func Listen(path, group string) (*Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), private)
	if err != nil {
		return nil, fmt.Errorf("make the socket: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	at := filepath.Join(dir, birth)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	info, err := admit(at, group)
	if err == nil {
		err = os.Rename(at, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the socket: %w", err), l.Close())
	}
	return &Listener{UnixListener: l, path: path, info: info}, nil
}

// admit gives a socket its group and mode.
func admit(path, group string) (fs.FileInfo, error) {
	mode := fs.FileMode(0o600)
	if group != "" {
		if g, err := user.LookupGroup(group); err == nil {
			if gid, err := strconv.Atoi(g.Gid); err == nil && os.Chown(path, -1, gid) == nil {
				mode = 0o660
			}
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// Adopt takes over the listener of another process at a path, which handed it over by File. The file is the caller's to close.
func Adopt(path string, f *os.File) (*Listener, error) {
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

// Addr returns the socket's final place.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening and removes the socket.
func (l *Listener) Close() error {
	err := l.UnixListener.Close()
	if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(now, l.info) {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}
