// Package taptest is a TAP interface made of two channels: tests stand where the kernel would.
package taptest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/tap"
)

// Queue is how many frames wait in each direction.
const Queue = 1024

// Device is the fake. Inject is what the kernel sends, Sent what was written to the kernel.
type Device struct {
	name    string
	in, out chan []byte
	done    chan struct{}
	once    sync.Once
	refused atomic.Uint64

	mu     sync.Mutex // guards all below
	halts  bool
	halted chan struct{} // closed while halted
}

var _ tap.Device = (*Device)(nil)

// New returns an open fake.
func New(name string) *Device {
	return &Device{name: name, in: make(chan []byte, Queue), out: make(chan []byte, Queue), done: make(chan struct{})}
}

// Inject queues a copy of a frame, without header, for Read; it waits while the queue is full.
func (d *Device) Inject(frame []byte) {
	select {
	case d.in <- append(make([]byte, gso.HeaderLen), frame...):
	case <-d.done:
	}
}

// Sent gives the frames that were written, in order, without their headers.
func (d *Device) Sent() <-chan []byte { return d.out }

// Name returns the name given to New.
func (d *Device) Name() string { return d.name }

// Read behaves as tap.Device says.
func (d *Device) Read(space []byte, frames [][]byte) (int, error) {
	put := func(n int, frame []byte) {
		size := copy(space, frame)
		frames[n], space = space[:size:size], space[size:]
	}
	halted := d.halt()
	select {
	case <-d.done:
		return 0, fmt.Errorf("read TAP %s: %w", d.name, net.ErrClosed)
	default:
	}
	select {
	case <-halted:
		return 0, fmt.Errorf("read TAP %s: %w", d.name, os.ErrDeadlineExceeded)
	default:
	}
	select {
	case frame := <-d.in:
		put(0, frame)
	case <-halted:
		return 0, fmt.Errorf("read TAP %s: %w", d.name, os.ErrDeadlineExceeded)
	case <-d.done:
		return 0, fmt.Errorf("read TAP %s: %w", d.name, net.ErrClosed)
	}
	for n := 1; n < len(frames); n++ {
		if len(space) < gso.MaxFrame {
			return n, nil
		}
		select {
		case frame := <-d.in:
			put(n, frame)
		default:
			return n, nil
		}
	}
	return len(frames), nil
}

// Write queues a copy for Sent; frames beyond Queue are refused, as a kernel does.
func (d *Device) Write(parts [][]byte) (bool, error) {
	select {
	case <-d.done:
		return false, fmt.Errorf("write TAP %s: %w", d.name, net.ErrClosed)
	default:
	}
	select {
	case d.out <- bytes.Join(parts, nil)[gso.HeaderLen:]:
		return true, nil
	default:
		d.refused.Add(1)
		return false, nil
	}
}

// Halt behaves as tap.Device says.
func (d *Device) Halt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.halted == nil {
		d.halted = make(chan struct{})
	}
	if !d.halts {
		close(d.halted)
	}
	d.halts = true
}

// Resume behaves as tap.Device says.
func (d *Device) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.halts {
		d.halted = make(chan struct{})
	}
	d.halts = false
}

func (d *Device) halt() chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.halted == nil {
		d.halted = make(chan struct{})
	}
	return d.halted
}

// SegmentsUDP is false: what is written is a frame each.
func (d *Device) SegmentsUDP() bool { return false }

// Refused counts the frames that did not fit.
func (d *Device) Refused() uint64 { return d.refused.Load() }

// Close ends Read and Write.
func (d *Device) Close() error {
	d.once.Do(func() { close(d.done) })
	return nil
}
