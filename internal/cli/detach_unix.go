//go:build unix

package cli

import (
	"os"
	"os/exec"
	"syscall"
)

// inBackground frees the process from this terminal and its signals.
func inBackground(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// ownDescriptor takes over an inherited descriptor and keeps it from our own children.
func ownDescriptor(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "parent")
}
