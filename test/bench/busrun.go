package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/weft-net/weft/bus"
)

// subscribers is how many a publisher is measured with.
var subscribers = []int{1, 4, 16}

// The tests, in the order they run.
const (
	testRate    = "rate"
	testLatency = "latency"
	testBusy    = "busy"
)

var busTests = []string{testRate, testLatency, testBusy}

// What is measured beside the highest rate.
const (
	paceLatency = 10_000    // messages a second, for the time of delivery, to 1 and 4
	paceIdle    = 1_000_000 // to 4: how much of the machine is left
)

// busSettingsFrom reads the environment.
func busSettingsFrom(env func(string) string) (settings, error) {
	s := settings{Out: env("OUT"), JSON: env("JSON"), Step: 2 * time.Second}
	var err error
	if s.Rounds, err = rounds(env); err != nil {
		return s, err
	}
	if s.Rounds == 1 { // a look
		s.Step = 1500 * time.Millisecond
	}
	if s.Only, err = choose("ONLY", env("ONLY"), names(entriesOf(busSystems()))); err != nil {
		return s, err
	}
	if s.Tests, err = choose("TESTS", env("TESTS"), busTests); err != nil {
		return s, err
	}
	if s.Wirings, err = choose("WIRINGS", env("WIRINGS"), allWirings); err != nil {
		return s, err
	}
	s.Receivers, err = chooseNumbers("SUBSCRIBERS", env("SUBSCRIBERS"), subscribers)
	return s, err
}

// busBench is a run.
type busBench struct {
	bench
	w *world
	n uint32 // number of the last run of messages
}

// busBenchmark does all rounds and writes what they found. All systems use the same namespaces, one after the other.
func busBenchmark(ctx context.Context, s settings) (err error) {
	held, err := prepare(ctx)
	if err != nil {
		return err
	}
	defer held.Close()
	systems := slices.DeleteFunc(busSystems(), func(e busSystem) bool { return !slices.Contains(s.Only, e.name) })
	b := &busBench{bench: bench{settings: s, res: newResults(s, thisMachine(ctx)), began: time.Now()}}
	b.res.systems = entriesOf(systems)
	for _, e := range systems {
		if b.res.versions[e.name], err = e.version(ctx); err != nil {
			b.res.refused[e.name] = err.Error()
			b.say("%s: %v", e.title, err)
		}
	}
	w, err := newWorld(ctx, "bus")
	if w != nil {
		b.w = w
		defer func() { err = errors.Join(err, w.close(), os.RemoveAll(folder)) }()
	}
	if err != nil {
		return err
	}
	for range slices.Max(s.Receivers) + 1 {
		if _, err := w.host(ctx); err != nil {
			return err
		}
	}
	for round := range s.Rounds {
		for _, wiring := range s.Wirings {
			if err := w.wire(ctx, wiring); err != nil {
				return err
			}
			for _, e := range systems {
				if b.res.refused[e.name] != "" {
					continue
				}
				b.say("round %d of %d, %s: %s", round+1, s.Rounds, wiring, e.title)
				for _, n := range s.Receivers {
					if err := b.to(ctx, e, wiring, n); err != nil && ctx.Err() == nil {
						b.say("  to %d: %v", n, err)
						b.res.note(fmt.Sprintf("%s, %s, to %d: %v", e.title, wiring, n, err))
					}
					if ctx.Err() != nil {
						return ctx.Err()
					}
				}
			}
		}
	}
	b.say("done")
	return b.res.write(busReport(b.res, time.Since(b.began)), "benchmarks-bus.md")
}

// to measures one system with n subscribers.
func (b *busBench) to(ctx context.Context, e busSystem, wiring string, n int) error {
	flood := "on"
	if e.dropped {
		flood = "off"
	}
	for _, h := range b.w.hosts {
		if _, err := execute(ctx, nil, "ip", "netns", "exec", b.w.hub, "bridge", "link", "set", "dev", h.port(), "mcast_flood", flood); err != nil {
			return err
		}
	}
	c, err := b.clients(ctx, e, n)
	if c != nil {
		defer func() { stop(c.all()) }()
	}
	if err != nil {
		return err
	}
	if _, err := c.run(ctx, 0, b.Step/4); err != nil { // windows open, threads and buffers are there
		return err
	}
	found := func(metric string, v float64) {
		name := fmt.Sprintf("%s/%d", metric, n)
		b.res.add(key{e.name, wiring, name}, v)
		b.say("  %-8s %-8s %s", wiring, name, number(v))
	}
	if b.tests(testRate) {
		full, err := c.run(ctx, 0, b.Step)
		if err != nil {
			return err
		}
		found("rate", full.rate/1e6)
		found("lost", full.lost)
		found("sent", full.sentRate/1e6)
		found("cpu", full.machine)
		found("cpuown", full.processes)
		if full.misplaced > 0 {
			b.res.note(fmt.Sprintf("%s, %s, to %d: %d messages twice or out of order", e.title, wiring, n, full.misplaced))
		}
	}
	if b.tests(testLatency) && n <= 4 && (!e.raw || e.name == "single") {
		slow, err := c.run(ctx, paceLatency, b.Step)
		if err != nil {
			return err
		}
		found("p50", slow.p50)
		found("p99", slow.p99)
	}
	if b.tests(testBusy) && n == 4 && !e.raw {
		steady, err := c.run(ctx, paceIdle, b.Step)
		if err != nil {
			return err
		}
		found("kept", steady.rate/1e6)
		found("paced", steady.sentRate/1e6)
		found("busy", steady.busy)
		found("busyown", steady.busyOwn)
	}
	return nil
}

