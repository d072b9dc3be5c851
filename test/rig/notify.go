package rig

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Notify stands where systemd would: it hears what a daemon says of itself (sd_notify(3)).
type Notify struct {
	Path string // for NOTIFY_SOCKET

	w    *World
	mu   sync.Mutex // guards what follows
	said []string
}

// NotifySocket makes a socket for NOTIFY_SOCKET.
func (h *Host) NotifySocket() *Notify {
	h.w.T.Helper()
	n := &Notify{Path: filepath.Join(h.run, "notify"), w: h.w}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.Path, Net: "unixgram"})
	if err != nil {
		h.w.T.Fatal(err)
	}
	h.w.T.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 4<<10)
		for {
			k, err := c.Read(buf)
			if err != nil {
				return
			}
			n.mu.Lock()
			n.said = append(n.said, strings.Split(string(buf[:k]), "\n")...)
			n.mu.Unlock()
		}
	}()
	return n
}

// Expect waits until a line was said, and forgets it and those before it.
func (n *Notify) Expect(line string) {
	n.w.T.Helper()
	Eventually(n.w.T, 10*time.Second, func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		i := slices.Index(n.said, line)
		if i < 0 {
			return fmt.Errorf("%q was not said: %q", line, n.said)
		}
		n.said = n.said[i+1:]
		return nil
	})
}
