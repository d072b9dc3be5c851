package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/measure"
)

const (
	prefix = "weftbench-"     // of every namespace
	folder = "/run/weftbench" // of everything a system writes; short, for the paths of sockets
	most   = 17               // hosts: a sender and sixteen receivers
)

// world is the place of one set-up of one system: hosts joined by a bridge, and what runs on them.
type world struct {
	name    string
	dir     string
	hub     string // the bridge's namespace
	hosts   []*host
	servers []*host    // machines that are no members: a supernode
	other   []*process // of the measurement: servers and receivers
}

// host is a namespace with one underlay interface, eth0.
type host struct {
	n       int // from 1
	ns      string
	dir     string
	ip      netip.Addr
	daemons []*process // whose time is counted

	// Set by the system that takes the host in: where programs run, and what they see of the overlay.
	inside string
	dev    string
	addr   netip.Addr
}

// removeLeftovers removes what a killed run left: processes by id, found in its namespaces, and the namespaces. The caller holds
// the lock, so no run that lives is meant.
func removeLeftovers(ctx context.Context) error {
	paths, err := filepath.Glob("/run/netns/" + prefix + "*")
	if err != nil {
		return err
	}
	for _, p := range paths {
		ns := filepath.Base(p)
		pids, err := execute(ctx, nil, "ip", "netns", "pids", ns)
		if err == nil {
			for pid := range strings.FieldsSeq(pids) {
				if n, err := strconv.Atoi(pid); err == nil {
					_ = kill(n)
				}
			}
		}
		if _, err := execute(ctx, nil, "ip", "netns", "del", ns); err != nil {
			return err
		}
	}
	return os.RemoveAll(folder)
}

// newWorld makes a bridge without hosts.
func newWorld(ctx context.Context, name string) (*world, error) {
	w := &world{name: name, dir: filepath.Join(folder, name), hub: prefix + name + "-hub"}
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	if err := w.namespace(ctx, w.hub); err != nil {
		return nil, err
	}
	if err := w.withoutFilters(ctx); err != nil {
		return nil, err
	}
	// Snooping off: what the underlay floods is then up to the systems alone, not to when a querier last asked.
	return w, w.batch(ctx, w.hub, "link add sw type bridge mcast_snooping 0 forward_delay 0\nlink set sw up\n")
}

// withoutFilters keeps the hub from showing bridged packets to iptables, where the kernel does that (br_netfilter, which Docker
// loads): it stands for a switch, and no switch does. The bridges of the hosts are as the kernel makes them.
func (w *world) withoutFilters(ctx context.Context) error {
	for _, of := range []string{"iptables", "ip6tables", "arptables"} {
		name := "net.bridge.bridge-nf-call-" + of
		if _, err := os.Stat("/proc/sys/" + strings.ReplaceAll(name, ".", "/")); err != nil {
			continue // no such module
		}
		if _, err := execute(ctx, nil, "ip", "netns", "exec", w.hub, "sysctl", "-q", "-w", name+"=0"); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) namespace(ctx context.Context, ns string) error {
	if _, err := execute(ctx, nil, "ip", "netns", "add", ns); err != nil {
		return err
	}
	_, err := execute(ctx, nil, "ip", "-n", ns, "link", "set", "lo", "up")
	return err
}

// batch runs lines of ip(8) in a namespace.
func (w *world) batch(ctx context.Context, ns, lines string) error {
	_, err := executeInput(ctx, nil, lines, "ip", "-n", ns, "-batch", "-")
	return err
}

// host makes the next one.
func (w *world) host(ctx context.Context) (*host, error) {
	return w.machine(ctx, len(w.hosts)+1)
}

// machine makes a namespace on the bridge. Hosts know each other's MAC: the kernel has one neighbour table for all
// namespaces, 1,024 entries by default, in which permanent ones don't count.
func (w *world) machine(ctx context.Context, n int) (*host, error) {
	h := &host{n: n, ns: fmt.Sprintf("%s%s-h%d", prefix, w.name, n), ip: underlay(n)}
	h.dir = filepath.Join(w.dir, fmt.Sprintf("h%d", n))
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	if err := w.namespace(ctx, h.ns); err != nil {
		return nil, err
	}
	err := w.batch(ctx, w.hub, fmt.Sprintf("link add %[1]s type veth peer name eth0 address %[2]s netns %[3]s\nlink set %[1]s master sw\nlink set %[1]s up\n",
		h.port(), mac(n), h.ns))
	if err != nil {
		return nil, err
	}
	var lines strings.Builder
	fmt.Fprintf(&lines, "addr add %s/24 dev eth0\nlink set eth0 up\nroute add default via %s\n", h.ip, underlay(254))
	for i := 1; i <= most; i++ {
		if i != n {
			fmt.Fprintf(&lines, "neigh replace %s lladdr %s dev eth0 nud permanent\n", underlay(i), mac(i))
		}
	}
	if n <= most {
		w.hosts = append(w.hosts, h)
	} else {
		w.servers = append(w.servers, h)
	}
	return h, w.batch(ctx, h.ns, lines.String())
}

// port is its end of the veth on the bridge.
func (h *host) port() string { return fmt.Sprintf("p%d", h.n) }

func underlay(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 98, 0, byte(n)}) }
func overlay(n int) netip.Addr  { return netip.AddrFrom4([4]byte{10, 97, 0, byte(n)}) }
func mac(n int) string          { return fmt.Sprintf("02:62:00:00:00:%02x", n) }

