// Package fdb decides who gets a frame: one immutable table per network, built from shared state and asked for every frame.
//
// Known unicast goes to the one host that has the MAC; broadcast, 224.0.0.0/24 and ff02::1 to the hosts with
// attachments in the network; any other group only to hosts with members that want the packet's source.
// ARP requests and neighbour solicitations go to the host that has the address. Nothing else leaves.
//
// A Table never changes: whoever learns something builds another and swaps it in, so that a lookup
// takes no lock and allocates nothing. Counters live in a Registry and survive the swap.
package fdb

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/tree"
)

// Bounds of one table. What exceeds them is left out and counted in Table.Omitted.
const (
	MaxRemotes = 65536 // attachments of a network
	MaxHosts   = 4096  // hosts of a network
	MaxGroups  = 8192  // groups with members
	// MaxSources bounds the sources named for one group by all members together. Beyond it the group
	// goes to all its members' hosts whatever the source, and their bridges filter.
	MaxSources = 256
	MaxPolicy  = 64 // prefixes in each of Policy's lists
)

// MAC is an Ethernet address.
type MAC [6]byte

// Remote is an attachment: its MAC, the host that has it, its addresses.
type Remote struct {
	MAC  MAC
	Host ident.HostID
	IPs  []netip.Addr // link-local ones included
}

// Mode tells how a member's source list is meant (RFC 3376 section 3). The values are the kernel's.
type Mode uint8

// The modes. A plain join, (*,G), is Exclude without sources: the zero value.
const (
	Exclude Mode = 0
	Include Mode = 1
)

// Member is an attachment's, or a whole host's, wish to hear a group. Several of one host and group add
// up as RFC 3376 section 3.2 says.
type Member struct {
	Host    ident.HostID
	Group   netip.Addr
	Mode    Mode
	Sources []netip.Addr
}

// Policy says which groups a network carries. Broadcast, ff02::1 and neighbour discovery are outside it.
type Policy struct {
	Allow []netip.Prefix // empty: all
	Deny  []netip.Prefix // wins over Allow
}

func (p *Policy) allows(a netip.Addr) bool {
	in := func(list []netip.Prefix) bool {
		for i := range list {
			if list[i].Contains(a) {
				return true
			}
		}
		return false
	}
	return !in(p.Deny) && (len(p.Allow) == 0 || in(p.Allow))
}

// Input is all that a table is built from. Nothing of it is kept but the counters and peers.
type Input struct {
	VNI  uint32
	Self ident.HostID
	// Remotes are the attachments of the network. This host's own may be among them: frames to them
	// are then dropped by name instead of as unknown, and none may pretend to come from them.
	Remotes []Remote
	// Hosts are the hosts with attachments in the network; Self is ignored.
	Hosts []ident.HostID
	// Members are the wishes for groups; Self's own give the group its counters.
	Members []Member
	Policy  Policy
	// Peer names the host's link. A host for which it returns nil gets nothing.
	Peer func(ident.HostID) *link.Peer
	// Counters keeps what is counted across tables; nil: counted for this table alone.
	Counters *Registry
}

// Table answers for one network. It is immutable and may be used by any number of goroutines.
type Table struct {
	vni      uint32
	macs     map[MAC]*station
	ips      map[[16]byte]*station
	groups   map[[16]byte]*group
	flood    *tree.Audience // nil: nobody
	policy   Policy
	denied   [4]uint64 // 224.0.0.0/24 by last byte
	counters *NetworkCounters
	omitted  int
}

// station is where a MAC or an address is; all of one host share it.
type station struct {
	host  ident.HostID
	to    []*link.Peer // one, or none when the host has no link
	local bool
}

// group is who hears a group.
type group struct {
	denied   bool
	others   receivers // sources that nobody named
	bySource map[[16]byte]receivers
}

type receivers struct {
	to       *tree.Audience // nil: nobody
	counters *GroupCounters
}

