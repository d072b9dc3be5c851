package daemon

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/bench"
	"github.com/weft-net/weft/internal/broker"
)

// BenchBus measures the cluster's bus from here.
func (b backend) BenchBus(ctx context.Context, r api.BenchBusRequest, progress func(api.BenchProgress) error) (api.BenchBus, error) {
	s := b.s
	r.DurationMS, r.Rate = cmp.Or(r.DurationMS, api.DefaultBenchMS), cmp.Or(r.Rate, api.DefaultBenchBusRate)
	if r.DurationMS < leastBenchMS {
		return api.BenchBus{}, api.Errorf(api.CodeInvalid, "tests of %d ms: want %d to %d", r.DurationMS, leastBenchMS, api.MaxBenchMS)
	}
	for _, t := range r.Tests {
		if !slices.Contains(api.BenchBusTests, t) {
			return api.BenchBus{}, api.Errorf(api.CodeInvalid, "no test %q; there are %v", t, api.BenchBusTests)
		}
	}
	if len(r.Tests) == 0 {
		r.Tests = api.BenchBusTests
	}
	peers, err := b.benchPeers(nil, r.Hosts)
	if err != nil {
		return api.BenchBus{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)() // a daemon that stops does not wait for a measurement
	out, err := bench.RunBus(ctx, bench.BusPlan{
		Self: s.benchSelf(), Peers: peers, Strict: len(r.Hosts) > 0, Tests: r.Tests, Rate: r.Rate,
		Duration: time.Duration(r.DurationMS) * time.Millisecond, Progress: progress,
	})
	if s.ctx.Err() != nil {
		return api.BenchBus{}, api.Errorf(api.CodeUnavailable, "this host is going down")
	}
	return out, err
}

// benchMessages joins the cluster's bus for a measurement.
func (s *System) benchMessages(ctx context.Context) (bench.Messages, error) {
	done, err := s.bus.use(ctx)
	if err != nil {
		return nil, err
	}
	return &benchMessages{s.bus.broker, done}, nil
}

// benchMessages are the bus as a measurement sees it: as programs of this host do.
type benchMessages struct {
	broker *broker.Broker
	done   func()
}

var _ bench.Messages = (*benchMessages)(nil)

// Hear implements bench.Messages.
func (m *benchMessages) Hear(ctx context.Context, subj string, got func([]byte)) (func(), error) {
	sub, err := m.broker.Subscribe(ctx, subj, "", listener(got), nil)
	if err != nil {
		return nil, refusal(err)
	}
	return func() { m.broker.Unsubscribe(sub) }, nil
}

// Publisher implements bench.Messages.
func (m *benchMessages) Publisher() func(context.Context, string, []byte) error {
	r := m.broker.Router()
	return func(ctx context.Context, subj string, payload []byte) error {
		_, err := r.Publish(ctx, []byte(subj), &broker.Message{Payload: payload}, broker.Options{})
		return err
	}
}

// Close implements bench.Messages.
func (m *benchMessages) Close() { m.done() }

// listener is a function that takes payloads.
type listener func([]byte)

// Deliver implements broker.Sink.
func (l listener) Deliver(_ *broker.Subscription, m *broker.Message) <-chan struct{} {
	l(m.Payload)
	return nil
}
