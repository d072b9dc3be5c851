package rig

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/udp"
)

const (
	// streamHead is the number that begins every datagram of a stream.
	streamHead = 8
	// uncounted is the first number of streams that no tally counts.
	uncounted = 1 << 40
)

// Stream starts an attachment that sends numbered datagrams of size bytes to a group at a rate, for a time. It prints
// "streaming" and in the end "streamed N".
func (h *Host) Stream(name string, group netip.AddrPort, rate, size int, d time.Duration) *Process {
	h.w.T.Helper()
	return h.stream(name, group, rate, size, d, 0)
}

// Trickle is a Stream that tallies do not count, until the test ends: it keeps the ways of a group set up.
func (h *Host) Trickle(name string, group netip.AddrPort, rate, size int) *Process {
	h.w.T.Helper()
	return h.stream(name, group, rate, size, time.Hour, uncounted)
}

func (h *Host) stream(name string, group netip.AddrPort, rate, size int, d time.Duration, first uint64) *Process {
	h.w.T.Helper()
	p := h.attached(name, "stream", group.String(), strconv.Itoa(rate), strconv.Itoa(size), d.String(), strconv.FormatUint(first, 10))
	p.ExpectLine("^streaming$", 10*time.Second)
	return p
}

// Member starts an attachment that is a member of a group and reads nothing: it costs the machine little.
func (h *Host) Member(name string, group netip.AddrPort) *Process {
	h.w.T.Helper()
	p := h.attached(name, "member", group.String())
	p.ExpectLine("^ready$", 15*time.Second)
	return p
}

// Tally starts an attachment that is a member of a group and counts the datagrams of one stream.
func (h *Host) Tally(name string, group netip.AddrPort) *Tally {
	h.w.T.Helper()
	t := &Tally{h.attached(name, "tally", group.String())}
	t.ExpectLine("^ready$", 15*time.Second)
	return t
}

// attached starts a program of the rig as an attachment.
func (h *Host) attached(name, program string, args ...string) *Process {
	h.w.T.Helper()
	self, err := os.Executable()
	if err != nil {
		h.w.T.Fatal(err)
	}
	return h.w.start(h.NS, program+" "+name+" on "+h.Name, h.env(programVariable+"="+program),
		append([]string{h.bin, "run", "--name", name, "--", self}, args...)...)
}

// Tally counts a stream.
type Tally struct{ *Process }

// Count is what a Tally saw since it was last reset.
type Count struct {
	Got, Dup int // distinct datagrams, and those that came again
	Lost     int // between the first and the last
	Gap      time.Duration
}

// Report returns the counts. Numbers lost are those between the lowest and the highest that came.
func (t *Tally) Report(tb testing.TB) Count {
	tb.Helper()
	return t.ask(tb, "report")
}

// Reset returns the counts and begins anew.
func (t *Tally) Reset(tb testing.TB) Count {
	tb.Helper()
	return t.ask(tb, "reset")
}

func (t *Tally) ask(tb testing.TB, what string) (c Count) {
	tb.Helper()
	t.Send(what)
	var ms int
	if _, err := fmt.Sscanf(t.ExpectLine("^tally ", 10*time.Second), "tally %d %d %d %d", &c.Got, &c.Dup, &c.Lost, &ms); err != nil {
		tb.Fatal(err)
	}
	c.Gap = time.Duration(ms) * time.Millisecond
	return c
}

func overlay() (int, error) {
	ifi, err := net.InterfaceByName("weft0")
	if err != nil {
		return 0, err
	}
	return ifi.Index, nil
}

