package cast

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
)

// Times of sender keys.
const (
	// DefaultRotation is how long a sender key is used.
	DefaultRotation = time.Hour
	// handoverWait is how long a new key waits for the acknowledgements of all hosts before it is used anyway.
	handoverWait = time.Second
	// removalPause is the least time between two rotations because hosts were removed.
	removalPause = 10 * time.Second
	// offerFirst and offerLast bound the pause between repeats of an offer; it doubles in between.
	offerFirst = 200 * time.Millisecond
	offerLast  = 10 * time.Second
	// askPause is the least time between two answers to one host that asks for a key.
	askPause = 50 * time.Millisecond
)

// outgoing is a message to hand to a link.
type outgoing struct {
	to  ident.HostID
	msg keyMessage
}

// sendKeys is the sending side of one network's sender key: who has it, when the next takes its place.
// It is a core: time comes in, messages come out in q, and nobody else calls.
type sendKeys struct {
	vni      uint32
	suite    seal.Suite
	rotation time.Duration
	budget   uint64 // of one key, in packets; rotated at half
	rand     io.Reader

	hosts   map[ident.HostID]struct{} // who shall have the key
	current *senderKey
	next    *senderKey // handed over, not yet used; nil most of the time

	removal     bool      // a host was removed: rotate
	lastRemoval time.Time // when that last led to a rotation
	rotations   uint64
	q           []outgoing
}

// senderKey is one key and who acknowledged it.
type senderKey struct {
	id     uint64
	key    [seal.KeySize]byte
	sealer *seal.Sealer
	born   time.Time
	handed map[ident.HostID]*handover
}

// handover is the state of one key towards one host.
type handover struct {
	acked bool
	sent  time.Time     // the latest offer
	pause time.Duration // until the next
}

func newSendKeys(vni uint32, suite seal.Suite, rotation time.Duration, budget uint64, rand io.Reader, now time.Time) (*sendKeys, error) {
	s := &sendKeys{vni: vni, suite: suite, rotation: rotation, budget: budget, rand: rand, hosts: map[ident.HostID]struct{}{}}
	k, err := s.draw(now)
	if err != nil {
		return nil, err
	}
	s.current = k
	return s, nil
}

// draw makes a fresh key with a fresh id: nonces never repeat across starts.
func (s *sendKeys) draw(now time.Time) (*senderKey, error) {
	k := &senderKey{born: now, handed: map[ident.HostID]*handover{}}
	var id [8]byte
	for k.id == 0 {
		if _, err := io.ReadFull(s.rand, id[:]); err != nil {
			return nil, fmt.Errorf("draw sender key id: %w", err)
		}
		k.id = binary.BigEndian.Uint64(id[:])
	}
	if _, err := io.ReadFull(s.rand, k.key[:]); err != nil {
		return nil, fmt.Errorf("draw sender key: %w", err)
	}
	var err error
	k.sealer, err = seal.NewGroupSealer(s.suite, k.key[:], k.id, s.budget)
	return k, err
}

// setHosts says which other hosts have the network. New ones are offered the key at once; a missing one
// leads to a rotation, since it knows the key.
func (s *sendKeys) setHosts(now time.Time, hosts []ident.HostID) {
	want := make(map[ident.HostID]struct{}, len(hosts))
	for _, h := range hosts {
		want[h] = struct{}{}
	}
	for h := range s.hosts {
		if _, ok := want[h]; ok {
			continue
		}
		// A host that was never offered the key does not know it.
		if s.current.handed[h] != nil || s.next != nil && s.next.handed[h] != nil {
			s.removal = true
		}
		delete(s.current.handed, h)
		if s.next != nil && s.next.handed[h] != nil {
			s.next = nil // burnt: it was offered that one too
		}
	}
	s.hosts = want
	for _, h := range hosts {
		s.offer(now, s.current, h)
		if s.next != nil {
			s.offer(now, s.next, h)
		}
	}
	s.tick(now)
}

