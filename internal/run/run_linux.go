package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/client"
)

// detachTimeout bounds the clean-up after an exec that failed. What it misses ends with the process.
const detachTimeout = 5 * time.Second

// Exec attaches this process to a network and becomes the command. It returns only when that
// failed, always with an *Error; the calling thread is then of no more use, and the process
// should end.
func Exec(ctx context.Context, d Daemon, o Options) error {
	path, err := lookPath(o.Args[0])
	if err != nil {
		return err
	}
	if o.Name == "" {
		o.Name = nameFor(path)
	}
	start, err := startTime()
	if err != nil {
		return failed("find the start time of this process: %w", err)
	}
	// The namespaces below are this thread's. execve makes it the only thread of the process.
	runtime.LockOSThread()
	if err := unshare(); err != nil {
		return err
	}
	a, err := d.Attach(ctx, client.Attach{
		Network: o.Network, Name: o.Name, Kind: client.KindProcess, IPs: o.IPs,
		PID: os.Getpid(), TID: unix.Gettid(), StartTime: start,
	})
	if err != nil {
		return &Error{ExitFailed, err}
	}
	if err := resolver(o.RunDir, a); err != nil {
		return detached(d, a, failed("give the command its own resolver: %w", err))
	}
	err = syscall.Exec(path, o.Args, o.Env)
	code := ExitNotExecutable
	if errors.Is(err, fs.ErrNotExist) { // the interpreter in its first line, or a race
		code = ExitNotFound
	}
	return detached(d, a, &Error{code, fmt.Errorf("command %s: %w", o.Args[0], err)})
}

// detached ends the attachment of a command that did not come to be.
func detached(d Daemon, a client.Attachment, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), detachTimeout)
	defer cancel()
	if err := d.Detach(ctx, a.Network, a.Name); err != nil {
		var e *Error
		if errors.As(cause, &e) {
			return &Error{e.Code, errors.Join(e.Err, err)}
		}
	}
	return cause
}

// unshare gives the thread its own network and mounts, and readies both for the attachment.
func unshare() error {
	err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
	if errors.Is(err, unix.EPERM) {
		return failed("make a network namespace: not permitted; weft run needs root (CAP_SYS_ADMIN)")
	}
	if err != nil {
		return failed("make a network namespace: %w", err)
	}
	// Without this, the mounts below would show on the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return failed("make the mounts private: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return failed("bring lo up: %w", err)
	}
	// weft gives the addresses: no router of the network may add one (RFC 4862 section 5.5.3).
	for _, scope := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/accept_ra", []byte("0"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
			return failed("refuse router advertisements: %w", err)
		}
	}
	remountSys()
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// startTime returns field 22 of /proc/PID/stat. The command's name before it may hold anything, so
// fields are counted from its last parenthesis (proc_pid_stat(5)).
func startTime() (uint64, error) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	const index = 22 - 3 // the first field after the name is number 3
	if len(fields) <= index {
		return 0, errors.New("/proc/self/stat is cut")
	}
	return strconv.ParseUint(string(fields[index]), 10, 64)
}
