package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"time"

	"github.com/weft-net/weft/internal/load"
	"github.com/weft-net/weft/internal/measure"
)

// group is the one that is sent to; outside what is reserved for links and for sources.
var group = netip.AddrFrom4([4]byte{239, 98, 98, 98})

const (
	loadPort  = 7777
	groupPort = 7778
	// firstRate begins a ramp of which nothing is known: the slowest system here passes it in a namespace of 2 cores.
	firstRate = 4000
)

// reachable waits until the hosts' programs reach each other, which for some systems is long after they run.
func reachable(ctx context.Context, from, to *host) error {
	return await(ctx, 20*time.Second, func() error {
		_, err := inside(ctx, from, "ping", "-n", "-c", "1", "-W", "1", to.addr.String())
		if err != nil {
			return fmt.Errorf("h%d does not reach h%d (%s): %w", from.n, to.n, to.addr, err)
		}
		return nil
	})
}

func inside(ctx context.Context, h *host, args ...string) (string, error) {
	return execute(ctx, nil, append([]string{"ip", "netns", "exec", h.inside}, args...)...)
}

// measureRTT pings and returns the median and the 99th percentile in microseconds.
func measureRTT(ctx context.Context, from, to *host, interval string, count int) (p50, p99 float64, err error) {
	out, err := inside(ctx, from, "ping", "-n", "-i", interval, "-c", fmt.Sprint(count), "-W", "1", to.addr.String())
	s, parseErr := parsePing(out)
	if parseErr != nil {
		return 0, 0, errors.Join(parseErr, err)
	}
	return s.median(), s.quantile(0.99), nil
}

// throughput is what one transfer by TCP came to.
type throughput struct {
	gbits           float64
	allGB, daemonGB float64 // seconds of processor time for each 10^9 bytes: all of the machine's, and the daemons'
}

// measureTCP transfers by iperf3 for d. The server must run.
func measureTCP(ctx context.Context, w *world, from, to *host, streams int, d time.Duration) (throughput, error) {
	all0, daemons0, err := w.cpu()
	if err != nil {
		return throughput{}, err
	}
	var bytes, bits float64
	err = await(ctx, 3*time.Second, func() error {
		if all0, daemons0, err = w.cpu(); err != nil {
			return err
		}
		out, failed := inside(ctx, from, "iperf3", "-c", to.addr.String(), "-J", "-t", fmt.Sprint(d.Seconds()), "-P", fmt.Sprint(streams))
		bytes, bits, err = parseIperf([]byte(out))
		if err != nil {
			return errors.Join(err, failed)
		}
		return nil
	})
	if err != nil {
		return throughput{}, err
	}
	all1, daemons1, err := w.cpu()
	gb := bytes / 1e9
	return throughput{gbits: bits / 1e9, allGB: (all1 - all0).Seconds() / gb, daemonGB: (daemons1 - daemons0).Seconds() / gb}, err
}

// serveTCP runs iperf3's server on a host.
func serveTCP(w *world, h *host) error {
	p, err := start(h.inside, nil, "iperf3", "-s", "-B", h.addr.String())
	if err == nil {
		w.other = append(w.other, p)
	}
	return err
}

// measureIdle returns the daemons' share of one core while nothing is sent, in percent and per host.
func measureIdle(ctx context.Context, w *world, d time.Duration) (float64, error) {
	used := func() (total time.Duration, err error) {
		for _, h := range w.machines() {
			for _, p := range h.daemons {
				t, err := p.cpuExact()
				if err != nil {
					return 0, errors.Join(err, p.ended())
				}
				total += t
			}
		}
		return total, nil
	}
	before, err := used()
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, d); err != nil {
		return 0, err
	}
	after, err := used()
	return 100 * (after - before).Seconds() / d.Seconds() / float64(len(w.hosts)), err
}

// stream is datagrams from one host to others: to an address, or to the group.
type stream struct {
	w         *world
	from      *host
	to        netip.AddrPort
	receivers []*process
	run       uint32
}

