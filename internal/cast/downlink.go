package cast

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/wire"
)

// downlinkArena is the space for frames between two writes to the TAPs.
const downlinkArena = 512 << 10

// downlink carries packets from the underlay to the TAPs. It belongs to the one goroutine that reads the
// underlay, but for the inbox.
type downlink struct {
	e     *Engine
	keys  map[uint64]*recvKey
	held  holdings
	asks  askLimit
	dirty []*network // with frames to write
	space arena
	whole joining   // the frame at the end of space, which may grow
	now   time.Time // of this batch, zero until someone wants to know

	waiting atomic.Bool // the inbox has something
	inboxMu sync.Mutex
	inbox   []ringChange
	stale   bool // assemblers shall forget what is old
}

// joining is the super-frame that segments are joined to while they come one after the other.
type joining struct {
	gso.Joiner
	nw       *network // nil: none
	from     ident.HostID
	counters *fdb.GroupCounters
}

// recvKey opens group packets of one sender key.
type recvKey struct {
	id uint64
	sender
	nw     *network
	opener *seal.Opener
	parts  *frag.Assembler // made at the first fragment

	// Who listens for the label last seen, in the watches of that time.
	label   uint32
	watches *tree.Watches
	watch   *tree.Watch
}

func (d *downlink) init(e *Engine) {
	d.e = e
	d.keys = map[uint64]*recvKey{}
	d.space.buf = make([]byte, downlinkArena)
}

// tell hands a change of keys to the reader.
func (d *downlink) tell(c ringChange) {
	if c.add == nil && len(c.remove) == 0 {
		return
	}
	d.inboxMu.Lock()
	d.inbox = append(d.inbox, c)
	d.inboxMu.Unlock()
	d.waiting.Store(true)
}

// tellStale has the reader forget fragments that are old.
func (d *downlink) tellStale() {
	d.inboxMu.Lock()
	d.stale = true
	d.inboxMu.Unlock()
	d.waiting.Store(true)
}

// HandleFrame takes a plaintext of kind wire.KindFrame that came over the link with host from. The frame is copied;
// plain is free when HandleFrame returns.
func (e *Engine) HandleFrame(from ident.HostID, plain []byte) {
	if len(plain) < frameHeader || plain[0] != wire.KindFrame {
		e.drops.count(dropKind)
		return
	}
	nw := (*e.networks.Load())[vniOf(plain)]
	if nw == nil {
		e.drops.count(dropNoNetwork)
		return
	}
	if !nw.has(from) {
		nw.drops.count(dropNotOfNetwork)
		return
	}
	e.down.records(nw, from, plain[frameHeader:])
}

// HandleGroup takes a packet of type wire.TypeGroup. from is the host it seems to come from (the endpoint's, or the
// src of the envelope), zero when unknown; it only serves to ask for a missing key. pkt is opened in place
// and free when HandleGroup returns.
func (e *Engine) HandleGroup(pkt []byte, from ident.HostID) {
	d := &e.down
	if d.waiting.Load() {
		d.drain()
	}
	label, id, _, ok := wire.Group(pkt)
	if !ok || len(pkt) > wire.MaxDatagram {
		e.drops.count(dropShort)
		return
	}
	k := d.keys[id]
	if k != nil {
		d.open(k, pkt)
		return
	}
	if label != wire.NoLabel {
		// Native multicast comes to hosts that do not have the network, too: they must not ask for its key.
		if _, ok := e.planner.watches.Load().Labels[label]; !ok {
			e.drops.count(dropNotExpected)
			return
		}
	}
	d.hold(id, from, pkt)
}

// Flush writes the frames of a batch to the TAPs. Call it after each batch that was read from the underlay.
func (e *Engine) Flush() {
	d := &e.down
	if d.waiting.Load() {
		d.drain()
	}
	if d.held.count > 0 {
		d.drop(d.held.expire(d.time()))
	}
	d.flush()
	d.now = time.Time{}
}

