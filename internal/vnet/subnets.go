package vnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
)

// SetSubnets says which subnets are on the link of a network, of both families: an attachment with an address of one reaches the others
// by the same link. Attachments that are there get what is new. A container's namespace is Docker's: it is looked for, among those of all
// processes. Called again, it looks again for those that it did not find; it returns their names.
func (v *VNet) SetSubnets(vni uint32, subnets []netip.Prefix) (unreached []string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.networks[vni]
	if n == nil || v.closed {
		return nil, fmt.Errorf("VNI %d: %w", vni, ErrNoNetwork)
	}
	var errs []error
	if !slices.Equal(n.subnets, subnets) {
		n.subnets = slices.Clone(subnets)
		for _, a := range v.attachments {
			switch further := a.further(n.subnets); {
			case a.VNI != vni || len(further) == 0:
			case a.Kind == KindDocker:
				a.behind, a.tries = true, reachTries
			default:
				errs = append(errs, v.reach(a, further))
			}
		}
	}
	unreached, err = v.reachContainers(n)
	return unreached, errors.Join(append(errs, err)...)
}

// reachContainers gives the containers that are behind their routes. Precondition: v.mu must be locked.
func (v *VNet) reachContainers(n *network) (unreached []string, err error) {
	behind := map[nl.MAC]*attachment{} // a MAC is in a network once
	for _, a := range v.attachments {
		if a.VNI == n.spec.VNI && a.behind {
			behind[a.MAC] = a
		}
	}
	if len(behind) == 0 {
		return nil, nil
	}
	links, err := v.nl.Links()
	if err != nil {
		return nil, err
	}
	look := false
	for _, a := range behind {
		home := slices.ContainsFunc(links, func(l nl.Link) bool { return l.Name == a.Interface })
		look = look || a.tries > 0 && !home
		a.tries = max(a.tries-1, 0)
		if home { // Docker gets all routes when it fetches it, or has got those before a moment ago
			delete(behind, a.MAC)
			a.behind = a.tries > 0
		}
	}
	if look {
		err = v.cfg.Netns.Each(func(ns netns.Namespace) bool {
			v.reachInside(ns, n.subnets, behind)
			return len(behind) > 0
		})
	}
	for _, a := range behind {
		unreached = append(unreached, a.Name)
	}
	slices.Sort(unreached)
	return unreached, err
}

// reachInside gives those containers their routes whose interface lies in a namespace, and takes them out of the list. A namespace that
// cannot be looked into is passed over: it may just have ended.
func (v *VNet) reachInside(ns netns.Namespace, subnets []netip.Prefix, behind map[nl.MAC]*attachment) {
	if ns.ID() == v.cfg.Host.ID() {
		return
	}
	h, err := v.cfg.NL.Open(ns)
	if err != nil {
		return
	}
	defer h.Close()
	links, err := h.Links()
	if err != nil {
		return
	}
	for _, l := range links {
		a := behind[l.MAC]
		if a == nil || l.Peer != a.port || h.Reach(l.Name, a.further(subnets)) != nil {
			continue
		}
		a.behind = false
		delete(behind, a.MAC)
	}
}

func (v *VNet) reach(a *attachment, subnets []netip.Prefix) error {
	h := v.nl
	if a.Kind != KindExpose {
		ns, err := v.target(a.AttachSpec)
		if err != nil {
			return fmt.Errorf("attachment %s: %w", a.Name, err)
		}
		defer ns.Close()
		if ns.ID() != a.NS {
			return nil // ended, and not noticed yet
		}
		if h, err = v.cfg.NL.Open(ns); err != nil {
			return err
		}
		defer h.Close()
	}
	if err := h.Reach(a.Interface, subnets); err != nil && !errors.Is(err, nl.ErrNotFound) {
		return fmt.Errorf("attachment %s: %w", a.Name, err)
	}
	return nil
}

// further returns the subnets that none of an attachment's addresses is in, of the families that it has addresses of: in a container
// the other may be switched off.
func (a *attachment) further(subnets []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range subnets {
		speaks := slices.ContainsFunc(a.IPs, func(ip netip.Prefix) bool { return ip.Addr().Is4() == p.Addr().Is4() })
		if speaks && !slices.ContainsFunc(a.IPs, func(ip netip.Prefix) bool { return p.Contains(ip.Addr()) }) {
			out = append(out, p)
		}
	}
	return out
}
