package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ether"
)

// insidePrefix begins the names of interfaces inside containers: weft0, weft1, ...
const insidePrefix = "weft"

// groups is the route by which programs that name no interface send to IPv4 groups, and join them.
const groups = "224.0.0.0/4"

const onLink = 1 // a route's type: no next hop

// idDigits of an endpoint's id are in the attachment's name.
const idDigits = 12

// attachmentName names a container's attachment. Docker tells the container's own name to nobody here.
func attachmentName(endpoint string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(endpoint) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteRune(c)
		}
		if b.Len() == idDigits {
			break
		}
	}
	return "docker-" + cmp.Or(b.String(), "0")
}

// createEndpoint plugs a container in, by the addresses that Docker got for it before.
func (p *Plugin) createEndpoint(ctx context.Context, r createEndpoint) (any, error) {
	if err := errors.Join(checkID("network", r.NetworkID), checkID("endpoint", r.EndpointID)); err != nil {
		return nil, err
	}
	if err := p.cfg.Weft.Ready(); err != nil {
		return nil, err
	}
	defer p.held.lock("endpoint/" + r.EndpointID)()
	b := p.look()
	n, ok := b.Networks[r.NetworkID]
	if !ok {
		return nil, fmt.Errorf("network %.12s is not known to weft: docker network rm it, and create it again", r.NetworkID)
	}
	if r.Interface == nil {
		r.Interface = &endpointInterface{}
	}
	e, err := b.plan(n, r)
	if err != nil {
		return nil, err
	}
	if e.Interface, err = p.cfg.Weft.Plug(ctx, Port{Network: e.Network, Name: e.Name, MAC: e.MAC, IPs: e.IPs, MTU: n.MTU}); err != nil {
		return nil, err
	}
	err = p.change(func(b *book) error {
		if _, ok := b.Networks[n.ID]; !ok {
			return fmt.Errorf("network %.12s was removed meanwhile", n.ID)
		}
		for _, key := range e.Keys {
			a, ok := b.Addresses[key]
			if u, used := b.user(key); !ok || used && u.ID != e.ID {
				return fmt.Errorf("an address of endpoint %.12s was given to another meanwhile", e.ID)
			}
			a.Had, a.Released = true, false
			b.Addresses[key] = a
		}
		if old, ok := b.Endpoints[e.ID]; ok {
			e.Sandbox, e.Route = old.Sandbox, old.Route
		}
		b.Endpoints[e.ID] = e
		return nil
	})
	if err != nil {
		if _, had := b.Endpoints[e.ID]; !had {
			err = errors.Join(err, p.cfg.Weft.Unplug(e.Network, e.Name))
		}
		return nil, err
	}
	// Only what Docker left open is said: it takes anything else for a contradiction.
	var out createdEndpoint
	if r.Interface.MacAddress == "" {
		out.Interface.MacAddress = e.MAC.String()
	}
	if r.Interface.AddressIPv6 == "" {
		for _, ip := range e.IPs {
			if ip.Addr().Is6() {
				out.Interface.AddressIPv6 = ip.String()
			}
		}
	}
	return out, nil
}

// plan makes an endpoint of a call: which of Docker's addresses it has, and what follows from them.
func (b *book) plan(n network, r createEndpoint) (endpoint, error) {
	e := endpoint{ID: r.EndpointID, NetworkID: n.ID, Network: n.Network, Name: attachmentName(r.EndpointID)}
	fail := func(format string, args ...any) (endpoint, error) {
		return endpoint{}, fmt.Errorf("endpoint %.12s: "+format, append([]any{e.ID}, args...)...)
	}
	var first netip.Prefix // the IPv4 address behind the first address: MACs follow from it
	for _, text := range []string{r.Interface.Address, r.Interface.AddressIPv6} {
		if text == "" {
			continue
		}
		want, err := netip.ParsePrefix(text)
		if err != nil {
			return fail("address %.80q: not an address with a length", text)
		}
		a, ok := b.held(n.Network, want.Addr())
		if !ok {
			return fail("address %s was not given by weft: docker network rm the network, and create it again with %s", want.Addr(), command(n.Network))
		}
		if u, used := b.user(a.Key); used && u.ID != e.ID {
			return fail("address %s is endpoint %.12s's", want.Addr(), u.ID)
		}
		e.Keys = append(e.Keys, a.Key)
		e.IPs = append(e.IPs, a.given())
		if !first.IsValid() {
			first = a.IP4
		}
		if !a.V6 && r.Interface.AddressIPv6 == "" && !n.NoIPv6 {
			e.IPs = append(e.IPs, a.IP6)
		}
	}
	if !first.IsValid() {
		return fail("Docker gives it no address: create its network with %s", command(n.Network))
	}
	v4 := first.Addr().As4()
	e.MAC = ether.MAC{0x02, 0x57, v4[0], v4[1], v4[2], v4[3]} // as other attachments'
	if text := r.Interface.MacAddress; text != "" {
		var err error
		if e.MAC, err = ether.ParseMAC(text); err != nil {
			return endpoint{}, err
		}
		if e.MAC[0]&1 != 0 || e.MAC == (ether.MAC{}) {
			return fail("MAC %s is not the address of one interface", e.MAC)
		}
	}
	return e, nil
}

