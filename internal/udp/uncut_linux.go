package udp

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// uncutTime is how long an endpoint is remembered: routes change.
	uncutTime = 10 * time.Second
	// maxUncut bounds the endpoints remembered; beyond it the oldest is forgotten, and tried again.
	maxUncut = 64
)

// uncutSet is the endpoints to which the kernel refused to cut messages: not every route and device can (EIO where the device
// computes no checksums, EINVAL where a datagram is longer than the route takes). Reading takes no lock.
type uncutSet struct {
	list atomic.Pointer[[]uncutEndpoint] // nil: none; immutable
	mu   sync.Mutex                      // held by who changes it
}

type uncutEndpoint struct {
	to    netip.AddrPort
	until time.Time
}

// has reports whether the kernel refused an endpoint lately.
func (s *uncutSet) has(to netip.AddrPort) bool {
	l := s.list.Load()
	if l == nil {
		return false
	}
	i := slices.IndexFunc(*l, func(e uncutEndpoint) bool { return e.to == to })
	return i >= 0 && time.Now().Before((*l)[i].until)
}

func (s *uncutSet) add(to netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var list []uncutEndpoint
	if l := s.list.Load(); l != nil {
		list = slices.DeleteFunc(slices.Clone(*l), func(e uncutEndpoint) bool { return e.to == to || !now.Before(e.until) })
	}
	list = append(list[max(0, len(list)+1-maxUncut):], uncutEndpoint{to, now.Add(uncutTime)})
	s.list.Store(&list)
}
