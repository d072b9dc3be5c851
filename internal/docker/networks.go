package docker

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// Options of weft's, with docker network create: --ipam-opt KEY=VALUE comes with a pool, -o KEY=VALUE with a network.
const (
	optNetwork = "weft.network"         // both: the weft network's name
	optPlain   = "weft.plain"           // both: not encrypted; with a pool: should the network have to be made
	optRoute   = "weft.multicast-route" // -o: groups leave by this network; default true
	optIPv6    = "weft.ipv6"            // -o: containers get an IPv6 address; default true
)

// addressSpace is how Docker tells pools of this IPAM from others.
const addressSpace = "weft"

// MinMTU is the least that IPv6 allows (RFC 8200 section 5).
const MinMTU = 1280

// command is what to type to have a weft network in Docker.
func command(name string, more ...string) string {
	name = cmp.Or(name, "NAME")
	words := append([]string{"docker network create -d weft --ipam-driver weft --ipam-opt weft.network=" + name}, more...)
	return strings.Join(append(words, name), " ")
}

// options checks that all keys are known; Docker's own pass.
func options(all map[string]string, flag string, known ...string) error {
	for k := range all {
		if !slices.Contains(known, k) && !strings.HasPrefix(k, foreign) {
			return fmt.Errorf("%s %.80s: no such option; there are %s", flag, k, strings.Join(known, ", "))
		}
	}
	return nil
}

// truth reads an option that is true or false; nothing said is none.
func truth(all map[string]string, key string, none bool) (bool, error) {
	text, ok := all[key]
	if !ok {
		return none, nil
	}
	if text == "" { // -o KEY
		return true, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s=%.40s: want true or false", key, text)
	}
	return v, nil
}

// requestPool promises addresses of a weft network. It is Docker's first call for a network, and the one that takes it up: what it
// answers is the network's subnet.
func (p *Plugin) requestPool(ctx context.Context, r requestPool) (any, error) {
	name := r.Options[optNetwork]
	if name == "" {
		var more []string
		if _, err := netip.ParsePrefix(r.Pool); err == nil {
			more = append(more, "--subnet "+r.Pool)
		}
		return nil, fmt.Errorf("which weft network? Docker does not tell its plugins a network's name: %s", command("", more...))
	}
	if err := errors.Join(options(r.Options, "--ipam-opt", optNetwork, optPlain), ident.CheckName("network", name)); err != nil {
		return nil, err
	}
	plain, err := truth(r.Options, optPlain, false)
	if err != nil {
		return nil, err
	}
	if r.SubPool != "" {
		return nil, fmt.Errorf("--ip-range %.80s: weft shares a subnet out among the hosts by itself; leave it out", r.SubPool)
	}
	var subnet netip.Prefix
	if r.Pool != "" {
		if subnet, err = netip.ParsePrefix(r.Pool); err != nil || subnet != subnet.Masked() || subnet.Addr().Is4() == r.V6 {
			return nil, fmt.Errorf("--subnet %.80s: not a subnet", r.Pool)
		}
	}
	if err := p.cfg.Weft.Ready(); err != nil {
		return nil, err
	}
	defer p.held.lock("network/" + name)()
	w := Wish{Plain: plain}
	if !r.V6 {
		w.Subnet = subnet
	}
	n, made, err := p.cfg.Weft.Network(ctx, name, w)
	if err != nil {
		return nil, err
	}
	if plain && !n.Plain {
		return nil, sealed(name)
	}
	return p.givePool(n, made, subnet, r.V6)
}

