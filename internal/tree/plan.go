// Package tree decides by which ways a frame for many reaches its receivers, and keeps those ways honest.
//
// A host that sends much to a set of receivers makes a Plan: one native multicast packet for those that hear it, copies
// for others, some of which go through hosts that pass them on, to children or by native multicast to their own
// island. Nothing else is assumed of native multicast and of other hosts than what was seen: a plan is set up before
// it is used (Sender asks, Receiver and forwarders answer), each receiver confirms that packets with the plan's label
// arrive, and while frames flow a receiver that hears nothing for Silence complains to the sender and gets copies of
// its own from then on. A plan is replaced by another only when that one is confirmed. So multicast and trees are
// never more than an optimisation: a receiver outside the plan gets a copy.
//
// It is a core: input and now go in, messages and beats come out. Audience is the seam to the datapath.
package tree

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/wire"
)

// Fan-out: the packets that leave one host for one frame.
const (
	DefaultFanout = 8
	MaxFanout     = 32
	// minIsland is how many receivers one multicast packet must serve to be worth one.
	minIsland = 2
	// maxDepth bounds the copies of copies; each takes a hop of an envelope's limit.
	maxDepth = wire.MaxHops
)

// Hearing tells whose native multicast each host hears.
type Hearing map[ident.HostID]map[ident.HostID]struct{}

// Hears reports whether by hears whom.
func (h Hearing) Hears(by, whom ident.HostID) bool {
	_, ok := h[by][whom]
	return ok
}

// Input is what a plan is made from.
type Input struct {
	Self      ident.HostID
	Receivers []ident.HostID
	Hearing   Hearing
	// Avoid refuses a pair that Hearing has: by does not hear whom, whatever it says. nil: none.
	Avoid func(by, whom ident.HostID) bool
	// Direct reports whether this host has a direct path to another. Those without get copies from here.
	Direct func(ident.HostID) bool
	// Forwards reports whether a host may pass packets on.
	Forwards func(ident.HostID) bool
	// Fanout bounds the packets that leave a host for one frame; 0: DefaultFanout.
	Fanout int
}

// Plan is a distribution tree: what leaves this host.
type Plan struct {
	Multicast []ident.HostID // those that hear the one multicast packet; none: there is none
	Children  []*Node        // get a copy each
}

// Node is a receiver that gets a copy, and what it passes on.
type Node struct {
	Host      ident.HostID
	Multicast []ident.HostID
	Children  []*Node
}

// Forwards reports whether the node passes anything on.
func (n *Node) Forwards() bool { return len(n.Multicast)+len(n.Children) > 0 }

// Plain reports whether the plan is nothing but a copy for each.
func (p Plan) Plain() bool {
	return len(p.Multicast) == 0 && !slices.ContainsFunc(p.Children, (*Node).Forwards)
}

// Make makes a plan. Equal input makes equal plans; different senders choose different forwarders.
func Make(in Input) Plan {
	if in.Fanout <= 0 {
		in.Fanout = DefaultFanout
	}
	m := maker{in: in, order: make(map[ident.HostID]uint64, len(in.Receivers))}
	rest := make([]ident.HostID, 0, len(in.Receivers))
	var p Plan
	for _, r := range in.Receivers {
		if m.hears(r, in.Self) {
			p.Multicast = append(p.Multicast, r)
		} else {
			rest = append(rest, r)
		}
		m.order[r] = rank(in.Self, r)
	}
	if len(p.Multicast) < minIsland {
		rest = append(rest, p.Multicast...)
		p.Multicast = nil
	}
	nodes := m.islands(rest)
	room := in.Fanout
	if p.Multicast != nil {
		room--
	}
	p.Children = m.grow(nodes, room)
	return p
}

type maker struct {
	in    Input
	order map[ident.HostID]uint64
}

// rank orders hosts differently for each sender, so that not all choose the same ones to forward.
func rank(self, h ident.HostID) uint64 {
	sum := sha256.Sum256(append(self[:], h[:]...))
	return uint64(sum[0])<<24 | uint64(sum[1])<<16 | uint64(sum[2])<<8 | uint64(sum[3])
}

func (m *maker) hears(by, whom ident.HostID) bool {
	return m.in.Hearing.Hears(by, whom) && (m.in.Avoid == nil || !m.in.Avoid(by, whom))
}

