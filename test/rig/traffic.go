package rig

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Traffic is a tcpdump of what hosts send to an underlay, or attachments to their host: each packet once, where it leaves its sender.
type Traffic struct {
	w     *World
	ns    string
	ports []string
	p     *Process
	file  string
}

// Traffic records the packets that match a tcpdump filter and leave hosts, from now on.
func (u *Underlay) Traffic(filter string) *Traffic {
	u.w.T.Helper()
	return u.w.traffic(u.ns, u.ports, filter)
}

// Traffic records the packets that match a tcpdump filter and leave the attachments of a host.
func (h *Host) Traffic(filter string) *Traffic {
	h.w.T.Helper()
	var ports []string
	for f := range strings.FieldsSeq(h.MustExec("ip", "-br", "link", "show", "type", "veth")) {
		if name, _, _ := strings.Cut(f, "@"); strings.HasPrefix(name, "wv") {
			ports = append(ports, name)
		}
	}
	return h.w.traffic(h.NS, ports, filter)
}

func (w *World) traffic(ns string, ports []string, filter string) *Traffic {
	w.T.Helper()
	f, err := os.CreateTemp(w.dir, "traffic")
	if err != nil {
		w.T.Fatal(err)
	}
	_ = f.Close()
	t := &Traffic{w: w, ns: ns, ports: ports, file: f.Name()}
	t.p = w.start(ns, "tcpdump of "+ns, os.Environ(),
		"tcpdump", "-i", "any", "-n", "-s", "96", "-B", "16384", "-Z", "root", "-w", t.file, "inbound and ("+filter+")")
	Eventually(w.T, 5*time.Second, func() error {
		if !strings.Contains(strings.Join(t.p.Errors(), "\n"), "listening on") {
			return fmt.Errorf("%s is not listening", t.p)
		}
		return nil
	})
	return t
}

// Stop ends the recording. A packet that tcpdump missed fails the test.
func (t *Traffic) Stop() {
	t.w.T.Helper()
	t.p.Signal(syscall.SIGINT)
	t.p.Wait(10 * time.Second)
	if e := strings.Join(t.p.Errors(), "\n"); !strings.Contains(e, "\n0 packets dropped by kernel") {
		t.w.T.Errorf("the recording is not whole: %s", e)
	}
}

// Sent counts the packets of a stretch of time that match a filter, by the port they came in at (on the underlay: the host's name); Stop must have been
// called.
func (t *Traffic) Sent(filter string, from, to time.Time) map[string]int {
	t.w.T.Helper()
	n := map[string]int{}
	for line := range strings.Lines(t.w.in(t.ns, "tcpdump", "-tt", "-n", "-r", t.file, filter)) { // there, where interfaces have their names
		f := strings.Fields(line) // time, interface, direction, packet
		if len(f) < 3 {
			continue
		}
		at, err := strconv.ParseFloat(f[0], 64)
		if err != nil || at < seconds(from) || at >= seconds(to) {
			continue
		}
		for _, p := range t.ports {
			if p == f[1] {
				n[p]++
			}
		}
	}
	return n
}

// Untaken counts the frames for other hosts that the kernel dropped because weft did not take them off its queue in time.
// weft never saw them.
func (h *Host) Untaken() (n int) {
	h.w.T.Helper()
	for f := range strings.FieldsSeq(h.MustExec("sh", "-c", "cat /sys/class/net/wu*/statistics/tx_dropped")) {
		d, err := strconv.Atoi(f)
		if err != nil {
			h.w.T.Fatal(err)
		}
		n += d
	}
	return n
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
