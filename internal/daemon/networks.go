package daemon

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/guard"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/vnet"
)

// defaultNetwork is made when a cluster is founded, and taken up by every host.
const defaultNetwork = "weft"

// definition is what all copies of a network's record say together.
type definition struct {
	name     string
	rec      networkRecord                 // the copy that stands
	subnets  []netip.Prefix                // of all copies
	net6     map[netip.Prefix]netip.Prefix // the /64 of each
	hosts    []ident.HostID                // that have it
	conflict string
	fresh    bool // this host is creating it: the tables don't have it yet
}

// network is a network that this host has.
type network struct {
	name string
	vni  uint32
	def  networkRecord

	building sync.Mutex // one rebuild at a time: an older view must not come last

	local   netip.Addr            // plain: the underlay address that frames leave from; owned by spread once the network is up
	homed   time.Time             // plain: when that was last looked at; owned by spread
	reached atomic.Pointer[reach] // plain: as the kernel was last told
	ears    *ears                 // plain: who hears this host
	joined  map[netip.Prefix]bool // subnets of which this host has asked a share; guarded by System.taking
	// served is what the bridge and the forwarding table were last set to: written by rebuild, shown by groups.
	served atomic.Pointer[map[membership]bool]
}

// membership is one host's wish for a group, whatever its attachments.
type membership struct {
	host  ident.HostID
	group netip.Addr
}

// vniOf gives a network its number: the same on every host without a word between them.
func vniOf(cluster ident.ClusterID, name string) uint32 {
	sum := sha256.Sum256(append(append([]byte("weft vni 1\x00"), cluster[:]...), name...))
	return max(binary.BigEndian.Uint32(sum[:4])>>8, 1)
}

// definitions reads cluster and network records from the tables.
func (s *System) definitions() (cluster *clusterRecord, defs map[string]*definition) {
	alive := s.aliveHosts()
	defs = map[string]*definition{}
	_ = s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyCluster) {
			if i.Key != keyCluster {
				continue
			}
			if c, err := decodeCluster(i.Value); err == nil {
				cluster = &c
			}
		}
		for i := range t.All(state.Cluster, keyNetwork) {
			name, rec, err := decodeNetwork(i.Key, i.Value)
			if err != nil || rec.VNI != vniOf(s.id.Cluster, name) {
				s.log.Debug("network record refused", "host", i.Writer.Short(), "err", err)
				continue
			}
			d := defs[name]
			if d == nil {
				d = &definition{name: name, rec: rec}
				defs[name] = d
			}
			d.merge(i.Writer, rec, alive[i.Writer])
		}
	})
	return cluster, defs
}

// readDefinitions follows cluster and network records, and takes up the default network.
func (s *System) readDefinitions() {
	cluster, defs := s.definitions()
	s.mu.Lock()
	met := cluster != nil && s.cluster == nil
	if met {
		s.cluster = cluster
		s.log.Info("cluster known", "range", cluster.Range, "range6", cluster.ULA, "mtu", cluster.MTU)
	}
	for name, d := range s.defs {
		if d.fresh && defs[name] == nil { // being created: not in the tables yet
			defs[name] = d
		}
	}
	s.defs = defs
	s.mu.Unlock()
	if met && s.joining {
		if err := s.checkRange(cluster.Range, "take the route away"); err != nil {
			s.turnBack(fmt.Errorf("the cluster's %w", err))
			return
		}
	}
	s.retryNetworks()
}

