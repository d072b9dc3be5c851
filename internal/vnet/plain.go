package vnet

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/nl"
)

// A plain network's uplink is a VXLAN device instead of the TAP: the kernel sends and receives its frames,
// unencrypted, with or without the daemon.
//
//	attachment   weft0 --- wv...  \
//	                               > bridge wbVNI --- VXLAN wxVNI --- UDP port 4789
//	attachment   weft0 --- wv...  /
//
// The bridge is the same as with a TAP, its MDB included. The device's own tables add who gets a copy: one entry for
// each remote MAC, one for each host with attachments (for what all get), and its MDB for each group and host with members.

// VXLANPort is the UDP port of plain networks on all hosts (RFC 7348 section 5).
const VXLANPort = 4789

// VXLANOverhead is what a frame's IP packet grows by up to the payload of the UDP packet around it: Ethernet and
// VXLAN headers.
const VXLANOverhead = 14 + 8

// At is what one host wants of a group, in a plain network.
type At struct {
	VTEP    netip.Addr
	Sources []netip.Addr // nil: any source
}

// tunnel is a plain network's device and what the kernel was told for it. VNet.mu guards it.
type tunnel struct {
	link    int
	entries map[nl.TunnelEntry]bool
	groups  map[nl.TunnelGroup]bool
}

// openTunnel makes or takes over the VXLAN device. What an earlier run has told the kernel stays in force until
// SetRemotes and SetWanted say otherwise, so traffic goes on.
func (v *VNet) openTunnel(n *network) error {
	l, err := v.nl.EnsureVXLAN(nl.VXLAN{Name: VXLANName(n.spec.VNI), VNI: n.spec.VNI, Port: VXLANPort, Local: n.spec.Local, MTU: n.spec.MTU})
	if err != nil {
		return err
	}
	n.uplink = l.Index
	n.tunnel = &tunnel{link: l.Index, entries: map[nl.TunnelEntry]bool{}, groups: map[nl.TunnelGroup]bool{}}
	entries, err := v.nl.TunnelEntries(l.Index)
	if err != nil {
		return err
	}
	for _, e := range entries {
		n.tunnel.entries[e] = true
	}
	groups, err := v.nl.TunnelGroups(l.Index)
	if err != nil {
		return err
	}
	for _, g := range groups {
		n.tunnel.groups[g] = true
	}
	return v.recallUplink(n)
}

// recallUplink reads what an earlier run has told the bridge for the uplink.
func (v *VNet) recallUplink(n *network) error {
	macs, err := v.nl.FDB(n.bridge)
	if err != nil {
		return err
	}
	for _, e := range macs {
		if e.Port == n.uplink {
			n.fdb[e.MAC] = true
		}
	}
	mdb, err := v.nl.MDB()
	if err != nil {
		return err
	}
	for _, e := range mdb {
		if e.Bridge == n.bridge && e.Port == n.uplink && e.Permanent {
			n.wanted[e.Group] = e
		}
	}
	return nil
}

// SetLocal makes a plain network's frames leave from another address of this host: with a new device, which knows
// nobody until the next SetRemotes and SetWanted. Called again after an error it goes on where it failed.
func (v *VNet) SetLocal(vni uint32, local netip.Addr) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.networks[vni]
	if n == nil || v.closed {
		return fmt.Errorf("VNI %d: %w", vni, ErrNoNetwork)
	}
	s := n.spec
	s.Local = local
	if err := s.check(); err != nil {
		return err
	}
	if n.tunnel == nil || !local.IsValid() {
		return fmt.Errorf("network %s: not a plain one", s.Name)
	}
	n.spec = s
	clear(n.fdb)
	clear(n.wanted)
	if err := v.openTunnel(n); err != nil {
		return fmt.Errorf("network %s: %w", s.Name, err)
	}
	if err := v.nl.SetPort(n.bridge, n.uplink, nl.Uplink); err != nil {
		return fmt.Errorf("network %s: %w", s.Name, err)
	}
	return nil
}

