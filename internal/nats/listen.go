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

	"github.com/weft-net/weft/internal/unixsock"
)

// unixPrefix begins the address of a unix socket.
const unixPrefix = "unix:"

// CheckAddr refuses what is no address to listen at: IP:PORT or unix:PATH, the path absolute.
func CheckAddr(addr string) error {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		switch {
		case !filepath.IsAbs(path) || strings.ContainsRune(path, 0):
			return errors.New("want unix: and an absolute path")
		case !unixsock.Fits(path):
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

// Listen opens an address. A unix socket is for the members of a group, if there is such a group; one that a dead process left
// is replaced.
func Listen(addr, group string) (net.Listener, error) {
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
		if unixsock.Answered(path) {
			return nil, fmt.Errorf("listen for NATS clients: another process answers at %s", path)
		}
	}
	l, err := unixsock.Listen(path, group)
	if err != nil {
		return nil, fmt.Errorf("listen for NATS clients: %w", err)
	}
	return l, nil
}
