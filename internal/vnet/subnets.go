package vnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/nl"
)

// SetSubnets says which subnets are on the link of a network, of both families: an attachment with an address of one reaches the others
// by the same link. Attachments that are there get what is new; containers do not, for their namespaces are Docker's.
func (v *VNet) SetSubnets(vni uint32, subnets []netip.Prefix) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.networks[vni]
	if n == nil || v.closed {
		return fmt.Errorf("VNI %d: %w", vni, ErrNoNetwork)
	}
	if slices.Equal(n.subnets, subnets) {
		return nil
	}
	n.subnets = slices.Clone(subnets)
	var errs []error
	for _, a := range v.attachments {
		if further := a.further(n.subnets); a.VNI == vni && a.Kind != KindDocker && len(further) > 0 {
			errs = append(errs, v.reach(a, further))
		}
	}
	return errors.Join(errs...)
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

// further returns the subnets that none of an attachment's addresses is in.
func (a *attachment) further(subnets []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range subnets {
		if !slices.ContainsFunc(a.IPs, func(ip netip.Prefix) bool { return p.Contains(ip.Addr()) }) {
			out = append(out, p)
		}
	}
	return out
}
