package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ipam"
)

// A network has one subnet, or several: those that it was created with, those of a namesake that was created elsewhere unseen, and those by
// which it grew when all addresses were in use. Each host that has the network publishes all of them, so that a subnet outlives
// the host that added it. Programs reach all of them by the network's link (vnet.SetSubnets).

// maxSubnets bounds the subnets of one network; ipam follows no more.
const maxSubnets = 8

// subnetsOf returns the subnets of a network, its first one first.
func (s *System) subnetsOf(n *network) []subnetPair {
	out := []subnetPair{{n.def.Subnet, n.def.Subnet6}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.defs[n.name]; d != nil {
		var more []subnetPair
		for _, sub := range d.subnets {
			if sub != n.def.Subnet {
				more = append(more, subnetPair{sub, d.net6[sub]})
			}
		}
		for _, p := range n.added {
			if !slices.Contains(d.subnets, p.IP4) {
				more = append(more, p)
			}
		}
		slices.SortFunc(more, func(a, b subnetPair) int { return a.IP4.Compare(b.IP4) })
		out = append(out, more[:min(len(more), maxSubnets-1)]...)
	}
	return out
}

// onLink returns the subnets of a network in both families.
func (s *System) onLink(n *network) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.subnetsOf(n) {
		out = append(out, p.IP4)
		if p.IP6.IsValid() {
			out = append(out, p.IP6)
		}
	}
	return out
}

// publishDefinition says that this host has a network, with all subnets that are known of it. Called with taking held.
func (s *System) publishDefinition(n *network) error {
	rec := n.def
	rec.More = s.subnetsOf(n)[1:]
	b := encode(rec)
	if n.told == string(b) {
		return nil
	}
	if err := s.mesh.Publish(0, map[string][]byte{keyNetwork + n.name: b}, nil); err != nil {
		return err
	}
	n.told = string(b)
	return nil
}

// allocate gives a key an address of a network, and lets the network grow when all are in use: by a subnet carved from this host's own
// part of the cluster's range, unless its subnets were chosen by somebody.
func (s *System) allocate(ctx context.Context, n *network, key string, want netip.Addr) (ipam.Address, error) {
	for {
		had := len(s.subnetsOf(n))
		a, err := s.ipam.Allocate(ctx, n.vni, key, want)
		if !errors.Is(err, ipam.ErrExhausted) || want.IsValid() || n.def.Explicit || s.id.Ephemeral || had >= maxSubnets {
			return a, err
		}
		if gerr := s.grow(ctx, n, had); gerr != nil {
			return a, errors.Join(err, gerr)
		}
	}
}

// grow adds a subnet to a network of had subnets, unless somebody did meanwhile.
func (s *System) grow(ctx context.Context, n *network, had int) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	if len(s.subnetsOf(n)) > had {
		return s.joinSubnets(n)
	}
	sub, err := s.ipam.CarveSubnet(ctx)
	if err != nil {
		return err
	}
	net6, _ := s.ipam.Subnet6(sub)
	if err := s.ipam.JoinNetwork(n.vni, sub, true); err != nil {
		return errors.Join(err, s.ipam.ReleaseSubnet(sub))
	}
	n.joined[sub] = true
	s.mu.Lock()
	n.added = append(n.added, subnetPair{sub, net6})
	s.mu.Unlock()
	s.log.Info("network has grown: all its addresses are in use", "network", n.name, "subnet", sub)
	if err := s.publishDefinition(n); err != nil {
		return err
	}
	s.names.tell(n, s.names.serve(n))
	return s.reachSubnets(n)
}

// troubleSubnets begins the key of what is wrong with a network's subnets.
const troubleSubnets = "subnets "

// reachSubnets gives what is attached to a network its routes to all subnets, and tells of containers that could not be given them.
func (s *System) reachSubnets(n *network) error {
	unreached, err := s.vnet.SetSubnets(n.vni, s.onLink(n))
	text := ""
	if len(unreached) > 0 {
		const shown = 8
		list := unreached[:min(len(unreached), shown)]
		text = fmt.Sprintf("network %s has got another subnet, to which %d containers have no route (%s): start them again", n.name, len(unreached), strings.Join(list, ", "))
	}
	s.trouble(troubleSubnets+n.name, text)
	return err
}
