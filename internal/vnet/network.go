package vnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/tap"
)

// network is a network on this host. VNet.mu guards it.
type network struct {
	spec   Spec
	dev    tap.Device // nil when plain
	tunnel *tunnel    // nil when sealed
	bridge int        // index
	uplink int

	// What the kernel has; a change that failed is not in them, so the next Set tries again.
	fdb    map[nl.MAC]bool
	neighs map[netip.Addr]nl.MAC
	wanted map[netip.Addr]nl.MDBEntry

	subnets []netip.Prefix // that are on the link, of both families: see SetSubnets

	service *attachment // what this host answers at itself; nil: nothing

	members   []Membership // as published last
	published bool
}

// Ensure makes the network's bridge and uplink, or takes over the bridge that is there with
// its living attachments, and returns the uplink. The daemon reads frames from it for other hosts and
// writes theirs to it; it must not close it. Asked again for the same network it returns the same device. A plain
// network has no such device: nil.
func (v *VNet) Ensure(ctx context.Context, s Spec) (tap.Device, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.usable(ctx); err != nil {
		return nil, err
	}
	if n := v.networks[s.VNI]; n != nil {
		if n.spec != s {
			return nil, fmt.Errorf("network %s: VNI %d is in use by %s with MTU %d", s.Name, s.VNI, n.spec.Name, n.spec.MTU)
		}
		return n.dev, nil
	}
	if n := v.byName(s.Name); n != nil {
		return nil, fmt.Errorf("network %s: it exists with VNI %d", s.Name, n.spec.VNI)
	}
	n, err := v.build(s)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", s.Name, err)
	}
	v.networks[s.VNI] = n
	v.poke()
	return n.dev, nil
}

// build makes all of a network or leaves things as they were. Precondition: v.mu must be locked.
func (v *VNet) build(s Spec) (n *network, err error) {
	n = &network{spec: s, fdb: map[nl.MAC]bool{}, neighs: map[netip.Addr]nl.MAC{}, wanted: map[netip.Addr]nl.MDBEntry{}}
	var adopted []*attachment
	for _, a := range v.attachments {
		if a.VNI == s.VNI {
			adopted = append(adopted, a)
		}
	}
	bridge, uplink, other := BridgeName(s.VNI), UplinkName(s.VNI), VXLANName(s.VNI)
	if s.Local.IsValid() {
		uplink, other = other, uplink
	}
	defer func() {
		if err == nil {
			return
		}
		if n.dev != nil {
			err = errors.Join(err, n.dev.Close())
		}
		if n.tunnel != nil {
			err = errors.Join(err, v.nl.Delete(uplink))
		}
		if len(adopted) == 0 {
			err = errors.Join(err, v.nl.Delete(bridge))
		}
		if v.cfg.Guard != nil {
			err = errors.Join(err, v.cfg.Guard.DelBridge(bridge))
		}
	}()

	l, err := v.nl.EnsureBridge(nl.Bridge{Name: bridge, MTU: s.MTU, MAC: bridgeMAC(s.VNI)})
	if err != nil {
		return n, err
	}
	n.bridge = l.Index
	old, err := v.nl.Neighbours(n.bridge) // of a run before; SetRemotes removes what is stale
	if err != nil {
		return n, err
	}
	for _, o := range old {
		n.neighs[o.IP] = o.MAC
	}
	// One engine: an earlier run may have had this VNI with the other one.
	if err = v.nl.Delete(other); err != nil {
		return n, err
	}
	if s.Local.IsValid() {
		err = v.openTunnel(n)
	} else {
		err = v.openTAP(n, uplink)
	}
	if err != nil {
		return n, err
	}
	if v.cfg.Guard != nil { // first: the port must not carry a frame unguarded
		if err = v.cfg.Guard.SetUplink(bridge, uplink); err != nil {
			return n, err
		}
	}
	if err = v.nl.SetPort(n.bridge, n.uplink, nl.Uplink); err != nil {
		return n, err
	}
	for _, a := range adopted {
		if err = v.plug(n, a); err != nil {
			return n, fmt.Errorf("attachment %s: %w", a.Name, err)
		}
	}
	return n, nil
}

