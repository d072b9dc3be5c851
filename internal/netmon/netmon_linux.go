package netmon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// System returns the monitor of the network namespace in which its methods are called.
func System() Monitor { return system{} }

type system struct{}

var _ Monitor = system{}

// dumpTries bounds how often a dump is repeated that a change has interrupted.
const dumpTries = 5

// dump repeats a listing that changed while it was read (NLM_F_DUMP_INTR).
func dump[T any](list func() ([]T, error)) ([]T, error) {
	var out []T
	var err error
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, nil // incomplete at worst: Watch brings the next look
}

func (system) Addrs() ([]Addr, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	byIndex := make(map[int]*netlink.LinkAttrs, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	const unfit = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY
	var out []Addr
	for _, a := range addrs {
		l := byIndex[a.LinkIndex]
		if l == nil || a.IPNet == nil || l.Flags&net.FlagUp == 0 || l.Flags&net.FlagLoopback != 0 || ours(l.Name) {
			continue
		}
		p, ok := prefix(a.IPNet)
		// IFA_F_TEMPORARY is the same bit as IPv4's IFA_F_SECONDARY, which is fine.
		if !ok || !usable(p.Addr()) || p.Addr().Is6() && a.Flags&unfit != 0 {
			continue
		}
		out = append(out, Addr{
			IP: p.Addr(), Prefix: p.Masked(), Interface: l.Name, Index: l.Index, MTU: l.MTU,
			Multicast: l.Flags&net.FlagMulticast != 0,
		})
	}
	return out, nil
}

func (system) PathMTU(to netip.Addr) (int, error) {
	to = to.Unmap().WithZone("")
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil {
		return 0, fmt.Errorf("route to %v: %w", to, err)
	}
	if len(routes) == 0 {
		return 0, fmt.Errorf("route to %v: %w", to, unix.ENETUNREACH)
	}
	r := routes[0]
	mtu := r.MTU
	if mtu == 0 {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			return 0, fmt.Errorf("interface of the route to %v: %w", to, err)
		}
		mtu = l.Attrs().MTU
	}
	return min(mtu, MaxMTU), nil
}

func (system) Routes() ([]Route, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []Route
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		p, ok := prefix(r.Dst)
		if !ok || p.Bits() == 0 || p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() || p.Addr().IsLoopback() {
			continue
		}
		hops := []int{r.LinkIndex}
		for _, h := range r.MultiPath {
			hops = append(hops, h.LinkIndex)
		}
		for _, i := range hops {
			name := names[i]
			if i == 0 && len(hops) > 1 || ours(name) {
				continue
			}
			out = append(out, Route{p.Masked(), name})
			break
		}
	}
	return slices.Compact(out), nil
}

// prefix reads an address with mask.
func prefix(n *net.IPNet) (netip.Prefix, bool) {
	ip, ok := netip.AddrFromSlice(n.IP)
	ones, size := n.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, false
	}
	if ip.Is4In6() {
		ip = ip.Unmap()
		ones -= max(size-32, 0)
	}
	p := netip.PrefixFrom(ip, ones)
	return p, p.IsValid()
}

func (system) Watch(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("network notifications: %w", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("network notifications: %w", err), unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "rtnetlink") // non-blocking: reads go through Go's poller and end with Close
	hints := make(chan struct{}, 1)
	context.AfterFunc(ctx, func() { _ = f.Close() })
	go func() {
		defer close(hints)
		buf := make([]byte, 64<<10)
		for {
			// A full buffer (ENOBUFS) is a hint like any other.
			if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case hints <- struct{}{}:
			default:
			}
		}
	}()
	return hints, nil
}
