package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/api"
)

// BusPlan is a measurement of the cluster's bus.
type BusPlan struct {
	Self   Peer // publishes
	Peers  []Peer
	Strict bool // a peer that does not take part fails the whole; else it is skipped

	Tests    []string // of api.BenchBusTests
	Duration time.Duration
	Rate     int // of api.BenchBusRTT, messages per second

	// Progress is told before each measurement; an error of it ends the whole.
	Progress func(api.BenchProgress) error
}

// busTry is how long the trial runs take that show who hears.
const busTry = 20 * time.Millisecond

// RunBus measures the bus. Rows that came to nothing say why; an error means that there are none.
func RunBus(ctx context.Context, p BusPlan) (api.BenchBus, error) {
	r := &runner{plan: Plan{Self: p.Self, Peers: p.Peers, Strict: p.Strict, Progress: p.Progress, bus: true}, began: time.Now()}
	defer r.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.lost = cancel
	if err := r.gather(ctx); err != nil {
		return api.BenchBus{}, err
	}
	out := api.BenchBus{Bus: api.ClusterBus, Bench: []api.BenchBusRow{}, Skipped: r.skipped}
	for _, t := range append([]*party{r.self}, r.others...) {
		out.Hosts = append(out.Hosts, api.BenchHost{Host: t.peer.Name, Version: t.peer.Version})
	}
	var jobs []job
	for _, test := range api.BenchBusTests {
		switch {
		case !slices.Contains(p.Tests, test):
		case test == api.BenchBusRTT:
			for _, t := range r.others {
				jobs = append(jobs, job{test, []*party{t}})
			}
		default:
			jobs = append(jobs, job{test, r.others})
		}
	}
	m := &busMeter{runner: r, plan: p, subject: busSubjects + rand.Text()}
	for i, j := range jobs {
		if err := r.say(j.test, j.to, i+1, len(jobs)); err != nil {
			return api.BenchBus{}, err
		}
		row, err := m.measure(ctx, j)
		switch {
		case err != nil && over(ctx, err) != nil:
			return api.BenchBus{}, over(ctx, err)
		case err != nil:
			row.Error = err.Error()
		}
		out.Bench = append(out.Bench, row)
	}
	r.part(ctx)
	return out, nil
}

// busMeter measures with one subject, which nobody else uses.
type busMeter struct {
	*runner
	plan    BusPlan
	subject string
	jobs    int
}

func (t *party) bus(ctx context.Context, a busAsk) (busReply, error) {
	got, err := t.ask(ctx, ask{Bus: &a}, a.duration()+countTime)
	if err == nil && got.Bus == nil {
		err = t.odd()
	}
	if err != nil {
		return busReply{}, err
	}
	return *got.Bus, nil
}

func (m *busMeter) measure(ctx context.Context, j job) (api.BenchBusRow, error) {
	row := api.BenchBusRow{Test: j.test, From: m.self.peer.Name, To: []string{}, Receivers: []api.BenchBusReceiver{}, CPU: []api.BenchCPU{}, PayloadBytes: 64}
	for _, t := range j.to {
		row.To = append(row.To, t.peer.Name)
	}
	if j.test == api.BenchMsg1K {
		row.PayloadBytes = 1024
	}
	m.jobs++
	subj := fmt.Sprintf("%s.%d", m.subject, m.jobs)
	op := busHear
	if j.test == api.BenchBusRTT {
		op = busEcho
	}
	defer func() { // what fails of it ends with the session
		_ = all(j.to, func(_ int, t *party) error { _, err := t.bus(ctx, busAsk{Op: busQuiet}); return err })
	}()
	if err := all(j.to, func(_ int, t *party) error { _, err := t.bus(ctx, busAsk{Op: op, Subject: subj}); return err }); err != nil {
		return row, err
	}
	if err := m.reached(ctx, j, subj); err != nil {
		return row, err
	}
	before, err := m.usage(ctx, j.to)
	if err != nil {
		return row, err
	}
	if op == busEcho {
		err = m.trips(ctx, &row, subj)
	} else {
		err = m.stream(ctx, &row, j.to, subj, m.plan.Duration)
	}
	if err != nil {
		return row, err
	}
	after, err := m.usage(ctx, j.to)
	if err != nil {
		return row, err
	}
	cpu, daemons, machines := accounts(before, after)
	row.CPU = append(row.CPU, cpu...)
	if millions := float64(row.Delivered) / 1e6; millions >= enoughMillions {
		row.DaemonsSPerMillion, row.MachinesSPerMillion = daemons/millions, machines/millions
	}
	return row, nil
}

