package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/vnet"
)

func (s *System) hostNames() map[ident.HostID]string {
	names := map[ident.HostID]string{}
	for _, h := range s.mesh.Hosts() {
		names[h.ID] = h.Name
	}
	return names
}

// aliveHosts are the hosts whose attachments count: alive, or reachable whatever memberlist thinks.
func (s *System) aliveHosts() map[ident.HostID]bool {
	alive := map[ident.HostID]bool{}
	for _, h := range s.mesh.Hosts() {
		alive[h.ID] = h.Self || h.Reachable || h.State == api.HostAlive || h.State == api.HostSuspect
	}
	return alive
}

// heir is the living host that stays with the lowest id: it takes what a removed host had.
func (s *System) heir() mesh.HostStatus {
	hosts := slices.DeleteFunc(s.leases.staying(s.mesh.Hosts()), func(h mesh.HostStatus) bool { return !h.Self && !h.Reachable })
	if len(hosts) == 0 {
		return mesh.HostStatus{}
	}
	return slices.MinFunc(hosts, func(a, b mesh.HostStatus) int { return slices.Compare(a.ID[:], b.ID[:]) })
}

// having returns the hosts that have each network.
func (s *System) having() map[uint32][]ident.HostID {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uint32][]ident.HostID{}
	for _, d := range s.defs {
		out[d.rec.VNI] = slices.Clone(d.hosts)
	}
	return out
}

// notSeen returns the networks of another host that this host does not have.
func (s *System) notSeen(id ident.HostID) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.defs)) {
		if d := s.defs[name]; s.networks[d.rec.VNI] == nil && slices.Contains(d.hosts, id) {
			out = append(out, name)
		}
	}
	return out
}

func (s *System) networkList() []api.Network {
	counts := map[string]int{}
	for _, a := range s.allAttachments() {
		counts[a.Network]++
	}
	names := s.hostNames()
	mtu := s.clusterMTU()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []api.Network{}
	for _, name := range slices.Sorted(maps.Keys(s.defs)) {
		d := s.defs[name]
		n := api.Network{Name: name, VNI: d.rec.VNI, Engine: api.EngineSealed, MTU: mtu, Attachments: counts[name], Rate: d.rec.Rate, Conflict: d.conflict}
		if d.rec.Plain {
			n.Engine = api.EnginePlain
		}
		for _, sub := range d.subnets {
			n.Subnets = append(n.Subnets, sub.String())
		}
		if d.rec.Subnet6.IsValid() {
			n.Subnets = append(n.Subnets, d.rec.Subnet6.String())
		}
		if have := s.networks[d.rec.VNI]; have != nil {
			n.Bridge, n.Problems = vnet.BridgeName(d.rec.VNI), have.problems()
			if zone := s.names.server.Zone(d.rec.VNI); zone != nil {
				n.DNS, n.Domain = zone.Servers()[0].String(), zone.Apex()
			}
			if have.def.Plain { // what it is here, whatever others say
				n.Engine = api.EnginePlain
			}
		}
		for _, h := range d.hosts {
			n.Hosts = append(n.Hosts, names[h])
		}
		slices.Sort(n.Hosts)
		for _, g := range d.rec.Allow {
			n.AllowGroups = append(n.AllowGroups, g.String())
		}
		for _, g := range d.rec.Deny {
			n.DenyGroups = append(n.DenyGroups, g.String())
		}
		out = append(out, n)
	}
	return out
}

// allAttachments lists attachments of all living hosts, in networks that this host has.
func (s *System) allAttachments() []api.Attachment {
	local := map[string]vnet.Attachment{}
	for _, a := range s.vnet.Attachments() {
		local[a.Network+"/"+a.Name] = a
	}
	names, alive, domain := s.hostNames(), s.aliveHosts(), s.domain()
	nets := s.localNetworks()
	out := []api.Attachment{}
	_ = s.mesh.View(func(t *state.Tables) {
		for _, n := range nets {
			for i := range t.All(state.Scope(n.vni), keyAttach) {
				name, rec, err := decodeAttachment(i.Key, i.Value)
				if err != nil || !alive[i.Writer] {
					continue
				}
				if i.Writer == s.mesh.Self() {
					if a, ok := local[n.name+"/"+name]; ok {
						out = append(out, s.describe(a))
					}
					continue
				}
				a := api.Attachment{Name: name, Network: n.name, Host: names[i.Writer], MAC: macString(rec.MAC), Kind: rec.Kind, FQDN: name + "." + n.name + "." + domain}
				for _, p := range rec.IPs {
					a.IPs = append(a.IPs, p.String())
				}
				out = append(out, a)
			}
		}
	})
	slices.SortFunc(out, func(a, b api.Attachment) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Host, b.Host))
	})
	return out
}

