package rig

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of CPU times in /proc, fixed at 100 for programs (proc(5)).
const userHZ = 100

// stat returns the fields of /proc/PID/stat after the command name: field 3 of proc(5) is element 0.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	s := string(b)
	return strings.Fields(s[strings.LastIndexByte(s, ')')+1:]), nil
}

// alive reports whether a process exists and is no zombie. The first thread of one that was killed may be a zombie
// while others still hold its sockets.
func alive(pid int) bool {
	f, err := stat(pid)
	if err != nil || len(f) == 0 {
		return false
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return f[0] != "Z" || err == nil && len(threads) > 1
}

// CPU returns the processor time the process has used.
func (p *Process) CPU() (time.Duration, error) {
	f, err := stat(p.PID())
	if err != nil {
		return 0, err
	}
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", p.PID(), len(f))
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("/proc/%d/stat: %q %q", p.PID(), f[11], f[12])
	}
	return time.Duration(user+system) * time.Second / userHZ, nil
}

// IdleTime returns how long the processors of this machine have had nothing to do, all of them together.
func IdleTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line) // cpu user nice system idle iowait ...
	if len(f) < 6 {
		return 0, fmt.Errorf("/proc/stat: %q", line)
	}
	idle, err1 := strconv.ParseInt(f[4], 10, 64)
	waiting, err2 := strconv.ParseInt(f[5], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("/proc/stat: %q", line)
	}
	return time.Duration(idle+waiting) * time.Second / userHZ, nil
}

// RSS returns the process's resident memory in bytes.
func (p *Process) RSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status: no VmRSS", p.PID())
}
