package tree

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
)

// Audience is one set of receivers, and the way of the moment to them. The datapath reads the route for every batch
// and counts what it sent; the owner of Sender writes the route.
type Audience struct {
	// Peers are the receivers, sorted by HostID; never changed.
	Peers []*link.Peer

	route atomic.Pointer[Route]
	sent  atomic.Uint64
	awake atomic.Bool
}

// NewAudience makes an audience. When it takes the place of another, whose group has gained or lost members, it goes
// on with that one's route, so that those who stay notice nothing: newcomers get copies of their own.
func NewAudience(peers []*link.Peer, before *Audience) *Audience {
	a := &Audience{Peers: peers}
	if before != nil {
		if r := before.Route(); r != nil {
			a.route.Store(r.adapt(before.Peers, peers))
		}
	}
	return a
}

// Route returns the way of the moment; nil: a copy for each.
func (a *Audience) Route() *Route {
	r := a.route.Load()
	if r == nil || r.plan.closed.Load() { // closed while nothing was sent here
		return nil
	}
	return r
}

// Sent counts n packets. It reports whether this is the first since the audience was last at rest: then Sender is to be told.
func (a *Audience) Sent(n int) (woke bool) {
	a.sent.Add(uint64(n))
	return !a.awake.Load() && a.awake.CompareAndSwap(false, true)
}

// Unheard says that nobody could be told of what Sent reported: it is to report it again.
func (a *Audience) Unheard() { a.awake.Store(false) }

// Route is where packets for an audience go. It is immutable.
type Route struct {
	// Label is on every packet.
	Label uint32
	// Group is the underlay group, to which one packet goes for all Heard; the zero AddrPort: none.
	Group netip.AddrPort
	Heard []*link.Peer
	// Edges are the copies.
	Edges []Edge
	// Room is how long a packet can be that all forwarders pass on, in bytes of UDP payload; 0: no forwarders.
	Room int

	plan *plan // what it was made from; the Sender's own
}

// Ways counts receivers by how they are served.
type Ways struct {
	Multicast int // by this host's native multicast
	Tree      int // by another host, which passes packets on
	Copies    int // by a copy from this host
}

// Ways tells how the receivers are served at the moment.
func (a *Audience) Ways() Ways {
	w := Ways{Copies: len(a.Peers)}
	r := a.Route()
	if r == nil {
		return w
	}
	w.Multicast, w.Copies = len(r.Heard), 0
	for _, e := range r.Edges {
		if slices.Contains(a.Peers, e.Peer) {
			w.Copies++
		}
	}
	w.Tree = len(a.Peers) - w.Multicast - w.Copies
	return w
}

// Edge is one copy.
type Edge struct {
	Peer *link.Peer
	// Tree is the id under which Peer passes copies on; zero: it keeps the packet for itself.
	Tree ID
}

// ID names a tree in envelopes, where a HostID would name the receiver. It is random.
type ID [16]byte

// IsZero reports whether the id is none.
func (id ID) IsZero() bool { return id == ID{} }

// adapt returns the route for other receivers: those that are new get copies; copies end for those that left, what
// serves several stays until the next plan.
func (r *Route) adapt(before, now []*link.Peer) *Route {
	had := make(map[ident.HostID]bool, len(before))
	for _, p := range before {
		had[p.ID] = true
	}
	has := make(map[ident.HostID]bool, len(now))
	for _, p := range now {
		has[p.ID] = true
	}
	out := *r
	out.Edges = slices.DeleteFunc(slices.Clone(r.Edges), func(e Edge) bool { return e.Tree.IsZero() && !has[e.Peer.ID] })
	for _, p := range now {
		if !had[p.ID] {
			out.Edges = append(out.Edges, Edge{Peer: p})
		}
	}
	return &out
}

// Branch is what a host does with packets of a tree: it passes them on. It is immutable.
type Branch struct {
	Origin, Parent ident.HostID   // whose tree it is, from whom packets may come
	Children       []*link.Peer   // get a copy, and more in the same envelope's name
	Group          netip.AddrPort // the underlay group of this host's island; the zero AddrPort: none
}

// Branches are the trees in which a host passes packets on.
type Branches map[ID]*Branch
