package docker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// requestPool promises addresses of a weft network: Docker's first call for a network, once for each --subnet in each family, and once
// for a family without. Docker says in no call how many there will be, nor in which order the user gave them.
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
	n, made, err := p.promised(ctx, name, subnet, r.V6, plain)
	if err != nil {
		return nil, err
	}
	if plain && !n.Plain {
		return nil, sealed(name)
	}
	return p.givePool(n, made, pool{Network: name, V6: r.V6, Said: subnet.IsValid(), Plain: plain}, subnet)
}

// promised returns the network that a pool is to be of. Where Docker says no subnet the network is taken up on this host, or made: the
// answer is its subnet. Where it says one there may follow others, and only CreateNetwork tells that these were all: until then the
// network is looked at.
func (p *Plugin) promised(ctx context.Context, name string, subnet netip.Prefix, v6, plain bool) (n Network, made bool, err error) {
	said := []netip.Prefix{subnet}
	switch {
	case v6:
		said = p.look().said(name)
	case !subnet.IsValid():
		said = nil
	}
	if len(said) == 0 {
		return p.cfg.Weft.Network(ctx, name, Wish{Plain: plain})
	}
	n, err = p.cfg.Weft.Look(name, Wish{Subnets: said, Plain: plain})
	return n, false, err
}

// subnet finds a subnet of a network, of either family.
func (n Network) subnet(p netip.Prefix) (Subnet, error) {
	var all []string
	for _, s := range n.Subnets {
		if s.IP4 == p || s.IP6 == p {
			return s, nil
		}
		if p.Addr().Is4() {
			all = append(all, s.IP4.String())
		} else {
			all = append(all, s.IP6.String())
		}
	}
	word, which := "subnet", ""
	if len(all) > 1 {
		word = "subnets"
	}
	if p.Addr().Is6() {
		which = "the IPv6 "
	}
	return Subnet{}, fmt.Errorf("network %s has the %s %s, not %s; leave %s--subnet out, or choose another network", n.Name, word, strings.Join(all, ", "), p, which)
}

// givePool notes a pool x of a network: of the subnet that Docker said, or of the first.
func (p *Plugin) givePool(n Network, made bool, x pool, subnet netip.Prefix) (any, error) {
	var id [4]byte
	_, _ = rand.Read(id[:])
	of := n.Subnets[0]
	var err error
	if x.Said {
		of, err = n.subnet(subnet)
	}
	x.IP4, x.IP6 = of.IP4, of.IP6
	x.ID = poolID(x, hex.EncodeToString(id[:]))
	if !x.Said && !p.asked.note(x, time.Now()) {
		return nil, inUse(x)
	}
	if err == nil {
		err = p.change(func(b *book) error {
			if made {
				b.Made[n.Name] = true
			}
			b.Pools[x.ID] = x
			return b.giveable(x)
		})
	}
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
		return netip.PrefixFrom(x.address6(x.IP4.Addr().Next()), p.Bits())
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
