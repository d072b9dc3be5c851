package load

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/measure"
)

// limitRate makes the kernel send no faster than so many bytes a second on a connection.
func limitRate(c *net.TCPConn, bytes uint64) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, bytes)
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("limit the rate of a connection: %w", err)
	}
	return nil
}

// isolated has a child begin in a network namespace of its own, and in a process group of its own: Ctrl-C at a terminal is
// not for it.
func isolated() (*syscall.SysProcAttr, error) {
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Setpgid: true}, nil
}

// self is this program's own file, also when it was replaced on disk meanwhile.
const self = "/proc/self/exe"

// Used returns the processor time that this process and that its machine have used so far. Boot names the run of the
// machine: hosts in containers or namespaces of one machine see the same.
func Used() (process, machine time.Duration, boot string, err error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil { // what /proc/self/stat has, in microseconds
		return 0, 0, "", fmt.Errorf("own processor time: %w", err)
	}
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, "", err
	}
	if machine, err = measure.ParseBusy(b); err != nil {
		return 0, 0, "", err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0, 0, "", err
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), machine, strings.TrimSpace(string(id)), nil
}
