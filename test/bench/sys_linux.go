package main

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

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

// monotonicBase is CLOCK_MONOTONIC as this process began to look at it; Go's own clock goes on from there without a system call.
var monotonicBase, monotonicSince = func() (int64, time.Time) {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // there always is one
	return t.Nano(), time.Now()
}()

// monotonic is CLOCK_MONOTONIC in nanoseconds, the same for all processes of a machine.
func monotonic() int64 { return monotonicBase + int64(time.Since(monotonicSince)) }

// sleepUntil waits for a time of that clock, more exactly than Go's timers do.
func sleepUntil(at int64) {
	t := unix.NsecToTimespec(at)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &t, nil) == unix.EINTR {
	}
}