func stream(group, rate, size, last, first string) error {
	to, err := netip.ParseAddrPort(group)
	if err != nil {
		return err
	}
	pps, err := strconv.Atoi(rate)
	if err != nil {
		return err
	}
	length, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(last)
	if err != nil {
		return err
	}
	base, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		return err
	}
	index, err := overlay()
	if err != nil {
		return err
	}
	c, err := udp.Listen(0, udp.Options{})
	if err != nil {
		return err
	}
	if err := c.Multicast(index, 4); err != nil {
		return err
	}
	_, _ = os.Stdout.WriteString("streaming\n")
	ms := make([]udp.Message, udp.MaxBatch)
	for i := range ms {
		ms[i] = udp.Message{Buf: make([]byte, length), Addr: to}
	}
	start := time.Now()
	tick := time.NewTicker(time.Millisecond)
	var seq uint64
	for now := range tick.C {
		if now.Sub(start) >= d {
			break
		}
		for due := uint64(now.Sub(start).Seconds() * float64(pps)); seq < due; {
			n := min(int(due-seq), len(ms))
			for i := range ms[:n] {
				binary.BigEndian.PutUint64(ms[i].Buf, base+seq)
				seq++
			}
			if _, err := c.WriteBatch(ms[:n]); err != nil {
				return err
			}
		}
	}
	_, _ = fmt.Fprintf(os.Stdout, "streamed %d\n", seq)
	return nil
}

// counter is what a tally knows.
type counter struct {
	sync.Mutex
	seen        map[uint64]struct{}
	first, last uint64
	dup         int
	at          time.Time
	gap         time.Duration
}

func (c *counter) add(now time.Time, seq uint64) {
	if _, ok := c.seen[seq]; ok {
		c.dup++
		return
	}
	if len(c.seen) == 0 {
		c.first, c.last = seq, seq
	}
	c.seen[seq] = struct{}{}
	c.first, c.last = min(c.first, seq), max(c.last, seq)
	if !c.at.IsZero() {
		c.gap = max(c.gap, now.Sub(c.at))
	}
	c.at = now
}

// join opens a socket that hears a group in the attachment's network.
func join(group string, o udp.Options) (udp.Conn, error) {
	g, err := netip.ParseAddrPort(group)
	if err != nil {
		return nil, err
	}
	index, err := overlay()
	if err != nil {
		return nil, err
	}
	conn, err := udp.Listen(int(g.Port()), o)
	if err != nil {
		return nil, err
	}
	return conn, conn.Join(g.Addr(), index)
}

func member(group string) error {
	conn, err := join(group, udp.Options{Buffer: 4096})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, _ = os.Stdout.WriteString("ready\n")
	_, err = io.Copy(io.Discard, os.Stdin) // until the test ends
	return err
}

func tally(group string) error {
	conn, err := join(group, udp.Options{Coalesce: true})
	if err != nil {
		return err
	}
	c := &counter{seen: map[uint64]struct{}{}}
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			c.Lock()
			lost := 0
			if n := len(c.seen); n > 0 {
				lost = int(c.last-c.first) + 1 - n
			}
			_, _ = fmt.Fprintf(os.Stdout, "tally %d %d %d %d\n", len(c.seen), c.dup, lost, c.gap.Milliseconds())
			if in.Text() == "reset" {
				c.seen, c.dup, c.gap, c.at = map[uint64]struct{}{}, 0, 0, time.Time{}
			}
			c.Unlock()
		}
	}()
	_, _ = os.Stdout.WriteString("ready\n")
	ms := make([]udp.Message, 16)
	for i := range ms {
		ms[i].Buf = make([]byte, 64<<10)
	}
	for {
		n, err := conn.ReadBatch(ms)
		if err != nil {
			return err
		}
		now := time.Now()
		c.Lock()
		for i := range ms[:n] {
			size := ms[i].N
			if ms[i].Segment > 0 {
				size = ms[i].Segment
			}
			for b := ms[i].Buf[:ms[i].N]; len(b) >= streamHead; b = b[min(size, len(b)):] {
				if seq := binary.BigEndian.Uint64(b); seq < uncounted {
					c.add(now, seq)
				}
			}
		}
		c.Unlock()
	}
}