// offer sends k to h unless that has begun already.
func (s *sendKeys) offer(now time.Time, k *senderKey, h ident.HostID) {
	if k.handed[h] != nil {
		return
	}
	o := &handover{}
	k.handed[h] = o
	s.send(now, k, h, o, offerFirst)
}

func (s *sendKeys) send(now time.Time, k *senderKey, h ident.HostID, o *handover, pause time.Duration) {
	o.sent, o.pause = now, pause
	s.q = append(s.q, outgoing{h, keyMessage{Op: keyOffer, VNI: s.vni, ID: k.id, Suite: s.suite, Key: k.key[:]}})
}

// up says that a link to h is new: h may have restarted and know nothing.
func (s *sendKeys) up(now time.Time, h ident.HostID) {
	if _, ok := s.hosts[h]; !ok {
		return
	}
	for _, k := range s.live() {
		o := k.handed[h]
		if o == nil {
			o = &handover{}
			k.handed[h] = o
		}
		o.acked = false
		s.send(now, k, h, o, offerFirst)
	}
}

// present hears that h has the network now: what it was offered before it had, it could not take.
func (s *sendKeys) present(now time.Time, h ident.HostID) {
	for _, k := range s.live() {
		if o := k.handed[h]; o != nil && !o.acked && now.Sub(o.sent) >= askPause {
			s.send(now, k, h, o, offerFirst)
		}
	}
}

// live returns the keys in use or about to be.
func (s *sendKeys) live() []*senderKey {
	if s.next != nil {
		return []*senderKey{s.current, s.next}
	}
	return []*senderKey{s.current}
}

// ack marks that h has key id.
func (s *sendKeys) ack(now time.Time, h ident.HostID, id uint64) {
	for _, k := range s.live() {
		if o := k.handed[h]; k.id == id && o != nil {
			o.acked = true
		}
	}
	s.tick(now)
}

// asked answers a host that misses key id. It reports whether the id is one of ours.
func (s *sendKeys) asked(now time.Time, h ident.HostID, id uint64) bool {
	for _, k := range s.live() {
		if k.id != id {
			continue
		}
		if o := k.handed[h]; o != nil && now.Sub(o.sent) >= askPause {
			o.acked = false
			s.send(now, k, h, o, offerFirst)
		}
		return true
	}
	return false
}

// tick repeats offers that nobody acknowledged, begins a rotation when one is due and ends one that is ready.
func (s *sendKeys) tick(now time.Time) {
	if s.next == nil && s.due(now) {
		k, err := s.draw(now)
		if err != nil {
			return // the source of randomness failed: keep the key and try again
		}
		if s.removal {
			s.removal, s.lastRemoval = false, now
		}
		s.next = k
		for h := range s.hosts {
			s.offer(now, k, h)
		}
	}
	if s.next != nil && (s.next.complete(s.hosts) || now.Sub(s.next.born) >= handoverWait) {
		s.current, s.next = s.next, nil
		s.rotations++
	}
	for _, k := range s.live() {
		for h, o := range k.handed {
			if !o.acked && now.Sub(o.sent) >= o.pause {
				s.send(now, k, h, o, min(2*o.pause, offerLast))
			}
		}
	}
}

func (s *sendKeys) due(now time.Time) bool {
	if s.removal && (s.lastRemoval.IsZero() || now.Sub(s.lastRemoval) >= removalPause) {
		return true
	}
	return now.Sub(s.current.born) >= s.rotation || s.current.sealer.Used() >= s.current.sealer.Budget()/2
}

func (k *senderKey) complete(hosts map[ident.HostID]struct{}) bool {
	for h := range hosts {
		if o := k.handed[h]; o == nil || !o.acked {
			return false
		}
	}
	return true
}

// take returns the messages to send since the last call.
func (s *sendKeys) take() []outgoing {
	q := s.q
	s.q = nil
	return q
}
