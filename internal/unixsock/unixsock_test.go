package unixsock

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sock") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "x.sock")
}

// TestListen: the socket has its mode, answers, and takes away what is its own when closed, and nothing else.
func TestListen(t *testing.T) {
	for group, mode := range map[string]fs.FileMode{"": 0o600, "no such group": 0o600, "root": 0o660} {
		path := place(t)
		if Answered(path) {
			t.Error("nobody listens, and it is answered")
		}
		l, err := Listen(path, group)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("group %q: %v, %v; want %v", group, info.Mode(), err, mode)
		}
		if !Answered(path) || l.Addr().String() != path {
			t.Errorf("%v does not answer at %s", l.Addr(), path)
		}
		next, err := Listen(path, group) // it replaces the first
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if !Answered(path) {
			t.Error("the first took the second's socket away")
		}
		if err := next.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestFits: what fits can be made, and what does not cannot.
func TestFits(t *testing.T) {
	base := filepath.Dir(place(t))
	for _, n := range []int{1, 40, 60, 70, 80, 85, 90, 100} {
		path := filepath.Join(base, strings.Repeat("d", n), "s")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := Listen(path, "")
		if err == nil {
			_ = l.Close()
		} else if Fits(path) {
			t.Errorf("%d bytes fit, and %v", len(path), err)
		}
	}
	if Fits("/" + strings.Repeat("d", 90) + "/s") {
		t.Error("a socket born in a directory of 91 bytes fits")
	}
}

func TestAdoptRefusesOthers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Adopt(place(t), f); err == nil {
		t.Error("a TCP listener is taken for a unix socket")
	}
}
