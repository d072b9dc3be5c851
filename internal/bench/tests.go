package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/load"
	"github.com/weft-net/weft/internal/measure"
)

const (
	// pingInterval is the pause between round trips.
	pingInterval = 10 * time.Millisecond
	// firstRate begins a ramp: in a second it is at the limit of a fast machine, and a slow one passes it.
	firstRate = 8000
	// near is the factor between the rates where a ramp ends: a coarse answer in a few seconds.
	near = 1.15
	// enough is from how many delivered bytes on processor time is told per GB: less would show the clock's ticks.
	enough = 10e6
	// hearTime is how long members that are new may take to hear the group, hearRate and hearFor how they are tried.
	hearTime = 15 * time.Second
	hearRate = 500
	hearFor  = 100 * time.Millisecond
)

// stepOf is how long one rate of a ramp is tried when a test lasts d.
func stepOf(d time.Duration) time.Duration {
	return min(max(d/12, 100*time.Millisecond), time.Second)
}

// measure does one job. The row is filled as far as it came.
func (r *runner) measure(ctx context.Context, j job) (api.BenchRow, error) {
	row := api.BenchRow{Test: j.test, From: r.self.peer.Name, To: []string{}, Receivers: []api.BenchReceiver{}, CPU: []api.BenchCPU{}}
	var deaf []string
	hears := j.to[:0:0]
	for _, t := range j.to {
		row.To = append(row.To, t.peer.Name)
		if t.mute != nil {
			deaf = append(deaf, t.mute.Error())
		} else {
			hears = append(hears, t)
		}
	}
	if len(hears) == 0 {
		return row, errors.New(strings.Join(deaf, "; "))
	}
	if j.test == api.BenchMcast {
		defer r.leave(ctx, hears)
		heard, more, err := r.hear(ctx, hears)
		if err != nil {
			return row, err
		}
		hears, deaf = heard, append(deaf, more...)
	}
	before, err := r.usage(ctx, hears)
	if err != nil {
		return row, err
	}
	if err := r.test(ctx, &row, j.test, hears); err != nil {
		return row, err
	}
	after, err := r.usage(ctx, hears)
	if err != nil {
		return row, err
	}
	account(&row, before, after)
	if len(deaf) > 0 { // the figures are those of the others
		return row, errors.New(strings.Join(deaf, "; "))
	}
	return row, nil
}

func (r *runner) test(ctx context.Context, row *api.BenchRow, test string, to []*party) error {
	mtu := r.self.opened.MTU
	packet := min(1400, mtu)
	switch test {
	case api.BenchRTT:
		return r.roundTrips(ctx, row, to[0])
	case api.BenchTCP:
		return r.transfer(ctx, row, to[0])
	case api.BenchUDP:
		return r.ramp(ctx, row, to, mtu, true)
	case api.BenchPPS64:
		return r.ramp(ctx, row, to, 64, false)
	case api.BenchPPS1400:
		return r.ramp(ctx, row, to, packet, false)
	case api.BenchMcast:
		if r.plan.Rate > 0 {
			return r.fixed(ctx, row, to, packet)
		}
		return r.ramp(ctx, row, to, packet, false)
	}
	return fmt.Errorf("no test %q", test)
}

func (r *runner) roundTrips(ctx context.Context, row *api.BenchRow, to *party) error {
	r.run++
	did, err := r.self.do(ctx, load.Request{
		Op: load.OpPing, To: to.addr(), Run: r.run,
		Count: int(max(r.plan.Duration/pingInterval, 1)), IntervalMS: int(pingInterval.Milliseconds()),
	})
	if err != nil {
		return err
	}
	t := did.Trips
	if t == nil {
		return r.self.odd()
	}
	row.Seconds, row.Sent, row.LossPercent = r.plan.Duration.Seconds(), uint64(t.Sent), percent(uint64(t.Sent), uint64(t.Answered))
	if t.Answered == 0 {
		return errors.New("no answer")
	}
	row.RTTMinMS, row.RTTP50MS, row.RTTP99MS, row.RTTMaxMS = t.MinMS, t.P50MS, t.P99MS, t.MaxMS
	return nil
}

func (r *runner) transfer(ctx context.Context, row *api.BenchRow, to *party) error {
	did, err := r.self.do(ctx, load.Request{Op: load.OpTCP, To: to.addr(), DurationMS: int(r.plan.Duration.Milliseconds()), MaxMbit: r.plan.MaxMbit})
	if err != nil {
		return err
	}
	t := did.Transferred
	if t == nil || t.Seconds <= 0 {
		return r.self.odd()
	}
	row.Seconds, row.DeliveredBytes, row.MbitPerS = t.Seconds, t.Bytes, float64(t.Bytes)*8/1e6/t.Seconds
	return nil
}

// shot is one rate that was tried.
type shot struct {
	sent load.Sent
	got  []measure.Tally
}

func (s shot) rate() float64 { return float64(s.sent.Datagrams) / max(s.sent.Seconds, 1e-9) }