// Build makes a table. Two hosts that claim one MAC or address: the lower HostID has it, on every host alike.
func Build(in Input) *Table {
	reg := in.Counters
	if reg == nil {
		reg = NewRegistry()
	}
	reg.mu.Lock()
	defer reg.mu.Unlock()
	rows := reg.begin(in.VNI)
	t := &Table{
		vni:      in.VNI,
		macs:     make(map[MAC]*station, len(in.Remotes)),
		ips:      make(map[[16]byte]*station, len(in.Remotes)),
		groups:   map[[16]byte]*group{},
		counters: &rows.counters,
		policy: Policy{
			Allow: slices.Clone(in.Policy.Allow[:min(len(in.Policy.Allow), MaxPolicy)]),
			Deny:  slices.Clone(in.Policy.Deny[:min(len(in.Policy.Deny), MaxPolicy)]),
		},
	}
	t.omitted += max(0, len(in.Policy.Allow)-MaxPolicy) + max(0, len(in.Policy.Deny)-MaxPolicy)
	for i := range 256 {
		if !t.policy.allows(netip.AddrFrom4([4]byte{224, 0, 0, byte(i)})) {
			t.denied[i/64] |= 1 << (i % 64)
		}
	}
	peers := peerCache{in: &in, known: map[ident.HostID]*link.Peer{}}
	t.buildStations(&in, &peers)
	t.buildFlood(&in, &peers, rows)
	t.buildGroups(&in, &peers, rows)
	rows.trim()
	return t
}

// peerCache asks Input.Peer once per host.
type peerCache struct {
	in    *Input
	known map[ident.HostID]*link.Peer
}

func (c *peerCache) peer(id ident.HostID) *link.Peer {
	if id == c.in.Self || c.in.Peer == nil {
		return nil
	}
	p, ok := c.known[id]
	if !ok {
		p = c.in.Peer(id)
		c.known[id] = p
	}
	return p
}

func (t *Table) buildStations(in *Input, peers *peerCache) {
	remotes := in.Remotes
	if len(remotes) > MaxRemotes {
		t.omitted += len(remotes) - MaxRemotes
		remotes = remotes[:MaxRemotes]
	}
	stations := map[ident.HostID]*station{}
	for i := range remotes {
		r := &remotes[i]
		s := stations[r.Host]
		if s == nil {
			s = &station{host: r.Host, local: r.Host == in.Self}
			if p := peers.peer(r.Host); p != nil {
				s.to = []*link.Peer{p}
			}
			stations[r.Host] = s
		}
		if old := t.macs[r.MAC]; old == nil || s.host.Less(old.host) {
			t.macs[r.MAC] = s
		}
		for _, ip := range r.IPs {
			k := ip.WithZone("").As16()
			if old := t.ips[k]; old == nil || s.host.Less(old.host) {
				t.ips[k] = s
			}
		}
	}
}

func (t *Table) buildFlood(in *Input, peers *peerCache, rows *networkRows) {
	var flood []*link.Peer
	seen := make(map[ident.HostID]bool, len(in.Hosts))
	for _, id := range in.Hosts {
		p := peers.peer(id)
		if p == nil || seen[id] {
			continue
		}
		if len(flood) == MaxHosts {
			t.omitted++
			continue
		}
		seen[id] = true
		flood = append(flood, p)
	}
	sortPeers(flood)
	t.flood = rows.audienceOf(&rows.flood, flood)
}

// wish is what one host wants of one group, all its members together.
type wish struct {
	star    bool // someone is in EXCLUDE mode
	include map[netip.Addr]bool
	exclude map[netip.Addr]bool // named by every member in EXCLUDE mode
}

func (w *wish) add(m *Member) {
	if m.Mode == Include {
		for _, s := range m.Sources {
			w.include[s.Unmap()] = true
		}
		return
	}
	named := make(map[netip.Addr]bool, len(m.Sources))
	for _, s := range m.Sources {
		if s = s.Unmap(); !w.star || w.exclude[s] {
			named[s] = true
		}
	}
	w.star, w.exclude = true, named
}

