package daemon

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/bench"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/load"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/stream"
)

// leastBenchMS is the shortest test, in milliseconds: below it a ramp has no second rate.
const leastBenchMS = 200

func (s *System) newEndpoint() *bench.Endpoint {
	return bench.NewEndpoint(bench.Host{Name: s.cfg.Name, Plug: s.plugAgent, Bus: s.benchMessages, Off: s.cfg.BenchOff})
}

// streamServices are the services that other hosts reach by streams.
func (s *System) streamServices() map[byte]func(ident.HostID, net.Conn) {
	return map[byte]func(ident.HostID, net.Conn){
		stream.OpBench: func(from ident.HostID, conn net.Conn) {
			s.endpoint.Serve(cmp.Or(s.hostNames()[from], from.Short()), conn)
		},
	}
}

// plugAgent plugs a new load agent into a network, as weft run does with a program. The attachment ends with the agent's
// process, and that with this daemon, so that after a kill nothing stays of it either.
func (s *System) plugAgent(ctx context.Context, name string) (bench.Plug, error) {
	nets := s.localNetworks()
	i := slices.IndexFunc(nets, func(n *network) bool { return n.name == name })
	if i < 0 { // to take it up for a measurement would leave it here
		return bench.Plug{}, api.Errorf(api.CodeNotFound, "it has no network %q", name).WithHint("weft network create %s takes it up there", name)
	}
	child, err := load.Start(s.agent...)
	if err != nil {
		return bench.Plug{}, err
	}
	a, err := s.attach(ctx, api.Attach{Network: name, Name: madeUp("bench"), Kind: api.KindProcess, PID: child.PID()})
	if err != nil {
		child.Close()
		return bench.Plug{}, err
	}
	p := bench.Plug{Agent: child, MTU: a.MTU, Engine: api.EngineSealed, Close: func() {
		if err := s.detach(a.Network, a.Name); err != nil && !api.Is(err, api.CodeNotFound) { // it may have ended by itself
			s.log.Error("attachment of a measurement not removed", "attachment", a.Name, "err", err)
		}
		child.Close()
	}}
	if nets[i].def.Plain {
		p.Engine = api.EnginePlain
	}
	if _, err := child.Do(ctx, load.Request{Op: load.OpOpen, Interface: a.Interface}); err != nil {
		p.Close()
		return bench.Plug{}, err
	}
	for _, ip := range a.IPs {
		if v, err := netip.ParsePrefix(ip); err == nil && v.Addr().Is4() {
			p.Address = v
		}
	}
	return p, nil
}