// shoot sends at a rate for d and counts at all receivers.
func (r *runner) shoot(ctx context.Context, to []*party, payload int, rate float64, d time.Duration, multicast, super bool) (shot, error) {
	r.run++
	q := load.Request{Op: load.OpSend, To: to[0].addr(), PayloadBytes: payload, Rate: rate, DurationMS: int(d.Milliseconds()), Run: r.run, Super: super}
	port := load.PortCount
	switch {
	case multicast:
		q.To, port = r.plan.Group, load.PortGroup
	case super:
		port = load.PortSuper
	}
	did, err := r.self.do(ctx, q)
	if err != nil {
		return shot{}, err
	}
	if did.Sent == nil {
		return shot{}, r.self.odd()
	}
	s := shot{sent: *did.Sent, got: make([]measure.Tally, len(to))}
	err = all(to, func(i int, t *party) error {
		did, err := t.do(ctx, load.Request{Op: load.OpCount, Port: port, Run: q.Run})
		if err != nil {
			return err
		}
		if did.Tally == nil {
			return t.odd()
		}
		s.got[i] = *did.Tally
		return nil
	})
	return s, err
}

// all asks parties at once; the first error is that of the first of them.
func all(ts []*party, f func(i int, t *party) error) error {
	errs := make([]error, len(ts))
	var wg sync.WaitGroup
	for i, t := range ts {
		wg.Go(func() { errs[i] = f(i, t) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// most is the highest rate allowed for datagrams of a size.
func (r *runner) most(payload int) float64 {
	if r.plan.MaxMbit == 0 {
		return load.MaxRate
	}
	return min(load.MaxRate, float64(r.plan.MaxMbit)*1e6/8/float64(payload))
}

// ramp looks for the highest rate that loses less than 0.1 % at every receiver, for as long as a test lasts.
func (r *runner) ramp(ctx context.Context, row *api.BenchRow, to []*party, packet int, super bool) error {
	payload := packet - headers
	row.PacketBytes, row.PayloadBytes = packet, payload
	limit := time.Now().Add(r.plan.Duration)
	search := measure.NewRamp(firstRate, near, r.most(payload))
	found := false
	for {
		rate, more := search.Next()
		if !more || time.Now().After(limit) {
			break
		}
		s, err := r.shoot(ctx, to, payload, rate, stepOf(r.plan.Duration), row.Test == api.BenchMcast, super)
		if err != nil {
			return err
		}
		got := make([]float64, len(s.got))
		for i, t := range s.got {
			got[i] = float64(t.Datagrams)
			row.DeliveredBytes += t.Datagrams * uint64(payload)
		}
		v := measure.Judge(rate, s.rate(), float64(s.sent.Datagrams), got)
		if v == measure.Passed {
			show(row, s, to)
			found = true
		}
		search.Record(v)
	}
	if !found {
		rate, _ := search.Next()
		return fmt.Errorf("not even %.0f datagrams a second arrive whole", rate)
	}
	switch {
	case search.Capped():
		row.LimitedBy = api.LimitRate
	case !search.Failed():
		row.LimitedBy = api.LimitTime
	case search.Starved():
		row.LimitedBy = api.LimitSender
	default:
		row.LimitedBy = api.LimitLoss
	}
	return nil
}

// fixed sends at the rate that was asked for.
func (r *runner) fixed(ctx context.Context, row *api.BenchRow, to []*party, packet int) error {
	payload := packet - headers
	row.PacketBytes, row.PayloadBytes = packet, payload
	s, err := r.shoot(ctx, to, payload, min(float64(r.plan.Rate), r.most(payload)), r.plan.Duration, true, false)
	if err != nil {
		return err
	}
	for _, t := range s.got {
		row.DeliveredBytes += t.Datagrams * uint64(payload)
	}
	show(row, s, to)
	return nil
}

// show puts what one rate came to into the row, in place of a lower one's.
func show(row *api.BenchRow, s shot, to []*party) {
	row.Seconds, row.Sent, row.PacketsPerS = s.sent.Seconds, s.sent.Datagrams, s.rate()
	row.Receivers, row.LossPercent, row.Duplicates = []api.BenchReceiver{}, 0, 0
	for i, t := range s.got {
		lost := percent(s.sent.Datagrams, t.Datagrams)
		row.Receivers = append(row.Receivers, api.BenchReceiver{Host: to[i].peer.Name, Received: t.Datagrams, LossPercent: lost, Duplicates: t.Duplicates})
		row.LossPercent = max(row.LossPercent, lost)
		row.Duplicates += t.Duplicates
	}
	row.MbitPerS = row.PacketsPerS * float64(row.PayloadBytes) * 8 / 1e6 * (1 - row.LossPercent/100)
}

// percent is how much of what was sent did not come.
func percent(sent, came uint64) float64 {
	if sent == 0 || came >= sent {
		return 0
	}
	return 100 * float64(sent-came) / float64(sent)
}