// givePool notes a pool of a network that this host has.
func (p *Plugin) givePool(n Network, made bool, subnet netip.Prefix, v6 bool) (any, error) {
	var id [4]byte
	_, _ = rand.Read(id[:])
	x := pool{Network: n.Name, V6: v6}
	for _, s := range n.Subnets {
		x.IP4, x.IP6 = s.IP4, s.IP6
		if !subnet.IsValid() || subnet == x.prefix() {
			break
		}
	}
	x.ID = poolID(x, hex.EncodeToString(id[:]))
	if !subnet.IsValid() && !p.asked.note(x, time.Now()) {
		return nil, inUse(x)
	}
	err := p.change(func(b *book) error {
		if made {
			b.Made[n.Name] = true
		}
		if subnet.IsValid() && x.prefix() != subnet {
			return fmt.Errorf("network %s has the subnet %s, not %s; leave --subnet out, or choose another network", n.Name, x.prefix(), subnet)
		}
		b.Pools[x.ID] = x
		return nil
	})
	if err != nil {
		if made {
			err = errors.Join(err, p.cfg.Weft.GiveUp(n.Name))
		}
		return nil, err
	}
	p.cfg.Log.Info("docker uses network", "network", n.Name, "pool", x.ID, "made", made)
	// Told with the pool, the gateway costs no address: it is the one that is the same on every host.
	return givenPool{PoolID: x.ID, Pool: x.prefix().String(), Data: map[string]string{optGateway: gateway(x).String()}}, nil
}

// poolID tells all about a pool: should its record be lost, the addresses of running containers can still be given back.
func poolID(x pool, tail string) string {
	return strings.Join([]string{Name, x.Network, x.prefix().String(), tail}, ",")
}

// gateway is what Docker shows as a network's gateway: the first address, which is the same on every host and never given out.
// Nothing is routed by it.
func gateway(x pool) netip.Prefix {
	p := x.prefix()
	if x.V6 {
		a := p.Addr().As16()
		first := x.IP4.Addr().Next().As4()
		copy(a[12:], first[:])
		return netip.PrefixFrom(netip.AddrFrom16(a), p.Bits())
	}
	return netip.PrefixFrom(p.Addr().Next(), p.Bits())
}

