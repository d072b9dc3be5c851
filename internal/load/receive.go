package load

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/measure"
	"github.com/weft-net/weft/internal/udp"
)

const (
	// nap is how long a receiver lets datagrams gather: woken for each one, sixteen of them would be what is measured.
	nap = 2 * time.Millisecond
	// quiet ends a run: nothing has come for so long. mostQuiets bounds the waiting for it.
	quiet      = 40 * time.Millisecond
	mostQuiets = 15
)

// Receiver counts the datagrams of a Flow.
type Receiver struct {
	conn udp.Conn
	done chan struct{}

	mu    sync.Mutex // guards count
	count measure.Counter
}

// Receive counts what comes to a port, and to a group joined on an interface if group is valid. With super, datagrams that
// the kernel has joined are taken as one (UDP GRO), as programs do that receive much.
func Receive(port int, group netip.Addr, iface string, super bool) (*Receiver, error) {
	c, err := listen(port, group, iface, super)
	if err != nil {
		return nil, err
	}
	r := &Receiver{conn: c, done: make(chan struct{})}
	go r.read(super)
	return r, nil
}

func (r *Receiver) read(super bool) {
	defer close(r.done)
	size := 2048
	ms := make([]udp.Message, receiveBatch)
	if super {
		ms, size = ms[:16], 64<<10
	}
	for i := range ms {
		ms[i].Buf = make([]byte, size)
	}
	for {
		n, err := r.conn.ReadBatch(ms)
		if err != nil {
			return
		}
		r.mu.Lock()
		for i := range ms[:n] {
			b := ms[i].Buf[:ms[i].N]
			for seg := ms[i].Segment; seg > 0 && len(b) > seg; b = b[seg:] {
				r.count.Add(b[:seg])
			}
			r.count.Add(b)
		}
		r.mu.Unlock()
		if n < len(ms) && !super {
			<-time.After(nap)
		}
	}
}

// Tally returns what has come of a run so far.
func (r *Receiver) Tally(run uint32) measure.Tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count.Of(run)
}

// Settled waits until nothing more comes, since queues on the way may still drain, at most 0.6 s, and returns the tally.
func (r *Receiver) Settled(ctx context.Context, run uint32) measure.Tally {
	t := r.Tally(run)
	for range mostQuiets {
		select {
		case <-time.After(quiet):
		case <-ctx.Done():
			return t
		}
		now := r.Tally(run)
		if now == t {
			break
		}
		t = now
	}
	return t
}

// Close stops counting.
func (r *Receiver) Close() error {
	err := r.conn.Close()
	<-r.done
	return err
}