func (m *maker) capable(h ident.HostID) bool { return m.in.Direct(h) && m.in.Forwards(h) }

func (m *maker) compare(a, b ident.HostID) int {
	return cmp.Or(cmp.Compare(m.order[a], m.order[b]), bytes.Compare(a[:], b[:]))
}

// islands gathers receivers that hear one of them behind that one: the largest island first.
func (m *maker) islands(rest []ident.HostID) []*Node {
	left := make(map[ident.HostID]bool, len(rest))
	for _, r := range rest {
		left[r] = true
	}
	cover := map[ident.HostID]int{} // how many of those left hear a capable one of them
	count := func(r ident.HostID, by int) {
		for whom := range m.in.Hearing[r] {
			if left[whom] && whom != r && m.capable(whom) && m.hears(r, whom) {
				cover[whom] += by
			}
		}
	}
	for _, r := range rest {
		count(r, 1)
	}
	var nodes []*Node
	for {
		var best ident.HostID
		n := minIsland - 1
		for h, c := range cover {
			if left[h] && (c > n || c == n && n >= minIsland && m.compare(h, best) < 0) {
				best, n = h, c
			}
		}
		if n < minIsland {
			break
		}
		node := &Node{Host: best}
		for _, r := range rest {
			if left[r] && r != best && m.hears(r, best) {
				node.Multicast = append(node.Multicast, r)
			}
		}
		nodes = append(nodes, node)
		for _, r := range append(slices.Clone(node.Multicast), best) {
			count(r, -1)
		}
		for _, r := range append(slices.Clone(node.Multicast), best) {
			delete(left, r)
		}
	}
	var singles []*Node
	for _, r := range rest {
		if left[r] {
			singles = append(singles, &Node{Host: r})
		}
	}
	slices.SortFunc(singles, func(a, b *Node) int { return m.compare(a.Host, b.Host) })
	return append(nodes, singles...)
}

// grow hangs nodes below the root, of whose fan-out room is left, and below one another. Hosts without a direct path stay with the root:
// nobody knows whether others reach them.
func (m *maker) grow(nodes []*Node, room int) []*Node {
	var root, direct []*Node
	for _, n := range nodes {
		if m.in.Direct(n.Host) {
			direct = append(direct, n)
		} else {
			root = append(root, n)
		}
	}
	// Those that can forward go first, they are what the rest hangs on.
	slices.SortStableFunc(direct, func(a, b *Node) int {
		return -cmp.Compare(btoi(m.capable(a.Host)), btoi(m.capable(b.Host)))
	})
	k := min(max(1, room-len(root)), len(direct))
	level, direct := direct[:k], direct[k:]
	root = append(root, level...)
	for depth := 2; len(direct) > 0 && depth <= maxDepth; depth++ {
		var next []*Node
		for more := true; more && len(direct) > 0; {
			more = false
			for _, n := range level {
				if len(direct) > 0 && m.capable(n.Host) && len(n.Children)+btoi(n.Multicast != nil) < m.in.Fanout {
					n.Children = append(n.Children, direct[0])
					next = append(next, direct[0])
					direct = direct[1:]
					more = true
				}
			}
		}
		level = next
	}
	return append(root, direct...) // what found no place
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Equal reports whether two plans are the same but for the order of what they list.
func (p Plan) Equal(o Plan) bool {
	return sameHosts(p.Multicast, o.Multicast) && sameNodes(p.Children, o.Children)
}

func sameHosts(a, b []ident.HostID) bool {
	return slices.Equal(sorted(a), sorted(b))
}

func sorted(a []ident.HostID) []ident.HostID {
	a = slices.Clone(a)
	slices.SortFunc(a, func(x, y ident.HostID) int { return bytes.Compare(x[:], y[:]) })
	return a
}

func sameNodes(a, b []*Node) bool {
	if len(a) != len(b) {
		return false
	}
	byHost := make(map[ident.HostID]*Node, len(b))
	for _, n := range b {
		byHost[n.Host] = n
	}
	for _, n := range a {
		o := byHost[n.Host]
		if o == nil || !sameHosts(n.Multicast, o.Multicast) || !sameNodes(n.Children, o.Children) {
			return false
		}
	}
	return true
}
