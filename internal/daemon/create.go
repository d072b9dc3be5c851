package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/guard"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ipam"
)

// found makes the cluster's first records: those that are missing, since an earlier start may have ended on its way.
func (s *System) found() error {
	s.mu.Lock()
	cluster := s.cluster
	s.mu.Unlock()
	if cluster == nil {
		var ula [16]byte
		_, _ = rand.Read(ula[1:6])
		ula[0] = 0xfd // RFC 4193 section 3.1
		cluster = &clusterRecord{
			Range: s.cfg.Range, ULA: netip.PrefixFrom(netip.AddrFrom16(ula), 48), MTU: s.cfg.MTU,
			Groups: s.cfg.Groups, NoMulticast: s.cfg.NoMulticast, TTL: s.cfg.TTL,
			Domain: s.cfg.Domain,
		}
		if err := s.mesh.Publish(0, map[string][]byte{keyCluster: encode(cluster)}, nil); err != nil {
			return err
		}
		s.mu.Lock()
		s.cluster = cluster
		s.mu.Unlock()
	}
	if _, _, ok := s.ipam.Space(); !ok {
		if err := s.ipam.Found(cluster.Range, cluster.ULA); err != nil {
			return err
		}
	}
	if s.has(defaultNetwork) {
		return nil
	}
	return s.create(s.ctx, api.NetworkCreate{Name: defaultNetwork})
}

// create defines a network and takes it up; or takes up one that is defined already, if the request agrees.
func (s *System) create(ctx context.Context, r api.NetworkCreate) error {
	if err := ident.CheckName("network", r.Name); err != nil {
		return api.Errorf(api.CodeInvalid, "%w", err)
	}
	if r.Plain { // before anything is given away for it
		if err := s.probePlain(); err != nil {
			return api.Errorf(api.CodeRefused, "network %s: --plain: %w", r.Name, err)
		}
	}
	s.mu.Lock()
	d, cluster := s.defs[r.Name], s.cluster
	var other string
	vni := vniOf(s.id.Cluster, r.Name)
	for name, o := range s.defs {
		if name != r.Name && o.rec.VNI == vni {
			other = name
		}
	}
	s.mu.Unlock()
	switch {
	case cluster == nil:
		return api.Errorf(api.CodeUnavailable, "not yet part of a cluster").WithHint("weft status says which hosts are tried")
	case d != nil && slices.Contains(d.hosts, s.mesh.Self()):
		return api.Errorf(api.CodeConflict, "network %s is there already", r.Name)
	case d != nil && r.Plain && !d.rec.Plain:
		return api.Errorf(api.CodeConflict, "network %s is sealed on other hosts: a network's engine never changes", r.Name).WithHint("choose another name")
	case d != nil && !r.Plain && d.rec.Plain:
		return api.Errorf(api.CodeConflict, "network %s is PLAIN on other hosts: its frames cross the underlay unencrypted", r.Name).WithHint("weft network create %s --plain, if you trust the underlay", r.Name)
	case d != nil && len(d.lacks(r)) > 0:
		return api.Errorf(api.CodeConflict, "network %s has subnet %s on other hosts, not %s", r.Name, listed(d.subnets), strings.Join(d.lacks(r), ", "))
	case d != nil:
		_, err := s.takeUp(ctx, r.Name)
		return err
	case other != "":
		return api.Errorf(api.CodeConflict, "network %s would have the number (VNI %d) of network %s: choose another name", r.Name, vni, other)
	}
	if s.id.Ephemeral {
		return api.Errorf(api.CodeRefused, "network %s: %w", r.Name, ipam.ErrBorrows)
	}
	rec := networkRecord{VNI: vni, Creator: s.mesh.Self(), Rate: r.Rate, Plain: r.Plain, Underlay6: r.Plain && s.overIPv6()}
	var err error
	if rec.Allow, err = prefixes(r.AllowGroups); err != nil {
		return err
	}
	if rec.Deny, err = prefixes(r.DenyGroups); err != nil {
		return err
	}
	if err := s.subnetsFor(ctx, &rec, r); err != nil {
		return err
	}
	if err := s.mesh.Hold(vni); err != nil {
		return err
	}
	for _, p := range append([]subnetPair{{rec.Subnet, rec.Subnet6}}, rec.More...) {
		err := s.ipam.JoinNetwork(vni, p.IP4, true)
		if err == nil {
			continue
		}
		if !rec.Explicit {
			return errors.Join(err, s.ipam.ReleaseSubnet(p.IP4))
		}
		if p.IP4 != rec.Subnet { // those before
			err = errors.Join(err, s.ipam.LeaveNetwork(ctx, vni))
		}
		return err
	}
	def := &definition{name: r.Name, rec: rec, fresh: true}
	def.merge(s.mesh.Self(), rec, true)
	s.mu.Lock()
	s.defs[r.Name] = def
	s.mu.Unlock()
	_, err = s.takeUp(ctx, r.Name)
	s.mu.Lock()
	def.fresh = false
	s.mu.Unlock()
	if err != nil && rec.Plain {
		s.uncreate(r.Name, rec)
	}
	return err
}

