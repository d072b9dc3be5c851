// Package guardtest is a packet filter in memory, for tests of services that want one.
package guardtest

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/weft-net/weft/internal/guard"
)

// Filter remembers what it was told. Its zero value is ready.
type Filter struct {
	mu      sync.Mutex
	desired guard.Desired
	removed bool
	count   map[string]guard.Counter
	// Err, if set before use, is returned by every change.
	Err error
}

var _ guard.Filter = (*Filter)(nil)

// Desired returns the state of the moment.
func (f *Filter) Desired() guard.Desired {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.desired
	d.Ports = slices.Clone(d.Ports)
	return d
}

// Port returns the port of that name, if there is one.
func (f *Filter) Port(name string) (guard.Port, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.desired.Ports, func(p guard.Port) bool { return p.Name == name })
	if i < 0 {
		return guard.Port{}, false
	}
	return f.desired.Ports[i], true
}

// Removed reports whether Remove was the last change.
func (f *Filter) Removed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.removed
}

// Count sets what Counters returns for a drop.
func (f *Filter) Count(name string, c guard.Counter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == nil {
		f.count = map[string]guard.Counter{}
	}
	f.count[name] = c
}

func (f *Filter) change(do func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err != nil {
		return f.Err
	}
	do()
	return nil
}

// Apply implements guard.Filter.
func (f *Filter) Apply(d guard.Desired) error {
	return f.change(func() {
		f.desired, f.removed = d, false
		f.desired.Ports = slices.Clone(d.Ports)
	})
}

// AddPort implements guard.Filter.
func (f *Filter) AddPort(p guard.Port) error {
	return f.change(func() {
		ports := slices.DeleteFunc(f.desired.Ports, func(q guard.Port) bool { return q.Name == p.Name })
		f.desired.Ports, f.removed = append(ports, p), false
	})
}

// RemovePort implements guard.Filter.
func (f *Filter) RemovePort(name string) error {
	return f.change(func() {
		f.desired.Ports = slices.DeleteFunc(f.desired.Ports, func(q guard.Port) bool { return q.Name == name })
	})
}

// Counters implements guard.Filter.
func (f *Filter) Counters() (map[string]guard.Counter, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.count), nil
}

// Keep implements guard.Filter: nobody takes anything away.
func (f *Filter) Keep(ctx context.Context, _ func(string)) error {
	<-ctx.Done()
	return nil
}

// Remove implements guard.Filter.
func (f *Filter) Remove() error {
	return f.change(func() { f.desired, f.removed = guard.Desired{}, true })
}
