package ipam

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/weft-net/weft/internal/ident"
)

// Whoever removes a host says in the same write who takes what that one had. Hosts that each found out for themselves who
// is the heir could find two: one that was away sees the removal before it sees what the heir took.

// heirs says who takes what a host removed had in the cluster's range and in each network.
type heirs struct {
	by       ident.HostID // who says so; of two the lower counts
	cluster  ident.HostID
	networks map[uint32]ident.HostID // where it is another
}

// maxHeirs bounds the networks in one record. In one beyond them the lowest living host with a share is the heir.
const maxHeirs = 512

type heirsWire struct {
	Cluster  []byte        `cbor:"1,keyasint"`
	Networks []networkHeir `cbor:"2,keyasint,omitempty"`
}

type networkHeir struct {
	_    struct{} `cbor:",toarray"`
	VNI  uint32
	Heir []byte
}

// Bequeath returns what the removal of a host is to be published with, in scope 0: who takes what it had, and what it
// said itself of hosts that it removed. having names the hosts that have each network, alive those in reach.
func (s *Service) Bequeath(gone ident.HostID, having map[uint32][]ident.HostID, alive []ident.HostID) (map[string][]byte, error) {
	alive = s.staying(alive)
	s.mu.Lock()
	defer s.mu.Unlock()
	pick := func(among []ident.HostID) (out ident.HostID) {
		better := func(id ident.HostID) bool {
			_, removed := s.removed[id]
			if removed || id == gone {
				return false
			}
			here, best := slices.Contains(alive, id) || id == s.cfg.Self, slices.Contains(alive, out) || out == s.cfg.Self
			return out.IsZero() || here && !best || here == best && id.Less(out)
		}
		for _, id := range among {
			if better(id) {
				out = id
			}
		}
		return out
	}
	among := slices.Clone(alive)
	if !s.cfg.Borrows {
		among = append(among, s.cfg.Self)
	}
	h := heirs{by: s.cfg.Self, cluster: pick(among), networks: map[uint32]ident.HostID{}}
	if h.cluster.IsZero() {
		return nil, errors.New("no host that stays is in reach, and could take what it had; do this on one that does")
	}
	for _, vni := range slices.Sorted(maps.Keys(having)) {
		if id := pick(s.staying(having[vni])); !id.IsZero() && id != h.cluster && len(h.networks) < maxHeirs {
			h.networks[vni] = id
		}
	}
	v, err := encodeHeirs(h)
	if err != nil {
		return nil, err
	}
	puts := map[string][]byte{keyHeir + gone.String(): v}
	for id, old := range s.heirs {
		if old.by == gone {
			if v, err = encodeHeirs(old); err != nil {
				return nil, err
			}
			puts[keyHeir+id.String()] = v
		}
	}
	return puts, nil
}

func encodeHeirs(h heirs) ([]byte, error) {
	w := heirsWire{Cluster: h.cluster[:]}
	for _, vni := range slices.Sorted(maps.Keys(h.networks)) {
		id := h.networks[vni]
		w.Networks = append(w.Networks, networkHeir{VNI: vni, Heir: id[:]})
	}
	return encMode.Marshal(w)
}

func (s *Service) onHeirsLocked(writer ident.HostID, key string, value []byte) error {
	gone, err := ident.ParseHostID(key[len(keyHeir):])
	if err != nil {
		return err
	}
	var w heirsWire
	if err := decMode.Unmarshal(value, &w); err != nil {
		return fmt.Errorf("heirs of %s: %w: %w", gone.Short(), errCodec, err)
	}
	h := heirs{by: writer, networks: map[uint32]ident.HostID{}}
	if len(w.Cluster) != len(h.cluster) || len(w.Networks) > maxHeirs {
		return fmt.Errorf("heirs of %s: %w", gone.Short(), errCodec)
	}
	h.cluster = ident.HostID(w.Cluster)
	for _, n := range w.Networks {
		if len(n.Heir) != len(h.cluster) {
			return fmt.Errorf("heirs of %s: %w", gone.Short(), errCodec)
		}
		h.networks[n.VNI] = ident.HostID(n.Heir)
	}
	old, ok := s.heirs[gone]
	if !ok && len(s.heirs) >= maxRemoved {
		return fmt.Errorf("heirs of %s: more than %d hosts removed", gone.Short(), maxRemoved)
	}
	_, left := s.removed[old.by]
	if !ok || left || writer.Less(old.by) {
		s.heirs[gone] = h
		s.poke()
	}
	return nil
}

// heirLocked returns who is to take what a host removed had in a scope: its heir, or the heir of an heir that is gone too.
// It returns false when nobody said so, as before weft named heirs.
func (s *Service) heirLocked(gone ident.HostID, scope uint32) (ident.HostID, bool) {
	id := gone
	for range len(s.removed) + 1 {
		h, ok := s.heirs[id]
		if !ok {
			return id, false
		}
		if id = h.cluster; scope != 0 {
			id = cmp.Or(h.networks[scope], h.cluster)
		}
		if _, gone := s.removed[id]; !gone {
			return id, true
		}
	}
	return id, false // heirs of each other: two removed each other by force
}

// goneLocked returns the hosts removed, in order.
func (s *Service) goneLocked() []ident.HostID {
	return slices.SortedFunc(maps.Keys(s.removed), compareHosts)
}

func compareHosts(a, b ident.HostID) int { return bytes.Compare(a[:], b[:]) }
