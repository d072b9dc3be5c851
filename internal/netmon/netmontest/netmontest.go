// Package netmontest is a host's view of the underlay that tests set.
package netmontest

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/weft-net/weft/internal/netmon"
)

// Monitor answers what Set was given. Its zero value is a host without addresses.
type Monitor struct {
	mu       sync.Mutex
	addrs    []netmon.Addr
	routes   []netmon.Route
	mtu      int
	watchers map[chan struct{}]bool
}

var _ netmon.Monitor = (*Monitor)(nil)

// Set changes the host and tells the watchers. An mtu of 0 counts as 1500.
func (m *Monitor) Set(addrs []netmon.Addr, routes []netmon.Route, mtu int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addrs, m.routes, m.mtu = slices.Clone(addrs), slices.Clone(routes), mtu
	for w := range m.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// Addrs implements netmon.Monitor.
func (m *Monitor) Addrs() ([]netmon.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.addrs), nil
}

// PathMTU implements netmon.Monitor.
func (m *Monitor) PathMTU(netip.Addr) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mtu == 0 {
		return 1500, nil
	}
	return m.mtu, nil
}

// Routes implements netmon.Monitor.
func (m *Monitor) Routes() ([]netmon.Route, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.routes), nil
}

// Watch implements netmon.Monitor.
func (m *Monitor) Watch(ctx context.Context) (<-chan struct{}, error) {
	w := make(chan struct{}, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watchers == nil {
		m.watchers = map[chan struct{}]bool{}
	}
	m.watchers[w] = true
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, w)
		close(w)
	})
	return w, nil
}
