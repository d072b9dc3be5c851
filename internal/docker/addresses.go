package docker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weft-net/weft/internal/ident"
)

// keyPrefix begins the keys under which addresses for Docker are allocated. No attachment is named so.
const keyPrefix = "docker/"

// pool finds a pool. One that is not in the book was promised in another life (of a state directory that is gone): its id says what
// it was.
func (p *Plugin) pool(ctx context.Context, id string) (pool, error) {
	if x, ok := p.look().Pools[id]; ok {
		return x, nil
	}
	unknown := fmt.Errorf("pool %.120q is not known here: docker network rm its network, and create it again", id)
	part := strings.Split(id, ",")
	if len(part) != 4 || part[0] != Name {
		return pool{}, unknown
	}
	subnet, err := netip.ParsePrefix(part[2])
	if err != nil || len(id) > maxID || ident.CheckName("network", part[1]) != nil {
		return pool{}, unknown
	}
	defer p.held.lock("network/" + part[1])()
	n, made, err := p.cfg.Weft.Network(ctx, part[1], Wish{})
	if err != nil {
		return pool{}, errors.Join(unknown, err)
	}
	x := pool{ID: id, Network: n.Name, V6: subnet.Addr().Is6()}
	for _, s := range n.Subnets {
		if x.IP4, x.IP6 = s.IP4, s.IP6; x.prefix() == subnet {
			return x, p.change(func(b *book) error {
				if made {
					b.Made[n.Name] = true
				}
				b.Pools[id] = x
				return nil
			})
		}
	}
	if made { // a new one of that name, with other addresses: not what Docker has
		err = p.cfg.Weft.GiveUp(n.Name)
	}
	return pool{}, errors.Join(unknown, err)
}

// requestAddress gives an address out of a pool.
func (p *Plugin) requestAddress(ctx context.Context, r addressCall) (any, error) {
	if err := p.cfg.Weft.Ready(); err != nil {
		return nil, err
	}
	x, err := p.pool(ctx, r.PoolID)
	if err != nil {
		return nil, err
	}
	if r.Options[optKind] == optGateway {
		g := gateway(x)
		if r.Address != "" && r.Address != g.Addr().String() {
			return nil, fmt.Errorf("--gateway %.80s: nothing is routed by a gateway in a weft network; leave it out", r.Address)
		}
		return givenAddress{Address: g.String(), Data: map[string]string{}}, nil
	}
	var want netip.Addr
	if r.Address != "" {
		if want, err = x.within(r.Address); err != nil {
			return nil, err
		}
	}
	var id [8]byte
	_, _ = rand.Read(id[:])
	a := address{Key: keyPrefix + hex.EncodeToString(id[:]), Network: x.Network, Pool: x.ID, V6: x.V6}
	if x.Said && !p.look().stood(x.Network) { // --aux-address
		if !want.IsValid() {
			return nil, fmt.Errorf("network %s has no address to give before Docker makes it", x.Network)
		}
		a.Planned = true
		a.IP4, a.IP6 = netip.PrefixFrom(want, x.IP4.Bits()), netip.PrefixFrom(x.address6(want), x.IP6.Bits())
	} else {
		got, err := p.cfg.Weft.Allocate(ctx, x.Network, x.IP4, a.Key, want)
		if err != nil {
			return nil, err
		}
		a.IP4, a.IP6 = got.IP4, got.IP6
	}
	err = p.change(func(b *book) error {
		if _, ok := b.Pools[x.ID]; !ok {
			return fmt.Errorf("pool %s was released meanwhile", x.ID)
		}
		b.Addresses[a.Key] = a
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, p.cfg.Weft.Free(x.Network, a.Key))
	}
	return givenAddress{Address: a.given().String(), Data: map[string]string{}}, nil
}

// address6 is the IPv6 address of a pool that follows from an IPv4 one.
func (p pool) address6(a netip.Addr) netip.Addr {
	six, low := p.IP6.Addr().As16(), a.As4()
	copy(six[12:], low[:])
	return netip.AddrFrom16(six)
}

// within reads an address that was asked for: in IPv6 the network's /64 and an IPv4 address of its subnet.
func (p pool) within(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !p.prefix().Contains(a) {
		return netip.Addr{}, fmt.Errorf("address %.80s is not in the network's subnet %s", text, p.prefix())
	}
	if !p.V6 {
		return a, nil
	}
	low, net := a.As16(), p.IP6.Addr().As16()
	v4 := netip.AddrFrom4([4]byte(low[12:]))
	if [12]byte(low[:12]) != [12]byte(net[:12]) || !p.IP4.Contains(v4) {
		return netip.Addr{}, fmt.Errorf("address %s: an IPv6 address of the network ends in an IPv4 address of its subnet %s, such as %s", a, p.IP4, gateway(p).Addr().Next())
	}
	return v4, nil
}

// releaseAddress takes an address back, now or when the endpoint that has it goes. One that Docker does not have is no error: it repeats
// itself, and gives gateways back, too.
func (p *Plugin) releaseAddress(_ context.Context, r addressCall) (any, error) {
	a, err := netip.ParseAddr(r.Address)
	if err != nil {
		return nil, fmt.Errorf("address %.80q: not an address", r.Address)
	}
	part := strings.Split(r.PoolID, ",")
	if len(part) != 4 {
		return none{}, nil // an IPv6 address that came with the IPv4 one, and goes with it
	}
	var freed []address
	err = p.change(func(b *book) error {
		h, ok := b.held(part[1], a)
		if !ok || h.Pool != r.PoolID {
			return nil
		}
		if _, used := b.user(h.Key); used {
			h.Released = true
			b.Addresses[h.Key] = h
			return nil
		}
		delete(b.Addresses, h.Key)
		freed = append(freed, h)
		return nil
	})
	if err != nil {
		return nil, err
	}
	p.free(freed)
	return none{}, nil
}

// free gives addresses back to the ring. What fails is in no book any more, and comes back when the network is taken up next.
func (p *Plugin) free(all []address) {
	for _, a := range all {
		if err := p.cfg.Weft.Free(a.Network, a.Key); err != nil {
			p.cfg.Log.Error("address not given back", "network", a.Network, "address", a.IP4.Addr(), "err", err)
		}
	}
}
