// Package discovertest has sources of hosts in memory, and a server that speaks Consul's HTTP API as far as discovery needs it.
package discovertest

import (
	"context"
	"net/netip"
	"sync"

	"github.com/weft-net/weft/internal/discover"
)

// Source is a store in memory; several hosts may share a Store.
type Source struct {
	Store    *Store
	ReadOnly bool

	mu     sync.Mutex
	mine   discover.Self
	closed bool
}

// Store is what sources of several hosts have in common.
type Store struct {
	mu     sync.Mutex
	hosts  map[string][]netip.AddrPort
	listed discover.Found
	err    error
	asked  int
}

var _ discover.Source = (*Source)(nil)

// Say makes the store answer with a list beside what hosts register.
func (s *Store) Say(f discover.Found) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = f
}

// Fail makes it fail; nil: work again.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Asked returns how often it was asked so far.
func (s *Store) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// Has returns what a host registered.
func (s *Store) Has(id string) []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[id]
}

// Find returns what hosts registered and what Say said.
func (s *Source) Find(context.Context) (discover.Found, error) {
	s.Store.mu.Lock()
	defer s.Store.mu.Unlock()
	s.Store.asked++
	out := s.Store.listed
	out.Addrs = append([]netip.AddrPort(nil), out.Addrs...)
	for _, a := range s.Store.hosts {
		out.Addrs = append(out.Addrs, a...)
	}
	return out, s.Store.err
}

// Register keeps this host's addresses.
func (s *Source) Register(_ context.Context, self discover.Self) error {
	if s.ReadOnly {
		return discover.ErrReadOnly
	}
	s.mu.Lock()
	s.mine = self
	s.mu.Unlock()
	s.Store.mu.Lock()
	defer s.Store.mu.Unlock()
	if s.Store.hosts == nil {
		s.Store.hosts = map[string][]netip.AddrPort{}
	}
	s.Store.hosts[self.ID.String()] = self.Addrs
	return s.Store.err
}

// Withdraw removes them.
func (s *Source) Withdraw(context.Context) error {
	s.mu.Lock()
	id := s.mine.ID.String()
	s.mu.Unlock()
	s.Store.mu.Lock()
	defer s.Store.mu.Unlock()
	delete(s.Store.hosts, id)
	return s.Store.err
}

// Close is noted.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// Closed reports whether Close was called.
func (s *Source) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
