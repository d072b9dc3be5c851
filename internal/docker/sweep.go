package docker

import (
	"context"
	"errors"
	"time"
)

// Docker gives back what it took, unless it is killed, or this daemon is away for more than the half minute for which Docker repeats
// itself. What it forgot is found by looking: an endpoint whose inner end lies in the host's namespace, or nowhere, is nobody's.

const (
	// sweepEvery is how often the plugin looks.
	sweepEvery = 15 * time.Second
	// sweepAfter is how long a thing must look forgotten: between two calls for one container there may be a slow Docker.
	sweepAfter = 3 * time.Minute
)

// sweeper knows since when things look forgotten.
type sweeper struct {
	p     *Plugin
	since map[string]time.Time
}

// Adopt compares the book with the attachments that an earlier run left, before anybody calls: what has no record goes.
func (p *Plugin) Adopt() error {
	ports, err := p.cfg.Weft.Ports()
	if err != nil {
		return err
	}
	b := p.look()
	known := map[[2]string]bool{}
	for _, e := range b.Endpoints {
		known[[2]string{e.Network, e.Name}] = true
	}
	var errs []error
	for _, o := range ports {
		if !known[[2]string{o.Network, o.Name}] {
			errs = append(errs, p.cfg.Weft.Unplug(o.Network, o.Name))
			p.counts.swept.Add(1)
		}
	}
	return errors.Join(errs...)
}

// Run looks for what Docker forgot, until ctx ends.
func (p *Plugin) Run(ctx context.Context) {
	s := &sweeper{p: p, since: map[string]time.Time{}}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if !p.calls.begin() {
				continue // being handed over
			}
			if err := s.sweep(now); err != nil {
				p.cfg.Log.Warn("containers not looked after", "err", err)
			}
			p.calls.end()
		}
	}
}

// sweep looks once.
func (s *sweeper) sweep(now time.Time) error {
	b := s.p.look()
	if len(b.Endpoints)+len(b.Addresses)+len(b.Made)+len(b.Pools) == 0 {
		clear(s.since)
		return nil // most hosts: nothing to ask the kernel for
	}
	ports, err := s.p.cfg.Weft.Ports()
	if err != nil {
		return err
	}
	away := map[[2]string]bool{} // with a container
	for _, o := range ports {
		away[[2]string{o.Network, o.Name}] = !o.Home
	}
	seen := map[string]bool{}
	var errs []error
	for id, e := range b.Endpoints {
		if away[[2]string{e.Network, e.Name}] || !s.old("endpoint/"+id, now, seen) {
			continue
		}
		errs = append(errs, s.endpoint(id))
	}
	for key, a := range b.Addresses {
		if _, used := b.user(key); used || !a.Had || !s.old("address/"+key, now, seen) {
			continue
		}
		errs = append(errs, s.address(key))
	}
	for id := range b.Pools {
		if b.promised(id) || !s.old("pool/"+id, now, seen) {
			continue
		}
		errs = append(errs, s.pool(id))
	}
	for name := range b.Made {
		if b.idle(name) && s.old("network/"+name, now, seen) {
			unlock := s.p.held.lock("network/" + name)
			s.p.tidy(name)
			unlock()
		}
	}
	for what := range s.since {
		if !seen[what] {
			delete(s.since, what)
		}
	}
	return errors.Join(errs...)
}

// old reports whether a thing has looked forgotten for long enough, now included.
func (s *sweeper) old(what string, now time.Time, seen map[string]bool) bool {
	seen[what] = true
	if _, ok := s.since[what]; !ok {
		s.since[what] = now
	}
	return now.Sub(s.since[what]) >= sweepAfter
}

func (s *sweeper) endpoint(id string) error {
	defer s.p.held.lock("endpoint/" + id)()
	e, ok := s.p.look().Endpoints[id]
	if !ok {
		return nil
	}
	s.p.counts.swept.Add(1)
	s.p.cfg.Log.Info("container's attachment removed: docker has forgotten it", "network", e.Network, "attachment", e.Name)
	return s.p.drop(e)
}

func (s *sweeper) address(key string) error {
	var freed []address
	err := s.p.change(func(b *book) error {
		a, ok := b.Addresses[key]
		if _, used := b.user(key); !ok || used {
			return nil
		}
		delete(b.Addresses, key)
		freed = append(freed, a)
		return nil
	})
	if err != nil {
		return err
	}
	s.p.counts.swept.Add(1)
	s.p.free(freed)
	return nil
}

// pool takes a promise back of which nobody has an address, for a network that Docker has not: a Swarm's node that was killed forgets the
// pools of the Swarm's networks. Should Docker ask for an address of it after all, its id says what it was.
func (s *sweeper) pool(id string) error {
	x, ok := s.p.look().Pools[id]
	if !ok {
		return nil
	}
	defer s.p.held.lock("network/" + x.Network)()
	gone := false
	err := s.p.change(func(b *book) error {
		if gone = !b.promised(id); gone {
			delete(b.Pools, id)
			b.dropPlanned(id)
		}
		return nil
	})
	if err != nil || !gone {
		return err
	}
	s.p.counts.swept.Add(1)
	s.p.tidy(x.Network)
	return nil
}
