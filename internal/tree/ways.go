package tree

import (
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
)

// plan is a Plan in use, or about to be, and what became of it. It belongs to the Sender, but for closed.
type plan struct {
	id     ID
	label  uint32
	vni    uint32
	tree   Plan
	nodes  map[ident.HostID]*forwarder
	ways   map[ident.HostID]way // of all receivers
	heard  map[ident.HostID]bool
	moved  map[ident.HostID]bool // get copies from here after all, and so does what hangs below them
	blamed map[ident.HostID]int  // complaints by the host that should have served
	users  int                   // flights

	opened time.Time // messages last sent
	began  time.Time
	beaten time.Time // first beat; zero: forwarders are not ready

	closed atomic.Bool // read by the datapath: a route of this plan leads nowhere any more
}

// way is how one receiver is served: by a copy from via, or by via's multicast. A zero via is this host.
type way struct {
	via       ident.HostID
	multicast bool
}

// forwarder is a node that passes packets on.
type forwarder struct {
	node   *Node
	parent ident.HostID // zero: this host
	ready  bool
	room   int
}

func newPlan(id ID, label, vni uint32, tree Plan, now time.Time) *plan {
	p := &plan{
		id: id, label: label, vni: vni, tree: tree, began: now, nodes: map[ident.HostID]*forwarder{}, ways: map[ident.HostID]way{},
		heard: map[ident.HostID]bool{}, moved: map[ident.HostID]bool{}, blamed: map[ident.HostID]int{},
	}
	for _, h := range tree.Multicast {
		p.ways[h] = way{multicast: true}
	}
	p.enter(ident.HostID{}, tree.Children)
	return p
}

func (p *plan) enter(via ident.HostID, nodes []*Node) {
	for _, n := range nodes {
		p.ways[n.Host] = way{via: via}
		if n.Forwards() {
			p.nodes[n.Host] = &forwarder{node: n, parent: via}
		}
		for _, h := range n.Multicast {
			p.ways[h] = way{via: n.Host, multicast: true}
		}
		p.enter(n.Host, n.Children)
	}
}

// copied reports whether a receiver gets a copy from this host, which needs no confirmation.
func (w way) copied() bool { return w.via.IsZero() && !w.multicast }

// lost reports whether a host is served from here although the plan says otherwise: it or one above it was moved.
func (p *plan) lost(h ident.HostID) bool {
	for !h.IsZero() {
		if p.moved[h] {
			return true
		}
		h = p.ways[h].via
	}
	return false
}

// awaited returns the receivers that have not confirmed yet.
func (p *plan) awaited() (out []ident.HostID) {
	for h, w := range p.ways {
		if !w.copied() && !p.heard[h] && !p.lost(h) {
			out = append(out, h)
		}
	}
	return out
}

// ready reports whether all that shall pass packets on said so.
func (p *plan) ready() bool {
	for h, f := range p.nodes {
		if !f.ready && !p.lost(h) {
			return false
		}
	}
	return true
}

// effective is the plan as it is carried out: what was moved gets copies.
func (p *plan) effective() Plan {
	if len(p.moved) == 0 {
		return p.tree
	}
	var e Plan
	copies := map[ident.HostID]bool{}
	for h := range p.ways {
		if p.lost(h) {
			copies[h] = true
			e.Children = append(e.Children, &Node{Host: h})
		}
	}
	keep := func(hosts []ident.HostID) (out []ident.HostID) {
		for _, h := range hosts {
			if !copies[h] {
				out = append(out, h)
			}
		}
		return out
	}
	var prune func([]*Node) []*Node
	prune = func(nodes []*Node) (out []*Node) {
		for _, n := range nodes {
			if !copies[n.Host] {
				out = append(out, &Node{Host: n.Host, Multicast: keep(n.Multicast), Children: prune(n.Children)})
			}
		}
		return out
	}
	e.Multicast = keep(p.tree.Multicast)
	e.Children = append(e.Children, prune(p.tree.Children)...)
	return e
}

// route makes the route of a plan for receivers, which may be others than it was made for.
func (s *Sender) route(p *plan, peers []*link.Peer) *Route {
	r := &Route{Label: p.label, plan: p}
	wanted := make(map[ident.HostID]*link.Peer, len(peers))
	for _, q := range peers {
		wanted[q.ID] = q
	}
	for _, h := range p.tree.Multicast {
		if q := wanted[h]; q != nil && !p.lost(h) {
			r.Heard = append(r.Heard, q)
		}
	}
	if len(r.Heard) > 0 {
		r.Group = s.cfg.Group
	}
	for h, f := range p.nodes {
		if p.lost(h) {
			continue
		}
		if f.room > 0 && (r.Room == 0 || f.room < r.Room) {
			r.Room = f.room
		}
		if q := s.cfg.Peer(h); q != nil && f.parent.IsZero() {
			r.Edges = append(r.Edges, Edge{Peer: q, Tree: p.id})
		}
	}
	for _, q := range peers {
		w, ok := p.ways[q.ID]
		switch {
		case !ok || p.lost(q.ID):
		case !w.copied() || p.nodes[q.ID] != nil:
			continue
		}
		r.Edges = append(r.Edges, Edge{Peer: q})
	}
	return r
}