// enoughMillions is from how many millions of deliveries on processor time is told: less would show the clock's ticks.
const enoughMillions = 0.01

// reached waits until everyone hears: what the hosts want is known everywhere only after a moment.
func (m *busMeter) reached(ctx context.Context, j job, subj string) error {
	for limit := time.Now().Add(hearTime); ; {
		var deaf []string
		if j.test == api.BenchBusRTT {
			m.run++
			r, err := m.self.bus(ctx, busAsk{Op: busPing, Subject: subj, Run: m.run, PayloadBytes: 64, Rate: 100, DurationMS: int(busTry.Milliseconds())})
			if err != nil {
				return err
			}
			if r.Trips == nil || r.Trips.Answered == 0 {
				deaf = append(deaf, fmt.Sprintf("host %s does not answer on the bus (weft buses)", j.to[0].peer.Name))
			}
		} else {
			var row api.BenchBusRow
			row.PayloadBytes = 64
			if err := m.stream(ctx, &row, j.to, subj, busTry); err != nil {
				return err
			}
			for _, r := range row.Receivers {
				if r.LossPercent > 0 {
					deaf = append(deaf, fmt.Sprintf("host %s does not hear what is published here (weft buses)", r.Host))
				}
			}
		}
		if len(deaf) == 0 {
			return nil
		}
		if time.Now().After(limit) {
			return errors.New(strings.Join(deaf, "; "))
		}
	}
}

func (m *busMeter) trips(ctx context.Context, row *api.BenchBusRow, subj string) error {
	m.run++
	r, err := m.self.bus(ctx, busAsk{Op: busPing, Subject: subj, Run: m.run, PayloadBytes: row.PayloadBytes, Rate: m.plan.Rate, DurationMS: int(m.plan.Duration.Milliseconds())})
	if err != nil {
		return err
	}
	t := r.Trips
	if t == nil || r.Seconds <= 0 {
		return m.self.odd()
	}
	row.Seconds, row.Sent, row.MessagesPerS = r.Seconds, r.Sent, float64(r.Sent)/r.Seconds
	row.LossPercent, row.Delivered = percent(uint64(t.Sent), uint64(t.Answered)), 2*uint64(t.Answered)
	if t.Answered == 0 {
		return errors.New("no answer")
	}
	row.RTTMinMS, row.RTTP50MS, row.RTTP99MS, row.RTTMaxMS = t.MinMS, t.P50MS, t.P99MS, t.MaxMS
	return nil
}

// stream publishes to all as fast as it goes and counts what came.
func (m *busMeter) stream(ctx context.Context, row *api.BenchBusRow, to []*party, subj string, d time.Duration) error {
	m.run++
	sent, err := m.self.bus(ctx, busAsk{Op: busPublish, Subject: subj, Run: m.run, PayloadBytes: row.PayloadBytes, DurationMS: int(d.Milliseconds())})
	if err != nil {
		return err
	}
	got := make([]busReply, len(to))
	if err := all(to, func(i int, t *party) (err error) {
		got[i], err = t.bus(ctx, busAsk{Op: busCount, Run: m.run, Sent: sent.Sent})
		return err
	}); err != nil {
		return err
	}
	row.Seconds, row.Sent = sent.Seconds, sent.Sent
	for i, g := range got {
		v := api.BenchBusReceiver{Host: to[i].peer.Name, Received: g.Received, Duplicates: g.Duplicates, Misplaced: g.Misplaced, LossPercent: percent(sent.Sent, g.Received)}
		if g.Seconds > 0 {
			v.MessagesPerS = float64(g.Received) / g.Seconds
		}
		if i == 0 || v.MessagesPerS < row.MessagesPerS {
			row.MessagesPerS = v.MessagesPerS
		}
		row.Receivers = append(row.Receivers, v)
		row.LossPercent = max(row.LossPercent, v.LossPercent)
		row.Duplicates += v.Duplicates
		row.Misplaced += v.Misplaced
		row.Delivered += v.Received
	}
	return nil
}