// busProcesses are those of one system.
type busProcesses struct {
	b           *busBench
	broker      *process
	publisher   *process
	subscribers []*process
}

func (c *busProcesses) all() (ps []*process) {
	for _, p := range append([]*process{c.broker, c.publisher}, c.subscribers...) {
		if p != nil {
			ps = append(ps, p)
		}
	}
	return ps
}

// clients starts a system and waits until every subscriber hears the publisher.
func (b *busBench) clients(ctx context.Context, e busSystem, n int) (*busProcesses, error) {
	c := &busProcesses{b: b}
	first, token := b.w.hosts[0], bus.NewToken()
	var err error
	if e.broker != nil {
		if c.broker, err = e.broker(b.w, first); err != nil {
			return c, err
		}
	}
	profile := os.Getenv("PROFILE")
	args, err := e.publish(first, n, token, profile)
	if err != nil {
		return c, err
	}
	if c.publisher, err = start(first.ns, nil, args...); err != nil {
		return c, err
	}
	for _, h := range b.w.hosts[1 : n+1] {
		args, err := e.subscribe(h, first, token, profile)
		if err != nil {
			return c, err
		}
		p, err := start(h.ns, nil, args...)
		if err != nil {
			return c, err
		}
		c.subscribers = append(c.subscribers, p)
	}
	for _, p := range append(c.subscribers, c.publisher) {
		if _, err := p.line(ctx, "ready", 40*time.Second); err != nil {
			return c, err
		}
	}
	return c, nil
}

// busRun is what one run came to: of subscribers, the worst's.
type busRun struct {
	rate, sentRate     float64 // messages a second
	lost               float64 // percent
	misplaced          uint64
	machine, processes float64 // seconds of processor time for 10^6 deliveries
	busy, busyOwn      float64 // percent of all processors: of everything on the machine, and of the system's processes
	p50, p99           float64 // µs
}

func (c *busProcesses) cpu() (machine, processes time.Duration, err error) {
	if machine, _, err = c.b.w.cpu(); err != nil {
		return 0, 0, err
	}
	for _, p := range c.all() {
		d, err := p.cpu()
		if err != nil {
			return 0, 0, errors.Join(err, p.ended())
		}
		processes += d
	}
	return machine, processes, nil
}

// patience is how long after a run its end may take to come: brokers hold seconds of it.
const patience = 30 * time.Second

func (c *busProcesses) run(ctx context.Context, rate int, d time.Duration) (busRun, error) {
	c.b.n++
	r := busRun{rate: math.Inf(1)}
	machine0, processes0, err := c.cpu()
	if err != nil {
		return r, err
	}
	began := time.Now()
	if _, err := fmt.Fprintln(c.publisher.stdin, c.b.n, rate, d.Milliseconds()); err != nil {
		return r, errors.Join(err, c.publisher.ended())
	}
	line, err := c.publisher.line(ctx, fmt.Sprintf("sent %d ", c.b.n), d+patience)
	if err != nil {
		return r, err
	}
	var run uint32
	var sent, delivered uint64
	var took int64
	if _, err := fmt.Sscanf(line, "sent %d %d %d", &run, &sent, &took); err != nil {
		return r, fmt.Errorf("%q: %w", line, err)
	}
	r.sentRate = float64(sent) / float64(took) * 1e9
	for _, p := range c.subscribers {
		line, err := p.line(ctx, fmt.Sprintf("got %d ", c.b.n), patience)
		if err != nil {
			return r, err
		}
		var got, of, misplaced uint64
		var took, p50, p99 int64
		if _, err := fmt.Sscanf(line, "got %d %d %d %d %d %d %d", &run, &got, &of, &misplaced, &took, &p50, &p99); err != nil {
			return r, fmt.Errorf("%q: %w", line, err)
		}
		delivered += got
		r.misplaced += misplaced
		r.rate = min(r.rate, float64(got)/float64(took)*1e9)
		r.lost = max(r.lost, 100*float64(sent-min(got, sent))/float64(max(sent, 1)))
		r.p50, r.p99 = max(r.p50, float64(p50)/1e3), max(r.p99, float64(p99)/1e3)
	}
	wall := time.Since(began)
	machine1, processes1, err := c.cpu()
	millions := float64(max(delivered, 1)) / 1e6
	r.machine, r.processes = (machine1-machine0).Seconds()/millions, (processes1-processes0).Seconds()/millions
	all := wall.Seconds() * float64(c.b.res.machine.Cores)
	r.busy, r.busyOwn = 100*(machine1-machine0).Seconds()/all, 100*(processes1-processes0).Seconds()/all
	return r, err
}