// BenchNet measures a network from here.
func (b backend) BenchNet(ctx context.Context, r api.BenchRequest, progress func(api.BenchProgress) error) (api.Bench, error) {
	s := b.s
	r.Network, r.DurationMS = cmp.Or(r.Network, defaultNetwork), cmp.Or(r.DurationMS, api.DefaultBenchMS)
	if r.DurationMS < leastBenchMS {
		return api.Bench{}, api.Errorf(api.CodeInvalid, "tests of %d ms: want %d to %d", r.DurationMS, leastBenchMS, api.MaxBenchMS)
	}
	for _, t := range r.Tests {
		if !slices.Contains(api.BenchTests, t) {
			return api.Bench{}, api.Errorf(api.CodeInvalid, "no test %q; there are %v", t, api.BenchTests)
		}
	}
	if len(r.Tests) == 0 {
		r.Tests = api.BenchTests
	}
	if err := ident.CheckName("network", r.Network); err != nil {
		return api.Bench{}, api.Errorf(api.CodeInvalid, "%w", err)
	}
	s.mu.Lock()
	d := s.defs[r.Network]
	s.mu.Unlock()
	if d == nil {
		return api.Bench{}, api.Errorf(api.CodeNotFound, "no network %q", r.Network).WithHint("weft networks lists them")
	}
	peers, err := b.benchPeers(d, r.Hosts)
	if err != nil {
		return api.Bench{}, err
	}
	p := bench.Plan{
		Peers: peers, Strict: len(r.Hosts) > 0, Network: r.Network, Tests: r.Tests,
		Duration: time.Duration(r.DurationMS) * time.Millisecond, Rate: r.Rate, MaxMbit: r.MaxMbit, Progress: progress,
		Self: s.benchSelf(),
	}
	if slices.Contains(r.Tests, api.BenchMcast) {
		if p.Group, err = s.benchGroup(d); err != nil {
			return api.Bench{}, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)() // a daemon that stops does not wait for a measurement
	out, err := bench.Run(ctx, p)
	if s.ctx.Err() != nil {
		return api.Bench{}, api.Errorf(api.CodeUnavailable, "this host is going down")
	}
	return out, err
}

// benchSelf is this host's own end of a measurement.
func (s *System) benchSelf() bench.Peer {
	return bench.Peer{Name: s.cfg.Name, Version: s.version, Dial: func(context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		go s.endpoint.Serve(s.cfg.Name, there)
		return here, nil
	}}
}

// benchPeers are the hosts named, or all others that have the network and can be reached; without a network, all.
func (b backend) benchPeers(d *definition, named []string) ([]bench.Peer, error) {
	var hosts []mesh.HostStatus
	for _, name := range named {
		h, err := b.find(name)
		switch {
		case err != nil:
			return nil, err
		case h.Self:
			return nil, api.Errorf(api.CodeInvalid, "host %s is this one: name others to measure with", name)
		case !h.Reachable:
			return nil, api.Errorf(api.CodeUnavailable, "host %s cannot be reached now", h.Name).WithHint("weft links says why")
		}
		if !slices.ContainsFunc(hosts, func(o mesh.HostStatus) bool { return o.ID == h.ID }) {
			hosts = append(hosts, h)
		}
	}
	if len(named) == 0 {
		for _, h := range b.s.mesh.Hosts() {
			if !h.Self && h.Reachable && (d == nil || slices.Contains(d.hosts, h.ID)) {
				hosts = append(hosts, h)
			}
		}
	}
	switch {
	case len(hosts) == 0 && d == nil:
		return nil, api.Errorf(api.CodeUnavailable, "no other host can be reached").WithHint("weft hosts, weft links")
	case len(hosts) > api.MaxBenchHosts && d == nil:
		return nil, api.Errorf(api.CodeInvalid, "there are %d other hosts: name those to measure with, at most %d", len(hosts), api.MaxBenchHosts)
	case len(hosts) == 0:
		return nil, api.Errorf(api.CodeUnavailable, "no other host has network %s and can be reached", d.name).WithHint("weft networks, weft links")
	case len(hosts) > api.MaxBenchHosts:
		return nil, api.Errorf(api.CodeInvalid, "%d other hosts have network %s: name those to measure with, at most %d", len(hosts), d.name, api.MaxBenchHosts)
	}
	var out []bench.Peer
	for _, h := range hosts {
		out = append(out, bench.Peer{Name: h.Name, Version: h.Build, Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := b.s.mesh.Streams().DialService(ctx, h.ID, stream.OpBench)
			switch {
			case errors.Is(err, stream.ErrRefused):
				return nil, api.Errorf(api.CodeRefused, "host %s runs weft %s, which knows no measurement: upgrade it", h.Name, h.Build)
			case err != nil:
				return nil, api.Errorf(api.CodeUnavailable, "host %s: %w", h.Name, err).WithHint("weft ping --stream %s", h.Name)
			}
			return conn, nil
		}})
	}
	return out, nil
}

// benchGroup draws a group that the network lets pass and nobody is known to have joined or sent to.
func (s *System) benchGroup(d *definition) (netip.Addr, error) {
	used := map[string]bool{}
	for _, g := range s.groupList() {
		used[g.Group] = true
	}
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	g, err := bench.DrawGroup(d.rec.Allow, d.rec.Deny, func(a netip.Addr) bool { return used[a.String()] }, random)
	if err != nil {
		return g, api.Errorf(api.CodeRefused, "network %s: %w", d.name, err)
	}
	return g, nil
}
