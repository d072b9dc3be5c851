// Package sdnotify tells systemd how the daemon fares (sd_notify(3)).
package sdnotify

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

// Messages that systemd knows.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// MainPID returns the message by which a process makes another one the service's: systemd takes it from the one that is.
func MainPID(pid int) string { return "MAINPID=" + strconv.Itoa(pid) }

// Status returns the message that shows a line in systemctl status.
func Status(line string) string { return "STATUS=" + line }

// Send sends messages to the service manager that started this process; where there is none, it
// does nothing.
func Send(messages ...string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // @NAME is abstract
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer c.Close()
	for _, m := range messages {
		if _, err := c.Write([]byte(m)); err != nil {
			return fmt.Errorf("notify systemd: %w", err)
		}
	}
	return nil
}
