package cast

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/snapshot"
)

// A daemon that makes room for another: Pause and Export here, Adopt and Resume there. Frames wait in the kernel meanwhile.

// pause waits until the network's uplink is done with what it has read, and keeps it from reading more.
func (nw *network) pause() {
	nw.dev.Halt()
	nw.turn <- struct{}{}
}

func (nw *network) resume() {
	nw.dev.Resume()
	<-nw.turn
}

// Pause stops all uplinks; networks added meanwhile begin paused. When it returns, what was read has been sent.
func (e *Engine) Pause() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.paused {
		return
	}
	e.paused = true
	for _, nw := range *e.networks.Load() {
		nw.pause()
	}
}

// Resume lets the uplinks go on, under the keys that were exported or adopted.
func (e *Engine) Resume() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.paused {
		return
	}
	e.paused = false
	for _, nw := range *e.networks.Load() {
		for _, k := range nw.keys.live() {
			k.sealer.Thaw()
		}
		nw.resume()
	}
}

// Export returns the keys of a paused engine, whose reader of the underlay has stopped, too. No sender key seals from
// here on, until Resume.
func (e *Engine) Export() (snapshot.Cast, error) {
	e.down.drain()
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.cfg.Now()
	var out snapshot.Cast
	for _, vni := range slices.Sorted(maps.Keys(*e.networks.Load())) {
		nw := (*e.networks.Load())[vni]
		s := nw.keys
		n := snapshot.CastNetwork{
			VNI: vni, Fragment: nw.up.fragID, Hosts: slices.Collect(maps.Keys(s.hosts)), Removal: s.removal, Rotations: s.rotations,
		}
		if !s.lastRemoval.IsZero() {
			n.Removed = max(now.Sub(s.lastRemoval), 1)
		}
		var err error
		if n.Current, err = s.current.export(now); err != nil {
			return out, err
		}
		if s.next != nil {
			next, err := s.next.export(now)
			if err != nil {
				return out, err
			}
			n.Next = &next
		}
		out.Networks = append(out.Networks, n)
	}
	for who, s := range e.ring.senders {
		r := snapshot.Ring{Host: who.host, VNI: who.vni, Retired: slices.Clone(s.retired)}
		for _, k := range s.keys {
			have := e.down.keys[k.id]
			if have == nil {
				continue // told to nobody yet: it is offered again
			}
			x := snapshot.ReceivedKey{ID: k.id, Opener: have.opener.Export()}
			if !k.expires.IsZero() {
				x.Expires = max(k.expires.Sub(now), 1)
			}
			r.Keys = append(r.Keys, x)
		}
		out.Rings = append(out.Rings, r)
	}
	return out, nil
}

func (k *senderKey) export(now time.Time) (snapshot.SenderKey, error) {
	k.sealer.Freeze()
	s, err := k.sealer.Export()
	out := snapshot.SenderKey{Sealer: s, Age: now.Sub(k.born)}
	for h, o := range k.handed {
		out.Handed = append(out.Handed, snapshot.Handed{Host: h, Acked: o.acked})
	}
	return out, err
}

// Adopt makes a paused engine go on with the keys of another process, which has given them up when Resume is called.
// Networks that it does not have yet keep fresh keys. When it fails, nothing was adopted.
func (e *Engine) Adopt(s snapshot.Cast) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.paused {
		return errors.New("cast: adopt: not paused")
	}
	now := e.cfg.Now()
	networks := *e.networks.Load()
	keys := map[uint32]*sendKeys{}
	for i := range s.Networks {
		n := &s.Networks[i]
		if networks[n.VNI] == nil {
			continue
		}
		k, err := e.adoptKeys(now, n)
		if err != nil {
			return fmt.Errorf("cast: adopt VNI %d: %w", n.VNI, err)
		}
		keys[n.VNI] = k
	}
	ring, open := newKeyRing(), map[uint64]*recvKey{}
	for i := range s.Rings {
		r := &s.Rings[i]
		who := sender{r.Host, r.VNI}
		if networks[r.VNI] == nil {
			continue
		}
		sr := &senderRing{retired: slices.Clone(r.Retired[max(0, len(r.Retired)-maxRetired):])}
		for _, k := range r.Keys[max(0, len(r.Keys)-maxKeysPerSender):] {
			opener, err := seal.AdoptOpener(k.Opener)
			if err != nil {
				return fmt.Errorf("cast: adopt a key of host %s: %w", r.Host.Short(), err)
			}
			if open[k.ID] != nil {
				return fmt.Errorf("cast: adopt a key of host %s: another has it, too", r.Host.Short())
			}
			rk := ringKey{id: k.ID, suite: seal.Suite(k.Opener.Suite), key: bytes.Clone(k.Opener.Key)}
			if k.Expires != 0 {
				rk.expires = now.Add(k.Expires)
			}
			sr.keys = append(sr.keys, rk)
			ring.byID[k.ID] = who
			open[k.ID] = &recvKey{id: k.ID, sender: who, nw: networks[r.VNI], opener: opener}
		}
		ring.senders[who] = sr
	}
	e.ring, e.down.keys = ring, open
	for i := range s.Networks {
		nw := networks[s.Networks[i].VNI]
		if nw == nil {
			continue
		}
		nw.keys, nw.up.fragID = keys[nw.vni], s.Networks[i].Fragment
		nw.key.Store(nw.keys.current.sealer)
	}
	return nil
}

func (e *Engine) adoptKeys(now time.Time, n *snapshot.CastNetwork) (*sendKeys, error) {
	s := &sendKeys{
		vni: n.VNI, suite: e.cfg.Suite, rotation: e.cfg.Rotation, budget: e.cfg.Budget, rand: e.cfg.Rand,
		hosts: map[ident.HostID]struct{}{}, removal: n.Removal, rotations: n.Rotations,
	}
	for _, h := range n.Hosts {
		s.hosts[h] = struct{}{}
	}
	if n.Removed != 0 {
		s.lastRemoval = now.Add(-n.Removed)
	}
	var err error
	if s.current, err = s.adopt(now, &n.Current); err == nil && n.Next != nil {
		s.next, err = s.adopt(now, n.Next)
	}
	return s, err
}

func (s *sendKeys) adopt(now time.Time, x *snapshot.SenderKey) (*senderKey, error) {
	sealer, err := seal.AdoptSealer(x.Sealer, s.budget)
	if err != nil {
		return nil, err
	}
	k := &senderKey{id: x.Sealer.ID, key: [seal.KeySize]byte(x.Sealer.Key), sealer: sealer, born: now.Add(-x.Age), handed: map[ident.HostID]*handover{}}
	for _, h := range x.Handed {
		k.handed[h.Host] = &handover{acked: h.Acked, sent: now, pause: offerFirst}
	}
	return k, nil
}

// Carries reports whether a network is carried over a device.
func (e *Engine) Carries(vni uint32, dev Device) bool {
	nw := (*e.networks.Load())[vni]
	return nw != nil && nw.dev == dev
}
