package fdb

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/tree"
)

// MaxGroupCounters bounds the rows one network keeps; groups beyond share the row of unregistered ones.
const MaxGroupCounters = 8192

// GroupCounters count the frames of a group at this host's uplink. The goroutine that reads the uplink
// owns the first part, the one that writes it the second; each has its own cache line.
type GroupCounters struct {
	PacketsIn, BytesIn      atomic.Uint64 // read from the uplink: sent by attachments here
	CopiesSent, CopiesSaved atomic.Uint64
	_                       [32]byte
	PacketsOut, BytesOut    atomic.Uint64 // written to the uplink: delivered to attachments here
}

// NetworkCounters count what belongs to no registered group of a network.
type NetworkCounters struct {
	Unicast      GroupCounters
	Flood        GroupCounters // broadcast, 224.0.0.0/24, ff02::1
	Unregistered GroupCounters // groups without members, or beyond MaxGroupCounters
}

// GroupStat is one row of GroupCounters. Source is the zero Addr for (*,G).
type GroupStat struct {
	VNI                     uint32
	Group, Source           netip.Addr
	PacketsIn, BytesIn      uint64
	PacketsOut, BytesOut    uint64
	CopiesSent, CopiesSaved uint64
	Ways                    tree.Ways // of the moment
}

func (c *GroupCounters) stat() GroupStat {
	return GroupStat{
		PacketsIn: c.PacketsIn.Load(), BytesIn: c.BytesIn.Load(),
		PacketsOut: c.PacketsOut.Load(), BytesOut: c.BytesOut.Load(),
		CopiesSent: c.CopiesSent.Load(), CopiesSaved: c.CopiesSaved.Load(),
	}
}

// NetworkStat is one row of NetworkCounters.
type NetworkStat struct {
	VNI                          uint32
	Unicast, Flood, Unregistered GroupStat
}

// Registry keeps counters while tables come and go. Its lock is taken when a table is built or counters
// are listed, never for a frame.
type Registry struct {
	mu       sync.Mutex
	networks map[uint32]*networkRows
}

type networkRows struct {
	counters  NetworkCounters
	build     uint64 // number of the latest Build
	groups    map[groupKey]*groupRow
	flood     groupRow // for its audience
	audiences map[[sha256.Size]byte]*audienceRow
}

type groupKey struct{ group, source netip.Addr }

type groupRow struct {
	counters GroupCounters
	build    uint64 // the latest Build that wanted it
	audience *audienceRow
}

// audienceRow keeps an audience across builds; groups with the same receivers share one.
type audienceRow struct {
	*tree.Audience
	build uint64
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{networks: map[uint32]*networkRows{}} }

// begin returns the rows of a network for one Build, and the number of that Build.
func (r *Registry) begin(vni uint32) *networkRows {
	n := r.networks[vni]
	if n == nil {
		n = &networkRows{groups: map[groupKey]*groupRow{}, audiences: map[[sha256.Size]byte]*audienceRow{}}
		r.networks[vni] = n
	}
	n.build++
	return n
}

// row returns the counters of a group, old or new.
func (n *networkRows) row(group, source netip.Addr) *GroupCounters {
	k := groupKey{group, source}
	g := n.groups[k]
	if g == nil {
		if len(n.groups) >= MaxGroupCounters {
			return &n.counters.Unregistered
		}
		g = &groupRow{}
		n.groups[k] = g
	}
	g.build = n.build
	return &g.counters
}

// audience returns the audience of a group's receivers: the one it had, one that another group has, or a new one that
// goes on where the group's last one was.
func (n *networkRows) audience(group, source netip.Addr, to []*link.Peer) *tree.Audience {
	if g := n.groups[groupKey{group, source}]; g != nil {
		return n.audienceOf(g, to)
	}
	return n.audienceOf(&groupRow{}, to) // beyond MaxGroupCounters
}

func (n *networkRows) audienceOf(g *groupRow, to []*link.Peer) *tree.Audience {
	if len(to) == 0 {
		return nil
	}
	if g.audience == nil || !slices.Equal(g.audience.Peers, to) {
		var before *tree.Audience
		if g.audience != nil {
			before = g.audience.Audience
		}
		g.audience = n.intern(to, before)
	}
	g.audience.build = n.build
	return g.audience.Audience
}

func (n *networkRows) intern(to []*link.Peer, before *tree.Audience) *audienceRow {
	h := sha256.New()
	for _, p := range to {
		h.Write(p.ID[:])
	}
	key := [sha256.Size]byte(h.Sum(nil))
	a := n.audiences[key]
	if a == nil || !slices.Equal(a.Peers, to) {
		a = &audienceRow{Audience: tree.NewAudience(to, before)}
		n.audiences[key] = a
	}
	return a
}

// trim forgets audiences that no group has any more, and groups without members once rows get scarce.
func (n *networkRows) trim() {
	for k, a := range n.audiences {
		if a.build != n.build {
			delete(n.audiences, k)
		}
	}
	if len(n.groups) < MaxGroupCounters/2 {
		return
	}
	for k, g := range n.groups {
		if g.build != n.build {
			delete(n.groups, k)
		}
	}
}

// Forget drops the counters of a network.
func (r *Registry) Forget(vni uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.networks, vni)
}

// Groups lists the counters of all groups, sorted by network, group, source.
func (r *Registry) Groups() []GroupStat {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []GroupStat
	for vni, n := range r.networks {
		for k, g := range n.groups {
			s := g.counters.stat()
			s.VNI, s.Group, s.Source = vni, k.group, k.source
			if g.audience != nil {
				s.Ways = g.audience.Ways()
			}
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b GroupStat) int {
		return cmp.Or(cmp.Compare(a.VNI, b.VNI), compareAddr(a.Group, b.Group), compareAddr(a.Source, b.Source))
	})
	return out
}

// Networks lists the counters outside groups, sorted by VNI.
func (r *Registry) Networks() []NetworkStat {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]NetworkStat, 0, len(r.networks))
	for vni, n := range r.networks {
		c := &n.counters
		out = append(out, NetworkStat{VNI: vni, Unicast: c.Unicast.stat(), Flood: c.Flood.stat(), Unregistered: c.Unregistered.stat()})
	}
	slices.SortFunc(out, func(a, b NetworkStat) int { return cmp.Compare(a.VNI, b.VNI) })
	return out
}

func compareAddr(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	return cmp.Or(cmp.Compare(a.BitLen(), b.BitLen()), bytes.Compare(x[:], y[:]))
}
