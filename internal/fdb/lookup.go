package fdb

import (
	"net/netip"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/tree"
)

// Decision is what becomes of one frame. To belongs to the table: read only.
type Decision struct {
	Drop Drop
	// One says that the frame is for one host (a link packet), else it is for many (a group packet).
	One bool
	// Flood says that the frame goes to all hosts of the network and is subject to its rate limit.
	Flood bool
	To    []*link.Peer
	// Audience is To as a set that knows the ways to it; nil with One.
	Audience *tree.Audience
	// Counters are the row the frame counts in; nil for a frame too short or odd to have one.
	Counters *GroupCounters
}

// Lookup decides on a frame read from the uplink. It does not allocate.
func (t *Table) Lookup(frame []byte) Decision {
	h := parse(frame)
	if h.drop != Deliver {
		return Decision{Drop: h.drop}
	}
	switch h.class {
	case classUnicast:
		return t.one(t.macs[MAC(frame[:6])], DropUnknownUnicast)
	case classResolve:
		unknown := DropNDUnknown
		if frame[0] == 0xff {
			unknown = DropARPUnknown
		}
		return t.one(t.ips[h.target], unknown)
	case classFlood:
		d := Decision{Flood: true, Counters: &t.counters.Flood}
		switch {
		case t.linkDenied(&h):
			d.Drop = DropDeniedGroup
		case t.flood == nil:
			d.Drop = DropNobody
		default:
			d.To, d.Audience = t.flood.Peers, t.flood
		}
		return d
	}
	r, denied := t.receivers(&h)
	d := Decision{Counters: r.counters}
	switch {
	case denied:
		d.Drop = DropDeniedGroup
	case r.to == nil:
		d.Drop = DropNoMember
	default:
		d.To, d.Audience = r.to.Peers, r.to
	}
	return d
}

// Inbound decides on a frame that host from sent: the row it counts in, and why not to deliver it.
// A group frame is delivered whatever its members here: the bridge knows them better. It does not allocate.
func (t *Table) Inbound(frame []byte, from ident.HostID) (*GroupCounters, Drop) {
	h := parse(frame)
	if h.drop != Deliver {
		return nil, h.drop
	}
	if s := t.macs[MAC(frame[6:12])]; s != nil && s.host != from {
		return nil, DropWrongSource
	}
	switch h.class {
	case classUnicast:
		if s := t.macs[MAC(frame[:6])]; s != nil && !s.local {
			return nil, DropStray
		}
		return &t.counters.Unicast, Deliver
	case classResolve:
		return &t.counters.Unicast, Deliver
	case classFlood:
		if t.linkDenied(&h) {
			return nil, DropDeniedGroup
		}
		return &t.counters.Flood, Deliver
	}
	r, denied := t.receivers(&h)
	if denied {
		return nil, DropDeniedGroup
	}
	return r.counters, Deliver
}

func (t *Table) one(s *station, unknown Drop) Decision {
	d := Decision{One: true, Counters: &t.counters.Unicast}
	switch {
	case s == nil:
		d.Drop = unknown
	case s.local:
		d.Drop = DropLocal
	case len(s.to) == 0:
		d.Drop = DropNobody
	default:
		d.To = s.to
	}
	return d
}

// receivers finds who hears the group from the source.
func (t *Table) receivers(h *header) (r receivers, denied bool) {
	g := t.groups[h.group]
	if g == nil {
		return receivers{counters: &t.counters.Unregistered}, !t.allows(netip.AddrFrom16(h.group).Unmap())
	}
	if r, ok := g.bySource[h.source]; ok {
		return r, g.denied
	}
	return g.others, g.denied
}

// linkDenied applies the policy to 224.0.0.0/24; the group of a broadcast or of ff02::1 is none of these.
func (t *Table) linkDenied(h *header) bool {
	last := h.group[15]
	return h.group[12] == 224 && h.group[0] == 0 && t.denied[last/64]&(1<<(last%64)) != 0
}
