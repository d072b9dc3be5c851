package cast

import (
	"slices"
	"time"
)

const (
	// maxHeld bounds the packets that wait for their key.
	maxHeld = 64
	// holdTime is how long one waits: a hand-over takes a round trip.
	holdTime = 100 * time.Millisecond
	// askEvery is the least time between two questions for one key ...
	askEvery = 50 * time.Millisecond
	// ... and maxAsks how many keys are asked for in that time.
	maxAsks = 16
)

// holdings are packets under keys that are on their way. The order of arrival is kept.
type holdings struct {
	packets [maxHeld]heldPacket
	count   int
}

type heldPacket struct {
	id    uint64
	until time.Time
	data  []byte // the space stays with the entry
	n     int
}

// add keeps a copy of pkt; false when there is no room.
func (h *holdings) add(now time.Time, id uint64, pkt []byte) bool {
	if h.count == maxHeld {
		return false
	}
	p := &h.packets[h.count]
	h.count++
	if len(p.data) < len(pkt) {
		p.data = make([]byte, len(pkt))
	}
	p.id, p.until, p.n = id, now.Add(holdTime), copy(p.data, pkt)
	return true
}

// expire drops the packets that waited too long and returns how many.
func (h *holdings) expire(now time.Time) int {
	return h.remove(func(p *heldPacket) bool { return now.After(p.until) })
}

// release gives the packets of one key to open, in the order they came.
func (h *holdings) release(id uint64, open func([]byte)) {
	h.remove(func(p *heldPacket) bool {
		if p.id == id {
			open(p.data[:p.n])
		}
		return p.id == id
	})
}

func (h *holdings) remove(gone func(*heldPacket) bool) (n int) {
	keep := 0
	for i := range h.count {
		if gone(&h.packets[i]) {
			n++
			continue
		}
		h.packets[keep], h.packets[i] = h.packets[i], h.packets[keep]
		keep++
	}
	h.count = keep
	return n
}

// askLimit bounds the questions for keys: one per key and maxAsks in all per askEvery.
type askLimit struct {
	since time.Time
	ids   [maxAsks]uint64
	count int
}

func (a *askLimit) allow(now time.Time, id uint64) bool {
	if now.Sub(a.since) >= askEvery {
		a.since, a.count = now, 0
	}
	if slices.Contains(a.ids[:a.count], id) {
		return false
	}
	if a.count == maxAsks {
		return false
	}
	a.ids[a.count] = id
	a.count++
	return true
}
