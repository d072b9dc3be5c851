package daemon

import (
	"context"
	"net"
	"slices"
	"strconv"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/state"
)

// maxTokenSeeds is how many addresses go with a token.
const maxTokenSeeds = 32

// given reports whether this host has given the bus's token away.
func (c *clusterBus) given() (yes bool) {
	_ = c.s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyStay) {
			yes = yes || i.Writer == c.s.mesh.Self() && i.Key == keyStay
		}
	})
	return yes
}

// give returns the bus's token, and where programs find the bus. From now on this host stays on it, also when it starts again.
func (c *clusterBus) give() (api.BusToken, error) {
	t, err := c.token()
	if err != nil {
		return api.BusToken{}, err
	}
	if !c.given() {
		if err := c.s.mesh.Publish(0, map[string][]byte{keyStay: {}}, nil); err != nil {
			return api.BusToken{}, api.Errorf(api.CodeUnavailable, "this host cannot stay on the bus, where programs look for it: %w", err)
		}
	}
	c.mu.Lock()
	c.stay = true
	c.mu.Unlock()
	return api.BusToken{Bus: api.ClusterBus, Token: t.Encode(), Seeds: c.listeners()}, nil
}

// listeners are addresses of the hosts on the bus, this one's first.
func (c *clusterBus) listeners() (out []string) {
	records := c.records()
	for _, self := range []bool{true, false} {
		for _, h := range c.s.mesh.Hosts() {
			r, there := records[h.ID]
			if h.Self != self || !there || h.State == api.HostLeft || h.State == api.HostDead {
				continue
			}
			for n, ep := range h.Endpoints {
				s := net.JoinHostPort(ep.Addr().Unmap().WithZone("").String(), strconv.Itoa(int(r.Port)))
				if n < seedAddrs && len(out) < maxTokenSeeds && !slices.Contains(out, s) {
					out = append(out, s)
				}
			}
		}
	}
	return out
}

// BusToken implements apiserver.Buses.
func (b backend) BusToken(ctx context.Context, name string) (api.BusToken, error) {
	done, err := b.on(ctx, name)
	if err != nil {
		return api.BusToken{}, err
	}
	defer done()
	return b.s.bus.give()
}
