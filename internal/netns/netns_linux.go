package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// OS returns the kernel's namespaces.
func OS() System { return system{} }

type system struct{}

const threadNamespace = "/proc/thread-self/ns/net"

func (system) Current() (Namespace, error) {
	runtime.LockOSThread() // "thread-self" must not change between open and check
	defer runtime.UnlockOSThread()
	return open(threadNamespace)
}

func (system) Path(path string) (Namespace, error) { return open(path) }

func (system) PID(pid int) (Namespace, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("network namespace of process %d: not a process id", pid)
	}
	ns, err := open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("network namespace of process %d: %w", pid, ErrGone)
	}
	return ns, err
}

func (system) Each(f func(Namespace) bool) error {
	all, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return err
	}
	seen := map[ID]bool{}
	for _, path := range all {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || seen[ID{Dev: st.Dev, Ino: st.Ino}] {
			continue // ended, or not to be looked into
		}
		ns, err := open(path)
		if err != nil {
			continue
		}
		more := true
		if !seen[ns.ID()] {
			seen[ns.ID()] = true
			more = f(ns)
		}
		_ = ns.Close()
		if !more {
			return nil
		}
	}
	return nil
}

func (system) New() (Namespace, error) {
	var ns Namespace
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		var err error
		ns, err = open(threadNamespace)
		return err
	})
	return ns, err
}

type namespace struct {
	file *os.File
	id   ID
}

// open refuses what is no network namespace, so that setns cannot be pointed elsewhere.
func open(path string) (Namespace, error) {
	// O_NONBLOCK: the path comes from a person and may be a FIFO.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", &fs.PathError{Op: "open", Path: path, Err: err})
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s is not a network namespace: want a file such as /run/netns/NAME or /proc/PID/ns/net", path)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return &namespace{file: os.NewFile(uintptr(fd), path), id: ID{Dev: st.Dev, Ino: st.Ino}}, nil
}

func (n *namespace) ID() ID { return n.id }

func (n *namespace) FD() int { return int(n.file.Fd()) }

func (n *namespace) Close() error { return n.file.Close() }

func (n *namespace) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", n.id, err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread of its own, which may leave f in another namespace. The
// thread goes back to Go's pool only when its first namespace could be restored; else it
// ends with its goroutine (runtime.LockOSThread).
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open(threadNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		err = f()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = unix.Close(home)
		done <- err
	}()
	return <-done
}