// newStream starts receivers and waits until what is sent reaches all of them.
func newStream(ctx context.Context, w *world, from *host, to netip.AddrPort, receivers []*host) (*stream, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &stream{w: w, from: from, to: to}
	for _, h := range receivers {
		p, err := start(h.inside, nil, self, "receive", "--at", to.String(), "--dev", h.dev)
		if err != nil {
			return s, err
		}
		s.receivers = append(s.receivers, p)
	}
	for _, p := range s.receivers {
		if _, err := p.line(ctx, "ready", 10*time.Second); err != nil {
			return s, err
		}
	}
	return s, await(ctx, 15*time.Second, func() error {
		st, err := s.send(ctx, 200, 200, 200*time.Millisecond)
		if err != nil {
			return err
		}
		silent := 0
		for _, g := range st.got {
			if g == 0 {
				silent++
			}
		}
		if silent > 0 {
			return fmt.Errorf("%d of %d receivers got nothing", silent, len(st.got))
		}
		return nil
	})
}

// close ends the receivers.
func (s *stream) close() { stop(s.receivers) }

// step is what one rate came to.
type step struct {
	sent, rate float64 // datagrams, and per second
	got        []float64
	packets    float64 // that hosts sent on the underlay meanwhile
}

// delivered is the number of datagrams at all receivers together.
func (s step) delivered() float64 {
	var n float64
	for _, g := range s.got {
		n += g
	}
	return n
}

// send sends at one rate for d and asks every receiver what came.
func (s *stream) send(ctx context.Context, size int, rate float64, d time.Duration) (step, error) {
	s.run++
	before, err := s.w.packets(ctx)
	if err != nil {
		return step{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return step{}, err
	}
	out, err := inside(ctx, s.from, self, "send", "--to", s.to.String(), "--dev", s.from.dev, "--size", fmt.Sprint(size),
		"--pps", fmt.Sprint(rate), "--time", d.String(), "--run", fmt.Sprint(s.run))
	if err != nil {
		return step{}, err
	}
	var did load.Sent
	if err := json.Unmarshal([]byte(out), &did); err != nil {
		return step{}, fmt.Errorf("sender: %w in %.80q", err, out)
	}
	st := step{sent: float64(did.Datagrams), rate: float64(did.Datagrams) / did.Seconds}
	for _, p := range s.receivers {
		if _, err := fmt.Fprintln(p.stdin, s.run); err != nil {
			return step{}, errors.Join(fmt.Errorf("receiver: %w", err), p.ended())
		}
	}
	for _, p := range s.receivers {
		line, err := p.line(ctx, fmt.Sprintf("got %d ", s.run), 10*time.Second)
		if err != nil {
			return step{}, err
		}
		var run uint32
		var n float64
		if _, err := fmt.Sscanf(line, "got %d %g", &run, &n); err != nil {
			return step{}, fmt.Errorf("receiver: %w in %q", err, line)
		}
		st.got = append(st.got, n)
	}
	after, err := s.w.packets(ctx)
	st.packets = float64(after - before)
	return st, err
}

// limit is the highest rate of a ramp that passed.
type limit struct {
	rate    float64
	packets float64 // on the underlay per datagram delivered
	starved bool    // the next rate up failed for want of a sender: the system may do more
}

// search runs a ramp.
func (s *stream) search(ctx context.Context, size int, from, near float64, d time.Duration) (limit, error) {
	var best limit
	r := measure.NewRamp(from, near, math.Inf(1))
	for {
		rate, more := r.Next()
		if !more {
			break
		}
		st, err := s.send(ctx, size, rate, d)
		if err != nil {
			return best, err
		}
		v := measure.Judge(rate, st.rate, st.sent, st.got)
		if v == measure.Passed && st.rate > best.rate {
			best = limit{rate: st.rate, packets: st.packets / st.delivered()}
		}
		r.Record(v)
	}
	best.starved = r.Starved()
	if best.rate == 0 {
		return best, fmt.Errorf("not even %d datagrams of %d bytes a second arrive whole", measure.LowestRate, size)
	}
	return best, nil
}
