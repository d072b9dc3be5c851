package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/hearing"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/vnet"
)

// Plain networks: the kernel's VXLAN carries the frames, unencrypted, straight from host to host. Whatever that
// cannot do (relays, NAT, addresses of the other family) is told with its reason, never made up for in another way: a
// network's engine is part of its definition.

// reach is what a plain network's hosts are to this one.
type reach struct {
	vteps    map[ident.HostID]netip.Addr // of hosts that frames are sent to
	known    []netip.Addr                // of all hosts: packets are taken from them
	problems []api.HostProblem
}

const behindNAT = "this host is behind a NAT, which VXLAN does not cross"

// preparePlain checks that this host can take part in a plain network, guards its number, and returns the address to
// send from.
func (s *System) preparePlain(n *network) (netip.Addr, error) {
	refuse := func(format string, args ...any) (netip.Addr, error) {
		return netip.Addr{}, api.Errorf(api.CodeRefused, "network %s is plain: "+format, append([]any{n.name}, args...)...)
	}
	if err := s.probePlain(); err != nil {
		return refuse("%w", err)
	}
	for _, h := range s.mesh.Hosts() {
		if h.Self && h.NATed {
			return refuse(behindNAT)
		}
	}
	local, ok := s.sendFrom(n)
	if !ok {
		return refuse("its hosts send from %s addresses, and this host has none on the underlay", familyName(n.def.Underlay6))
	}
	// The kernel would say nothing about groups' frames that are too long. What an earlier run left goes on, as it is: told by reach.
	_, err := net.InterfaceByName(vnet.VXLANName(n.vni))
	if need, have := packetNeed(s.clusterMTU(), local), s.underlay.InterfaceMTU(local); err != nil && have > 0 && have < need {
		return refuse("its frames of MTU %d need packets of %d bytes, and the interface of %s carries %d. Raise that, found the cluster with a smaller --mtu, or leave --plain away: a sealed network sends long frames in fragments",
			s.clusterMTU(), need, local, have)
	}
	return local, s.guard.plain(vnet.BridgeName(n.vni), n.vni, s.reach(n, s.look(n)).known)
}

// packetNeed is the length of the IP packet that carries a frame of MTU mtu from an address, in bytes.
func packetNeed(mtu int, from netip.Addr) int {
	if from.Is6() {
		return mtu + vnet.VXLANOverhead + 8 + 40
	}
	return mtu + vnet.VXLANOverhead + 8 + 20
}

func familyName(six bool) string {
	if six {
		return "IPv6"
	}
	return "IPv4"
}

// reach looks which hosts of a plain network frames can be sent to. A host without any path stays as it is: its
// daemon may be down, which its kernel does not mind.
func (s *System) reach(n *network, v view) reach {
	r := reach{vteps: map[ident.HostID]netip.Addr{}}
	clusterMTU, natted := s.clusterMTU(), false
	for _, h := range s.mesh.Hosts() {
		if h.Self && h.NATed { // not known yet when the network was taken up
			natted = true
			r.problems = append(r.problems, api.HostProblem{Host: h.Name, Reason: behindNAT})
		}
		if h.Self || h.State == api.HostLeft || !slices.Contains(v.having, h.ID) {
			continue
		}
		vtep, ok := v.vteps[h.ID]
		if ok {
			r.known = append(r.known, vtep)
		}
		problem := func(format string, args ...any) {
			r.problems = append(r.problems, api.HostProblem{Host: h.Name, Reason: fmt.Sprintf(format, args...)})
		}
		if !ok {
			problem("it has not taken the network up; weft status there says why")
			continue
		}
		if vtep.Is6() != n.def.Underlay6 {
			problem("it sends from %s, the network's hosts send from %s addresses", vtep, familyName(n.def.Underlay6))
			continue
		}
		if p := s.mesh.Peer(h.ID); p != nil && p.Path() != nil {
			path := p.Path()
			at := path.Endpoint.Addr().Unmap()
			switch {
			case path.Relay != nil:
				problem("there is no direct path to it, and plain networks have no relays; weft links says why")
				continue
			case at != vtep && (h.NATed || !hasAddress(h.Endpoints, vtep)):
				problem("it is reached at %s but sends from %s: VXLAN does not cross a NAT", at, vtep)
				continue
			case at != vtep:
				problem("it sends from %s, and weft reaches it at %s: whether VXLAN gets through is not known", vtep, at)
			case path.Payload < clusterMTU+vnet.VXLANOverhead:
				problem("only %d bytes per packet are known to reach it, frames of MTU %d need %d: long ones may be lost; weft up --mtu sets less, when a cluster is founded",
					path.Payload, clusterMTU, clusterMTU+vnet.VXLANOverhead)
			}
			// These go on being sent: it may be the question that is lost.
			switch n.ears.verdict(h.ID) {
			case hearing.Deaf:
				problem("it does not get VXLAN packets from here, while weft's own arrive: open UDP port %d from this host to it", vnet.VXLANPort)
			case hearing.ShortOnly:
				problem("it gets short VXLAN packets from here and no long ones: the way there carries no packets of %d bytes; weft up --mtu sets less, when a cluster is founded",
					packetNeed(clusterMTU, vtep))
			case hearing.Unknown, hearing.Hears:
			}
		}
		r.vteps[h.ID] = vtep
	}
	if natted {
		clear(r.vteps)
	}
	return r
}

func hasAddress(eps []netip.AddrPort, a netip.Addr) bool {
	return slices.ContainsFunc(eps, func(ep netip.AddrPort) bool { return ep.Addr().Unmap() == a })
}