// daemon starts a program of a system on a host.
func (h *host) daemon(env []string, args ...string) error {
	p, err := start(h.ns, env, args...)
	if err != nil {
		return err
	}
	h.daemons = append(h.daemons, p)
	return nil
}

// overlayLink waits for the interface a daemon makes and gives it the host's overlay address.
func (w *world) overlayLink(ctx context.Context, h *host, dev string, mtu int) error {
	err := await(ctx, 10*time.Second, func() error {
		for _, p := range h.daemons {
			if err := p.ended(); err != nil {
				return err
			}
		}
		_, err := execute(ctx, nil, "ip", "-n", h.ns, "link", "show", dev)
		return err
	})
	if err != nil {
		return err
	}
	h.inside, h.dev, h.addr = h.ns, dev, overlay(h.n)
	return w.batch(ctx, h.ns, fmt.Sprintf("link set %s mtu %d up\naddr replace %s/24 dev %s\n", dev, mtu, h.addr, dev))
}

func (w *world) machines() []*host { return slices.Concat(w.hosts, w.servers) }

// wire sets how the underlay carries packets longer than its MTU. The receiving end joins what came in a row, as the
// drivers of network cards do, in both.
func (w *world) wire(ctx context.Context, wiring string) error {
	onOff := "on"
	if wiring == wire1500 {
		onOff = "off"
	}
	set := func(ns, dev, gro string) error {
		_, err := execute(ctx, nil, "ip", "netns", "exec", ns, "ethtool", "-K", dev,
			"tso", onOff, "gso", onOff, "tx-udp-segmentation", onOff, "tx-udp_tnl-segmentation", onOff, "tx-udp_tnl-csum-segmentation", onOff, "gro", gro)
		return err
	}
	for _, h := range w.machines() {
		if err := errors.Join(set(h.ns, "eth0", "on"), set(w.hub, h.port(), "off")); err != nil {
			return err
		}
	}
	return nil
}

// packets returns how many packets the hosts have sent on the underlay.
func (w *world) packets(ctx context.Context) (uint64, error) {
	out, err := execute(ctx, nil, "ip", "-n", w.hub, "-s", "-j", "-d", "link", "show")
	if err != nil {
		return 0, err
	}
	return parseLinks([]byte(out))
}

// cpu returns what all cores and what the daemons have used so far.
func (w *world) cpu() (all, daemons time.Duration, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	if all, err = measure.ParseBusy(b); err != nil {
		return 0, 0, err
	}
	for _, h := range w.machines() {
		for _, p := range h.daemons {
			d, err := p.cpu()
			if err != nil {
				return 0, 0, errors.Join(err, p.ended())
			}
			daemons += d
		}
	}
	return all, daemons, nil
}

// close ends everything that runs here and removes the namespaces. It works after ctx was cancelled, too.
func (w *world) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ps := w.other
	for _, h := range w.machines() {
		ps = append(ps, h.daemons...)
	}
	stop(ps)
	paths, err := filepath.Glob("/run/netns/" + prefix + w.name + "-*")
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range paths {
		_, err := execute(ctx, nil, "ip", "netns", "del", filepath.Base(p))
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}
