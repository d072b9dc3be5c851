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

const (
	// maxReady is how many frames wait for Flush: written in a row they wake their receivers less often.
	maxReady = 16
	// maxGrowing is how many of them, the last, may grow by what still comes: as many flows at once.
	maxGrowing = 4
)

// downlink carries packets from the underlay to the TAPs. It belongs to the one goroutine that reads the
// underlay, but for the inbox.
type downlink struct {
	e     *Engine
	keys  map[uint64]*recvKey
	held  holdings
	asks  askLimit
	ready [maxReady]joining // to be written, in order
	count int               // of ready
	last  admitted
	now   time.Time // of this batch, zero until someone wants to know

	waiting atomic.Bool // the inbox has something
	inboxMu sync.Mutex
	inbox   []ringChange
	stale   bool // assemblers shall forget what is old
}

// joining is the super-frame that segments and datagrams are joined to while they come one after the other. It holds parts
// of the packets they came in.
type joining struct {
	gso.Joiner
	nw       *network
	from     ident.HostID
	counters *fdb.GroupCounters
	frames   int // and their bytes
	bytes    int
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

// HandleFrame takes a plaintext of kind wire.KindFrame that came over the link with host from. plain must stay as it is
// until Flush.
func (e *Engine) HandleFrame(from ident.HostID, plain []byte) {
	if len(plain) < frameHeader || plain[0] != wire.KindFrame {
		e.drops.count(dropKind)
		return
	}
	l, vni := &e.down.last, vniOf(plain)
	if networks := e.networks.Load(); l.networks != networks || l.vni != vni || l.from != from || l.hosts != l.nw.hosts.Load() {
		nw := (*networks)[vni]
		if nw == nil {
			e.drops.count(dropNoNetwork)
			return
		}
		hosts := nw.hosts.Load()
		if _, ok := (*hosts)[from]; !ok {
			nw.drops.count(dropNotOfNetwork)
			return
		}
		*l = admitted{networks, hosts, vni, from, nw}
	}
	e.down.records(l.nw, from, plain[frameHeader:])
}

// admitted is that frames of a network are taken from a host, found once for those that follow each other: true as long as
// the pointers are the current ones.
type admitted struct {
	networks *map[uint32]*network // nil: nothing is known
	hosts    *hostSet
	vni      uint32
	from     ident.HostID
	nw       *network
}

// HandleGroup takes a packet of type wire.TypeGroup. from is the host it seems to come from (the endpoint's, or the
// src of the envelope), zero when unknown; it only serves to ask for a missing key. pkt is opened in place
// and must stay as it is until Flush.
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

// Flush writes what may still wait for more to be joined to it. Call it after each batch that was read from the underlay.
func (e *Engine) Flush() {
	d := &e.down
	if d.waiting.Load() {
		d.drain()
	}
	if d.held.count > 0 {
		d.drop(d.held.expire(d.time()))
	}
	d.write()
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
		defer d.write() // the next fragment comes into the same space
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

// records delivers the frames of a plaintext to the network's TAP.
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

// deliver joins a frame to the one before, or writes that and keeps this one for the next to be joined to.
func (d *downlink) deliver(nw *network, from ident.HostID, r gso.Record) {
	frame := r.Frame
	if len(frame) > nw.mtu+etherOverhead {
		nw.drops.count(dropTooBig)
		return
	}
	for i := d.count - 1; i >= max(0, d.count-maxGrowing); i-- {
		w := &d.ready[i]
		if w.nw != nw || w.from != from {
			continue
		}
		if w.Add(r) { // what it says of itself is what the first said
			w.frames++
			w.bytes += len(frame)
			return
		}
		if !w.Other(r) {
			break // it must not overtake this one
		}
	}
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
	if d.count == maxReady {
		d.write()
	}
	w := &d.ready[d.count]
	if !w.Start(r, nw.dev.SegmentsUDP()) {
		nw.drops.count(dropOffload)
		return
	}
	w.nw, w.from, w.counters, w.frames, w.bytes = nw, from, c, 1, len(frame)
	d.count++
}

// write writes what is ready.
func (d *downlink) write() {
	for i := range d.ready[:d.count] {
		w := &d.ready[i]
		w.counters.PacketsOut.Add(uint64(w.frames))
		w.counters.BytesOut.Add(uint64(w.bytes))
		if taken, err := w.nw.dev.Write(w.Finish()); !taken {
			reason := dropTapRefused
			if err != nil {
				reason = dropTapWrite
			}
			w.nw.drops[reason].Add(uint64(w.frames))
		}
		w.nw = nil
	}
	d.count = 0
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
			d.held.release(c.add.id, func(pkt []byte) {
				d.open(c.add, pkt)
				d.write() // the space is the holdings'
			})
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
