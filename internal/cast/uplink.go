package cast

import (
	"errors"
	"net"
	"time"

	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

// Sizes of an uplink's fixed memory.
const (
	// batchFrames is how many frames one read takes.
	batchFrames = 64
	// batchPackets is how many packets wait for one write.
	batchPackets = 256
	// arenaSize is the space for fragments, and again for copies in envelopes, between two writes.
	arenaSize = 256 << 10
)

// A frame is read into its slot behind room for every header it may need, so that it is sealed where it lies:
//
//	| envelope 64 | group header 20 | kind, VNI 4 | frame | tag 16 |
//	               | link header 16 |
const (
	frameHeader = 4 // kind and VNI
	slotHead    = wire.RelayTotal + wire.GroupHeader + frameHeader
)

// uplink carries frames from one network's TAP to the underlay. It belongs to the goroutine in run.
type uplink struct {
	e       *Engine
	nw      *network
	w       PacketWriter
	slots   [][]byte // whole slots
	bufs    [][]byte // where Read puts frames: a part of each slot
	sizes   []int
	out     []Packet // sealed, not yet written; they point into slots and arenas
	paths   []receiver
	parts   arena // fragments
	wrapped arena // copies in envelopes
	bucket  bucket
	fragID  uint32 // of group packets
}

// receiver is one host that gets the frame and the path it takes, read once per frame.
type receiver struct {
	peer *link.Peer
	path *link.Path
}

// arena hands out space until reset.
type arena struct {
	buf  []byte
	used int
}

// take returns n bytes, or nil when they are not there.
func (a *arena) take(n int) []byte {
	if len(a.buf)-a.used < n {
		return nil
	}
	b := a.buf[a.used : a.used+n : a.used+n]
	a.used += n
	return b
}

func newUplink(e *Engine, nw *network) *uplink {
	u := &uplink{
		e: e, nw: nw, w: e.cfg.NewWriter(),
		slots: make([][]byte, batchFrames),
		bufs:  make([][]byte, batchFrames),
		sizes: make([]int, batchFrames),
		out:   make([]Packet, 0, batchPackets),
	}
	frame := nw.mtu + etherOverhead + 1 // one more, to see what is too long
	for i := range u.slots {
		u.slots[i] = make([]byte, slotHead+frame+wire.Tag)
		u.bufs[i] = u.slots[i][slotHead : slotHead+frame]
	}
	u.parts.buf = make([]byte, arenaSize)
	u.wrapped.buf = make([]byte, arenaSize)
	return u
}

// run reads until the device is closed.
func (u *uplink) run() {
	for {
		n, err := u.nw.dev.Read(u.bufs, u.sizes)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				u.e.log.Error("uplink stopped", "vni", u.nw.vni, "err", err)
			}
			return
		}
		u.batch(n, u.e.cfg.Now())
	}
}

// batch sends the n frames that were read.
func (u *uplink) batch(n int, now time.Time) {
	u.bucket.fill(now, u.nw.rate.Load())
	t := u.nw.table.Load()
	for i := range n {
		if t == nil {
			u.nw.drops.count(dropNoTable)
			continue
		}
		u.frame(t, i, u.sizes[i])
	}
	u.flush()
}

// frame decides on the frame in slot i and sends it.
func (u *uplink) frame(t *fdb.Table, i, n int) {
	if n > u.nw.mtu+etherOverhead {
		u.nw.drops.count(dropTooBig)
		return
	}
	d := t.Lookup(u.bufs[i][:n])
	copies := 0
	switch {
	case d.Drop != fdb.Deliver:
		u.nw.drops.count(drop(d.Drop))
	case d.Flood && !u.bucket.take():
		u.nw.drops.count(dropRate)
	case d.One:
		copies = u.toOne(d.To[0], i, n)
	default:
		copies = u.toMany(d.To, i, n)
	}
	c := d.Counters
	if c == nil {
		return
	}
	c.PacketsIn.Add(1)
	c.BytesIn.Add(uint64(n))
	c.CopiesSent.Add(uint64(copies))
	if saved := t.Others() - copies; !d.One && saved > 0 {
		c.CopiesSaved.Add(uint64(saved))
	}
}

// plain writes kind and VNI before the frame in slot i and returns the slot from off bytes before them on.
func (u *uplink) plain(i, off int) []byte {
	b := u.slots[i][slotHead-frameHeader-off:]
	b[off] = wire.KindFrame
	b[off+1], b[off+2], b[off+3] = byte(u.nw.vni>>16), byte(u.nw.vni>>8), byte(u.nw.vni)
	return b
}

