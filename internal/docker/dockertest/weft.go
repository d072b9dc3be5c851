// Package dockertest is a docker.Weft in memory: networks, addresses and veths whose state reads as text.
package dockertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/weft-net/weft/internal/docker"
)

// ErrInjected is what FailAt makes a call return.
var ErrInjected = errors.New("injected failure")

// MTU of all networks, in bytes.
const MTU = 1400

// MaxSubnets of a network.
const MaxSubnets = 8

// Weft is the fake: network number N, as they come, has the subnets 10.32.16*N.0/20 and fd57:1:2:N::/64. One of subnets that were wished
// for has an IPv6 subnet that follows from each, 10.61.0.0/24 and fd57:1:2:0a3d::/64.
type Weft struct {
	mu       sync.Mutex
	next     int
	networks map[string]*network
	defined  map[string]docker.Network // on other hosts
	ports    map[string]*port
	notReady error

	changes, failAt int
}

type network struct {
	docker.Network
	used map[string]netip.Addr // by key
}

type port struct {
	docker.Port
	sandbox string // that has the inner end; empty: at home
}

var _ docker.Weft = (*Weft)(nil)

// New returns a host without networks.
func New() *Weft {
	return &Weft{networks: map[string]*network{}, defined: map[string]docker.Network{}, ports: map[string]*port{}}
}

// FailAt makes the n-th change from now fail, once; 0 none.
func (w *Weft) FailAt(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes, w.failAt = 0, n
}

// Failed reports whether the failure that FailAt asked for has happened.
func (w *Weft) Failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failAt > 0 && w.changes >= w.failAt
}

// NotReady makes Ready return an error; nil: none.
func (w *Weft) NotReady(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notReady = err
}

// Define makes a network that this host has not.
func (w *Weft) Define(name string, plain bool) docker.Network {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.draw(name, docker.Wish{Plain: plain})
	w.defined[name] = n
	return n
}

// Move puts the inner end of a port into a sandbox, as Docker does after Join, or home again with an empty one.
func (w *Weft) Move(inner, sandbox string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.ports[strings.TrimPrefix(inner, "wi-")]
	if p == nil {
		return fmt.Errorf("no interface %s", inner)
	}
	p.sandbox = sandbox
	return nil
}

// Cut removes a port as the kernel does when a container's namespace ends.
func (w *Weft) Cut(inner string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ports, strings.TrimPrefix(inner, "wi-"))
}

// String lists what exists, a line each, sorted.
func (w *Weft) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for name, n := range w.networks {
		var subnets []string
		for _, s := range n.Subnets {
			subnets = append(subnets, s.IP4.String())
		}
		lines = append(lines, fmt.Sprintf("network %s %s plain=%v", name, strings.Join(subnets, ","), n.Plain))
		for _, a := range n.used {
			lines = append(lines, fmt.Sprintf("address %s %s", name, a))
		}
	}
	for _, p := range w.ports {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("port %s %s %s %v mtu=%d %s", p.Network, p.Name, p.MAC, p.IPs, p.MTU, p.sandbox)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// change counts a mutating call. Precondition: w.mu must be locked.
func (w *Weft) change() error {
	w.changes++
	if w.changes == w.failAt {
		return ErrInjected
	}
	return nil
}

// Ready returns what NotReady was given.
func (w *Weft) Ready() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.notReady
}

// draw makes a network's definition. Precondition: w.mu must be locked.
func (w *Weft) draw(name string, wish docker.Wish) docker.Network {
	w.next++
	n := docker.Network{Name: name, Plain: wish.Plain, MTU: MTU, Subnets: []docker.Subnet{{
		IP4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, byte(16 * w.next), 0}), 20),
		IP6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x57, 3: 1, 5: 2, 7: byte(w.next)}), 64),
	}}}
	if len(wish.Subnets) > 0 {
		n.Subnets = wished(wish)
	}
	return n
}

func wished(wish docker.Wish) (out []docker.Subnet) {
	for _, p := range wish.Subnets {
		a := p.Addr().As4()
		six := netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x57, 3: 1, 5: 2, 6: a[0], 7: a[1]})
		out = append(out, docker.Subnet{IP4: p, IP6: netip.PrefixFrom(six, 64)})
	}
	return out
}

// check refuses what could not be made. Precondition: w.mu must be locked.
func (w *Weft) check(wish docker.Wish) error {
	if len(wish.Subnets) > MaxSubnets {
		return fmt.Errorf("%d subnets, at most %d", len(wish.Subnets), MaxSubnets)
	}
	for i, p := range wish.Subnets {
		if b := p.Bits(); b < 8 || b > 29 {
			return fmt.Errorf("subnet %s: length /%d, allowed is /8 to /29", p, b)
		}
		for _, o := range wish.Subnets[:i] {
			if o.Overlaps(p) {
				return fmt.Errorf("subnet %s overlaps subnet %s", p, o)
			}
		}
	}
	return nil
}

