//go:build !linux

package netmon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// pollEvery is how often Watch looks where the system does not tell.
const pollEvery = 10 * time.Second

// System returns the monitor of the host. It knows interfaces, not routes.
func System() Monitor { return system{} }

type system struct{}

var _ Monitor = system{}

func (system) Addrs() ([]Addr, error) {
	ifis, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []Addr
	for _, i := range ifis {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || ours(i.Name) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || !usable(p.Addr().Unmap()) {
				continue
			}
			out = append(out, Addr{IP: p.Addr().Unmap(), Prefix: p.Masked(), Interface: i.Name, Index: i.Index, MTU: i.MTU, Multicast: i.Flags&net.FlagMulticast != 0})
		}
	}
	return out, nil
}

func (s system) PathMTU(to netip.Addr) (int, error) {
	addrs, err := s.Addrs()
	if err != nil {
		return 0, err
	}
	least := MaxMTU // the route is not known: the smallest interface of the family is safe
	for _, a := range addrs {
		if a.IP.Is4() == to.Unmap().Is4() {
			least = min(least, a.MTU)
		}
	}
	return least, nil
}

func (s system) Routes() ([]Route, error) {
	addrs, err := s.Addrs()
	if err != nil {
		return nil, err
	}
	var out []Route
	for _, a := range addrs {
		out = append(out, Route{a.Prefix, a.Interface})
	}
	return out, nil
}

func (s system) Watch(ctx context.Context) (<-chan struct{}, error) {
	last, err := s.Addrs()
	if err != nil {
		return nil, err
	}
	hints := make(chan struct{}, 1)
	go func() {
		defer close(hints)
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now, err := s.Addrs()
			if err != nil || slices.Equal(now, last) {
				continue
			}
			last = now
			select {
			case hints <- struct{}{}:
			default:
			}
		}
	}()
	return hints, nil
}