// turnBack ends a first start that found out too late why it should not have begun: the cluster hears
// that this host left, and its state directory is emptied.
func (s *System) turnBack(cause error) {
	if err := s.quit(); err != nil {
		s.log.Error("leaving not told", "err", err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
	defer cancel()
	if err := s.mesh.Leave(ctx); err != nil {
		s.log.Debug("goodbye not heard by all", "err", err)
	}
	if err := s.clean(); err != nil {
		s.log.Error("not all removed", "err", err)
	}
	s.reject(cause)
}

// merge adds one host's copy. Copies of the same name with other subnets (created twice unseen)
// make one network with both; explicit subnets that differ are a conflict, and the lower creator's stands.
func (d *definition) merge(writer ident.HostID, rec networkRecord, alive bool) {
	if alive {
		d.hosts = append(d.hosts, writer)
	}
	if rec.Plain != d.rec.Plain {
		d.conflict = "defined as sealed and as plain; sealed stands: weft network rm where it is plain, and take it up again"
		if !rec.Plain {
			d.rec = rec
		}
	} else if rec.Subnet != d.rec.Subnet {
		if rec.Explicit && d.rec.Explicit {
			d.conflict = fmt.Sprintf("defined with subnet %s and with %s; the one of the lower HostID stands", d.rec.Subnet, rec.Subnet)
		}
		if rec.Creator.Less(d.rec.Creator) {
			d.rec = rec
		}
	}
	if !slices.Contains(d.subnets, rec.Subnet) {
		d.subnets = append(d.subnets, rec.Subnet)
		if d.net6 == nil {
			d.net6 = map[netip.Prefix]netip.Prefix{}
		}
		d.net6[rec.Subnet] = rec.Subnet6
	}
}

// retryNetworks takes up what this host should have but has not: the default network, the networks
// of an earlier run, and subnets that came with another definition of a network.
func (s *System) retryNetworks() {
	if !s.taking.TryLock() {
		return // spread must not wait for someone who waits for other hosts; the next second comes soon
	}
	defer s.taking.Unlock()
	_, _, ready := s.ipam.Space()
	s.mu.Lock()
	ready = ready && s.cluster != nil && !s.cleaned
	var missing []*definition
	for name, d := range s.defs {
		if _, have := s.networks[d.rec.VNI]; !have && (name == defaultNetwork || slices.Contains(d.hosts, s.mesh.Self())) {
			missing = append(missing, d)
		}
	}
	s.mu.Unlock()
	if !ready {
		return
	}
	s.foresee(missing)
	for _, d := range missing {
		if _, err := s.takeUpHeld(s.ctx, d.name); err != nil && s.ctx.Err() == nil {
			s.trouble("network "+d.name, fmt.Sprintf("network %s is not up here: %v", d.name, err))
			continue
		}
		s.trouble("network "+d.name, "")
	}
	for _, n := range s.localNetworks() {
		if err := s.joinSubnets(n); err != nil && s.ctx.Err() == nil {
			s.trouble("network "+n.name, fmt.Sprintf("network %s: %v", n.name, err))
		}
	}
}

// joinSubnets asks for a share of all subnets of a network. Called with taking held.
func (s *System) joinSubnets(n *network) error {
	s.mu.Lock()
	subnets := []netip.Prefix{n.def.Subnet}
	if d := s.defs[n.name]; d != nil {
		subnets = append(subnets, d.subnets...)
	}
	s.mu.Unlock()
	for _, sub := range subnets {
		if n.joined[sub] {
			continue
		}
		if err := s.ipam.JoinNetwork(n.vni, sub, false); err != nil {
			return err
		}
		n.joined[sub] = true
	}
	return nil
}

func (s *System) localNetworks() []*network {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*network, 0, len(s.networks))
	for _, n := range s.networks {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *network) int { return strings.Compare(a.name, b.name) })
	return out
}

// takeUp gives this host a network that is defined: bridge, uplink, keys, a share of its addresses.
func (s *System) takeUp(ctx context.Context, name string) (*network, error) {
	s.taking.Lock() // one at a time; taken before mu
	defer s.taking.Unlock()
	return s.takeUpHeld(ctx, name)
}

// takeUpHeld is takeUp for callers that hold taking.
func (s *System) takeUpHeld(ctx context.Context, name string) (*network, error) {
	s.mu.Lock()
	d := s.defs[name]
	var cluster clusterRecord
	if s.cluster != nil {
		cluster = *s.cluster
	}
	var have *network
	if d != nil {
		have = s.networks[d.rec.VNI]
	}
	s.mu.Unlock()
	switch {
	case s.cleaned:
		return nil, api.Errorf(api.CodeUnavailable, "this host is going down")
	case have != nil:
		return have, nil
	case d == nil:
		return nil, api.Errorf(api.CodeNotFound, "no network %q", name).WithHint("weft network create %s", name)
	case cluster.MTU == 0:
		return nil, api.Errorf(api.CodeUnavailable, "the cluster's settings have not arrived yet")
	}
	if _, _, ok := s.ipam.Space(); !ok {
		return nil, api.Errorf(api.CodeUnavailable, "the cluster's addresses have not arrived yet")
	}
	for _, sub := range d.subnets {
		if err := s.checkRange(sub, "take the route away"); err != nil {
			return nil, err
		}
	}
	n := &network{name: name, vni: d.rec.VNI, def: d.rec, joined: map[netip.Prefix]bool{}}
	if err := s.guard.policy(vnet.BridgeName(n.vni), d.rec.Rate, d.rec.Allow, d.rec.Deny); err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	if d.rec.Plain {
		local, err := s.preparePlain(n)
		if err != nil {
			return nil, err
		}
		n.local, n.ears = local, newEars()
	}
	dev, err := s.vnet.Ensure(ctx, vnet.Spec{Name: name, VNI: n.vni, MTU: cluster.MTU, Local: n.local})
	if errors.Is(err, nl.ErrPortTaken) {
		return nil, api.Errorf(api.CodeRefused, "%w", err).WithHint("ss -lunp sport = %d shows which; plain networks use this port on all hosts", vnet.VXLANPort)
	}
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	if err := s.mesh.Hold(n.vni); err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	// The datapath comes last: what failed before can be tried again as it is, with the device still open.
	err = s.joinSubnets(n)
	if err == nil {
		err = s.restore(n)
	}
	if err == nil {
		err = s.mesh.Publish(0, map[string][]byte{keyNetwork + name: encode(n.def)}, nil)
	}
	switch {
	case err != nil:
	case d.rec.Plain:
		err = s.mesh.Publish(n.vni, map[string][]byte{keyVTEP: encode(vtepRecord{Addr: n.local})}, nil)
	default:
		err = s.carry(n.vni, dev, cluster.MTU)
	}
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	if d.rec.Rate > 0 && !d.rec.Plain {
		if err := s.cast.SetRate(n.vni, d.rec.Rate); err != nil {
			s.log.Error("rate limit not set", "network", name, "err", err)
		}
	}
	s.mu.Lock()
	s.networks[n.vni] = n
	s.mu.Unlock()
	if n.ears != nil {
		s.ears.Store(n.vni, n.ears)
	}
	s.rebuild(n)
	s.log.Info("network up", "network", name, "vni", n.vni, "bridge", vnet.BridgeName(n.vni))
	return n, nil
}

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

