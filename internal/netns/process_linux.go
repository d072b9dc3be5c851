package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

type process struct {
	file  *os.File // the pidfd; nonblocking, hence in Go's poller: no thread waits
	start uint64
	done  chan struct{}
	close sync.Once
}

// Process opens a pidfd (Linux 5.10 for PIDFD_NONBLOCK). The start time is read after the
// pidfd was opened and the process seen alive, so both belong to the same process.
func (system) Process(pid int) (Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	p := &process{file: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	p.start, err = startTime(pid)
	if err == nil && ended(uintptr(fd)) {
		err = fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		_ = p.file.Close()
		return nil, err
	}
	raw, err := p.file.SyscallConn()
	if err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	go func() {
		if raw.Read(ended) == nil {
			close(p.done)
		}
	}()
	return p, nil
}

// ended polls a pidfd: it becomes readable when the process ends (pidfd_open(2)).
func ended(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

func (p *process) StartTime() uint64     { return p.start }
func (p *process) Done() <-chan struct{} { return p.done }

func (p *process) Close() error {
	var err error
	p.close.Do(func() { err = p.file.Close() })
	return err
}

func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return 0, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	t, err := parseStartTime(stat)
	if err != nil {
		return 0, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	return t, nil
}

// parseStartTime takes field 22 of /proc/PID/stat. Field 2, the command in parentheses, may
// hold blanks and parentheses itself: count from the last one.
func parseStartTime(stat []byte) (uint64, error) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, errors.New("stat has no command field")
	}
	const field = 22 - 3 // the first one after the command is number 3
	fields := bytes.Fields(stat[i+1:])
	if len(fields) <= field {
		return 0, fmt.Errorf("stat has %d fields, want 22", len(fields)+2)
	}
	t, err := strconv.ParseUint(string(fields[field]), 10, 64)
	if err != nil {
		return 0, errors.New("stat has no number in field 22")
	}
	return t, nil
}
