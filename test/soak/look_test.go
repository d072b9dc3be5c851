//go:build soak

package soak

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// seen is a Sample with how often the heap was collected before.
type seen struct {
	Sample
	collections float64
	rotations   float64
}

// look asks a host's daemon, and the kernel about it.
func look(h *rig.Host) (seen, error) {
	var v seen
	m, err := metrics(h)
	if err != nil {
		return v, err
	}
	v.collections, v.rotations = m["go_gc_duration_seconds_count"], m[`weft_sender_key_rotations_total{network="`+network+`"}`]
	v.Heap, v.Goroutines = uint64(m["go_gc_heap_live_bytes"]), int(m["go_goroutines"])
	if v.collections == 0 || v.Heap == 0 || v.Goroutines == 0 {
		return v, errors.New("/metrics lacks what is looked for")
	}
	rss, err := h.Daemon().RSS()
	if err != nil {
		return v, err
	}
	v.RSS = uint64(rss)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.Daemon().PID()))
	v.Descriptors = len(fds)
	return v, err
}

// metrics are the figures of /metrics by name and labels.
func metrics(h *rig.Host) (map[string]float64, error) {
	c, err := net.Dial("unix", h.RunDir()+"/weft.sock")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte("GET /metrics HTTP/1.0\r\nHost: weft\r\n\r\n")); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(c); err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(b.String()) {
		name, text, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(text, 64); ok && err == nil {
			out[name] = v
		}
	}
	return out, nil
}

// packets is what all hosts have sent on the underlay, as their kernels count it: one by one, since segmentation
// offload is off there.
func (s *soaking) packets() uint64 {
	s.t.Helper()
	var sum uint64
	for _, h := range s.all {
		n, err := strconv.ParseUint(strings.TrimSpace(h.MustExec("cat", "/sys/class/net/eth0/statistics/tx_packets")), 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		sum += n
	}
	return sum
}
