package load

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/measure"
	"github.com/weft-net/weft/internal/udp"
)

// Echo answers every datagram on a port with itself, until it is closed.
type Echo struct {
	conn udp.Conn
	done chan struct{}
}

// Answer starts an Echo.
func Answer(port int) (*Echo, error) {
	c, err := listen(port, netip.Addr{}, "", false)
	if err != nil {
		return nil, err
	}
	e := &Echo{conn: c, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		ms := make([]udp.Message, receiveBatch)
		space := make([][]byte, len(ms))
		for i := range space {
			space[i] = make([]byte, 2048)
		}
		w := c.NewWriter(len(ms))
		for {
			for i := range ms {
				ms[i].Buf = space[i]
			}
			n, err := c.ReadBatch(ms)
			if err != nil {
				return
			}
			for i := range ms[:n] {
				ms[i].Buf, ms[i].Segment = ms[i].Buf[:ms[i].N], 0
			}
			if _, err := w.WriteBatch(ms[:n]); err != nil {
				return
			}
		}
	}()
	return e, nil
}

// Close ends the Echo.
func (e *Echo) Close() error {
	err := e.conn.Close()
	<-e.done
	return err
}

// Pings is round trips to an Echo.
type Pings struct {
	To       netip.AddrPort // IPv4
	Count    int
	Interval time.Duration
	Run      uint32
}

// maxPings bounds Count: a minute at 500 a second.
const maxPings = 30000

// pingWait is how long the last answers are waited for.
const pingWait = time.Second

// Trips is what Pings came to. Times are of the answered ones.
type Trips struct {
	Sent     int     `json:"sent"`
	Answered int     `json:"answered"`
	MinMS    float64 `json:"min_ms"`
	P50MS    float64 `json:"p50_ms"`
	P99MS    float64 `json:"p99_ms"`
	MaxMS    float64 `json:"max_ms"`
}

// Send sends one datagram after the other, whether answers come or not.
func (p Pings) Send(ctx context.Context) (Trips, error) {
	if p.Count < 1 || p.Count > maxPings || p.Interval < time.Millisecond {
		return Trips{}, fmt.Errorf("%d round trips, one in %v: want 1 to %d, 1ms apart or more", p.Count, p.Interval, maxPings)
	}
	c, err := listen(0, netip.Addr{}, "", false)
	if err != nil {
		return Trips{}, err
	}
	defer func() { _ = c.Close() }()
	var (
		mu   sync.Mutex // guards sent and rtts
		sent = make([]time.Time, p.Count)
		rtts = make([]float64, 0, p.Count)
		all  = make(chan struct{}) // every one is answered
		done = make(chan struct{})
	)
	go func() {
		defer close(done)
		ms := []udp.Message{{Buf: make([]byte, 2048)}}
		for len(rtts) < p.Count {
			n, err := c.ReadBatch(ms)
			if err != nil {
				return
			}
			now := time.Now()
			run, number, ok := measure.ParseHeader(ms[0].Buf[:ms[0].N])
			if n == 0 || !ok || run != p.Run || number >= uint64(p.Count) {
				continue
			}
			mu.Lock()
			if at := sent[number]; !at.IsZero() {
				rtts = append(rtts, float64(now.Sub(at).Nanoseconds())/1e6)
				sent[number] = time.Time{} // a copy is no second answer
			}
			mu.Unlock()
		}
		close(all)
	}()
	b := make([]byte, 64)
	tick := time.NewTicker(p.Interval)
	defer tick.Stop()
	n := 0
	for ; n < p.Count && ctx.Err() == nil; n++ {
		measure.PutHeader(b, p.Run, uint64(n))
		mu.Lock()
		sent[n] = time.Now()
		mu.Unlock()
		if _, err := c.WriteBatch([]udp.Message{{Buf: b, Addr: p.To}}); err != nil {
			return Trips{}, fmt.Errorf("send to %s: %w", p.To, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	select {
	case <-all:
	case <-time.After(pingWait):
	case <-ctx.Done():
	}
	_ = c.Close() // ends the reader
	<-done
	t := Trips{Sent: n, Answered: len(rtts)}
	if len(rtts) > 0 {
		t.MinMS, t.MaxMS = measure.Quantile(rtts, 0), measure.Quantile(rtts, 1)
		t.P50MS, t.P99MS = measure.Median(rtts), measure.Quantile(rtts, 0.99)
	}
	return t, ctx.Err()
}