// wants applies RFC 3376 section 3.2: EXCLUDE wins as the mode, and a source that anybody includes is in.
func (w *wish) wants(s netip.Addr) bool {
	return w.include[s] || w.star && !w.exclude[s]
}

func (t *Table) buildGroups(in *Input, peers *peerCache, rows *networkRows) {
	wishes := map[netip.Addr]map[ident.HostID]*wish{}
	for i := range in.Members {
		m := &in.Members[i]
		g := m.Group.Unmap().WithZone("")
		if !g.IsMulticast() || m.Mode == Include && len(m.Sources) == 0 {
			continue
		}
		hosts := wishes[g]
		if hosts == nil {
			if len(wishes) == MaxGroups {
				t.omitted++
				continue
			}
			hosts = map[ident.HostID]*wish{}
			wishes[g] = hosts
		}
		w := hosts[m.Host]
		if w == nil {
			if len(hosts) == MaxHosts {
				t.omitted++
				continue
			}
			w = &wish{include: map[netip.Addr]bool{}}
			hosts[m.Host] = w
		}
		w.add(m)
	}
	for g, hosts := range wishes {
		t.groups[g.As16()] = t.buildGroup(g, hosts, peers, rows)
	}
}

func (t *Table) buildGroup(addr netip.Addr, hosts map[ident.HostID]*wish, peers *peerCache, rows *networkRows) *group {
	g := &group{denied: !t.allows(addr)}
	star := rows.row(addr, netip.Addr{})
	g.others = receivers{rows.audience(addr, netip.Addr{}, pick(hosts, peers, func(w *wish) bool { return w.star })), star}

	included, named := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, w := range hosts {
		for s := range w.include {
			included[s], named[s] = true, true
		}
		for s := range w.exclude {
			named[s] = true
		}
	}
	if len(named) > MaxSources {
		t.omitted += len(named)
		g.others.to = rows.audience(addr, netip.Addr{}, pick(hosts, peers, func(*wish) bool { return true }))
		return g
	}
	if len(named) > 0 {
		g.bySource = make(map[[16]byte]receivers, len(named))
	}
	for s := range named {
		c := star
		if included[s] {
			c = rows.row(addr, s)
		}
		g.bySource[s.As16()] = receivers{rows.audience(addr, s, pick(hosts, peers, func(w *wish) bool { return w.wants(s) })), c}
	}
	return g
}

func pick(hosts map[ident.HostID]*wish, peers *peerCache, want func(*wish) bool) []*link.Peer {
	var to []*link.Peer
	for id, w := range hosts {
		if p := peers.peer(id); p != nil && want(w) {
			to = append(to, p)
		}
	}
	sortPeers(to)
	return to
}

// sortPeers makes the order, and with it the order of copies, the same for every build.
func sortPeers(to []*link.Peer) {
	slices.SortFunc(to, func(a, b *link.Peer) int { return bytes.Compare(a.ID[:], b.ID[:]) })
}

// allows applies the policy; a solicited-node group (RFC 4291 section 2.7.1) is never denied.
func (t *Table) allows(a netip.Addr) bool {
	return solicitedNode.Contains(a) || t.policy.allows(a)
}

var solicitedNode = netip.MustParsePrefix("ff02::1:ff00:0/104")

// VNI returns the network.
func (t *Table) VNI() uint32 { return t.vni }

// Others returns how many other hosts have attachments in the network: what a flood would cost.
func (t *Table) Others() int {
	if t.flood == nil {
		return 0
	}
	return len(t.flood.Peers)
}

// Omitted returns how many entries of the input exceeded a bound.
func (t *Table) Omitted() int { return t.omitted }

// Counters returns the network's counters outside groups.
func (t *Table) Counters() *NetworkCounters { return t.counters }
