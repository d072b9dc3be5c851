package nltest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
)

type handle struct {
	*Net
	ns netns.ID
}

func (h *handle) Close() error { return nil }

// do runs f as one change.
func (h *handle) do(f func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.change(); err != nil {
		return err
	}
	return f()
}

// with runs f as one change of a link.
func (h *handle) with(index int, f func(*link)) error {
	return h.do(func() error {
		l := h.links[index]
		if l == nil || l.ns != h.ns {
			return fmt.Errorf("interface %d: %w", index, nl.ErrNotFound)
		}
		f(l)
		return nil
	})
}

func (h *handle) Links() ([]nl.Link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return nil, ErrInjected
	}
	var ls []nl.Link
	for _, l := range h.links {
		if l.ns == h.ns {
			v := l.Link
			v.Peer = l.peer
			ls = append(ls, v)
		}
	}
	return ls, nil
}

func (h *handle) AddVeth(v nl.Veth) (nl.Link, error) {
	var made nl.Link
	err := h.do(func() error {
		inner := h.ns
		if v.NS != nil {
			inner = v.NS.ID()
		}
		if h.find(h.ns, v.Name) != nil || h.find(inner, v.Inner) != nil {
			return nl.ErrExists
		}
		a, b := h.add(h.ns, v.Name, "veth"), h.add(inner, v.Inner, "veth")
		a.peer, b.peer, b.MAC = b.Index, a.Index, v.MAC
		a.MTU, b.MTU = v.MTU, v.MTU
		made = a.Link
		h.tell(nl.LinksChanged)
		return nil
	})
	return made, err
}

func (h *handle) Configure(name string, i nl.Interface) error {
	return h.do(func() error {
		l := h.find(h.ns, name)
		if l == nil {
			return nl.ErrNotFound
		}
		l.addrs, l.Up, l.route = slices.Clone(i.Addrs), true, i.MulticastRoute
		return nil
	})
}

func (h *handle) Reach(name string, subnets []netip.Prefix) error {
	return h.do(func() error {
		l := h.find(h.ns, name)
		if l == nil {
			return nl.ErrNotFound
		}
		for _, p := range subnets {
			if !slices.Contains(l.reach, p) {
				l.reach = append(l.reach, p)
			}
		}
		return nil
	})
}

func (h *handle) Up(index int) error { return h.with(index, func(l *link) { l.Up = true }) }

func (h *handle) AwaitRunning(int) error { return nil }

func (h *handle) SetMTU(index, mtu int) error {
	return h.with(index, func(l *link) { l.MTU = mtu })
}

func (h *handle) Delete(name string) error {
	return h.do(func() error {
		if l := h.find(h.ns, name); l != nil {
			h.remove(l)
		}
		return nil
	})
}

func (h *handle) Routes() ([]nl.Route, error) { return nil, nil }

func (h *handle) Watch() (nl.Watcher, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &watcher{ready: make(chan struct{}, 1)}
	h.watchers = append(h.watchers, w)
	return w, nil
}

func (h *handle) EnsureBridge(b nl.Bridge) (nl.Link, error) {
	var made nl.Link
	err := h.do(func() error {
		l := h.find(h.ns, b.Name)
		if l == nil {
			l = h.add(h.ns, b.Name, "bridge")
		}
		l.MTU, l.MAC, l.Snooping, l.Up = b.MTU, b.MAC, true, true
		made = l.Link
		return nil
	})
	return made, err
}

func (h *handle) SetPort(bridge, port int, kind nl.PortKind) error {
	return h.with(port, func(l *link) {
		l.Master, l.Up, l.port = bridge, true, "attachment"
		if kind == nl.Uplink {
			l.port = "uplink"
		}
	})
}

func (h *handle) RestartSnooping(bridge int) error {
	return h.with(bridge, func(l *link) { l.Snooping = true })
}

func (h *handle) FDB(bridge int) ([]nl.FDBEntry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var es []nl.FDBEntry
	for e := range h.fdb {
		if l := h.links[e.Port]; l != nil && l.Master == bridge {
			es = append(es, e)
		}
	}
	return es, nil
}

// SetFDB moves a MAC between the ports of one bridge, as the kernel does.
func (h *handle) SetFDB(e nl.FDBEntry) error {
	return h.with(e.Port, func(l *link) {
		maps.DeleteFunc(h.fdb, func(o nl.FDBEntry, _ bool) bool {
			return o.MAC == e.MAC && h.links[o.Port].Master == l.Master
		})
		h.fdb[e] = true
	})
}

func (h *handle) DeleteFDB(e nl.FDBEntry) error {
	return h.do(func() error { delete(h.fdb, e); return nil })
}

func (h *handle) Neighbours(link int) ([]nl.Neighbour, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ns []nl.Neighbour
	for ip, mac := range h.neighs[link] {
		ns = append(ns, nl.Neighbour{IP: ip, MAC: mac})
	}
	return ns, nil
}

func (h *handle) SetNeighbour(index int, nb nl.Neighbour) error {
	return h.with(index, func(*link) {
		if h.neighs[index] == nil {
			h.neighs[index] = map[netip.Addr]nl.MAC{}
		}
		h.neighs[index][nb.IP] = nb.MAC
	})
}

func (h *handle) DeleteNeighbour(link int, nb nl.Neighbour) error {
	return h.do(func() error { delete(h.neighs[link], nb.IP); return nil })
}

func (h *handle) MDB() ([]nl.MDBEntry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return nil, ErrInjected
	}
	return slices.Clone(h.mdb), nil
}

func (h *handle) SetGroup(e nl.MDBEntry) error {
	return h.with(e.Port, func(*link) {
		h.deleteGroup(e)
		h.mdb = append(h.mdb, e)
	})
}

func (h *handle) DeleteGroup(e nl.MDBEntry) error {
	return h.do(func() error { h.deleteGroup(e); return nil })
}

func (h *handle) deleteGroup(e nl.MDBEntry) {
	h.mdb = slices.DeleteFunc(h.mdb, func(o nl.MDBEntry) bool { return o.Port == e.Port && o.Group == e.Group })
}
