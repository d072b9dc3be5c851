package nltest

import (
	"maps"
	"slices"

	"github.com/weft-net/weft/internal/nl"
)

// tunnel is what a VXLAN device was told.
type tunnel struct {
	is      nl.VXLAN
	entries map[nl.TunnelEntry]bool
	groups  map[nl.TunnelGroup]bool
}

func (h *handle) EnsureVXLAN(v nl.VXLAN) (nl.Link, error) {
	var made nl.Link
	err := h.do(func() error {
		l := h.find(h.ns, v.Name)
		if l != nil && l.tunnel.is != v {
			h.remove(l)
			l = nil
		}
		if l == nil {
			l = h.add(h.ns, v.Name, "vxlan")
			l.tunnel = &tunnel{is: v, entries: map[nl.TunnelEntry]bool{}, groups: map[nl.TunnelGroup]bool{}}
		}
		l.MTU = v.MTU
		made = l.Link
		return nil
	})
	return made, err
}

func (h *handle) TunnelEntries(link int) ([]nl.TunnelEntry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.links[link].tunnel.entries)), nil
}

func (h *handle) SetTunnelEntry(e nl.TunnelEntry) error {
	return h.with(e.Link, func(l *link) {
		if e.MAC != (nl.MAC{}) {
			maps.DeleteFunc(l.tunnel.entries, func(o nl.TunnelEntry, _ bool) bool { return o.MAC == e.MAC })
		}
		l.tunnel.entries[e] = true
	})
}

func (h *handle) DeleteTunnelEntry(e nl.TunnelEntry) error {
	return h.with(e.Link, func(l *link) { delete(l.tunnel.entries, e) })
}

func (h *handle) TunnelGroups(link int) ([]nl.TunnelGroup, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.links[link].tunnel.groups)), nil
}

func (h *handle) SetTunnelGroup(e nl.TunnelGroup) error {
	return h.with(e.Link, func(l *link) { l.tunnel.groups[e] = true })
}

func (h *handle) DeleteTunnelGroup(e nl.TunnelGroup) error {
	return h.with(e.Link, func(l *link) { delete(l.tunnel.groups, e) })
}
