package daemon

import (
	"fmt"
	"maps"
	"slices"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
)

// list shows all bare buses of the cluster.
func (c *bares) list() []api.Bus {
	records, here := c.records(), c.running()
	var out []api.Bus
	for _, name := range slices.Sorted(maps.Keys(records)) {
		out = append(out, c.show(name, records[name], here[name]))
	}
	return out
}

func (c *bares) get(name string) (api.Bus, error) {
	copies := c.records()[name]
	if len(copies) == 0 {
		return api.Bus{}, api.Errorf(api.CodeNotFound, "no bus %q", name).WithHint("weft buses lists them")
	}
	return c.show(name, copies, c.running()[name]), nil
}

// show describes one; h is nil where this host does not have it.
func (c *bares) show(name string, copies map[ident.HostID]bareRecord, h *bareHere) api.Bus {
	b := &api.Bare{Hosts: c.hosts(copies)}
	for _, id := range slices.SortedFunc(maps.Keys(copies), func(x, y ident.HostID) int { return slices.Compare(x[:], y[:]) }) {
		r := copies[id]
		if b.Group != "" && (b.Group != r.Group.String() || b.Subject != r.Subject) {
			b.Conflict = fmt.Sprintf("hosts have it with %s, subject %s and with %s, subject %s: each does its own", b.Group, b.Subject, r.Group, r.Subject)
		}
		b.Group, b.Subject = r.Group.String(), r.Subject
	}
	out := api.Bus{Name: name, Members: []api.BusMember{}, Bare: b}
	if h == nil {
		return out
	}
	names := c.s.hostNames()
	st := h.bridge.Status()
	out.Joined = st.Interface != ""
	b.Here, b.Group, b.Subject, b.Iface, b.TTL = true, h.rec.Group.String(), h.rec.Subject, h.rec.Iface, h.rec.TTL
	b.Interface, b.Bridging, b.Problem = st.Interface, st.Bridging, st.Problem
	b.DatagramsIn, b.DatagramsOut, b.BytesIn, b.BytesOut, b.Passive, b.Bridged = st.In, st.Out, st.InBytes, st.OutBytes, st.Passive, st.Bridged
	if !st.Bridge.IsZero() {
		b.Bridge = names[st.Bridge]
	}
	for _, id := range st.Heard {
		b.OnLAN = append(b.OnLAN, names[id])
	}
	maps.DeleteFunc(st.Drops, func(_ string, n uint64) bool { return n == 0 })
	b.Drops = st.Drops
	return out
}

// warnings names those that do not work here.
func (c *bares) warnings() (out []api.Warning) {
	here := c.running()
	for _, name := range slices.Sorted(maps.Keys(here)) {
		if st := here[name].bridge.Status(); st.Problem != "" {
			out = append(out, api.Warning{Code: "bare", Text: fmt.Sprintf("bus %s: %s", name, st.Problem), Fix: "weft bus rm " + name + ", and make it anew", Since: st.Since})
		}
	}
	return out
}

func (c *bares) metrics() []api.Metric {
	var out []api.Metric
	for name, h := range c.running() {
		st := h.bridge.Status()
		for way, v := range map[string]uint64{"in": st.In, "out": st.Out, "passive": st.Passive, "bridged": st.Bridged} {
			out = append(out, api.Metric{
				Name: "weft_bare_datagrams_total", Kind: api.Counter, Labels: map[string]string{"bus": name, "way": way}, Value: float64(v),
				Help: "Plain datagrams of bare buses: from the LAN to the bus, from the bus to the LAN, and seen while another host passed them, or sent by it.",
			})
		}
		bridging := 0.0
		if st.Bridging {
			bridging = 1
		}
		out = append(out, api.Metric{Name: "weft_bare_bridging", Help: "1 where this host passes the datagrams of its LAN.", Kind: api.Gauge, Labels: map[string]string{"bus": name}, Value: bridging})
	}
	return out
}