func macString(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// groupList joins who wants what (state) with what was counted here (registry).
func (s *System) groupList() []api.Group {
	type key struct {
		vni           uint32
		group, source netip.Addr
	}
	rows := map[key]*api.Group{}
	names, alive := s.hostNames(), s.aliveHosts()
	nets := s.localNetworks()
	nameOf := map[uint32]string{}
	_ = s.mesh.View(func(t *state.Tables) {
		for _, n := range nets {
			nameOf[n.vni] = n.name
			for i := range t.All(state.Scope(n.vni), keyMember) {
				group, rec, err := decodeMembers(i.Key, i.Value)
				if err != nil || !alive[i.Writer] {
					continue
				}
				// Known is not served: a member is shown once what is sent from here reaches it.
				if served := n.served.Load(); served == nil || !(*served)[membership{i.Writer, group}] {
					continue
				}
				for _, att := range slices.Sorted(maps.Keys(rec)) {
					sources := []netip.Addr{{}}
					if w := rec[att]; !w.Exclude {
						sources = w.Sources
					}
					for _, src := range sources {
						k := key{n.vni, group, src}
						if rows[k] == nil {
							rows[k] = &api.Group{Network: n.name, Group: group.String(), Source: "*", Members: []api.Member{}}
							if src.IsValid() {
								rows[k].Source = src.String()
							}
						}
						rows[k].Members = append(rows[k].Members, api.Member{Attachment: att, Host: names[i.Writer]})
					}
				}
			}
		}
	})
	for _, st := range s.cast.Counters().Groups() {
		k := key{st.VNI, st.Group, st.Source}
		g := rows[k]
		if g == nil {
			if st.PacketsIn+st.PacketsOut == 0 || nameOf[st.VNI] == "" {
				continue
			}
			g = &api.Group{Network: nameOf[st.VNI], Group: st.Group.String(), Source: "*", Members: []api.Member{}}
			if st.Source.IsValid() {
				g.Source = st.Source.String()
			}
			rows[k] = g
		}
		g.PacketsIn, g.PacketsOut, g.BytesIn, g.BytesOut = st.PacketsIn, st.PacketsOut, st.BytesIn, st.BytesOut
		g.CopiesSent, g.CopiesSaved = st.CopiesSent, st.CopiesSaved
		g.ByMulticast, g.ByTree, g.ByCopy = st.Ways.Multicast, st.Ways.Tree, st.Ways.Copies
	}
	keys := slices.SortedFunc(maps.Keys(rows), func(a, b key) int {
		return cmp.Or(cmp.Compare(nameOf[a.vni], nameOf[b.vni]), a.group.Compare(b.group), a.source.Compare(b.source))
	})
	out := []api.Group{}
	plain := map[string]bool{}
	for _, n := range nets {
		plain[n.name] = n.def.Plain
	}
	for _, k := range keys {
		rows[k].Uncounted = plain[rows[k].Network]
		out = append(out, *rows[k])
	}
	return out
}

func (s *System) clusterMTU() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == nil {
		return 0
	}
	return s.cluster.MTU
}

