package cast

import (
	"cmp"
	"slices"

	"github.com/weft-net/weft/internal/fdb"
)

// NetworkStat is what the engine counted for one network since AddNetwork.
type NetworkStat struct {
	fdb.NetworkStat
	MTU       int
	Hosts     int               // other hosts that have the network
	Drops     map[string]uint64 // by reason, only those that happened
	Rotations uint64            // of this host's sender key
}

// Groups lists frames, bytes and copies by network, group and source. The zero Source is (*,G): all
// sources that have no row of their own.
func (e *Engine) Groups() []fdb.GroupStat { return e.cfg.Counters.Groups() }

// Networks lists the networks, sorted by VNI.
func (e *Engine) Networks() []NetworkStat {
	rows := map[uint32]fdb.NetworkStat{}
	for _, r := range e.cfg.Counters.Networks() {
		rows[r.VNI] = r
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []NetworkStat
	for vni, nw := range *e.networks.Load() {
		s := NetworkStat{NetworkStat: rows[vni], MTU: nw.mtu, Hosts: len(*nw.hosts.Load()), Drops: map[string]uint64{}, Rotations: nw.keys.rotations}
		s.VNI = vni
		nw.drops.addTo(s.Drops)
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b NetworkStat) int { return cmp.Compare(a.VNI, b.VNI) })
	return out
}

// Drops returns what was dropped since the start, by reason, all networks together; only reasons that happened.
func (e *Engine) Drops() map[string]uint64 {
	m := map[string]uint64{}
	e.drops.addTo(m)
	for _, nw := range *e.networks.Load() {
		nw.drops.addTo(m)
	}
	return m
}