// uncreate takes back a plain network that this host turned out not to be able to have, before anybody heard of it.
func (s *System) uncreate(name string, rec networkRecord) {
	s.mu.Lock()
	delete(s.defs, name)
	s.mu.Unlock()
	err := s.ipam.LeaveNetwork(s.ctx, rec.VNI)
	if !rec.Explicit {
		err = errors.Join(err, s.ipam.ReleaseSubnet(rec.Subnet))
	}
	if err != nil {
		s.log.Warn("addresses of a network that failed not given back", "network", name, "err", err)
	}
}

// subnetsFor chooses or checks a new network's subnets.
func (s *System) subnetsFor(ctx context.Context, rec *networkRecord, r api.NetworkCreate) error {
	if r.Subnet == "" {
		if len(r.Subnets) > 0 {
			return api.Errorf(api.CodeInvalid, "further subnets %v without a first one", r.Subnets)
		}
		sub, err := s.ipam.CarveSubnet(ctx)
		if err != nil {
			return err
		}
		rec.Subnet = sub
	} else {
		all, err := s.pairs(append([]string{r.Subnet}, r.Subnets...))
		if err != nil {
			return err
		}
		rec.Subnet, rec.More, rec.Explicit = all[0].IP4, all[1:], true
	}
	if r.Subnet6 == "" {
		p, ok := s.ipam.Subnet6(rec.Subnet)
		if !ok {
			return api.Errorf(api.CodeUnavailable, "the cluster's addresses have not arrived yet")
		}
		rec.Subnet6 = p
		return nil
	}
	p, err := netip.ParsePrefix(r.Subnet6)
	if err != nil || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() != 64 || p != p.Masked() || p.Addr().IsMulticast() || len(rec.More) > 0 {
		return api.Errorf(api.CodeInvalid, "subnet %q: want an IPv6 /64 such as fd12:3456:789a:1::/64, beside one IPv4 subnet", r.Subnet6)
	}
	rec.Subnet6, rec.Explicit = p, true
	return nil
}

// pairs returns subnets that somebody wants for a new network, checked, in both families.
func (s *System) pairs(list []string) ([]subnetPair, error) {
	all, err := s.chosen(list)
	if err != nil {
		return nil, err
	}
	var out []subnetPair
	for _, p := range all {
		six, ok := s.ipam.Subnet6(p)
		if !ok {
			return nil, api.Errorf(api.CodeUnavailable, "the cluster's addresses have not arrived yet")
		}
		out = append(out, subnetPair{p, six})
	}
	return out, nil
}

// chosen checks subnets that somebody wants for a new network.
func (s *System) chosen(list []string) ([]netip.Prefix, error) {
	if len(list) > maxSubnets {
		return nil, api.Errorf(api.CodeInvalid, "%d subnets, at most %d: leave some out, or take larger ones", len(list), maxSubnets)
	}
	var all []netip.Prefix
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil || !p.Addr().Is4():
			return nil, api.Errorf(api.CodeInvalid, "subnet %q: want an IPv4 network such as 10.40.0.0/20", text)
		case p != p.Masked():
			return nil, api.Errorf(api.CodeInvalid, "subnet %s has host bits set: %s?", text, p.Masked())
		}
		if err := ipam.CheckSubnet(p); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "%w", err)
		}
		for _, o := range all {
			if o.Overlaps(p) {
				return nil, api.Errorf(api.CodeInvalid, "subnet %s overlaps subnet %s: leave one out", p, o)
			}
		}
		all = append(all, p)
		if err := s.apart(p); err != nil {
			return nil, err
		}
		if err := s.checkRange(p, "choose another with --subnet"); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// apart refuses a subnet that overlaps another network's.
func (s *System) apart(p netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, d := range s.defs {
		for _, o := range d.subnets {
			if o.Overlaps(p) {
				return api.Errorf(api.CodeConflict, "subnet %s overlaps %s of network %s", p, o, name).WithHint("choose another with --subnet, or leave it out")
			}
		}
	}
	return nil
}

// lacks returns the subnets of a request that a network has not.
func (d *definition) lacks(r api.NetworkCreate) []string {
	var out []string
	for _, text := range append([]string{r.Subnet}, r.Subnets...) {
		if text != "" && !slices.ContainsFunc(d.subnets, func(p netip.Prefix) bool { return p.String() == text }) {
			out = append(out, text)
		}
	}
	return out
}

func listed(ps []netip.Prefix) string { return strings.Join(texts(ps), ", ") }

func prefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, v := range list {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			a, aerr := netip.ParseAddr(v)
			if aerr != nil {
				return nil, api.Errorf(api.CodeInvalid, "group %q: want a multicast address or range such as 239.0.0.0/8", v)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if !p.Addr().IsMulticast() {
			return nil, api.Errorf(api.CodeInvalid, "group %s is not a multicast address", v)
		}
		out = append(out, p.Masked())
	}
	if len(out) > guard.MaxGroups {
		return nil, api.Errorf(api.CodeInvalid, "%d groups, at most %d", len(out), guard.MaxGroups)
	}
	return out, nil
}

// checkRange refuses addresses that a route of the host leads elsewhere; fix is what to do about it.
func (s *System) checkRange(p netip.Prefix, fix string) error {
	if s.cfg.Force {
		return nil
	}
	routes, err := s.routes()
	if err != nil {
		return err
	}
	if err := ipam.CheckRange(p, routes); err != nil {
		return api.Errorf(api.CodeConflict, "%w; %s, or weft up --force if nothing here needs that route", err, fix)
	}
	return nil
}