// Look returns a network as it is or would be.
func (w *Weft) Look(name string, wish docker.Wish) (docker.Network, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := w.defined[name]; ok {
		return n, nil
	}
	if err := w.check(wish); err != nil {
		return docker.Network{}, err
	}
	if len(wish.Subnets) == 0 {
		return docker.Network{}, fmt.Errorf("no network %q", name)
	}
	return docker.Network{Name: name, Plain: wish.Plain, MTU: MTU, Subnets: wished(wish)}, nil
}

// Add gives a network that there is one more subnet.
func (w *Weft) Add(name string, subnet netip.Prefix) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.defined[name]
	n.Subnets = append(slices.Clone(n.Subnets), wished(docker.Wish{Subnets: []netip.Prefix{subnet}})...)
	w.defined[name] = n
	if have := w.networks[name]; have != nil {
		have.Network = n
	}
}

// Network takes a network up, or makes it.
func (w *Weft) Network(_ context.Context, name string, wish docker.Wish) (docker.Network, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.networks[name]; n != nil {
		return n.Network, false, nil
	}
	n, ok := w.defined[name]
	if err := w.check(wish); err != nil && !ok {
		return docker.Network{}, false, err
	}
	if err := w.change(); err != nil {
		return docker.Network{}, false, err
	}
	if !ok {
		n = w.draw(name, wish)
		w.defined[name] = n
	}
	w.networks[name] = &network{Network: n, used: map[string]netip.Addr{}}
	return n, true, nil
}

// GiveUp removes a network without ports.
func (w *Weft) GiveUp(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.change(); err != nil {
		return err
	}
	for _, p := range w.ports {
		if p.Network == name {
			return fmt.Errorf("network %s has attachments", name)
		}
	}
	delete(w.networks, name)
	return nil
}

// Allocate gives the lowest free address of a subnet from the third one on, the last left out; or, when there is none, of the next.
func (w *Weft) Allocate(_ context.Context, name string, in netip.Prefix, key string, want netip.Addr) (docker.Address, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.networks[name]
	if n == nil {
		return docker.Address{}, fmt.Errorf("no network %s", name)
	}
	if err := w.change(); err != nil {
		return docker.Address{}, err
	}
	taken := map[netip.Addr]bool{}
	for _, a := range n.used {
		taken[a] = true
	}
	subnets := slices.Clone(n.Subnets)
	slices.SortStableFunc(subnets, func(a, b docker.Subnet) int {
		return cmp.Compare(bit(a.IP4 != in), bit(b.IP4 != in))
	})
	if in.IsValid() && subnets[0].IP4 != in {
		return docker.Address{}, fmt.Errorf("%s is no subnet of the network", in)
	}
	if want.IsValid() && !slices.ContainsFunc(subnets, func(s docker.Subnet) bool { return s.IP4.Contains(want) }) {
		return docker.Address{}, fmt.Errorf("address %s is not in the network's subnets", want)
	}
	for _, s := range subnets {
		a := want
		if !want.IsValid() {
			for a = s.IP4.Addr().Next().Next(); taken[a]; a = a.Next() {
			}
		} else if !s.IP4.Contains(a) {
			continue
		}
		switch {
		case want.IsValid() && taken[a]:
			return docker.Address{}, fmt.Errorf("address %s: in use", a)
		case !want.IsValid() && !s.IP4.Contains(a.Next()):
			continue
		}
		n.used[key] = a
		six, low := s.IP6.Addr().As16(), a.As4()
		copy(six[12:], low[:])
		return docker.Address{IP4: netip.PrefixFrom(a, s.IP4.Bits()), IP6: netip.PrefixFrom(netip.AddrFrom16(six), 64)}, nil
	}
	return docker.Address{}, fmt.Errorf("network %s is full", name)
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Free takes an address back.
func (w *Weft) Free(name, key string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.change(); err != nil {
		return err
	}
	if n := w.networks[name]; n != nil {
		delete(n.used, key)
	}
	return nil
}

// Plug makes a port.
func (w *Weft) Plug(_ context.Context, p docker.Port) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.networks[p.Network] == nil {
		return "", fmt.Errorf("no network %s", p.Network)
	}
	if err := w.change(); err != nil {
		return "", err
	}
	if have := w.ports[p.Name]; have != nil {
		if have.MAC != p.MAC || !slices.Equal(have.IPs, p.IPs) {
			return "", fmt.Errorf("attachment %s is there already", p.Name)
		}
		return "wi-" + p.Name, nil
	}
	p.IPs = slices.Clone(p.IPs)
	w.ports[p.Name] = &port{Port: p}
	return "wi-" + p.Name, nil
}

// Unplug removes a port.
func (w *Weft) Unplug(_, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.change(); err != nil {
		return err
	}
	delete(w.ports, name)
	return nil
}

// Ports lists them.
func (w *Weft) Ports() ([]docker.Plugged, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []docker.Plugged
	for _, p := range w.ports {
		out = append(out, docker.Plugged{Network: p.Network, Name: p.Name, Home: p.sandbox == ""})
	}
	return out, nil
}
