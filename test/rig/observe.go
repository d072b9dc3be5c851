package rig

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Capture is a tcpdump on the underlay side of one host's veth.
type Capture struct {
	w    *World
	p    *Process
	file string
}

// Capture records what passes between a host and the underlay, from now on.
func (u *Underlay) Capture(h *Host) *Capture {
	u.w.T.Helper()
	port := u.port(h)
	f, err := os.CreateTemp(u.w.dir, "capture")
	if err != nil {
		u.w.T.Fatal(err)
	}
	_ = f.Close()
	c := &Capture{w: u.w, file: f.Name()}
	c.p = u.w.start(u.ns, "tcpdump of "+h.Name, os.Environ(),
		"tcpdump", "-i", port, "-n", "-U", "--immediate-mode", "-s", "0", "-B", "16384", "-Z", "root", "-w", c.file)
	Eventually(u.w.T, 5*time.Second, func() error {
		if !strings.Contains(strings.Join(c.p.Errors(), "\n"), "listening on") {
			return fmt.Errorf("%s is not listening", c.p)
		}
		return nil
	})
	return c
}

// Stop ends the recording. Count and Grep work before and after.
func (c *Capture) Stop() {
	c.p.Signal(syscall.SIGINT)
	c.p.Wait(5 * time.Second)
}

// Count returns how many recorded packets match a tcpdump filter.
func (c *Capture) Count(filter string) int {
	c.w.T.Helper()
	out, err := command("", "tcpdump", "-n", "-r", c.file, filter)
	// A record cut short is one still being written.
	if err != nil && !strings.Contains(err.Error(), "truncated") {
		c.w.T.Fatal(err)
	}
	return strings.Count(out, "\n")
}

// Bytes returns the sum of the lengths of the recorded packets that match, Ethernet headers included.
func (c *Capture) Bytes(filter string) int {
	c.w.T.Helper()
	out, err := command("", "tcpdump", "-n", "-e", "-q", "-r", c.file, filter)
	if err != nil && !strings.Contains(err.Error(), "truncated") {
		c.w.T.Fatal(err)
	}
	sum := 0
	for line := range strings.Lines(out) {
		if _, after, ok := strings.Cut(line, ", length "); ok {
			var n int
			if _, err := fmt.Sscan(strings.TrimRight(strings.SplitN(after, ":", 2)[0], " "), &n); err == nil {
				sum += n
			}
		}
	}
	return sum
}

// Grep reports whether text stands anywhere in the recorded packets.
func (c *Capture) Grep(text string) bool {
	c.w.T.Helper()
	b, err := os.ReadFile(c.file)
	if err != nil {
		c.w.T.Fatal(err)
	}
	return bytes.Contains(b, []byte(text))
}

// File is the pcap file.
func (c *Capture) File() string { return c.file }

// Pair counts what the underlay forwards from one host to another: packets since the first call for the pair.
func (u *Underlay) Pair(from, to *Host) int {
	u.w.T.Helper()
	a, b := u.port(from), u.port(to)
	name := "pair_" + strings.ReplaceAll(a+"_"+b, "-", "_")
	if !u.pairs[name] {
		if u.pairs == nil {
			u.pairs = map[string]bool{}
		}
		u.pairs[name] = true
		u.w.nft(u.ns, fmt.Sprintf(`table %[1]s rig {
  counter %[2]s { }
  chain pairs { type filter hook forward priority 10; policy accept; }
}
add rule %[1]s rig pairs iifname %[3]q oifname %[4]q counter name %[2]s
`, u.family(), name, a, b))
		return 0
	}
	return counterIn(u.w.in(u.ns, "nft", "list", "counter", u.family(), "rig", name))
}

// Leftovers lists what weft may have left in the host's namespace: interfaces, nft tables, addresses that weft makes,
// namespaces and sockets. Empty means clean.
func (h *Host) Leftovers() string {
	h.w.T.Helper()
	var left []string
	for line := range strings.Lines(h.MustExec("ip", "-o", "link", "show")) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
		if name != "lo" && name != "eth0" {
			left = append(left, "interface "+name)
		}
	}
	for line := range strings.Lines(h.MustExec("nft", "list", "tables")) {
		if strings.Contains(line, "weft") {
			left = append(left, "nft "+strings.TrimSpace(line))
		}
	}
	for _, family := range []string{"-4", "-6"} {
		for line := range strings.Lines(h.MustExec("ip", family, "-o", "addr", "show")) {
			f := strings.Fields(line)
			if len(f) > 3 && f[1] != "lo" && f[1] != "eth0" {
				left = append(left, "address "+f[3]+" on "+f[1])
			}
		}
	}
	if rules := h.Exec("iptables", "-S", "FORWARD"); rules.Code == 0 {
		for line := range strings.Lines(rules.Stdout) {
			if strings.Contains(line, "weft") || strings.Contains(line, " wb") {
				left = append(left, "iptables "+strings.TrimSpace(line))
			}
		}
	}
	if _, err := os.Stat(filepath.Join(h.run, "weft.sock")); err == nil {
		left = append(left, "socket "+filepath.Join(h.run, "weft.sock"))
	}
	return strings.Join(left, "\n")
}
