package daemon

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/island"
	"github.com/weft-net/weft/internal/netmon"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/tree"
)

// islands is this host's part in native multicast on the underlay: the groups it listens to and sends to. It belongs to spread.
type islands struct {
	set    bool
	addrs  []netmon.Addr
	record *clusterRecord
	joined []joined
	group  netip.AddrPort // sent to; the zero AddrPort: none
}

type joined struct {
	group netip.Addr
	index int
}

// hearRecord is one line of a hear record.
const hearEntry = len(ident.HostID{}) + 1

// encodeHeard writes whom this host hears: for each a HostID and its loss in 1/255.
func encodeHeard(heard []island.Heard) []byte {
	b := make([]byte, 0, len(heard)*hearEntry)
	for _, h := range heard {
		b = append(append(b, h.Host[:]...), byte(math.Round(min(max(h.Loss, 0), 1)*255)))
	}
	return b
}

func decodeHeard(b []byte) ([]island.Heard, error) {
	if len(b)%hearEntry != 0 || len(b)/hearEntry > island.MaxHeard {
		return nil, fmt.Errorf("hear record: %d bytes", len(b))
	}
	var out []island.Heard
	for e := range slices.Chunk(b, hearEntry) {
		out = append(out, island.Heard{Host: ident.HostID(e), Loss: float64(e[hearEntry-1]) / 255})
	}
	return out, nil
}

// groups returns the underlay groups of the cluster: administratively scoped, and its own.
func (s *System) groups(r *clusterRecord) []netip.Addr {
	if r == nil || r.NoMulticast {
		return nil
	}
	if len(r.Groups) > 0 {
		return r.Groups
	}
	id := s.id.Cluster
	v6 := [16]byte{0xff, 0x15} // transient, site-local (RFC 4291 section 2.7)
	copy(v6[8:], id[:])
	v4 := [4]byte{239, 192 | id[0]&3, id[1], id[2]} // organization-local (RFC 2365 section 6.2)
	if v4[1] == 0 && v4[2] == 0 {
		v4[2] = 1
	}
	return []netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)}
}

// joinIsland listens to the cluster's underlay groups on every interface that may carry them, and sends by the one of the
// first address. Nothing is lost where that fails: what multicast does not reach gets copies.
func (s *System) joinIsland() {
	s.mu.Lock()
	record := s.cluster
	s.mu.Unlock()
	addrs := s.underlay.Addrs()
	in := &s.islands
	if in.set && record == in.record && slices.Equal(addrs, in.addrs) {
		return
	}
	in.set, in.record, in.addrs = true, record, addrs
	groups := s.groups(record)
	var want []joined
	for _, a := range addrs {
		for _, g := range groups {
			j := joined{g, a.Index}
			if a.Multicast && a.IP.Is4() == g.Is4() && !slices.Contains(want, j) {
				want = append(want, j)
			}
		}
	}
	for _, j := range in.joined {
		if !slices.Contains(want, j) {
			_ = s.conn.Leave(j.group, j.index) // the interface may be gone
		}
	}
	var have []joined
	for _, j := range want {
		// One that stays is joined again: its interface may be another under the same number. Twice is refused and does no harm.
		if err := s.conn.Join(j.group, j.index); err != nil && !slices.Contains(in.joined, j) {
			s.log.Warn("underlay group not joined: native multicast is not heard there", "group", j.group, "interface", j.index, "err", err)
			continue
		}
		have = append(have, j)
	}
	in.joined = have
	in.group = netip.AddrPort{}
	if len(have) > 0 {
		first := have[0]
		if err := s.conn.Multicast(first.index, record.TTL); err != nil {
			s.log.Warn("no native multicast is sent", "err", err)
		} else {
			in.group = netip.AddrPortFrom(first.group, uint16(s.cfg.Port))
		}
	}
	s.cast.SetUnderlayGroup(in.group)
}

// onHearing keeps what the datapath hears until spread publishes it.
func (s *System) onHearing(heard []island.Heard) {
	s.audible.Store(&heard)
	s.poke()
}

// publishHeard tells other hosts whom this one hears.
func (s *System) publishHeard() {
	heard := s.audible.Swap(nil)
	if heard == nil {
		return
	}
	var err error
	if len(*heard) == 0 {
		err = s.mesh.Publish(0, nil, []string{keyHear})
	} else {
		err = s.mesh.Publish(0, map[string][]byte{keyHear: encodeHeard(*heard)}, nil)
	}
	if err != nil {
		s.log.Error("hosts heard by native multicast not published", "err", err)
	}
}

// hearing reads who hears whom.
func (s *System) hearing() tree.Hearing {
	all := tree.Hearing{}
	_ = s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyHear) {
			if i.Key != keyHear {
				continue
			}
			heard, err := decodeHeard(i.Value)
			if err != nil {
				s.log.Debug("record refused", "host", i.Writer.Short(), "err", err)
				continue
			}
			set := make(map[ident.HostID]struct{}, len(heard))
			for _, h := range heard {
				set[h.Host] = struct{}{}
			}
			all[i.Writer] = set
		}
	})
	return all
}

// multicastBetween tells which of two hosts hear the other, seen from the first.
func multicastBetween(h tree.Hearing, self, other ident.HostID) string {
	switch from, to := h.Hears(self, other), h.Hears(other, self); {
	case from && to:
		return api.MulticastBoth
	case from:
		return api.MulticastFrom
	case to:
		return api.MulticastTo
	}
	return api.MulticastNone
}
