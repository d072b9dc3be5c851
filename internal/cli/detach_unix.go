//go:build unix

package cli

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// inBackground frees the process from this terminal and its signals.
func inBackground(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// journaled reports whether standard error is the stream to systemd's journal that the environment names.
func journaled(stream string) bool {
	var st syscall.Stat_t
	return stream != "" && syscall.Fstat(int(os.Stderr.Fd()), &st) == nil && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// ownDescriptor takes over an inherited descriptor and keeps it from our own children.
func ownDescriptor(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "parent")
}
