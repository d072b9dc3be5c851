// Package docker answers Docker's calls for a network driver and an IPAM driver, both named weft: containers become attachments.
//
//	dockerd --> weft.sock: protocol.go (JSON), handler.go (HTTP)
//	                |
//	            Plugin: pools.go, networks.go, addresses.go, endpoints.go, sweep.go --> Weft (the daemon: networks, addresses, veths)
//	                |
//	            book.go (which pool, network, address and endpoint is which), saved.go --> Store
//
// Docker's words and ours: a Docker network is an id that stands for a weft network on this host, several ids may stand for
// one; a pool is a promise of addresses of a weft network; an endpoint is an attachment. Docker makes none of the interfaces:
// the daemon makes an attachment's veth in its own namespace, Docker moves the inner end into the container, gives it the
// addresses, and brings it back when the container leaves.
//
// Docker repeats calls, forgets them when it is killed, and makes them while the daemon is away. So each call that is done already
// succeeds, what was answered is on disk before, and what nobody asks about any more is found by looking (sweep.go).
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/weft-net/weft/internal/ether"
)

// Name is the name of both drivers, after which Docker looks for the socket.
const Name = "weft"

// DefaultSocket is where Docker looks for the plugin.
const DefaultSocket = "/run/docker/plugins/" + Name + ".sock"

// Subnet is a subnet of a network in both families.
type Subnet struct{ IP4, IP6 netip.Prefix }

// Network is a weft network as this host has it.
type Network struct {
	Name    string
	Plain   bool // not encrypted
	MTU     int  // bytes
	Subnets []Subnet
}

// Wish is what a network shall be when it has to be made, or be taken over from other hosts.
type Wish struct {
	Subnets []netip.Prefix // IPv4; none: any
	Plain   bool
}

// Address is one address of a network, in both families: the IPv6 one follows from the other.
type Address struct{ IP4, IP6 netip.Prefix }

// Port is an attachment to make: a veth whose inner end Docker moves.
type Port struct {
	Network, Name string
	MAC           ether.MAC
	IPs           []netip.Prefix
	MTU           int // bytes; 0: the network's
}

// Plugged is an attachment that is there.
type Plugged struct {
	Network, Name string
	// Home: its inner end lies in this host's namespace, so no container has it.
	Home bool
}

// Weft is the host that containers are attached to. Errors are for people, one sentence each.
type Weft interface {
	// Ready returns why nothing can be asked of this host yet; nil when it can.
	Ready() error
	// Look returns a network of the cluster as it is, or one that there is not as it would be with the subnets of a wish, if it could be.
	// Nothing changes.
	Look(name string, w Wish) (Network, error)
	// Network returns a network, and takes it up on this host or makes it in the cluster when it is not here; made says so.
	Network(ctx context.Context, name string, w Wish) (n Network, made bool, err error)
	// GiveUp takes a network off this host, unless something is attached to it.
	GiveUp(name string) error
	// Allocate gives key an address of a network: the one wanted if that is valid, else one of a subnet, or, when that is full, of another
	// that the network has or grows by. Free takes it back, also one that is not there.
	Allocate(ctx context.Context, network string, subnet netip.Prefix, key string, want netip.Addr) (Address, error)
	Free(network, key string) error
	// Plug makes an attachment and returns the name of its inner end. Asked again for the same one it changes nothing. Unplug removes
	// one, also one that is not there.
	Plug(ctx context.Context, p Port) (inner string, err error)
	Unplug(network, name string) error
	// Ports lists the attachments that Plug made.
	Ports() ([]Plugged, error)
}

// Store keeps one blob over restarts. Load gives nil when nothing was saved yet.
type Store interface {
	Load() ([]byte, error)
	Save([]byte) error
}

// Config is what a Plugin needs; all but Log.
type Config struct {
	Weft  Weft
	Store Store
	Log   *slog.Logger
}

