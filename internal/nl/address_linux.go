package nl

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setting is a file of an interface under /proc/sys/net/ipv6/conf.
type setting struct{ name, value string }

const ipv6Conf = "/proc/sys/net/ipv6/conf"

// silent is for bridges and their ports: they must send nothing of their own into the
// network, neither MLD reports nor router solicitations, and believe no router in it.
var silent = []setting{{"accept_ra", "0"}, {"addr_gen_mode", "1"}, {"accept_dad", "0"}}

// inner is for attachments. disable_ipv6: many container runtimes set it for all
// interfaces. Addresses are unique by construction, so detecting duplicates would only
// keep them unusable for a second.
var inner = []setting{{"disable_ipv6", "0"}, {"accept_ra", "0"}, {"autoconf", "0"}, {"addr_gen_mode", "0"}, {"accept_dad", "0"}}

// sysctl writes settings of an interface. The kernel shows /proc/sys/net of the namespace
// of the thread that opens the file.
func (h *handle) sysctl(name string, settings []setting) error {
	return h.ns.Do(func() error {
		for _, s := range settings {
			err := os.WriteFile(filepath.Join(ipv6Conf, name, s.name), []byte(s.value), 0)
			if errors.Is(err, fs.ErrNotExist) {
				if _, missing := os.Stat(ipv6Conf); missing != nil {
					return nil // a kernel without IPv6 has nothing to silence
				}
			}
			if err != nil {
				return fmt.Errorf("set %s of %s to %s: %w (is /proc/sys mounted read-only?)", s.name, name, s.value, err)
			}
		}
		return nil
	})
}

func (h *handle) silence(name string) error { return h.sysctl(name, silent) }

func (h *handle) Configure(name string, i Interface) error {
	l, err := h.link(name)
	if err != nil {
		return err
	}
	if err := h.sysctl(name, inner); err != nil {
		return err
	}
	addrs := slices.Clone(i.Addrs)
	if mac := linkOf(l).MAC; mac != (MAC{}) {
		// The kernel makes the same one, but up to a second after the link is up.
		addrs = append(addrs, netip.PrefixFrom(mac.LinkLocal(), 64))
	}
	for _, p := range addrs {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		err := h.lib.AddrReplace(l, a)
		if p.Addr().IsLinkLocalUnicast() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("give %s the address %s: %w", name, p, err)
		}
	}
	if i.Super > 0 {
		if err := h.lib.LinkSetGSOMaxSize(l, i.Super); err != nil {
			return fmt.Errorf("bound super-frames of %s: %w", name, err)
		}
	}
	if err := h.lib.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	if lo, err := h.link("lo"); err == nil {
		if err := h.lib.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bring lo up: %w", err)
		}
	}
	if i.MulticastRoute {
		if err := h.multicastRoutes(l); err != nil {
			return err
		}
	}
	return h.AwaitRunning(l.Attrs().Index)
}

// multicastRoutes makes joins and sends that name no interface use this one.
//
// IPv4 finds no route for groups but the default one. For IPv6 the kernel itself puts
// ff00::/8 of every interface into the local table, at metric 256, where the first
// interface wins: a route in the main table is never looked at, a smaller metric in the
// local table is.
func (h *handle) multicastRoutes(l netlink.Link) error {
	v4 := &netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(netip.MustParsePrefix("224.0.0.0/4"))}
	v6 := &netlink.Route{
		LinkIndex: l.Attrs().Index, Type: unix.RTN_MULTICAST, Table: unix.RT_TABLE_LOCAL, Priority: 128,
		Dst: ipNet(netip.MustParsePrefix("ff00::/8")),
	}
	for _, r := range []*netlink.Route{v4, v6} {
		err := h.lib.RouteAdd(r)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route %s over %s: %w", r.Dst, l.Attrs().Name, err)
		}
	}
	return nil
}

func (h *handle) Reach(name string, subnets []netip.Prefix) error {
	if len(subnets) == 0 {
		return nil
	}
	l, err := h.link(name)
	if err != nil {
		return err
	}
	for _, p := range subnets {
		err := h.lib.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(p)})
		if p.Addr().Is6() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
			continue // a kernel without IPv6
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route %s over %s: %w", p, name, err)
		}
	}
	return nil
}

func (h *handle) Routes() ([]Route, error) {
	// One dump of both families, all tables.
	all, err := dump(func() ([]netlink.Route, error) {
		var both []netlink.Route
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rs, err := h.lib.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return nil, err
			}
			both = append(both, rs...)
		}
		return both, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var routes []Route
	for _, r := range all {
		if r.Table == unix.RT_TABLE_LOCAL || r.Dst == nil {
			continue
		}
		p, ok := prefixOf(r.Dst)
		if !ok || p.Bits() == 0 || p.Addr().IsMulticast() || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if len(r.MultiPath) == 0 {
			routes = append(routes, Route{Dst: p, Link: r.LinkIndex})
		}
		for _, hop := range r.MultiPath {
			routes = append(routes, Route{Dst: p, Link: hop.LinkIndex})
		}
	}
	return routes, nil
}

func (h *handle) Neighbours(link int) ([]Neighbour, error) {
	all, err := dump(func() ([]netlink.Neigh, error) {
		return h.lib.NeighListExecute(netlink.Ndmsg{Family: unix.AF_UNSPEC, Index: uint32(link), State: netlink.NUD_PERMANENT})
	})
	if err != nil {
		return nil, fmt.Errorf("list neighbours of interface %d: %w", link, err)
	}
	var ns []Neighbour
	for _, n := range all {
		ip, ok := netip.AddrFromSlice(n.IP)
		if ok && len(n.HardwareAddr) == 6 && n.State&netlink.NUD_PERMANENT != 0 && !ip.Unmap().IsMulticast() {
			ns = append(ns, Neighbour{IP: ip.Unmap(), MAC: MAC(n.HardwareAddr)})
		}
	}
	return ns, nil
}

func (h *handle) SetNeighbour(link int, n Neighbour) error {
	if err := h.lib.NeighSet(neigh(link, n)); err != nil {
		return fmt.Errorf("set neighbour %s: %w", n.IP, err)
	}
	return nil
}

func (h *handle) DeleteNeighbour(link int, n Neighbour) error {
	if err := h.lib.NeighDel(neigh(link, n)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete neighbour %s: %w", n.IP, err)
	}
	return nil
}

func neigh(link int, n Neighbour) *netlink.Neigh {
	family := unix.AF_INET6
	if n.IP.Is4() {
		family = unix.AF_INET
	}
	return &netlink.Neigh{LinkIndex: link, Family: family, State: netlink.NUD_PERMANENT, IP: n.IP.AsSlice(), HardwareAddr: n.MAC[:]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	ip, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits != ip.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(ip, ones), true
}
