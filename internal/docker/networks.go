package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// createNetwork makes an id of Docker's stand for a weft network: the one whose pool it got.
func (p *Plugin) createNetwork(ctx context.Context, r createNetwork) (any, error) {
	if err := checkID("network", r.NetworkID); err != nil {
		return nil, err
	}
	all, err := generic(r.Options)
	if err != nil {
		return nil, err
	}
	of, err := p.behind(r, all[optNetwork])
	if err != nil {
		return nil, err
	}
	n := network{ID: r.NetworkID, Network: of.name}
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
	w := Wish{Subnets: of.subnets4(), Plain: of.plain}
	has, err := p.cfg.Weft.Look(n.Network, w)
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
	for _, s := range of.subnets {
		if _, err := has.subnet(s); err != nil {
			return nil, err
		}
	}
	// Nothing was made until here.
	_, made, err := p.cfg.Weft.Network(ctx, n.Network, w)
	if err != nil {
		return nil, err
	}
	planned, err := p.allocatePlanned(ctx, of)
	if err == nil {
		err = p.change(func(b *book) error {
			if old, ok := b.Networks[n.ID]; ok && old.Network != n.Network {
				return fmt.Errorf("network %s stands for the weft network %s already", n.ID, old.Network)
			}
			if made {
				b.Made[n.Network] = true
			}
			for _, a := range planned {
				a.Planned = false
				b.Addresses[a.Key] = a
			}
			b.Networks[n.ID] = n
			return nil
		})
	}
	if err != nil {
		p.free(planned)
		if made {
			err = errors.Join(err, p.cfg.Weft.GiveUp(n.Network))
		}
		return nil, err
	}
	return none{}, nil
}

// allocatePlanned allocates the addresses that Docker asked for before the network was there. Those that it returns with an error are
// allocated, too.
func (p *Plugin) allocatePlanned(ctx context.Context, of behind) (done []address, err error) {
	b := p.look()
	for _, a := range sorted(b.Addresses) {
		x := b.Pools[a.Pool]
		if !a.Planned || x.Network != of.name || !slices.Contains(of.subnets, x.prefix()) {
			continue
		}
		if _, err := p.cfg.Weft.Allocate(ctx, of.name, x.IP4, a.Key, a.IP4.Addr()); err != nil {
			return done, err
		}
		done = append(done, a)
	}
	return done, nil
}

// sealed refuses to have a network plain.
func sealed(name string) error {
	return fmt.Errorf("network %s is sealed, not plain, and a network's engine never changes; for a new one: %s",
		name, command("", "--ipam-opt weft.plain=true"))
}

// behind is what stands behind a new network of Docker's.
type behind struct {
	name    string         // of the weft network
	subnets []netip.Prefix // whose pools Docker has got, of both families
	plain   bool           // to be made so
}

// subnets4 are the IPv4 ones, in one order on all hosts: Docker's is drawn.
func (b behind) subnets4() []netip.Prefix {
	out := slices.DeleteFunc(slices.Clone(b.subnets), func(p netip.Prefix) bool { return !p.Addr().Is4() })
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// behind returns the weft network that a new network of Docker's got its addresses from, and refuses one that got them elsewhere:
// Docker's own IPAM would give the same addresses on every host.
func (p *Plugin) behind(r createNetwork, said string) (of behind, err error) {
	pools := append(slices.Clone(r.IPv4Data), r.IPv6Data...)
	if len(pools) > maxList {
		return of, fmt.Errorf("%d subnets, at most %d", len(pools), maxList)
	}
	b := p.look()
	for _, d := range pools {
		subnet, err := netip.ParsePrefix(d.Pool)
		var x pool
		ok := false
		if err == nil && d.AddressSpace == addressSpace {
			x, ok = b.bySubnet(subnet)
		}
		if ok {
			p.asked.used(x.Network) // Docker has taken its pool, whatever becomes of the network
		}
		if !ok {
			return of, fmt.Errorf("the addresses must be weft's, or every host would give out the same ones: %s", command(said))
		}
		if of.name != "" && of.name != x.Network {
			return of, fmt.Errorf("subnets of two weft networks, %s and %s: one is enough", of.name, x.Network)
		}
		of.name, of.plain, of.subnets = x.Network, of.plain || x.Plain, append(of.subnets, subnet)
	}
	switch {
	case of.name == "":
		return of, fmt.Errorf("the addresses must be weft's, and there are none: %s", command(said))
	case said != "" && said != of.name:
		return of, fmt.Errorf("-o weft.network=%.80s and --ipam-opt weft.network=%s: give both the same name, or only the latter", said, of.name)
	}
	return of, nil
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
