package docker

import (
	"context"
	"maps"
	"slices"
	"time"
)

// What tests look at from outside: dockertest imports this package.

const (
	MaxBody     = maxBody
	MostRepeats = mostRepeats
	SweepAfter  = sweepAfter
	RelayTime   = relayTime
)

// Methods are the names of all calls that are answered.
func Methods() []string {
	return append(slices.Sorted(maps.Keys(methods)), slices.Sorted(maps.Keys(fixed))...)
}

// Call is call.
func (p *Plugin) Call(ctx context.Context, name string, body []byte) (int, any) {
	return p.call(ctx, name, body)
}

// PoolIDs are the ids of all pools.
func (p *Plugin) PoolIDs() []string { return slices.Sorted(maps.Keys(p.look().Pools)) }

// Given are all addresses that Docker has.
func (p *Plugin) Given() []string {
	var out []string
	for _, a := range sorted(p.look().Addresses) {
		out = append(out, a.given().String())
	}
	return out
}

// Sweeper looks for what Docker forgot, when told to.
type Sweeper struct{ s *sweeper }

// NewSweeper makes one that has seen nothing yet.
func NewSweeper(p *Plugin) Sweeper { return Sweeper{&sweeper{p: p, since: map[string]time.Time{}}} }

// Sweep looks once.
func (s Sweeper) Sweep(now time.Time) error { return s.s.sweep(now) }