// open opens a packet under its key and delivers the frame it holds or completes.
func (d *downlink) open(k *recvKey, pkt []byte) {
	label, _, _, _ := wire.Group(pkt)
	plain, err := k.opener.OpenGroup(pkt)
	if err != nil {
		reason := dropForged
		switch {
		case errors.Is(err, seal.ErrReplay):
			reason = dropReplay
		case errors.Is(err, seal.ErrShort):
			reason = dropShort
		}
		k.nw.drops.count(reason)
		return
	}
	if label != wire.NoLabel {
		d.heard(k, label)
		if len(plain) == beatSize && plain[0] == wire.KindBeat {
			d.beat(k, label, plain)
			return
		}
	}
	if len(plain) > 0 && plain[0] == wire.KindFragment {
		if plain = d.join(k, plain); plain == nil {
			return
		}
	}
	if len(plain) < frameHeader || plain[0] != wire.KindFrame {
		k.nw.drops.count(dropKind)
		return
	}
	if vniOf(plain) != k.vni {
		k.nw.drops.count(dropWrongVNI)
		return
	}
	d.records(k.nw, k.host, plain[frameHeader:])
}

// heard tells whoever listens for a label of the key's host.
func (d *downlink) heard(k *recvKey, label uint32) {
	if w := d.e.planner.watches.Load(); k.watches != w || k.label != label {
		k.watches, k.label = w, label
		k.watch = w.ByKey[tree.Key{Host: k.host, VNI: k.vni, Label: label}]
	}
	if k.watch != nil {
		k.watch.Heard()
	}
}

// beat takes what is no frame: that it came was the message, but for a beacon, which is counted.
func (d *downlink) beat(k *recvKey, label uint32, plain []byte) {
	if label == wire.BeaconLabel {
		d.e.planner.tell(planEvent{from: k.host, beacon: binary.BigEndian.Uint64(plain[1:])})
	}
}

// join adds a fragment and returns the plaintext when it is whole, else nil.
func (d *downlink) join(k *recvKey, plain []byte) []byte {
	if k.parts == nil {
		k.parts = &frag.Assembler{}
	}
	before := lost(k.parts.Counters())
	whole, ok := k.parts.Add(d.time(), plain)
	if n := lost(k.parts.Counters()) - before; n > 0 {
		k.nw.drops[dropFragment].Add(n)
	}
	if !ok {
		return nil
	}
	return whole
}

// lost sums what an assembler dropped.
func lost(c frag.Counters) uint64 {
	return c.Malformed + c.Lie + c.Large + c.Duplicate + c.Late + c.Old + c.Crowded
}

// sweep lets assemblers forget what will never be whole.
func (d *downlink) sweep() {
	now := d.time()
	for _, k := range d.keys {
		if k.parts == nil {
			continue
		}
		before := lost(k.parts.Counters())
		k.parts.Tick(now)
		k.nw.drops[dropFragment].Add(lost(k.parts.Counters()) - before)
	}
}

// records queues the frames of a plaintext for the network's TAP.
func (d *downlink) records(nw *network, from ident.HostID, b []byte) {
	if len(b) == 0 {
		nw.drops.count(dropKind)
	}
	for len(b) > 0 {
		r, rest, ok := gso.Next(b)
		if !ok {
			nw.drops.count(dropKind)
			return
		}
		b = rest
		d.deliver(nw, from, r)
	}
}

