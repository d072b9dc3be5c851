//go:build unix

package discover

import (
	"os/exec"
	"syscall"
)

// wholeGroup has a program killed together with what it started.
func wholeGroup(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
}
