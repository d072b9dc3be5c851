package handover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// strangerDir makes this test binary a stranger who looks in, when set.
const strangerDir = "WEFT_HANDOVER_STRANGER"

func TestMain(m *testing.M) {
	dir := os.Getenv(strangerDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	c, err := net.Dial("unix", filepath.Join(dir, SocketName))
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	fmt.Println(err)
}

// pair connects two ends.
func pair(t *testing.T) (a, b *Conn, l *Listener, dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = Dial(dir); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _, _ = a.Close(), b.Close(), l.Close() })
	for _, c := range []*Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if c.PID() != os.Getpid() {
			t.Errorf("the other end is process %d", c.PID())
		}
	}
	return a, b, l, dir
}

// TestDescriptors: messages and descriptors arrive as they were sent, the descriptors open the same files, and a limit holds.
func TestDescriptors(t *testing.T) {
	a, b, _, _ := pair(t)
	var files []*os.File
	for i := range MaxDescriptors {
		f, err := os.CreateTemp(t.TempDir(), "f")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprint(f, i)
		files = append(files, f)
	}
	long := bytes.Repeat([]byte("secret"), 1<<18)
	sent := make(chan error, 1)
	go func() {
		err := a.Send(1, []byte("first"))
		err = errors.Join(err, a.Send(2, long, files...), a.Send(3, nil, files[7]), a.Send(4, nil))
		sent <- errors.Join(err, a.Send(5, long))
	}()
	for _, want := range []struct {
		kind  byte
		body  string
		files int
	}{{1, "first", 0}, {2, string(long), MaxDescriptors}, {3, "", 1}, {4, "", 0}} {
		kind, body, got, err := b.Receive(len(long))
		if err != nil || kind != want.kind || string(body) != want.body || len(got) != want.files {
			t.Fatalf("kind %d, %d bytes, %d files, %v; want %d, %d, %d", kind, len(body), len(got), err, want.kind, len(want.body), want.files)
		}
		for i, f := range got {
			if want.files == 1 {
				i = 7
			}
			text := make([]byte, 8)
			n, _ := f.ReadAt(text, 0)
			if string(text[:n]) != fmt.Sprint(i) {
				t.Errorf("descriptor %d is that of file %q", i, text[:n])
			}
			_ = f.Close()
		}
	}
	if _, _, _, err := b.Receive(len(long) - 1); !errors.Is(err, ErrTooLong) {
		t.Errorf("a message beyond the limit: %v", err)
	}
	_ = b.Close()
	if err := <-sent; err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	if err := a.Send(1, nil, append(files, files[0])...); !errors.Is(err, ErrTooLong) {
		t.Errorf("more descriptors than a message carries: %v", err)
	}
}

// TestEnd: the end of the other process is io.EOF.
func TestEnd(t *testing.T) {
	a, b, _, _ := pair(t)
	_ = a.Close()
	if _, _, _, err := b.Receive(1); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

// TestSocket: mode 0600, nobody there is told apart, and a socket that another daemon put in the place stays.
func TestSocket(t *testing.T) {
	_, _, l, dir := pair(t)
	path := filepath.Join(dir, SocketName)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	next, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	c, err := Dial(dir)
	if err != nil {
		t.Fatal("the heir's socket is gone:", err)
	}
	_ = c.Close()
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Dial(dir); !errors.Is(err, ErrNobody) {
		t.Errorf("nobody: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestNotRoot: another user gets no byte, even where the file's mode would let him in.
func TestNotRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root (make test)")
	}
	dir, err := os.MkdirTemp("/tmp", "weft-handover") //nolint:usetesting // another user must get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Join(dir, SocketName), 0o666)); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "stranger") // the test binary lies where he may not go
	if err := os.WriteFile(bin, self, 0o755); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan *Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	cmd := exec.Command(bin)
	cmd.Env = []string{strangerDir + "=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "EOF" {
		t.Errorf("the stranger: %q, %v", out, err)
	}
	c, err := Dial(dir) // and whoever comes next is served
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if c := <-accepted; c == nil || c.PID() != os.Getpid() {
		t.Error("the stranger was let in")
	}
}
