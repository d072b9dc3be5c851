package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/measure"
)

// Serve is an agent: it answers requests, lines of JSON, one after the other. When its input ends it drops what it does
// and returns nil; whoever holds the other end of the pipe need not live to end it.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	requests := make(chan Request)
	ended := make(chan error, 1)
	go func() { // apart, so that the end of input is seen while a request is under way
		lines := NewLines(in)
		for {
			var r Request
			if err := lines.Next(&r); err != nil {
				cancel()
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				ended <- io.EOF
				return
			}
		}
	}()
	a := &agent{}
	defer a.close()
	for {
		select {
		case r := <-requests:
			reply, err := a.do(ctx, r)
			if err != nil {
				reply = Reply{Error: err.Error()}
			}
			if err := WriteLine(out, reply); err != nil {
				return err
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// agent holds the receiving ends.
type agent struct {
	iface  string
	counts map[int]*Receiver // by port
	echo   *Echo
	sink   *Sink
}

func (a *agent) do(ctx context.Context, r Request) (Reply, error) {
	if err := r.Check(); err != nil {
		return Reply{}, err
	}
	if (r.Op == OpOpen) == (a.counts != nil) {
		return Reply{}, fmt.Errorf("%s: %s comes first, and once", r.Op, OpOpen)
	}
	switch r.Op {
	case OpOpen:
		return Reply{}, a.open(r.Interface)
	case OpJoin:
		return Reply{}, a.join(r.Group)
	case OpPing:
		t, err := Pings{To: netip.AddrPortFrom(r.To, PortEcho), Count: r.Count, Interval: time.Duration(r.IntervalMS) * time.Millisecond, Run: r.Run}.Send(ctx)
		return Reply{Trips: &t}, err
	case OpTCP:
		t, err := Transfer{To: netip.AddrPortFrom(r.To, PortTCP), Duration: r.Duration(), Mbit: r.MaxMbit}.Send(ctx)
		return Reply{Transferred: &t}, err
	case OpSend:
		f := Flow{Interface: a.iface, PayloadBytes: r.PayloadBytes, Rate: r.Rate, Duration: r.Duration(), Run: r.Run, Super: r.Super}
		f.To = netip.AddrPortFrom(r.To, uint16(portFor(r)))
		s, err := f.Send(ctx)
		return Reply{Sent: &s}, err
	case OpCount:
		var t measure.Tally
		if c := a.counts[r.Port]; c != nil {
			t = c.Settled(ctx, r.Run)
		}
		return Reply{Tally: &t}, nil
	}
	return Reply{}, fmt.Errorf("no operation %q", r.Op)
}

// portFor is where what OpSend sends is counted.
func portFor(r Request) int {
	switch {
	case r.To.IsMulticast():
		return PortGroup
	case r.Super:
		return PortSuper
	}
	return PortCount
}

func (a *agent) open(iface string) (err error) {
	a.iface, a.counts = iface, map[int]*Receiver{}
	for port, super := range map[int]bool{PortCount: false, PortSuper: true} {
		if a.counts[port], err = Receive(port, netip.Addr{}, "", super); err != nil {
			delete(a.counts, port)
			return err
		}
	}
	if a.echo, err = Answer(PortEcho); err != nil {
		return err
	}
	a.sink, err = Sinks(PortTCP)
	return err
}

func (a *agent) join(group netip.Addr) error {
	if old := a.counts[PortGroup]; old != nil {
		delete(a.counts, PortGroup)
		if err := old.Close(); err != nil {
			return err
		}
	}
	if !group.IsValid() {
		return nil
	}
	r, err := Receive(PortGroup, group, a.iface, false)
	if err == nil {
		a.counts[PortGroup] = r
	}
	return err
}

func (a *agent) close() {
	for _, r := range a.counts {
		_ = r.Close()
	}
	if a.echo != nil {
		_ = a.echo.Close()
	}
	if a.sink != nil {
		_ = a.sink.Close()
	}
}
