package cast

import (
	"time"

	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/ident"
)

// A frame is never held back by its sender until a receiver has the key: the offer goes ahead of it on the same
// path, and a receiver that misses it all the same holds the packet and asks, which takes one round trip.
// So a slow or deaf host costs the others nothing.

// HostUp says that the session with a host is new: it may have restarted and know no keys.
func (e *Engine) HostUp(h ident.HostID) {
	now := e.cfg.Now()
	var q []outgoing
	e.mu.Lock()
	for _, nw := range *e.networks.Load() {
		nw.keys.up(now, h)
		q = append(q, e.takeLocked(nw)...)
	}
	e.mu.Unlock()
	e.send(q)
	e.planner.tell(planEvent{news: true})
}

// Tick drives sender keys: repeats, rotation, expiry. Call it every 100 ms or so.
func (e *Engine) Tick(now time.Time) {
	var q []outgoing
	e.mu.Lock()
	for _, nw := range *e.networks.Load() {
		nw.keys.tick(now)
		q = append(q, e.takeLocked(nw)...)
	}
	e.down.tell(ringChange{remove: e.ring.expire(now)})
	if now.Sub(e.swept) >= frag.MaxAge {
		e.swept = now
		e.down.tellStale()
	}
	e.mu.Unlock()
	e.send(q)
}

// HandleSenderKey takes a plaintext of kind wire.KindSenderKey that came over the link with host from. When it
// brings a key that packets were held for, they are delivered by the next HandleGroup or Flush.
func (e *Engine) HandleSenderKey(from ident.HostID, plain []byte) {
	m, err := decodeKeyMessage(plain)
	if err != nil {
		e.drops.count(dropKeyMessage)
		return
	}
	now := e.cfg.Now()
	var q []outgoing
	e.mu.Lock()
	for _, nw := range *e.networks.Load() {
		if m.Op != keyAsk && nw.vni != m.VNI {
			continue
		}
		if !nw.has(from) {
			if m.Op != keyAsk {
				nw.drops.count(dropNotOfNetwork) // no acknowledgement: it will come again
			}
			continue
		}
		switch m.Op {
		case keyOffer:
			q = append(q, e.takeOfferLocked(now, nw, from, &m)...)
			nw.keys.heard(now, from)
		case keyAck:
			nw.keys.ack(now, from, m.ID)
		case keyAsk:
			nw.keys.asked(now, from, m.ID)
		}
		q = append(q, e.takeLocked(nw)...)
	}
	e.mu.Unlock()
	e.send(q)
}

func (e *Engine) takeOfferLocked(now time.Time, nw *network, from ident.HostID, m *keyMessage) []outgoing {
	change, known := e.ring.offer(now, from, m)
	if !known {
		nw.drops.count(dropKeyRefused)
		return nil
	}
	if change.add != nil {
		change.add.nw = nw
	}
	e.down.tell(change)
	return []outgoing{{from, keyMessage{Op: keyAck, VNI: m.VNI, ID: m.ID}}}
}

// takeLocked publishes the key to seal with and returns what the network's keys have to say.
func (e *Engine) takeLocked(nw *network) []outgoing {
	if s := nw.keys.current.sealer; nw.key.Load() != s {
		nw.key.Store(s)
		e.log.Debug("sender key changed", "vni", nw.vni)
	}
	return nw.keys.take()
}

// send hands messages to links. A failure needs no care: offers are repeated, acks follow the next offer.
func (e *Engine) send(q []outgoing) {
	for i := range q {
		if err := e.cfg.Send(q[i].to, q[i].msg.encode()); err != nil {
			e.log.Debug("sender key message not sent", "host", q[i].to.Short(), "err", err)
		}
	}
}
