package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newNS(t *testing.T) Namespace {
	t.Helper()
	ns, err := OS().New()
	if err != nil {
		t.Fatalf("this test needs root, to make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func current(t *testing.T) ID {
	t.Helper()
	ns, err := OS().Current()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	return ns.ID()
}

func TestDo(t *testing.T) {
	home, ns := current(t), newNS(t)
	if ns.ID() == home || ns.ID().IsZero() {
		t.Fatalf("the new namespace is %s, home %s", ns.ID(), home)
	}
	if err := ns.Do(func() error {
		in, err := OS().Current()
		if err != nil {
			return err
		}
		defer in.Close()
		if in.ID() != ns.ID() {
			return fmt.Errorf("inside it is %s, want %s", in.ID(), ns.ID())
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	want := errors.New("from f")
	if err := ns.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("f's error: %v", err)
	}
	// No thread stays behind: all of them are at home again.
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatal(err)
	}
	for _, path := range tasks {
		task, err := OS().Path(path)
		if err != nil {
			continue // a thread that has ended
		}
		if task.ID() == ns.ID() {
			t.Errorf("%s is still inside", path)
		}
		_ = task.Close()
	}
}

func TestPathRefuses(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "/no/such", "/etc", "/etc/hostname", "/proc/self/ns/mnt", fifo} {
		if ns, err := OS().Path(path); err == nil {
			t.Errorf("%q was opened: %s", path, ns.ID())
		}
	}
	for _, pid := range []int{0, -1, 1 << 30} {
		if _, err := OS().PID(pid); err == nil {
			t.Errorf("namespace of process %d was opened", pid)
		}
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	p, err := OS().Process(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	self, err := OS().Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if p.StartTime() < self.StartTime() || self.StartTime() == 0 {
		t.Errorf("child began at %d, parent at %d", p.StartTime(), self.StartTime())
	}
	select {
	case <-p.Done():
		t.Error("done while it lives")
	default:
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(5 * time.Second):
		t.Error("its end was not seen")
	}
	_ = cmd.Wait()
	if _, err := OS().Process(cmd.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("a process that has ended: %v", err)
	}
	// Close ends the watch without saying that the process had ended.
	if err := errors.Join(self.Close(), self.Close()); err != nil {
		t.Error(err)
	}
	select {
	case <-self.Done():
		t.Error("Close closed Done")
	default:
	}
}

func FuzzStartTime(f *testing.F) {
	f.Add([]byte("1 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"))
	f.Add([]byte("1 (a"))
	f.Add([]byte(") S"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStartTime(b) })
}

func TestStartTime(t *testing.T) {
	got, err := parseStartTime([]byte("1 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"))
	if err != nil || got != 4711 {
		t.Errorf("got %d, %v", got, err)
	}
}

// TestEach: each namespace comes once, however many processes are in it, until it is enough.
func TestEach(t *testing.T) {
	home := current(t)
	c := exec.Command("sleep", "1000")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	box, err := OS().PID(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	seen := map[ID]int{}
	if err := OS().Each(func(ns Namespace) bool { seen[ns.ID()]++; return true }); err != nil {
		t.Fatal(err)
	}
	if seen[home] != 1 || seen[box.ID()] != 1 {
		t.Errorf("home %s, box %s, seen %v", home, box.ID(), seen)
	}
	n := 0
	if err := OS().Each(func(Namespace) bool { n++; return false }); err != nil || n != 1 {
		t.Errorf("%d after the first was enough, %v", n, err)
	}
}