// join tells Docker which interface to move, and what to route by it.
func (p *Plugin) join(_ context.Context, r endpointCall) (any, error) {
	if err := checkID("endpoint", r.EndpointID); err != nil {
		return nil, err
	}
	if len(r.SandboxKey) > maxText {
		return nil, fmt.Errorf("endpoint %.12s: sandbox key of %d bytes", r.EndpointID, len(r.SandboxKey))
	}
	defer p.held.lock("endpoint/" + r.EndpointID)()
	n, err := p.there(r.EndpointID)
	if err != nil {
		return nil, err
	}
	var e endpoint
	err = p.change(func(b *book) error {
		var ok bool
		if e, ok = b.Endpoints[r.EndpointID]; !ok {
			return fmt.Errorf("endpoint %.12s is not known here: start the container again", r.EndpointID)
		}
		// A container has one route for groups, by the first of its networks that may have it: a second one would be refused by
		// the kernel, and the container not start.
		e.Route = !b.Networks[e.NetworkID].NoRoute
		for _, o := range b.Endpoints {
			if o.ID != e.ID && o.Sandbox == r.SandboxKey && o.Sandbox != "" && o.Route {
				e.Route = false
			}
		}
		e.Sandbox = r.SandboxKey
		b.Endpoints[e.ID] = e
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := joined{InterfaceName: interfaceName{SrcName: e.Interface, DstPrefix: insidePrefix}, StaticRoutes: []staticRoute{}}
	if e.Route {
		out.StaticRoutes = append(out.StaticRoutes, staticRoute{Destination: groups, RouteType: onLink})
	}
	for _, p := range e.further(n) {
		out.StaticRoutes = append(out.StaticRoutes, staticRoute{Destination: p.String(), RouteType: onLink})
	}
	return out, nil
}

// further returns the subnets of a network that an endpoint has no address in: they are on the same link. None is of a family that it has
// no address of, which Docker may have switched off.
func (e endpoint) further(n Network) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range n.Subnets {
		for _, p := range []netip.Prefix{s.IP4, s.IP6} {
			speaks := slices.ContainsFunc(e.IPs, func(ip netip.Prefix) bool { return ip.Addr().Is4() == p.Addr().Is4() })
			within := slices.ContainsFunc(e.IPs, func(ip netip.Prefix) bool { return p.Contains(ip.Addr()) })
			if p.IsValid() && speaks && !within {
				out = append(out, p)
			}
		}
	}
	return out
}

// there returns the network of an endpoint whose veth is there, and not with a container already.
func (p *Plugin) there(id string) (Network, error) {
	e, ok := p.look().Endpoints[id]
	if !ok {
		return Network{}, fmt.Errorf("endpoint %.12s is not known here: start the container again", id)
	}
	ports, err := p.cfg.Weft.Ports()
	if err != nil {
		return Network{}, err
	}
	if !slices.ContainsFunc(ports, func(o Plugged) bool { return o.Network == e.Network && o.Name == e.Name && o.Home }) {
		return Network{}, fmt.Errorf("endpoint %.12s has lost its interface: start the container again", id)
	}
	return p.cfg.Weft.Look(e.Network, Wish{})
}

// leave notes that a container has left. Its interface comes back afterwards.
func (p *Plugin) leave(_ context.Context, r endpointCall) (any, error) {
	if err := checkID("endpoint", r.EndpointID); err != nil {
		return nil, err
	}
	defer p.held.lock("endpoint/" + r.EndpointID)()
	e, ok := p.look().Endpoints[r.EndpointID]
	if !ok || e.Sandbox == "" {
		return none{}, nil
	}
	return none{}, p.change(func(b *book) error {
		e.Sandbox, e.Route = "", false
		b.Endpoints[e.ID] = e
		return nil
	})
}

// deleteEndpoint unplugs a container.
func (p *Plugin) deleteEndpoint(_ context.Context, r endpointCall) (any, error) {
	if err := checkID("endpoint", r.EndpointID); err != nil {
		return nil, err
	}
	defer p.held.lock("endpoint/" + r.EndpointID)()
	e, ok := p.look().Endpoints[r.EndpointID]
	if !ok {
		return none{}, nil
	}
	return none{}, p.drop(e)
}

// drop unplugs an endpoint and frees what goes with it. Called with its lock held.
func (p *Plugin) drop(e endpoint) error {
	if err := p.cfg.Weft.Unplug(e.Network, e.Name); err != nil {
		return err
	}
	var freed []address
	if err := p.change(func(b *book) error { freed = b.dropEndpoint(e.ID); return nil }); err != nil {
		return err
	}
	p.free(freed)
	return nil
}
