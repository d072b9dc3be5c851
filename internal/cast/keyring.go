package cast

import (
	"bytes"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
)

const (
	// keepOld is how long a sender key opens packets after its successor arrived.
	keepOld = 10 * time.Second
	// maxKeysPerSender bounds the keys kept of one host in one network: old, current, next.
	maxKeysPerSender = 3
	// maxRetired bounds the ids remembered of keys that were dropped: an offer of one, late, must not
	// bring it back with an empty replay window.
	maxRetired = 8
)

// keyRing is the receiving side: the sender keys that other hosts handed over. It is a core; the goroutine
// that opens packets learns of changes through the returned recvKeys.
type keyRing struct {
	senders map[sender]*senderRing
	byID    map[uint64]sender
}

// sender is whose key it is: group packets are checked against both.
type sender struct {
	host ident.HostID
	vni  uint32
}

type senderRing struct {
	keys    []ringKey // oldest first
	retired []uint64
}

type ringKey struct {
	id      uint64
	suite   seal.Suite
	key     []byte
	expires time.Time // zero: the newest
}

// ringChange is what an offer or the passing of time did to the ring.
type ringChange struct {
	add    *recvKey
	remove []uint64
}

func newKeyRing() *keyRing {
	return &keyRing{senders: map[sender]*senderRing{}, byID: map[uint64]sender{}}
}

// offer takes a key from host from. known is false when it is refused: its id is another sender's or was
// retired, or the suite is unknown. The same offer again changes nothing and is known.
func (r *keyRing) offer(now time.Time, from ident.HostID, m *keyMessage) (c ringChange, known bool) {
	who := sender{from, m.VNI}
	if owner, ok := r.byID[m.ID]; ok {
		if owner != who {
			return c, false
		}
		for _, k := range r.senders[who].keys {
			if k.id == m.ID {
				return c, k.suite == m.Suite && bytes.Equal(k.key, m.Key)
			}
		}
		return c, false
	}
	s := r.senders[who]
	if s == nil {
		s = &senderRing{}
	} else if slices.Contains(s.retired, m.ID) {
		return c, false
	}
	opener, err := seal.NewOpener(m.Suite, m.Key)
	if err != nil {
		return c, false
	}
	r.senders[who] = s
	for i := range s.keys {
		if s.keys[i].expires.IsZero() {
			s.keys[i].expires = now.Add(keepOld)
		}
	}
	s.keys = append(s.keys, ringKey{id: m.ID, suite: m.Suite, key: bytes.Clone(m.Key)})
	r.byID[m.ID] = who
	for len(s.keys) > maxKeysPerSender {
		c.remove = append(c.remove, r.retire(s))
	}
	c.add = &recvKey{id: m.ID, sender: who, opener: opener}
	return c, true
}

// retire drops the oldest key of s and returns its id.
func (r *keyRing) retire(s *senderRing) uint64 {
	id := s.keys[0].id
	s.keys = slices.Delete(s.keys, 0, 1)
	delete(r.byID, id)
	if len(s.retired) == maxRetired {
		s.retired = slices.Delete(s.retired, 0, 1)
	}
	s.retired = append(s.retired, id)
	return id
}

// expire drops the keys whose time is over and returns their ids.
func (r *keyRing) expire(now time.Time) (gone []uint64) {
	for _, s := range r.senders {
		for len(s.keys) > 0 && !s.keys[0].expires.IsZero() && now.After(s.keys[0].expires) {
			gone = append(gone, r.retire(s))
		}
	}
	return gone
}

// forget drops all keys of a sender and returns their ids.
func (r *keyRing) forget(who sender) (gone []uint64) {
	s := r.senders[who]
	if s == nil {
		return nil
	}
	for len(s.keys) > 0 {
		gone = append(gone, r.retire(s))
	}
	delete(r.senders, who)
	return gone
}

// forgetNetwork drops the keys of all senders of a network and returns their ids.
func (r *keyRing) forgetNetwork(vni uint32) (gone []uint64) {
	for who := range r.senders {
		if who.vni == vni {
			gone = append(gone, r.forget(who)...)
		}
	}
	return gone
}
