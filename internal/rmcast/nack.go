package rmcast

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
)

// nack asks for packets: the publisher, and after some tries, or when it is gone, others that want the stream, in turn with it. Turns are counted
// by all NACKs: marks say that it lives, not that it was asked, nor that it hears us.
func (n *Node) nack(r *rx, rs []Range, nacks int, others bool) {
	gone := r.m.State == Unreachable
	if r.islandFirst(nacks) {
		n.Stats.IslandNacks++
		p := r.via.m
		if p == nil || p.Hears || n.quiet() { // others with the same gap hear it, too
			n.groupOut = appendNack(n.groupOut, r.m.ID, r.st.ID, r.mark, rs)
			n.flushGroup(controlRoom)
		}
		if p != nil && !p.Hears {
			n.say(p, func(b []byte) []byte { return appendNack(b, r.m.ID, r.st.ID, r.mark, rs) })
		}
		return
	}
	if !gone && (!others || nacks%2 == 0) {
		quiet := n.cfg.Multicast && n.quiet() && r.m.hear // who sends no beacons is not known to be heard
		// To the group it would be the relay's to answer, where there is one: it has been asked.
		if (r.m.Hears || quiet) && r.via.m == nil && n.cfg.Multicast && len(n.members) > 1 && r.vain <= vainAfter && r.company.good() {
			n.groupOut = appendNack(n.groupOut, r.m.ID, r.st.ID, r.mark, rs)
			n.flushGroup(controlRoom)
			if !quiet {
				return
			}
		}
		n.say(r.m, func(b []byte) []byte { return appendNack(b, r.m.ID, r.st.ID, r.mark, rs) })
		return
	}
	if p := n.peerOf(r); p != nil {
		n.Stats.PeerNacks++
		n.say(p, func(b []byte) []byte { return appendNack(b, r.m.ID, r.st.ID, r.mark, rs) })
	}
}

// peerOf returns another member that gets the stream, a different one each time.
func (n *Node) peerOf(r *rx) *member {
	for range n.members {
		r.peer++
		m := n.members[r.peer%len(n.members)]
		if m != r.m && m.State != Unreachable && m.wants(r.st.Subject) {
			return m
		}
	}
	return nil
}

// nacked answers a NACK: for a stream of ours, for another's that we have, or it is a sign to keep still.
func (n *Node) nacked(now time.Time, m *member, origin ID, stream uint32, mark uint64, rs []Range) {
	if origin == n.cfg.Self {
		tx := n.sender(stream)
		if tx == nil || n.byGroup && tx.hasRelay(now, m.ID) || !n.heeds(now, m) {
			return
		}
		repaired, sense := tx.nack(now, m.ID, mark, rs)
		if repaired && !slices.Contains(n.marks, tx) {
			n.marks = append(n.marks, tx)
		}
		if !sense {
			m.stray(now)
		}
		if tx.values != nil {
			n.wake(now) // for a snapshot
		}
		n.wake(tx.soon(now))
		return
	}
	r := n.streams[streamKey{origin, stream}]
	if r == nil {
		return
	}
	n.Stats.NacksHeard++
	island := n.byGroup && r.relay.inIsland(now) // it came by multicast, to us
	if n.byGroup && !island && r.m.State != Unreachable {
		r.heardNack(now, rs) // to the publisher, or the island's relay
		return
	}
	n.unload(nil, false)
	to := []netip.AddrPort{m.Addr}
	if island {
		to = nil
	}
	for _, x := range rs {
		for seq := x.From; seq < x.From+uint64(x.Count); seq++ {
			if !r.store.has(seq) || seq >= r.store.next {
				continue
			}
			p := r.store.at(seq)
			if at := nanos(now); at-p.repaired < int64(repairHold) {
				continue
			} else if p.repaired = at; !n.out.fits(len(p.plain) + buskey.Header + buskey.Tag) {
				n.unload(to, island)
			}
			var err error
			if n.out.buf, err = r.key.Seal(n.out.buf, TypeData, seq, p.plain); err == nil {
				n.out.added(len(p.plain) + buskey.Header + buskey.Tag)
				n.Stats.PeerRepairs++
				n.Stats.IslandRepairs += uint64(flag(island, 1))
			}
		}
	}
	n.unload(to, island)
}

func (n *Node) unload(to []netip.AddrPort, group bool) {
	if n.out.n > 0 && (group || len(to) > 0) {
		n.cfg.Wire.Send(n.out.buf, n.out.seg, group, to)
	}
	n.out.reset()
}