// Plugin is the two drivers.
type Plugin struct {
	cfg    Config
	held   locks // by network or endpoint, over calls to Weft
	counts counters
	asked  repeats

	mu   sync.Mutex // guards all down to the line
	book *book      // replaced, never changed
	// ---

	calls inFlight
}

type counters struct {
	calls, failed, malformed, unknown, swept atomic.Uint64
}

// Counts says what became of Docker's calls, by name.
func (p *Plugin) Counts() map[string]uint64 {
	return map[string]uint64{
		"docker_failed":    p.counts.failed.Load(),    // answered with an error
		"docker_malformed": p.counts.malformed.Load(), // too long, or not JSON of the right form
		"docker_unknown":   p.counts.unknown.Load(),   // methods that this plugin does not have
	}
}

// Limits returns what is used of what there is room for, by name.
func (p *Plugin) Limits() map[string][2]int {
	b := p.look()
	return map[string][2]int{
		"docker_networks": {len(b.Networks), maxNetworks}, "docker_addresses": {len(b.Addresses), maxAddresses},
		"docker_containers": {len(b.Endpoints), maxEndpoints}, "docker_pools": {len(b.Pools), maxPools},
	}
}

// New reads what an earlier run left. It asks nothing of Weft yet.
func New(cfg Config) (*Plugin, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b, err := cfg.Store.Load()
	if err != nil {
		return nil, fmt.Errorf("docker plugin: %w", err)
	}
	bk, err := decodeBook(b)
	if err != nil {
		return nil, fmt.Errorf("docker plugin: %w", err)
	}
	return &Plugin{cfg: cfg, book: bk}, nil
}

// look returns the book; it must not be changed.
func (p *Plugin) look() *book {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.book
}

// change has f change the book, and saves it before anybody sees it. After an error nothing has changed.
func (p *Plugin) change(f func(*book) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.book.clone()
	if err := f(next); err != nil {
		return err
	}
	b, err := next.encode()
	if err != nil {
		return err
	}
	if err := p.cfg.Store.Save(b); err != nil {
		return fmt.Errorf("save the docker plugin's state: %w", err)
	}
	p.book = next
	return nil
}

// Uses reports whether Docker has networks that stand for a weft network.
func (p *Plugin) Uses(network string) bool { return p.look().stood(network) }

// Networks returns the weft networks of which Docker has addresses, each once or more.
func (p *Plugin) Networks() []string {
	var out []string
	for _, a := range p.look().Addresses {
		if !a.Planned {
			out = append(out, a.Network)
		}
	}
	return out
}

// Attachment returns the network and name of the attachment that stands for an endpoint of Docker's.
func (p *Plugin) Attachment(endpoint string) (network, name string, ok bool) {
	e, ok := p.look().Endpoints[endpoint]
	return e.Network, e.Name, ok
}

// Held returns the addresses of a network that are Docker's, by the key that they were allocated under.
func (p *Plugin) Held(network string) map[string]netip.Addr {
	out := map[string]netip.Addr{}
	for key, a := range p.look().Addresses {
		if a.Network == network && !a.Planned {
			out[key] = a.IP4.Addr()
		}
	}
	return out
}

// Holds reports whether an address allocated under a key is Docker's.
func (p *Plugin) Holds(key string) bool {
	_, ok := p.look().Addresses[key]
	return ok
}

// Forget unplugs all containers, frees all addresses and forgets all networks: this host leaves the cluster.
func (p *Plugin) Forget() error {
	b := p.look()
	var errs []error
	for _, e := range b.Endpoints {
		errs = append(errs, p.cfg.Weft.Unplug(e.Network, e.Name))
	}
	for key, a := range b.Addresses {
		errs = append(errs, p.cfg.Weft.Free(a.Network, key))
	}
	errs = append(errs, p.change(func(b *book) error { *b = *newBook(); return nil }))
	return errors.Join(errs...)
}