// setEntries sends each remote's frames to its host, and what all get to all hosts with attachments.
func (v *VNet) setEntries(n *network, remotes []Remote, macs map[nl.MAC]bool, errs *errorList) {
	want := map[nl.TunnelEntry]bool{}
	for _, r := range remotes {
		if r.VTEP.IsValid() && macs[r.MAC] {
			want[nl.TunnelEntry{Link: n.tunnel.link, MAC: r.MAC, VTEP: r.VTEP}] = true
			want[nl.TunnelEntry{Link: n.tunnel.link, VTEP: r.VTEP}] = true
		}
	}
	for e := range n.tunnel.entries {
		if !want[e] && errs.add(v.nl.DeleteTunnelEntry(e)) {
			delete(n.tunnel.entries, e)
		}
	}
	for e := range want {
		if !n.tunnel.entries[e] && errs.add(v.nl.SetTunnelEntry(e)) {
			n.tunnel.entries[e] = true
		}
	}
}

// copies says for one group, as the bridge lets it out, which hosts get which sources. On the device an entry
// for (S,G) hides the one for (*,G): whoever wants all sources is in the entries of each source, too.
func (n *network) copies(e nl.MDBEntry, at []At) map[nl.TunnelGroup]bool {
	want := map[nl.TunnelGroup]bool{}
	entry := func(source, vtep netip.Addr) {
		want[nl.TunnelGroup{Link: n.tunnel.link, Group: e.Group, Source: source, VTEP: vtep}] = true
	}
	var sources []netip.Addr
	all := slices.ContainsFunc(at, func(a At) bool { return a.Sources == nil })
	for _, a := range at {
		sources = append(sources, a.Sources...)
	}
	slices.SortFunc(sources, netip.Addr.Compare)
	sources = slices.Compact(sources)
	// The bridge lets all sources out and nobody wants all of them, or there are too many: then a source without an entry
	// would go to all hosts with attachments. Receivers' bridges select by source anyway.
	coarse := e.Exclude && !all || len(sources) > nl.MaxSources
	for _, a := range at {
		switch {
		case !a.VTEP.IsValid():
		case coarse || a.Sources == nil:
			entry(netip.Addr{}, a.VTEP)
			if !coarse {
				for _, s := range sources {
					entry(s, a.VTEP)
				}
			}
		default:
			for _, s := range a.Sources {
				entry(s, a.VTEP)
			}
		}
	}
	return want
}

// reached keeps of each group the hosts that have a VTEP, and what these want; a group without any is left out:
// the device sends what it has no entry for to all hosts with attachments.
func reached(groups []Group) []Group {
	var out []Group
	for _, g := range groups {
		r := Group{Addr: g.Addr, Sources: []netip.Addr{}}
		for _, a := range g.At {
			switch {
			case !a.VTEP.IsValid():
				continue
			case a.Sources == nil:
				r.Sources = nil
			case r.Sources != nil:
				r.Sources = append(r.Sources, a.Sources...)
			}
			r.At = append(r.At, a)
		}
		if len(r.At) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// addCopies tells the device of new copies. It comes before the bridge lets a group out, dropCopies after it has
// stopped: a group without an entry goes to all hosts with attachments.
func (v *VNet) addCopies(n *network, want map[nl.TunnelGroup]bool, errs *errorList) {
	for g := range want {
		if !n.tunnel.groups[g] && errs.add(v.nl.SetTunnelGroup(g)) {
			n.tunnel.groups[g] = true
		}
	}
}

func (v *VNet) dropCopies(n *network, want map[nl.TunnelGroup]bool, errs *errorList) {
	for g := range n.tunnel.groups {
		if !want[g] && errs.add(v.nl.DeleteTunnelGroup(g)) {
			delete(n.tunnel.groups, g)
		}
	}
}

// ProbePlain reports why this kernel cannot have plain networks: it makes one VXLAN device with one group entry
// in a network namespace that ends with the call.
func (v *VNet) ProbePlain() error {
	ns, err := v.cfg.Netns.New()
	if err != nil {
		return fmt.Errorf("kernel VXLAN not tried: %w", err)
	}
	defer ns.Close()
	h, err := v.cfg.NL.Open(ns)
	if err != nil {
		return fmt.Errorf("kernel VXLAN not tried: %w", err)
	}
	defer h.Close()
	local, other := netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{192, 0, 2, 2}) // RFC 5737
	l, err := h.EnsureVXLAN(nl.VXLAN{Name: VXLANName(1), VNI: 1, Port: VXLANPort, Local: local, MTU: MinMTU})
	if err != nil {
		return err
	}
	return h.SetTunnelGroup(nl.TunnelGroup{Link: l.Index, Group: netip.AddrFrom4([4]byte{239, 0, 0, 1}), VTEP: other})
}
