package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/load"
)

// Peer is a host to measure with.
type Peer struct {
	Name, Version string
	// Dial opens a stream to the host's Endpoint.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Plan is a measurement.
type Plan struct {
	Self   Peer // sends
	Peers  []Peer
	Strict bool // a peer that does not take part fails the whole; else it is skipped

	Network  string
	bus      bool       // the cluster's bus in place of a network
	Group    netip.Addr // for api.BenchMcast
	Tests    []string   // of api.BenchTests
	Duration time.Duration
	Rate     int // of api.BenchMcast, datagrams per second; 0: look for it
	MaxMbit  int // 0: no bound

	// Progress is told before each measurement; an error of it ends the whole.
	Progress func(api.BenchProgress) error
}

// Run measures. Rows that came to nothing say why; an error means that there are none.
func Run(ctx context.Context, p Plan) (api.Bench, error) {
	r := &runner{plan: p, began: time.Now()}
	defer r.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.lost = cancel
	if err := r.gather(ctx); err != nil {
		return api.Bench{}, err
	}
	if err := r.reach(ctx); err != nil {
		return api.Bench{}, err
	}
	out := api.Bench{
		Network: p.Network, Engine: r.self.opened.Engine, Bench: []api.BenchRow{}, Skipped: r.skipped,
	}
	if p.Group.IsValid() && slices.Contains(p.Tests, api.BenchMcast) {
		out.Group = p.Group.String()
	}
	for _, t := range append([]*party{r.self}, r.others...) {
		out.Hosts = append(out.Hosts, api.BenchHost{Host: t.peer.Name, Address: t.addr().String(), Version: t.peer.Version})
	}
	jobs := r.jobs()
	for i, j := range jobs {
		if err := r.say(j.test, j.to, i+1, len(jobs)); err != nil {
			return api.Bench{}, err
		}
		row, err := r.measure(ctx, j)
		switch {
		case err != nil && over(ctx, err) != nil:
			return api.Bench{}, over(ctx, err)
		case err != nil:
			row.Error = err.Error()
		}
		out.Bench = append(out.Bench, row)
	}
	r.part(ctx)
	return out, nil
}

// part has all hosts take their attachments away and waits for it, so that what comes next finds none of them. Who does
// not answer does so by itself.
func (r *runner) part(ctx context.Context) {
	ts := append([]*party{r.self}, r.others...)
	for _, t := range ts {
		t.parting.Store(true)
	}
	_ = all(ts, func(_ int, t *party) error {
		_, err := t.ask(ctx, ask{Bye: &struct{}{}}, 0)
		return err
	})
}

// runner is a Plan under way.
type runner struct {
	plan    Plan
	began   time.Time
	self    *party
	others  []*party
	skipped []api.BenchSkip
	run     uint32 // number of the last one
	lost    func(error)
}

// over returns what ends the whole measurement: the end of ctx, or of a host's session. Nil: other tests may go well.
func over(ctx context.Context, err error) error {
	var left *gone
	if errors.As(context.Cause(ctx), &left) || errors.As(err, &left) {
		return left
	}
	return ctx.Err()
}

func (r *runner) close() {
	for _, t := range append([]*party{r.self}, r.others...) {
		if t != nil {
			t.close()
		}
	}
}

func (r *runner) say(test string, to []*party, n, of int) error {
	names := []string{}
	for _, t := range to {
		names = append(names, t.peer.Name)
	}
	return r.plan.Progress(api.BenchProgress{Test: test, To: names, Number: n, Of: of, ElapsedS: time.Since(r.began).Seconds()})
}

// gather opens all sessions: first this host's own, so that of two that ask each other at once one gets through more often.
func (r *runner) gather(ctx context.Context) error {
	if err := r.say("prepare", nil, 0, 0); err != nil {
		return err
	}
	o := open{Network: r.plan.Network, Group: r.plan.Group, Bus: r.plan.bus}
	var err error
	if r.self, err = join(ctx, r.plan.Self, o, r.lost); err != nil {
		return err
	}
	parties, errs := make([]*party, len(r.plan.Peers)), make([]error, len(r.plan.Peers))
	var wg sync.WaitGroup
	for i, p := range r.plan.Peers {
		wg.Go(func() { parties[i], errs[i] = join(ctx, p, o, r.lost) })
	}
	wg.Wait()
	r.others = slices.DeleteFunc(parties, func(t *party) bool { return t == nil })
	r.skipped = []api.BenchSkip{}
	if ctx.Err() != nil {
		return over(ctx, nil)
	}
	for i, err := range errs {
		switch {
		case err == nil:
		case r.plan.Strict, len(r.others) == 0:
			return err
		default:
			r.skipped = append(r.skipped, api.BenchSkip{Host: r.plan.Peers[i].Name, Reason: err.Error()})
		}
	}
	for _, t := range r.others {
		if t.opened.Engine != r.self.opened.Engine {
			return api.Errorf(api.CodeConflict, "network %s is %s here and %s on host %s", r.plan.Network, r.self.opened.Engine, t.opened.Engine, t.peer.Name).
				WithHint("weft network show %s", r.plan.Network)
		}
	}
	return nil
}

// reachTime is how long attachments that are new may take to reach each other, reachPings how they are tried.
const (
	reachTime  = 15 * time.Second
	reachPings = 5
)

// reach waits until all others answer in the network. Who does not is noted.
func (r *runner) reach(ctx context.Context) error {
	limit := time.Now().Add(reachTime)
	for _, t := range r.others {
		for {
			r.run++
			did, err := r.self.do(ctx, load.Request{Op: load.OpPing, To: t.addr(), Count: reachPings, IntervalMS: 20, Run: r.run})
			if err == nil && did.Trips != nil && did.Trips.Answered > 0 {
				break
			}
			if err := over(ctx, err); err != nil {
				return err
			}
			if time.Now().After(limit) {
				t.mute = fmt.Errorf("host %s does not answer in network %s (weft network show %s, weft links)", t.peer.Name, r.plan.Network, r.plan.Network)
				break
			}
		}
	}
	return nil
}

// job is one measurement.
type job struct {
	test string
	to   []*party
}

func (r *runner) jobs() []job {
	var jobs []job
	for _, test := range api.BenchTests {
		switch {
		case !slices.Contains(r.plan.Tests, test):
		case test == api.BenchMcast:
			jobs = append(jobs, job{test, r.others})
		default:
			for _, t := range r.others {
				jobs = append(jobs, job{test, []*party{t}})
			}
		}
	}
	return jobs
}
