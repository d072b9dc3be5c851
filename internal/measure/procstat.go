package measure

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// userHZ is the unit of CPU times in /proc, fixed at 100 for programs (proc(5)).
const userHZ = 100

// ParseBusy returns the time that all cores together were busy since the start of the machine, from /proc/stat.
func ParseBusy(stat []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) < 8 || string(f[0]) != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %.80q", line)
	}
	var ticks uint64
	for i, v := range f[1:8] { // user nice system idle iowait irq softirq
		n, err := strconv.ParseUint(string(v), 10, 63)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 {
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}

// ParseProcess returns the processor time a process has used, from /proc/PID/stat. Its name may hold blanks and parentheses.
func ParseProcess(stat []byte) (time.Duration, error) {
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/PID/stat: %d fields", len(f))
	}
	user, err1 := strconv.ParseInt(string(f[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(f[12]), 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("/proc/PID/stat: %w", err)
	}
	return time.Duration(user+system) * time.Second / userHZ, nil
}