// toOne seals a frame for one host under the session of the link.
func (u *uplink) toOne(p *link.Peer, i, n int) (copies int) {
	path := p.Use()
	if path == nil {
		u.nw.drops.count(dropNoPath)
		return 0
	}
	buf, plain := u.plain(i, wire.LinkHeader), frameHeader+n
	count, each, err := frag.Plan(plain, path.Payload-wire.LinkHeader-wire.Tag)
	if err != nil {
		u.nw.drops.count(dropTooBig)
		return 0
	}
	u.paths = append(u.paths[:0], receiver{p, path})
	if count == 1 {
		return u.sealed(path.Session.SealLink(buf, plain))
	}
	id := u.e.cfg.NextFragment()
	whole := buf[wire.LinkHeader : wire.LinkHeader+plain]
	for k := range count {
		part, n := u.part(whole, wire.LinkHeader, id, k, count, each)
		copies = max(copies, u.sealed(path.Session.SealLink(part, n)))
	}
	return copies
}

// toMany seals a frame once, whoever gets it, under the sender key of the network.
func (u *uplink) toMany(to []*link.Peer, i, n int) (copies int) {
	u.paths = u.paths[:0]
	payload := wire.MaxDatagram
	for _, p := range to {
		path := p.Use()
		if path == nil {
			u.nw.drops.count(dropNoPath)
			continue
		}
		u.paths = append(u.paths, receiver{p, path})
		payload = min(payload, path.Payload)
	}
	if len(u.paths) == 0 {
		return 0
	}
	payload = max(payload, wire.MinPath-wire.RelayTotal)
	key := u.nw.key.Load()
	buf, plain := u.plain(i, wire.GroupHeader), frameHeader+n
	count, each, err := frag.Plan(plain, payload-wire.GroupHeader-wire.Tag)
	if err != nil {
		u.nw.drops.count(dropTooBig)
		return 0
	}
	if count == 1 {
		return u.sealed(key.SealGroup(buf, plain))
	}
	u.fragID++
	whole := buf[wire.GroupHeader : wire.GroupHeader+plain]
	for k := range count {
		part, n := u.part(whole, wire.GroupHeader, u.fragID, k, count, each)
		copies = max(copies, u.sealed(key.SealGroup(part, n)))
	}
	return copies
}

// part copies fragment k of a plaintext behind room for a header of off bytes, ready to be sealed.
func (u *uplink) part(whole []byte, off int, id uint32, k, count, each int) (buf []byte, n int) {
	from := k * each
	to := min(from+each, len(whole))
	n = frag.Header + to - from
	if buf = u.parts.take(off + n + wire.Tag); buf == nil {
		u.flush()
		buf = u.parts.take(off + n + wire.Tag) // an empty arena has room for any packet
	}
	frag.PutHeader(buf[off:], id, k, count)
	copy(buf[off+frag.Header:], whole[from:to])
	return buf, n
}

// sealed queues a packet, or counts why it was not sealed, for all receivers in u.paths. It returns the copies.
func (u *uplink) sealed(pkt []byte, err error) (copies int) {
	if err != nil {
		reason := dropSealing
		if errors.Is(err, seal.ErrSpent) {
			reason = dropKeySpent
		}
		u.nw.drops.count(reason)
		return 0
	}
	for i := range u.paths {
		r := &u.paths[i]
		data := pkt
		if r.path.Relay != nil {
			if data = u.envelope(r, pkt); data == nil {
				continue
			}
		}
		if len(u.out) == cap(u.out) {
			u.write()
		}
		u.out = append(u.out, Packet{Data: data, To: r.path.Endpoint})
		copies++
	}
	return copies
}

// envelope returns a copy of pkt in an envelope for the relay of r, nil when it cannot be sealed.
func (u *uplink) envelope(r *receiver, pkt []byte) []byte {
	n := wire.RelayTotal + len(pkt)
	b := u.wrapped.take(n)
	if b == nil {
		u.write()
		u.wrapped.used = 0
		b = u.wrapped.take(n)
	}
	copy(b[wire.RelayTotal:], pkt)
	if err := r.path.Relay.Hop.PutEnvelope(b, u.e.cfg.Self, r.peer.ID, wire.MaxHops); err != nil {
		u.nw.drops.count(dropKeySpent)
		return nil
	}
	return b
}

// write sends what is queued. Slots and arenas stay as they are: the packet at hand may lie in one.
func (u *uplink) write() {
	if len(u.out) == 0 {
		return
	}
	n, err := u.w.WriteBatch(u.out)
	if refused := len(u.out) - n; refused > 0 {
		u.nw.drops[dropSend].Add(uint64(refused))
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		u.e.log.Debug("send failed", "vni", u.nw.vni, "err", err)
	}
	u.out = u.out[:0]
}

// flush sends what is queued and takes the arenas back.
func (u *uplink) flush() {
	u.write()
	u.parts.used, u.wrapped.used = 0, 0
}