// status is one page that says what is wrong, if anything is.
func (s *System) status(ctx context.Context, b backend) (api.Status, error) {
	st := api.Status{
		Version: s.version, Host: s.cfg.Name, HostID: s.mesh.Self().String(), Cluster: s.id.Cluster.String(),
		UptimeS: time.Since(s.started).Seconds(), PID: os.Getpid(), HandedOver: s.handedOver(), Port: s.cfg.Port,
		Networks: s.networkList(), Paths: map[string]int{}, Detours: []api.Link{}, Drops: []api.Drop{}, Warnings: []api.Warning{}, Limits: []api.Limit{},
	}
	s.mu.Lock()
	if s.cluster != nil {
		st.Range, st.Range6 = s.cluster.Range.String(), s.cluster.ULA.String()
	}
	for _, g := range s.groups(s.cluster) {
		st.UnderlayGroups = append(st.UnderlayGroups, g.String())
	}
	s.mu.Unlock()
	for _, h := range s.mesh.Hosts() {
		st.HostsKnown++
		if h.State == api.HostAlive {
			st.HostsAlive++
		}
		if h.Self {
			for _, ep := range h.Endpoints {
				st.Endpoints = append(st.Endpoints, ep.String())
			}
		}
		if h.Skew != 0 {
			st.Warnings = append(st.Warnings, api.Warning{Code: "clock", Text: fmt.Sprintf("the clock of host %s is %v off this host's", h.Name, h.Skew), Fix: "set the clock there or here; weft itself does not depend on it"})
		}
	}
	links, _ := b.Links(ctx)
	for _, l := range links.Links {
		st.Paths[l.Path]++
		if l.Multicast == api.MulticastBoth || l.Multicast == api.MulticastFrom {
			st.Heard++
		}
		if l.Multicast == api.MulticastBoth || l.Multicast == api.MulticastTo {
			st.HeardBy++
		}
		if l.Reason != "" {
			st.Detours = append(st.Detours, l)
		}
	}
	st.Discovery = s.finder.status()
	st.State, st.Reason = s.condition(st)
	for _, x := range s.mesh.BadSecrets() {
		st.Warnings = append(st.Warnings, api.Warning{Code: "bad_secret", Text: "someone at " + x.From + " tries to join with a wrong token", Fix: "give them the present one (weft token), or close the port to them", Since: x.Last, Count: x.Count})
	}
	for _, w := range s.mesh.Warnings() {
		st.Warnings = append(st.Warnings, api.Warning{Code: "note", Text: w})
	}
	for _, c := range s.ipam.Conflicts() {
		st.Warnings = append(st.Warnings, api.Warning{Code: "address_conflict", Text: c.String()})
	}
	st.Warnings = append(st.Warnings, s.plainWarnings()...)
	st.Warnings = append(st.Warnings, s.bus.warnings()...)
	st.Warnings = append(st.Warnings, s.bares.warnings()...)
	st.Warnings = append(st.Warnings, discoveryWarnings(st.Discovery)...)
	st.Warnings = append(st.Warnings, s.leases.warning()...)
	if on := s.bus.status(); on.Joined || on.NATS != nil {
		st.Bus = &on
	}
	for _, t := range s.troubleTexts() {
		st.Warnings = append(st.Warnings, api.Warning{Code: "trouble", Text: t})
	}
	for _, sd := range s.mesh.Seeds() {
		st.Seeds = append(st.Seeds, api.Seed{Name: sd.Name, Reached: sd.Reached, Error: sd.Error})
	}
	drops := s.drops()
	for _, name := range slices.Sorted(maps.Keys(drops)) {
		if drops[name] > 0 {
			st.Drops = append(st.Drops, api.Drop{Reason: name, Count: drops[name]})
		}
	}
	limits := s.limits()
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		st.Limits = append(st.Limits, api.Limit{Name: name, Used: uint64(limits[name][0]), Max: uint64(limits[name][1])})
	}
	return st, nil
}

func (s *System) removal() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expelled
}

func (s *System) condition(st api.Status) (state, reason string) {
	others := st.HostsKnown - 1
	switch {
	case s.ctx.Err() != nil:
		return api.StateStopping, ""
	case st.LinksUp() > 0:
		return api.StateConnected, ""
	case s.removal() != "":
		return api.StateRemoved, s.removal()
	case others > 0:
		return api.StateAlone, fmt.Sprintf("knows %d other hosts and reaches none of them", others)
	case s.id.Founder:
		return api.StateFounded, ""
	}
	reason = "nobody reached yet"
	if len(st.Discovery) > 0 {
		reason += "; " + nobodyFound(st.Discovery)
	}
	for _, sd := range s.mesh.Seeds() {
		if sd.Error != "" {
			reason = sd.Name + ": " + sd.Error
		}
	}
	return api.StateJoining, reason
}