// rebuildPlain tells the kernel who is in a plain network, who gets copies, and from whom packets are taken.
func (s *System) rebuildPlain(n *network, v view) {
	r := s.reach(n, v)
	n.reached.Store(&r)
	if err := s.guard.plain(vnet.BridgeName(n.vni), n.vni, r.known); err != nil {
		s.trouble("guard "+n.name, fmt.Sprintf("network %s: %v", n.name, err))
	} else {
		s.trouble("guard "+n.name, "")
	}
	self := s.mesh.Self()
	var remotes []vnet.Remote
	for _, a := range v.remotes {
		if a.Host != self {
			remotes = append(remotes, vnet.Remote{MAC: nl.MAC(a.MAC), IPs: a.IPs, VTEP: r.vteps[a.Host]})
		}
	}
	fresh, err := s.vnet.SetRemotes(n.vni, remotes)
	if err != nil {
		s.log.Error("remote attachments not all set", "network", n.name, "err", err)
	}
	s.announce(n, fresh)
	if err := s.vnet.SetWanted(n.vni, wantedAt(v.members, self, r.vteps)); err != nil {
		s.log.Error("wanted groups not all set", "network", n.name, "err", err)
	}
}

// wantedAt is wanted with who wants it, for a kernel that makes the copies itself.
func wantedAt(members []fdb.Member, self ident.HostID, vteps map[ident.HostID]netip.Addr) []vnet.Group {
	groups := wanted(members, self)
	index := map[netip.Addr]int{}
	for i, g := range groups {
		index[g.Addr] = i
	}
	type key struct {
		group netip.Addr
		host  ident.HostID
	}
	byHost := map[key][]fdb.Member{}
	for _, m := range members {
		if m.Host != self {
			k := key{m.Group, m.Host}
			byHost[k] = append(byHost[k], m)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(byHost), func(a, b key) int { return slices.Compare(a.host[:], b.host[:]) }) {
		g := &groups[index[k.group]]
		g.At = append(g.At, vnet.At{VTEP: vteps[k.host], Sources: wanted(byHost[k], self)[0].Sources})
	}
	return groups
}

// homeEvery is how often the choice of the address to send from is looked at again, while the address is there.
const homeEvery = 10 * time.Second

// watchPlain follows what changes without a word in the tables: a path that became relayed, an address of this host
// that went, a route that leads elsewhere. Called by spread.
func (s *System) watchPlain(now time.Time) {
	for _, n := range s.localNetworks() {
		if !n.def.Plain {
			continue
		}
		if !slices.Contains(s.underlay.Endpoints(), n.local) || now.Sub(n.homed) >= homeEvery {
			n.homed = now
			s.rehome(n)
		}
		v := s.look(n)
		was, is := n.reached.Load(), s.reach(n, v)
		s.listen(n, v, is, now)
		if was != nil && maps.Equal(was.vteps, is.vteps) && slices.Equal(was.known, is.known) && slices.Equal(was.problems, is.problems) {
			continue
		}
		s.rebuild(n)
	}
}

// leavePlain withdraws all this host has in plain networks: other hosts' kernels keep sending to a daemon that is only
// down, and must not to one whose devices are gone.
func (s *System) leavePlain() {
	for _, n := range s.localNetworks() {
		if !n.def.Plain {
			continue
		}
		var dels []string
		_ = s.mesh.View(func(t *state.Tables) {
			for _, prefix := range []string{keyVTEP, keyAttach, keyMember} {
				for i := range t.All(state.Scope(n.vni), prefix) {
					if i.Writer == s.mesh.Self() {
						dels = append(dels, i.Key)
					}
				}
			}
		})
		if len(dels) == 0 {
			continue
		}
		if err := s.mesh.Publish(n.vni, nil, dels); err != nil {
			s.log.Error("plain network not left", "network", n.name, "err", err)
		}
	}
}

// presentHosts are the hosts whose attachments count in a plain network: all that have not left, dead or alive.
func (s *System) presentHosts() map[ident.HostID]bool {
	present := map[ident.HostID]bool{}
	for _, h := range s.mesh.Hosts() {
		present[h.ID] = h.State != api.HostLeft
	}
	return present
}

// plainWarnings says loudly what a plain network is, and whom it does not reach.
func (s *System) plainWarnings() []api.Warning {
	var out []api.Warning
	for _, n := range s.localNetworks() {
		if !n.def.Plain {
			continue
		}
		out = append(out, api.Warning{Code: "plain", Text: "network " + n.name + " is PLAIN: its frames cross the underlay unencrypted"})
		for _, p := range n.problems() {
			out = append(out, api.Warning{Code: "plain_path", Text: fmt.Sprintf("network %s, host %s: %s", n.name, p.Host, p.Reason)})
		}
	}
	return out
}

func (n *network) problems() []api.HostProblem {
	r := n.reached.Load()
	if r == nil {
		return nil
	}
	return slices.SortedFunc(slices.Values(r.problems), func(a, b api.HostProblem) int { return cmp.Compare(a.Host, b.Host) })
}

// foresee tells the guard, before its first rules of this run replace those of the run before, what is still there:
// programs that talk meanwhile are cut off from nothing and reached by nobody new.
func (s *System) foresee(missing []*definition) {
	if s.foreseen {
		return
	}
	s.foreseen = true
	for _, d := range missing {
		bridge := vnet.BridgeName(d.rec.VNI)
		n := &network{name: d.name, vni: d.rec.VNI, def: d.rec}
		var known []netip.Addr
		if d.rec.Plain {
			known = s.reach(n, s.look(n)).known
		}
		s.guard.foresee(d, bridge, known)
		for _, a := range s.vnet.Attachments() {
			if a.VNI == d.rec.VNI {
				s.guard.foreseePort(bridge, a)
			}
		}
	}
}