// releasePool takes a promise back, with all addresses that were given by it. The last one of a network that this host has for Docker's
// sake takes the network off this host.
func (p *Plugin) releasePool(_ context.Context, r addressCall) (any, error) {
	x, ok := p.look().Pools[r.PoolID]
	if !ok {
		return none{}, nil
	}
	defer p.held.lock("network/" + x.Network)()
	var freed []address
	err := p.change(func(b *book) error {
		delete(b.Pools, x.ID)
		for key, a := range b.Addresses {
			if _, used := b.user(key); a.Pool == x.ID && !used {
				delete(b.Addresses, key)
				freed = append(freed, a)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	p.free(freed)
	p.tidy(x.Network)
	return none{}, nil
}

// tidy takes a network off this host that was made for Docker and is not needed any more. Called with the network's lock held.
func (p *Plugin) tidy(name string) {
	b := p.look()
	if !b.Made[name] || !b.idle(name) {
		return
	}
	// Docker is done with it whatever comes of this: what is still attached by other means keeps the network.
	if err := p.cfg.Weft.GiveUp(name); err != nil {
		p.cfg.Log.Info("network stays on this host", "network", name, "reason", sentence(err))
	}
	if err := p.change(func(b *book) error { delete(b.Made, name); return nil }); err != nil {
		p.cfg.Log.Error("network not forgotten", "network", name, "err", err)
	}
}

// createNetwork makes an id of Docker's stand for a weft network: the one whose pool it got.
func (p *Plugin) createNetwork(ctx context.Context, r createNetwork) (any, error) {
	if err := checkID("network", r.NetworkID); err != nil {
		return nil, err
	}
	all, err := generic(r.Options)
	if err != nil {
		return nil, err
	}
	n := network{ID: r.NetworkID}
	if n.Network, err = p.behind(r, all[optNetwork]); err != nil {
		return nil, err
	}
	if err := errors.Join(options(all, "-o", optNetwork, optPlain, optRoute, optIPv6), n.read(all)); err != nil {
		return nil, err
	}
	plain, err := truth(all, optPlain, false)
	if err != nil {
		return nil, err
	}
	if err := p.cfg.Weft.Ready(); err != nil {
		return nil, err
	}
	defer p.held.lock("network/" + n.Network)()
	has, made, err := p.cfg.Weft.Network(ctx, n.Network, Wish{Plain: plain})
	if err != nil {
		return nil, err
	}
	_, said := all[optPlain]
	switch {
	case said && plain && !has.Plain:
		return nil, sealed(n.Network)
	case said && !plain && has.Plain:
		return nil, fmt.Errorf("network %s is PLAIN: its frames cross the underlay unencrypted; choose another network", n.Network)
	case n.MTU > has.MTU:
		return nil, fmt.Errorf("-o %s=%d: the network carries %d bytes at most", optMTU, n.MTU, has.MTU)
	}
	err = p.change(func(b *book) error {
		if old, ok := b.Networks[n.ID]; ok && old.Network != n.Network {
			return fmt.Errorf("network %s stands for the weft network %s already", n.ID, old.Network)
		}
		if made {
			b.Made[n.Network] = true
		}
		b.Networks[n.ID] = n
		return nil
	})
	if err != nil {
		return nil, err
	}
	return none{}, nil
}

// sealed refuses to have a network plain.
func sealed(name string) error {
	return fmt.Errorf("network %s is sealed, not plain, and a network's engine never changes; for a new one: %s",
		name, command("", "--ipam-opt weft.plain=true"))
}

// behind returns the weft network that a new network of Docker's got its addresses from, and refuses one that got them elsewhere:
// Docker's own IPAM would give the same addresses on every host.
func (p *Plugin) behind(r createNetwork, said string) (string, error) {
	pools := append(slices.Clone(r.IPv4Data), r.IPv6Data...)
	if len(pools) > maxList {
		return "", fmt.Errorf("%d subnets, at most %d", len(pools), maxList)
	}
	b := p.look()
	name := ""
	for _, d := range pools {
		subnet, err := netip.ParsePrefix(d.Pool)
		of, ok := "", false
		if err == nil && d.AddressSpace == addressSpace {
			of, ok = b.bySubnet(subnet)
		}
		if ok {
			p.asked.used(of) // Docker has taken its pool, whatever becomes of the network
		}
		if !ok {
			return "", fmt.Errorf("the addresses must be weft's, or every host would give out the same ones: %s", command(said))
		}
		if name != "" && name != of {
			return "", fmt.Errorf("subnets of two weft networks, %s and %s: one is enough", name, of)
		}
		name = of
	}
	switch {
	case name == "":
		return "", fmt.Errorf("the addresses must be weft's, and there are none: %s", command(said))
	case said != "" && said != name:
		return "", fmt.Errorf("-o weft.network=%.80s and --ipam-opt weft.network=%s: give both the same name, or only the latter", said, name)
	}
	return name, nil
}

// read takes what holds for containers from a network's options.
func (n *network) read(all map[string]string) error {
	route, err := truth(all, optRoute, true)
	if err != nil {
		return err
	}
	six, err := truth(all, optIPv6, true)
	if err != nil {
		return err
	}
	n.NoRoute, n.NoIPv6 = !route, !six
	if text := all[optMTU]; text != "" {
		if n.MTU, err = strconv.Atoi(text); err != nil || n.MTU < MinMTU {
			return fmt.Errorf("-o %s=%.40s: want %d or more bytes", optMTU, text, MinMTU)
		}
	}
	return nil
}

// deleteNetwork forgets an id of Docker's, and unplugs what it still has: Docker has no container in it any more.
func (p *Plugin) deleteNetwork(ctx context.Context, r networkCall) (any, error) {
	if err := checkID("network", r.NetworkID); err != nil {
		return nil, err
	}
	b := p.look()
	n, ok := b.Networks[r.NetworkID]
	if !ok {
		return none{}, nil
	}
	for _, e := range b.Endpoints {
		if e.NetworkID == n.ID {
			if _, err := p.deleteEndpoint(ctx, endpointCall{NetworkID: n.ID, EndpointID: e.ID}); err != nil {
				return nil, err
			}
		}
	}
	defer p.held.lock("network/" + n.Network)()
	if err := p.change(func(b *book) error { delete(b.Networks, n.ID); return nil }); err != nil {
		return nil, err
	}
	p.tidy(n.Network) // when its pools went first
	return none{}, nil
}