// deliver queues a frame, or joins it to the one before.
func (d *downlink) deliver(nw *network, from ident.HostID, r gso.Record) {
	frame := r.Frame
	if len(frame) > nw.mtu+etherOverhead {
		nw.drops.count(dropTooBig)
		return
	}
	if w := &d.whole; w.nw == nw && w.from == from && w.Add(r) { // what it says of itself is what the first said
		w.counters.PacketsOut.Add(1)
		w.counters.BytesOut.Add(uint64(len(frame)))
		return
	}
	d.finish()
	t := nw.table.Load()
	if t == nil {
		nw.drops.count(dropNoTable)
		return
	}
	c, reason := t.Inbound(frame, from)
	if reason != fdb.Deliver {
		nw.drops.count(drop(reason))
		return
	}
	if len(d.space.buf)-d.space.used < gso.HeaderLen+len(frame) {
		d.flush()
	}
	space := d.space.buf[d.space.used:min(d.space.used+gso.MaxFrame, len(d.space.buf))]
	if !d.whole.Start(space[:0:len(space)], r) {
		nw.drops.count(dropOffload)
		return
	}
	d.whole.nw, d.whole.from, d.whole.counters = nw, from, c
	c.PacketsOut.Add(1)
	c.BytesOut.Add(uint64(len(frame)))
}

// finish queues the frame at the end of space.
func (d *downlink) finish() {
	nw := d.whole.nw
	if nw == nil {
		return
	}
	d.whole.nw = nil
	b := d.whole.Finish()
	d.space.used += len(b)
	if len(nw.pending) == 0 {
		d.dirty = append(d.dirty, nw)
	}
	nw.pending = append(nw.pending, b)
}

// flush writes all queued frames.
func (d *downlink) flush() {
	d.finish()
	for _, nw := range d.dirty {
		n, err := nw.dev.Write(nw.pending)
		if missing := len(nw.pending) - n; missing > 0 {
			reason := dropTapRefused
			if err != nil {
				reason = dropTapWrite
			}
			nw.drops[reason].Add(uint64(missing))
		}
		nw.pending = nw.pending[:0]
	}
	clear(d.dirty)
	d.dirty = d.dirty[:0]
	d.space.used = 0
}

// drain takes over changes of keys, and opens the packets that waited for one.
func (d *downlink) drain() {
	d.waiting.Store(false)
	d.inboxMu.Lock()
	inbox, stale := d.inbox, d.stale
	d.inbox, d.stale = nil, false
	d.inboxMu.Unlock()
	if stale {
		d.sweep()
	}
	for _, c := range inbox {
		for _, id := range c.remove {
			delete(d.keys, id)
		}
		if c.add == nil {
			continue
		}
		d.keys[c.add.id] = c.add
		if d.held.count > 0 {
			d.drop(d.held.expire(d.time()))
			d.held.release(c.add.id, func(pkt []byte) { d.open(c.add, pkt) })
		}
	}
}

// hold keeps a packet whose key is not here yet, and asks its sender for the key.
func (d *downlink) hold(id uint64, from ident.HostID, pkt []byte) {
	if from.IsZero() || !d.e.shares(from) {
		d.drop(1) // nobody to ask: whoever sent it, strangers must not fill the space
		return
	}
	now := d.time()
	d.drop(d.held.expire(now))
	if !d.held.add(now, id, pkt) {
		d.drop(1)
	}
	if d.asks.allow(now, id) {
		d.e.send([]outgoing{{from, keyMessage{Op: keyAsk, ID: id}}})
	}
}

// drop counts packets whose key never came.
func (d *downlink) drop(n int) {
	if n > 0 {
		d.e.drops[dropUnknownKey].Add(uint64(n))
	}
}

func (d *downlink) time() time.Time {
	if d.now.IsZero() {
		d.now = d.e.cfg.Now()
	}
	return d.now
}

// shares reports whether another host has any network of this one.
func (e *Engine) shares(h ident.HostID) bool {
	for _, nw := range *e.networks.Load() {
		if nw.has(h) {
			return true
		}
	}
	return false
}

// vniOf reads the VNI of a plaintext of at least frameHeader bytes.
func vniOf(plain []byte) uint32 {
	return uint32(plain[1])<<16 | uint32(plain[2])<<8 | uint32(plain[3])
}
