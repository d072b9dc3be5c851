package rmcast

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// roads is the Wire of a Node with edges: it knows who passes on what is for members that have no edge to us. Its methods may be called by any goroutine.
type roads struct {
	wire Wire
	self ID
	any  atomic.Bool // some member is not reached by UDP
	none atomic.Uint64
	pool sync.Pool // of *parted

	mu sync.RWMutex
	by map[ID]ID // who has the edge; the member itself: we have it
}

// parted is what one Send is made into.
type parted struct {
	plain []netip.AddrPort
	buf   []byte
}

func newRoads(w Wire, self ID) *roads {
	return &roads{wire: w, self: self, by: map[ID]ID{}, pool: sync.Pool{New: func() any { return new(parted) }}}
}

func (w *roads) set(id, by ID) {
	w.mu.Lock()
	w.by[id] = by
	w.mu.Unlock()
	w.any.Store(true)
}

func (w *roads) unset(id ID) {
	w.mu.Lock()
	delete(w.by, id)
	w.mu.Unlock()
}

// keep forgets all but some.
func (w *roads) keep(which func(ID) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.by {
		if !which(id) {
			delete(w.by, id)
		}
	}
}

func (w *roads) of(id ID) ID {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.by[id]
}

// Send implements Wire.
func (w *roads) Send(buf []byte, segment int, group bool, to []netip.AddrPort) {
	if !w.any.Load() || !slices.ContainsFunc(to, isEdge) {
		w.wire.Send(buf, segment, group, to)
		return
	}
	p := w.pool.Get().(*parted)
	p.plain = p.plain[:0]
	for _, a := range to {
		id, is := EdgeID(a)
		by := id
		if is {
			by = w.of(id)
		}
		switch {
		case by == id:
			p.plain = append(p.plain, a)
		case by == 0:
			w.none.Add(1)
		default:
			w.via(p, buf, segment, id, by)
		}
	}
	if group || len(p.plain) > 0 {
		w.wire.Send(buf, segment, group, p.plain)
	}
	w.pool.Put(p)
}

// via sends datagrams to a member by way of another.
func (w *roads) via(p *parted, buf []byte, segment int, id, by ID) {
	if segment <= 0 || segment > len(buf) {
		segment = len(buf)
	}
	p.buf = p.buf[:0]
	for rest := buf; len(rest) > 0; {
		k := min(segment, len(rest))
		p.buf = append(p.buf, TypeVia)
		p.buf = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(p.buf, uint64(id)), uint64(w.self))
		p.buf = append(p.buf, rest[:k]...)
		rest = rest[k:]
	}
	w.wire.Send(p.buf, segment+viaHeader, false, []netip.AddrPort{EdgeAddr(by)})
}

// pass sends a datagram on, as it came.
func (w *roads) pass(pkt []byte, to ID) {
	w.wire.Send(pkt, len(pkt), false, []netip.AddrPort{EdgeAddr(to)})
}
