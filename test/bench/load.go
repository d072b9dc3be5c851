package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	headerSize   = 12 // of a datagram: run, then number, big endian
	sendBatch    = 16 // datagrams per system call; small, since a network copies each burst as often as it has receivers
	receiveBatch = 64
	socketBuffer = 8 << 20
	// nap is how long receivers let datagrams gather: woken for each one, sixteen of them would be what is measured.
	nap = 2 * time.Millisecond
)

// sent is what the sender reports on its standard output.
type sent struct {
	Datagrams uint64
	Seconds   float64
}

// sendCommand sends numbered datagrams at a pace.
func sendCommand(args []string, out io.Writer) error {
	f := flag.NewFlagSet("send", flag.ContinueOnError)
	to := f.String("to", "", "address and port")
	dev := f.String("dev", "", "interface for multicast")
	size := f.Int("size", 1200, "payload in bytes")
	pps := f.Float64("pps", 1000, "datagrams per second")
	d := f.Duration("time", time.Second, "how long")
	run := f.Uint("run", 0, "number of the run, in every datagram")
	if err := f.Parse(args); err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(*to)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := widen(c); err != nil {
		return err
	}
	p := ipv4.NewPacketConn(c)
	if addr.Addr().IsMulticast() {
		ifi, err := net.InterfaceByName(*dev)
		if err != nil {
			return fmt.Errorf("--dev %s: %w", *dev, err)
		}
		if err := errors.Join(p.SetMulticastInterface(ifi), p.SetMulticastTTL(8), p.SetMulticastLoopback(false)); err != nil {
			return err
		}
	}
	s, err := pace(p, net.UDPAddrFromAddrPort(addr), uint32(*run), max(*size, headerSize), *pps, *d)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(s)
}

// pace sends what is due, in batches, and rests while nothing is. Rests are as long as the kernel's timers make them,
// so datagrams leave in small bursts, the same for every system.
func pace(p *ipv4.PacketConn, to net.Addr, run uint32, size int, pps float64, d time.Duration) (sent, error) {
	ms := make([]ipv4.Message, sendBatch)
	for i := range ms {
		b := make([]byte, size)
		binary.BigEndian.PutUint32(b, run)
		ms[i] = ipv4.Message{Buffers: [][]byte{b}, Addr: to}
	}
	total := uint64(math.Max(1, pps*d.Seconds()))
	var n uint64
	rest := time.NewTimer(time.Hour)
	began := time.Now()
	for n < total {
		elapsed := time.Since(began)
		if elapsed > d+d/4 {
			break // hopelessly behind: say so
		}
		due := min(total, uint64(elapsed.Seconds()*pps)+1)
		if due <= n {
			rest.Reset(50 * time.Microsecond)
			<-rest.C
			continue
		}
		k := int(min(due-n, sendBatch))
		for i := range k {
			binary.BigEndian.PutUint64(ms[i].Buffers[0][4:], n+uint64(i))
		}
		w, err := p.WriteBatch(ms[:k], 0)
		if err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return sent{}, fmt.Errorf("send: %w", err)
		}
		n += uint64(max(w, 0))
	}
	return sent{Datagrams: n, Seconds: time.Since(began).Seconds()}, nil
}

// counter counts the different datagrams of one run.
type counter struct {
	mu   sync.Mutex // guards what follows
	run  uint32
	seen []uint64 // bitmap by number
	n    uint64
}

// maxSeen bounds the bitmap: a minute at 4 million a second.
const maxSeen = 240e6

func (c *counter) add(b []byte) {
	if len(b) < headerSize {
		return
	}
	run, n := binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:])
	if run != c.run {
		if run < c.run {
			return // of a run that is over
		}
		c.run, c.n = run, 0
		clear(c.seen)
	}
	if n >= maxSeen {
		return
	}
	word, bit := int(n/64), uint64(1)<<(n%64)
	if word >= len(c.seen) {
		c.seen = append(c.seen, make([]uint64, word+1-len(c.seen)+1024)...)
	}
	if c.seen[word]&bit == 0 {
		c.seen[word] |= bit
		c.n++
	}
}

// of returns how many datagrams of a run came.
func (c *counter) of(run uint32) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != run {
		return 0
	}
	return c.n
}

// receiveCommand counts datagrams until its input ends. Asked for a run, by its number on a line, it answers with the
// count once no more come.
func receiveCommand(args []string, in io.Reader, out io.Writer) error {
	f := flag.NewFlagSet("receive", flag.ContinueOnError)
	at := f.String("at", "", "address and port; a group is joined")
	dev := f.String("dev", "", "interface for multicast")
	if err := f.Parse(args); err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(*at)
	if err != nil {
		return fmt.Errorf("--at: %w", err)
	}
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := widen(c); err != nil {
		return err
	}
	p := ipv4.NewPacketConn(c)
	if addr.Addr().IsMulticast() {
		ifi, err := net.InterfaceByName(*dev)
		if err != nil {
			return fmt.Errorf("--dev %s: %w", *dev, err)
		}
		if err := p.JoinGroup(ifi, &net.UDPAddr{IP: addr.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("join %s on %s: %w", addr.Addr(), *dev, err)
		}
	}
	var count counter
	go receive(p, &count)
	fmt.Fprintln(out, "ready")
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var run uint32
		if _, err := fmt.Sscan(strings.TrimSpace(lines.Text()), &run); err != nil {
			return fmt.Errorf("want a number of a run: %w", err)
		}
		fmt.Fprintln(out, "got", run, settled(&count, run))
	}
	return nil
}

// settled waits until nothing has come for a while, since queues on the way may still drain.
func settled(c *counter, run uint32) uint64 {
	const quiet, most = 60 * time.Millisecond, 10
	n := c.of(run)
	for range most {
		<-time.After(quiet)
		m := c.of(run)
		if m == n {
			break
		}
		n = m
	}
	return n
}

func receive(p *ipv4.PacketConn, c *counter) {
	ms := make([]ipv4.Message, receiveBatch)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for {
		n, err := p.ReadBatch(ms, 0)
		if err != nil {
			return
		}
		c.mu.Lock()
		for _, m := range ms[:n] {
			c.add(m.Buffers[0][:m.N])
		}
		c.mu.Unlock()
		if n < len(ms) {
			<-time.After(nap)
		}
	}
}

func widen(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = setBuffers(fd, socketBuffer) }); err != nil {
		return err
	}
	return failed
}