// has reports whether a network is up on this host.
func (s *System) has(name string) bool {
	return slices.ContainsFunc(s.localNetworks(), func(n *network) bool { return n.name == name })
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
	case d != nil && r.Subnet != "" && r.Subnet != d.rec.Subnet.String():
		return api.Errorf(api.CodeConflict, "network %s has subnet %s on other hosts, not %s", r.Name, d.rec.Subnet, r.Subnet)
	case d != nil:
		_, err := s.takeUp(ctx, r.Name)
		return err
	case other != "":
		return api.Errorf(api.CodeConflict, "network %s would have the number (VNI %d) of network %s: choose another name", r.Name, vni, other)
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
	if err := s.ipam.JoinNetwork(vni, rec.Subnet, true); err != nil {
		if !rec.Explicit {
			err = errors.Join(err, s.ipam.ReleaseSubnet(rec.Subnet))
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
		sub, err := s.ipam.CarveSubnet(ctx)
		if err != nil {
			return err
		}
		rec.Subnet = sub
	} else {
		p, err := netip.ParsePrefix(r.Subnet)
		switch {
		case err != nil || !p.Addr().Is4():
			return api.Errorf(api.CodeInvalid, "subnet %q: want an IPv4 network such as 10.40.0.0/20", r.Subnet)
		case p != p.Masked():
			return api.Errorf(api.CodeInvalid, "subnet %s has host bits set: %s?", r.Subnet, p.Masked())
		}
		if err := ipam.CheckSubnet(p); err != nil {
			return api.Errorf(api.CodeInvalid, "%w", err)
		}
		s.mu.Lock()
		for name, d := range s.defs {
			for _, o := range d.subnets {
				if o.Overlaps(p) {
					err = api.Errorf(api.CodeConflict, "subnet %s overlaps %s of network %s", p, o, name)
				}
			}
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if err := s.checkRange(p, "choose another with --subnet"); err != nil {
			return err
		}
		rec.Subnet, rec.Explicit = p, true
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
	if err != nil || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() != 64 || p != p.Masked() || p.Addr().IsMulticast() {
		return api.Errorf(api.CodeInvalid, "subnet %q: want an IPv6 /64 such as fd12:3456:789a:1::/64", r.Subnet6)
	}
	rec.Subnet6, rec.Explicit = p, true
	return nil
}

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

// remove withdraws this host's copy of a network.
func (s *System) remove(name string) error {
	err := s.giveUp(name)
	s.readDefinitions()
	return err
}

func (s *System) giveUp(name string) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	s.mu.Lock()
	d := s.defs[name]
	var n *network
	if d != nil {
		n = s.networks[d.rec.VNI]
	}
	s.mu.Unlock()
	switch {
	case d == nil:
		return api.Errorf(api.CodeNotFound, "no network %q", name)
	case n == nil:
		return api.Errorf(api.CodeNotFound, "network %s is not on this host", name)
	case name == defaultNetwork:
		return api.Errorf(api.CodeRefused, "network %s is the default one, which every host has", name)
	}
	for _, a := range s.vnet.Attachments() {
		if a.VNI == n.vni {
			return api.Errorf(api.CodeConflict, "network %s has attachments here, %s for one", name, a.Name).WithHint("weft attachments lists them; weft detach removes one")
		}
	}
	if err := s.ipam.LeaveNetwork(s.ctx, n.vni); err != nil {
		return api.Errorf(api.CodeConflict, "network %s: %w", name, err)
	}
	if err := s.vnet.Remove(n.vni); err != nil {
		if errors.Is(err, vnet.ErrInUse) {
			return api.Errorf(api.CodeConflict, "network %s has attachments here", name).WithHint("weft attachments lists them; weft detach removes one")
		}
		return err
	}
	s.mu.Lock()
	delete(s.networks, n.vni)
	s.mu.Unlock()
	// The scope stays held: this host's address books in it say which ranges it was given and took, should it return.
	if n.def.Plain {
		s.ears.Delete(n.vni)
		n.ears.close()
		return errors.Join(s.mesh.Publish(n.vni, nil, []string{keyVTEP}), s.mesh.Publish(0, nil, []string{keyNetwork + name}))
	}
	return errors.Join(s.cast.RemoveNetwork(n.vni), s.mesh.Publish(0, nil, []string{keyNetwork + name}))
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
		return api.Errorf(api.CodeConflict, "%w; %s, or use --force if nothing here needs that route", err, fix)
	}
	return nil
}
