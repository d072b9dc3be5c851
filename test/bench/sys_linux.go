package main

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownGroup starts a child as the leader of its own process group: Ctrl-C at a terminal is for us, who then end it.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func signalGroup(pgid int, sig syscall.Signal) error { return syscall.Kill(-pgid, sig) }

// kill ends one process.
func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// lock holds a file until it is closed or the process ends; there can be one benchmark on a machine.
func lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another benchmark runs (%s): %w", path, err)
	}
	return f, nil
}
