package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/vnet"
)

// defaultNetwork is made when a cluster is founded, and taken up by every host.
const defaultNetwork = "weft"

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
	added   []subnetPair          // by this run, as long as the tables may not show it; guarded by System.mu
	told    string                // the definition as published last; guarded by System.taking
	joined  map[netip.Prefix]bool // subnets of which this host has asked a share; guarded by System.taking
	// served is what the bridge and the forwarding table were last set to: written by rebuild, shown by groups.
	served atomic.Pointer[map[membership]bool]
}

// membership is one host's wish for a group, whatever its attachments.
type membership struct {
	host  ident.HostID
	group netip.Addr
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
		_, claimed := s.claims[name]
		if _, have := s.networks[d.rec.VNI]; !have && (name == defaultNetwork || claimed || slices.Contains(d.hosts, s.mesh.Self())) {
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
			continue
		}
		if err := s.publishDefinition(n); err != nil && s.ctx.Err() == nil {
			s.log.Error("network's subnets not published", "network", n.name, "err", err)
		}
	}
	s.settleClaims()
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
	return s.reachSubnets(n)
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
		err = s.publishDefinition(n)
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
	s.names.tell(n, s.names.serve(n))
	s.log.Info("network up", "network", name, "vni", n.vni, "bridge", vnet.BridgeName(n.vni))
	return n, nil
}

// has reports whether a network is up on this host.
func (s *System) has(name string) bool {
	return slices.ContainsFunc(s.localNetworks(), func(n *network) bool { return n.name == name })
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
	case s.docker.Uses(name):
		return api.Errorf(api.CodeConflict, "network %s is one of Docker's here", name).WithHint("docker network ls --filter driver=weft, and docker network rm")
	}
	for _, a := range s.vnet.Attachments() {
		if a.VNI == n.vni {
			return api.Errorf(api.CodeConflict, "network %s has attachments here, %s for one", name, a.Name).WithHint("weft attachments lists them; weft detach removes one")
		}
	}
	if err := s.ipam.LeaveNetwork(s.ctx, n.vni); err != nil {
		return api.Errorf(api.CodeConflict, "network %s: %w", name, err)
	}
	s.trouble(troubleSubnets+name, "")
	s.names.stop(n.vni)
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
