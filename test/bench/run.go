package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// receivers is how many hosts a group is measured with; smallReceivers are those of which 64-byte datagrams are, too.
var (
	receivers      = []int{1, 2, 3, 4, 8, 16}
	smallReceivers = []int{3, 16}
)

// fewOfMany is one more measurement, of the largest cluster with members on three hosts only: what floods, floods for all.
const (
	fewOfMany = "/3 of 16"
	few       = 3
)

const (
	large = 1200 // bytes of payload: fits every system's MTU
	small = 64
)

// bench is a run.
type bench struct {
	settings
	res     *results
	began   time.Time
	setups  int
	guesses map[string]float64 // rates at which ramps may begin, by system and metric
}

// benchmark does all rounds and writes what they found.
func benchmark(ctx context.Context, s settings) error {
	held, err := prepare(ctx)
	if err != nil {
		return err
	}
	defer held.Close()
	b := &bench{settings: s, res: newResults(s, thisMachine(ctx)), began: time.Now(), guesses: map[string]float64{}}
	for _, tool := range []string{"ip", "bridge", "ethtool", "ping", "iperf3"} {
		if _, err := program(tool); err != nil {
			return err
		}
	}
	for round := range s.Rounds {
		for _, e := range catalogue {
			if !slices.Contains(s.Only, e.name) || b.res.refused[e.name] != "" {
				continue
			}
			b.say("round %d of %d: %s", round+1, s.Rounds, e.title)
			err := b.one(ctx, e, round)
			if ctx.Err() != nil {
				return errors.Join(ctx.Err(), os.RemoveAll(folder))
			}
			if err != nil {
				b.say("  %v", err)
				if round == 0 {
					b.res.refused[e.name] = err.Error()
				} else {
					b.res.note(fmt.Sprintf("%s, round %d: %v", e.title, round+1, err))
				}
			}
		}
	}
	b.say("done")
	return errors.Join(os.RemoveAll(folder), b.write())
}

// prepare makes sure that this is the only benchmark on the machine, until it is closed, and removes what a killed one left.
func prepare(ctx context.Context) (io.Closer, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("it makes network namespaces: run it as root (make bench)")
	}
	held, err := lock(folder + ".lock")
	if err != nil {
		return nil, err
	}
	if err := removeLeftovers(ctx); err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return held, nil
}

func (b *bench) write() error {
	return b.res.write(report(b.res, time.Since(b.began)), "benchmarks.md")
}

// write saves the values, if asked for, and the page, by default in docs.
func (r *results) write(text, page string) error {
	s := r.settings
	if s.JSON != "" {
		if err := r.writeJSON(s.JSON); err != nil {
			return err
		}
	}
	switch s.Out {
	case "-":
		_, err := os.Stdout.WriteString(text)
		return err
	case "":
		s.Out = filepath.Join("docs", page)
	}
	return os.WriteFile(s.Out, []byte(text), 0o644)
}

// say tells who watches.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7.1fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// one sets a system up, measures it in every wiring and takes it down. An error means that it could not be set up;
// what fails later is noted.
func (b *bench) one(ctx context.Context, e entry, round int) (err error) {
	if b.res.versions[e.name], err = e.version(ctx); err != nil {
		return err
	}
	b.setups++
	w, err := newWorld(ctx, fmt.Sprint(b.setups))
	if w != nil {
		defer func() { err = errors.Join(err, w.close()) }()
	}
	if err != nil {
		return err
	}
	m := &meter{bench: b, w: w, system: e, joins: e.make()}
	if err := m.grow(ctx, 2); err != nil {
		return err
	}
	ramps := round < b.RampRounds
	if !e.onlyMulticast {
		if err := m.pair(ctx, ramps); err != nil {
			return err
		}
	}
	if !b.tests(testMcast) || e.noMulticast != "" || !ramps {
		return nil
	}
	for _, n := range b.Receivers {
		if err := m.grow(ctx, n+1); err != nil {
			m.failed(ctx, fmt.Sprintf("multicast to %d", n), err)
			return nil
		}
		for _, wiring := range b.Wirings {
			if err := w.wire(ctx, wiring); err != nil {
				return err
			}
			m.multicast(ctx, wiring, n)
			if n == most-1 {
				m.group(ctx, wiring, fewOfMany, w.hosts[1:few+1], []int{large})
			}
		}
	}
	return nil
}

// meter measures one set-up of one system.
type meter struct {
	*bench
	w      *world
	system entry
	joins  system
}

// grow adds hosts until there are n, and waits until the first reaches each of them.
func (m *meter) grow(ctx context.Context, n int) error {
	for len(m.w.hosts) < n {
		h, err := m.w.host(ctx)
		if err != nil {
			return err
		}
		if err := m.joins.add(ctx, m.w, h); err != nil {
			return fmt.Errorf("host %d: %w", h.n, err)
		}
		if h.n > 1 {
			if err := reachable(ctx, m.w.hosts[0], h); err != nil {
				return err
			}
		}
	}
	return nil
}