func (v *VNet) openTAP(n *network, name string) error {
	err := v.cfg.Host.Do(func() error {
		var err error
		n.dev, err = v.cfg.OpenTAP(name)
		return err
	})
	if err != nil {
		return err
	}
	if n.uplink, err = v.index(name); err != nil {
		return err
	}
	if slices.Contains(v.cfg.Keep, n.spec.VNI) { // the TAP may be one that was handed over
		if err := v.recallUplink(n); err != nil {
			return err
		}
	}
	return v.nl.SetMTU(n.uplink, n.spec.MTU)
}

func (v *VNet) index(name string) (int, error) {
	links, err := v.nl.Links()
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		if l.Name == name {
			return l.Index, nil
		}
	}
	return 0, fmt.Errorf("interface %s: %w", name, nl.ErrNotFound)
}

// Remove removes a network from this host: ErrInUse while something is attached. One that is not
// here is no error.
func (v *VNet) Remove(vni uint32) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.networks[vni]
	if n == nil {
		return nil
	}
	for _, a := range v.attachments {
		if a.VNI == vni {
			return fmt.Errorf("network %s: %w, %s for one: detach them first", n.spec.Name, ErrInUse, a.Name)
		}
	}
	delete(v.networks, vni)
	errs := []error{v.endService(n)}
	if n.tunnel != nil {
		errs = append(errs, v.nl.Delete(VXLANName(vni)))
	} else {
		errs = append(errs, n.dev.Close())
	}
	errs = append(errs, v.nl.Delete(BridgeName(vni)))
	if v.cfg.Guard != nil {
		errs = append(errs, v.cfg.Guard.DelBridge(BridgeName(vni)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove network %s: %w", n.spec.Name, err)
	}
	return nil
}

// SetRemotes says which attachments other hosts have in a network: where frames for their
// MACs go, and what the bridge answers to ARP and ND. Only differences are written. Of two
// remotes with one address the last stays. fresh are the addresses that are with another MAC than
// before, or with the first: programs here may have asked for them in vain.
func (v *VNet) SetRemotes(vni uint32, remotes []Remote) (fresh []nl.Neighbour, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.networks[vni]
	if n == nil || v.closed {
		return nil, fmt.Errorf("VNI %d: %w", vni, ErrNoNetwork)
	}
	if len(remotes) > MaxRemotes {
		v.counts.remotes.Add(uint64(len(remotes) - MaxRemotes))
		v.log.Warn("too many remote attachments", "network", n.spec.Name, "given", len(remotes), "most", MaxRemotes)
		remotes = remotes[:MaxRemotes]
	}
	macs := make(map[nl.MAC]bool, len(remotes))
	addrs := make(map[netip.Addr]nl.MAC, 3*len(remotes))
	for _, r := range remotes {
		macs[r.MAC] = true
		addrs[r.MAC.LinkLocal()] = r.MAC
		for _, ip := range r.IPs[:min(len(r.IPs), MaxAddrs)] {
			addrs[ip.Unmap()] = r.MAC
		}
	}
	// A frame for a local MAC or address must not be sent to the uplink, whatever others publish.
	for _, a := range v.attachments {
		if a.VNI == vni {
			a.keep(macs, addrs)
		}
	}
	if n.service != nil {
		n.service.keep(macs, addrs)
	}
	var errs errorList
	if n.tunnel != nil { // first: a frame that the bridge sends to the device must find its entry
		v.setEntries(n, remotes, macs, &errs)
	}
	for mac := range n.fdb {
		if !macs[mac] && errs.add(v.nl.DeleteFDB(nl.FDBEntry{Port: n.uplink, MAC: mac})) {
			delete(n.fdb, mac)
		}
	}
	for mac := range macs {
		if !n.fdb[mac] && errs.add(v.nl.SetFDB(nl.FDBEntry{Port: n.uplink, MAC: mac})) {
			n.fdb[mac] = true
		}
	}
	for ip, mac := range n.neighs {
		if _, ok := addrs[ip]; !ok && errs.add(v.nl.DeleteNeighbour(n.bridge, nl.Neighbour{IP: ip, MAC: mac})) {
			delete(n.neighs, ip)
		}
	}
	for ip, mac := range addrs {
		if now := (nl.Neighbour{IP: ip, MAC: mac}); n.neighs[ip] != mac && errs.add(v.nl.SetNeighbour(n.bridge, now)) {
			n.neighs[ip] = mac
			if macs[mac] {
				fresh = append(fresh, now)
			}
		}
	}
	v.counts.remotes.Add(uint64(errs.n))
	return fresh, errs.err(n.spec.Name)
}

// keep has an attachment of this host stay where it is.
func (a *attachment) keep(macs map[nl.MAC]bool, addrs map[netip.Addr]nl.MAC) {
	delete(macs, a.MAC)
	for _, ip := range a.addrs() {
		addrs[ip] = a.MAC
	}
}

// SetWanted says which groups members on other hosts want: only they, and what goes to
// all hosts, come out of the uplink. Only differences are written. More sources than the
// kernel takes for one group count as any; who reads the uplink filters by source anyway.
func (v *VNet) SetWanted(vni uint32, groups []Group) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.networks[vni]
	if n == nil || v.closed {
		return fmt.Errorf("VNI %d: %w", vni, ErrNoNetwork)
	}
	if n.tunnel != nil {
		groups = reached(groups)
	}
	want := make(map[netip.Addr]nl.MDBEntry, len(groups))
	copies := map[nl.TunnelGroup]bool{}
	for _, g := range groups {
		addr := g.Addr.Unmap().WithZone("")
		if !addr.IsMulticast() || forAllHosts(addr) {
			continue
		}
		if _, known := want[addr]; !known && len(want) == MaxWanted {
			v.counts.wanted.Add(1)
			continue
		}
		want[addr] = merge(want[addr], n.entry(addr, g.Sources))
		if n.tunnel != nil {
			maps.Copy(copies, n.copies(want[addr], g.At))
		}
	}
	var errs errorList
	if n.tunnel != nil {
		v.addCopies(n, copies, &errs)
	}
	for addr, e := range n.wanted {
		if _, ok := want[addr]; !ok && errs.add(v.nl.DeleteGroup(e)) {
			delete(n.wanted, addr)
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(want), netip.Addr.Compare) {
		e := want[addr]
		if have, ok := n.wanted[addr]; ok && have.Equal(e) {
			continue
		}
		if errs.add(v.nl.SetGroup(e)) {
			n.wanted[addr] = e
		}
	}
	if n.tunnel != nil {
		v.dropCopies(n, copies, &errs)
	}
	v.counts.wanted.Add(uint64(errs.n))
	return errs.err(n.spec.Name)
}

func (n *network) entry(addr netip.Addr, sources []netip.Addr) nl.MDBEntry {
	e := nl.MDBEntry{Bridge: n.bridge, Port: n.uplink, Group: addr, Exclude: true, Permanent: true}
	var list []netip.Addr
	for _, s := range sources {
		if s = s.Unmap(); s.Is4() == addr.Is4() {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	list = slices.Compact(list)
	if sources != nil && len(list) <= nl.MaxSources {
		e.Exclude, e.Sources = false, list
	}
	return e
}

// merge joins what two hosts want of one group. A zero MDBEntry wants nothing.
func merge(a, b nl.MDBEntry) nl.MDBEntry {
	if !a.Group.IsValid() || b.Exclude {
		return b
	}
	if a.Exclude {
		return a
	}
	b.Sources = append(slices.Clone(a.Sources), b.Sources...)
	slices.SortFunc(b.Sources, netip.Addr.Compare)
	b.Sources = slices.Compact(b.Sources)
	if len(b.Sources) > nl.MaxSources {
		b.Exclude, b.Sources = true, nil
	}
	return b
}

var (
	localNetwork = netip.MustParsePrefix("224.0.0.0/24") // RFC 5771 section 4
	allNodes     = netip.MustParseAddr("ff02::1")        // RFC 4291 section 2.7.1
)

// forAllHosts reports whether the bridge floods a group, joined or not; it refuses MDB
// entries for them.
func forAllHosts(g netip.Addr) bool { return g == allNodes || localNetwork.Contains(g) }

// errorList counts failures and keeps the first: 2,000 entries may fail for one reason.
type errorList struct {
	n     int
	first error
}

// add reports whether there was no error.
func (l *errorList) add(err error) bool {
	if err == nil {
		return true
	}
	l.n++
	if l.first == nil {
		l.first = err
	}
	return false
}

func (l *errorList) err(network string) error {
	if l.n == 0 {
		return nil
	}
	return fmt.Errorf("network %s: %d changes failed, the first: %w", network, l.n, l.first)
}
