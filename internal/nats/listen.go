package nats

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// unixPrefix begins the address of a unix socket.
const unixPrefix = "unix:"

const (
	// maxSocketPath is what sockaddr_un holds on Linux, less the final zero.
	maxSocketPath = 107
	// privatePattern names the directory in which a socket is born, birthRoom is how much longer than its folder's its path is then.
	privatePattern = ".nats"
	birthRoom      = 20
)

// CheckAddr refuses what is no address to listen at: IP:PORT or unix:PATH, the path absolute.
func CheckAddr(addr string) error {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		switch {
		case !filepath.IsAbs(path) || strings.ContainsRune(path, 0):
			return errors.New("want unix: and an absolute path")
		case max(len(path), len(filepath.Dir(path))+birthRoom) > maxSocketPath:
			return errors.New("the path is too long for a socket")
		}
		return nil
	}
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return errors.New("want ADDRESS:PORT or unix:PATH")
	}
	return nil
}

// Exposed reports whether other machines can reach a listener at an address that CheckAddr took.
func Exposed(addr string) bool {
	ap, err := netip.ParseAddrPort(addr)
	return err == nil && !ap.Addr().Unmap().IsLoopback()
}

// Listen opens an address. A unix socket gets the mode, and the group unless it is negative, before anybody can open it; one that a
// dead process left is replaced.
func Listen(addr string, gid int, mode fs.FileMode) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, unixPrefix)
	if !ok {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen for NATS clients: %w", err)
		}
		return l, nil
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("listen for NATS clients: %s is there and no socket", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("listen for NATS clients: another process answers at %s", path)
		}
	}
	// Born where nobody else may enter, it moves to its place with its owner and mode.
	private, err := os.MkdirTemp(filepath.Dir(path), privatePattern)
	if err != nil {
		return nil, fmt.Errorf("listen for NATS clients: %w", err)
	}
	defer func() { _ = os.RemoveAll(private) }()
	birth := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: birth, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for NATS clients: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if gid >= 0 {
		err = os.Chown(birth, -1, gid)
	}
	if err == nil {
		err = os.Chmod(birth, mode)
	}
	if err == nil {
		err = os.Rename(birth, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen for NATS clients: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen for NATS clients: %w", err)
	}
	return &socket{UnixListener: l, path: path, info: info}, nil
}

// socket removes its file when closed, unless another process has put its own there.
type socket struct {
	*net.UnixListener
	path string
	info fs.FileInfo
}

func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

func (s *socket) Close() error {
	err := s.UnixListener.Close()
	if now, statErr := os.Lstat(s.path); statErr == nil && os.SameFile(now, s.info) {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}