// failed notes a measurement that came to nothing.
func (m *meter) failed(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		m.say("  %s: %v", what, err)
		m.res.note(fmt.Sprintf("%s, %s: %v", m.system.title, what, err))
	}
}

func (m *meter) found(wiring, metric string, v float64) {
	m.res.add(key{m.system.name, wiring, metric}, v)
	m.say("  %-8s %-12s %s", wiring, metric, number(v))
}

func (m *meter) idle(ctx context.Context) {
	if err := pause(ctx, 2*time.Second); err != nil { // what greets, has greeted
		return
	}
	v, err := measureIdle(ctx, m.w, m.Idle)
	if err != nil {
		m.failed(ctx, "idle", err)
		return
	}
	for _, wiring := range m.Wirings { // to nothing, all wires are alike
		m.found(wiring, "idle", v)
	}
}

// pair measures between two hosts.
func (m *meter) pair(ctx context.Context, ramps bool) error {
	if m.tests(testIdle) && ramps {
		m.idle(ctx)
	}
	if m.tests(testTCP) {
		if err := serveTCP(m.w, m.w.hosts[1]); err != nil {
			return err
		}
	}
	for _, wiring := range m.Wirings {
		if err := m.w.wire(ctx, wiring); err != nil {
			return err
		}
		m.unicast(ctx, wiring, ramps)
	}
	return nil
}

func (m *meter) unicast(ctx context.Context, wiring string, ramps bool) {
	from, to := m.w.hosts[0], m.w.hosts[1]
	if m.tests(testRTT) {
		for _, p := range []struct{ name, interval string }{{"rtt10", "0.01"}, {"rtt2", "0.002"}} {
			p50, p99, err := measureRTT(ctx, from, to, p.interval, m.Pings)
			if err != nil {
				m.failed(ctx, p.name, err)
				continue
			}
			m.found(wiring, p.name, p50)
			m.found(wiring, p.name+"p99", p99)
		}
	}
	if m.tests(testTCP) {
		for _, streams := range []int{1, 4} {
			name := fmt.Sprintf("tcp%d", streams)
			t, err := measureTCP(ctx, m.w, from, to, streams, m.TCP)
			if err != nil {
				m.failed(ctx, name, err)
				continue
			}
			m.found(wiring, name, t.gbits)
			if streams == 1 {
				m.found(wiring, "cpu", t.allGB)
				m.found(wiring, "cpudaemons", t.daemonGB)
			}
		}
	}
	if m.tests(testUDP) && ramps {
		m.ramps(ctx, wiring, "udp", "", netip.AddrPortFrom(to.addr, loadPort), m.w.hosts[1:2], []int{large, small})
	}
}

func (m *meter) multicast(ctx context.Context, wiring string, n int) {
	sizes := []int{large}
	if slices.Contains(smallReceivers, n) {
		sizes = append(sizes, small)
	}
	m.group(ctx, wiring, fmt.Sprintf("/%d", n), m.w.hosts[1:n+1], sizes)
}

func (m *meter) group(ctx context.Context, wiring, suffix string, members []*host, sizes []int) {
	if c, ok := m.joins.(controlled); ok {
		if err := c.members(m.w, members); err != nil {
			m.failed(ctx, "mcast"+suffix, err)
			return
		}
	}
	m.ramps(ctx, wiring, "mcast", suffix, netip.AddrPortFrom(group, groupPort), members, sizes)
}

// ramps searches the limits of one stream for datagrams of some sizes.
func (m *meter) ramps(ctx context.Context, wiring, metric, suffix string, to netip.AddrPort, hosts []*host, sizes []int) {
	s, err := newStream(ctx, m.w, m.w.hosts[0], to, hosts)
	if s != nil {
		defer s.close()
	}
	if err != nil {
		m.failed(ctx, metric+suffix, err)
		return
	}
	if f, ok := m.joins.(settling); ok && to.Addr().IsMulticast() {
		trickle, err := f.settle(ctx, s)
		if trickle != nil {
			defer stop([]*process{trickle})
		}
		if err != nil {
			m.failed(ctx, metric+suffix, err)
			return
		}
	}
	for _, size := range sizes {
		kind := fmt.Sprintf("%s%d", metric, size)
		name := kind + suffix
		l, err := s.search(ctx, size, m.guess(kind, name), m.Near, m.Step)
		if err != nil {
			m.failed(ctx, name, err)
			continue
		}
		m.guesses[m.system.name+kind], m.guesses[m.system.name+name] = l.rate, l.rate
		if l.starved {
			m.res.capped[key{m.system.name, wiring, name}] = true
		}
		if size == large {
			m.found(wiring, name, l.rate*large*8/1e6)
		} else {
			m.found(wiring, name, l.rate/1e3)
		}
		if suffix != "" {
			m.found(wiring, fmt.Sprintf("packets%d%s", size, suffix), l.packets)
		}
	}
}

// guess returns where a ramp begins: below what was found before, for the same or something near.
func (m *meter) guess(kind, name string) float64 {
	for _, k := range []string{name, kind} {
		if g := m.guesses[m.system.name+k]; g > 0 {
			return g / 2
		}
	}
	return firstRate
}
