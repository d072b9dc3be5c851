package test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/bus"
	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/seal"
)

// busCounter is a receiver that counts: "count" prints how many messages came, how often some were told as lost, and the time in
// microseconds; "slow" has it read one message a second, "fast" ends that; each loss is printed. Its queue holds so many KiB.
func busCounter(ctx context.Context, b *bus.Bus, queue int) error {
	s, err := b.Subscribe("load.*", bus.WithLimit(queue<<10))
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, "subscribed")
	var got, lost atomic.Int64
	var slow atomic.Bool
	wake := make(chan struct{}, 1)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for _, err := range s.Messages(ctx) {
			if err != nil {
				lost.Add(1)
				_, _ = fmt.Fprintln(os.Stdout, "lost:", err)
				if told := new(bus.Lost); !errors.As(err, &told) {
					return
				}
				continue
			}
			if got.Add(1); slow.Load() {
				select {
				case <-tick.C:
				case <-wake:
				}
			}
		}
	}()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "count":
			_, _ = fmt.Fprintln(os.Stdout, "count", got.Load(), lost.Load(), time.Now().UnixMicro())
		case "slow", "fast":
			if slow.Store(in.Text() == "slow"); !slow.Load() {
				wake <- struct{}{}
			}
		default:
			return fmt.Errorf("unknown command %q", in.Text())
		}
	}
	return in.Err()
}

// busStream sends messages of 64 bytes until ctx ends; rate is in messages a second, 0: all it can. What a stall has held up it makes good.
func busStream(ctx context.Context, b *bus.Bus, subject string, rate, window int) error {
	p, err := b.Publisher(subject, bus.WithWindow(window))
	if err != nil {
		return err
	}
	buf := make([]byte, 64)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	for sent := 0; ctx.Err() == nil; sent++ {
		for rate > 0 && float64(sent) >= time.Since(start).Seconds()*float64(rate) && ctx.Err() == nil {
			<-tick.C
		}
		binary.BigEndian.PutUint64(buf, uint64(sent))
		if err := p.Send(ctx, buf); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// busHeap prints the live heap of this process, in bytes.
func busHeap() {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	_, _ = fmt.Fprintln(os.Stdout, "heap", m.HeapAlloc)
}

// busHostile is a member that subscribes as others do until it reads "storm": then, until "calm", it sends a thousand packets a second to
// the publisher and fifty to the group, each of which asks for everything that may be kept, for packets that were never sent
// and that never will be, claims streams of enormous length, and says that it has what does not exist. After "burn" it sends the same packets by
// the same ways, to a port and a group that nobody listens at; after "noise" to all, but with a bit changed, so that they are nobody's.
func busHostile(ctx context.Context, b *bus.Bus, token string) error {
	if _, err := b.Subscribe("load.*"); err != nil {
		return err
	}
	h, err := newHostile(b, token)
	if err != nil {
		return err
	}
	defer func() { _ = h.conn.Close() }()
	_, _ = fmt.Fprintln(os.Stdout, "subscribed")
	var does atomic.Value // a string
	does.Store("calm")
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			what := does.Load().(string)
			for i := 0; i < 10 && what != "calm"; i++ {
				h.blow(i == 0 && h.sent.Load()%2 == 0, what)
			}
		}
	}()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "storm", "calm", "burn", "noise":
			does.Store(in.Text())
			_, _ = fmt.Fprintln(os.Stdout, in.Text(), h.sent.Load())
		default:
			return fmt.Errorf("unknown command %q", in.Text())
		}
	}
	return in.Err()
}

// hostile has the keys of its member, and writes its packets itself. They push those of its honest half out of the others' replay windows.
type hostile struct {
	ctl       *buskey.Control
	conn      *net.UDPConn
	publisher bus.Member
	group     *net.UDPAddr
	sent      atomic.Int64
	next      uint64
}

func newHostile(b *bus.Bus, token string) (*hostile, error) {
	tok, err := ident.ParseToken(token)
	if err != nil {
		return nil, err
	}
	key, err := buskey.New(tok, "test")
	if err != nil {
		return nil, err
	}
	h := &hostile{}
	// The publisher of this test is the one that listens where seeds are asked.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for h.publisher.Epoch == 0 {
		for _, m := range b.Members() {
			if m.Addr.Port() == bus.SeedPort {
				h.publisher = m
			}
		}
		<-tick.C
	}
	id := key.ID()
	h.group = &net.UDPAddr{IP: net.IPv4(239, 192|byte(id>>16)&3, byte(id>>8), byte(id)), Port: bus.GroupPort}
	if h.ctl, err = key.Control(seal.Preferred(), b.Epoch()); err != nil {
		return nil, err
	}
	h.conn, err = net.ListenUDP("udp4", &net.UDPAddr{})
	return h, err
}

// blow sends one packet of lies to the publisher, or to the group; "burn": as far as they are, and to nobody; "noise": a stranger's.
func (h *hostile) blow(group bool, what string) {
	var b []byte
	record := func(kind byte, body ...any) {
		at := len(b)
		b = append(b, kind, 0, 0)
		for _, v := range body {
			b, _ = binary.Append(b, binary.BigEndian, v)
		}
		binary.BigEndian.PutUint16(b[at+1:], uint16(len(b)-at-3))
	}
	const nack, announce, heartbeat, status, tail = 9, 6, 7, 8, 11
	pub := h.publisher.Epoch
	for stream := uint32(1); stream <= 3; stream++ {
		h.next += 1000
		for _, from := range []uint64{0, 1, h.next % 100_000, 1 << 62, math.MaxUint64 - 70_000} {
			record(nack, pub, stream, h.next, from, uint16(math.MaxUint16))
		}
		record(status, stream, uint64(1)<<62, uint32(math.MaxUint32), byte(1), uint64(0), uint64(0))
		record(tail, pub, stream, uint64(1)<<63, uint64(1)<<63)
	}
	record(heartbeat, uint32(9), uint64(math.MaxUint64), uint64(3), uint64(1), byte(1), uint32(math.MaxUint32), uint32(math.MaxUint32), uint64(math.MaxUint64))
	record(announce, uint32(10), uint64(1), uint64(1), uint64(1)<<63, uint64(1)<<63, byte(6), []byte("load.h"), byte(0), uint32(1), uint32(1))
	to := net.UDPAddrFromAddrPort(h.publisher.Addr)
	if group {
		to = h.group
	}
	switch nobody := what == "burn"; {
	case nobody && group:
		to = &net.UDPAddr{IP: net.IPv4(239, 255, 0, 9), Port: to.Port}
	case nobody:
		to.Port = 9 // discard, RFC 863
	}
	pkt := h.ctl.Seal(nil, rmcast.TypeControl, b)
	if what == "noise" {
		pkt[len(pkt)-1] ^= 1
	}
	if _, err := h.conn.WriteToUDP(pkt, to); err == nil {
		h.sent.Add(1)
	}
}
