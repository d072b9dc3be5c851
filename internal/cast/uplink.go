package cast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/wire"
)

// Sizes of an uplink's fixed memory.
const (
	// batchFrames is how many frames one read takes, readSpace what they may have in all.
	batchFrames = 256
	readSpace   = 256 << 10
	// batchPackets is how many packets, or trains of packets, wait for one write.
	batchPackets = 256
	// arenaSize is the space for sealed packets, and again for copies in envelopes, between two writes.
	arenaSize = 256 << 10
	// A train is what one call may carry to one endpoint (udp.MaxSegments, and less than 64 KiB with all headers).
	maxTrain     = 65000
	trainPackets = 64
	frameHeader  = 4 // kind and VNI
	// watchEvery is how often the path to a host that is served by native multicast counts as used.
	watchEvery    = 2 * time.Second
	largestPacket = wire.GroupHeader + wire.MaxDatagram + wire.Tag
)

// SuperFrame returns the length in bytes of the longest super-frame that leaves in one call to a receiver, in a network of an
// MTU: one longer by a packet costs as much as two.
func SuperFrame(mtu int) int {
	const headers = 20 + 20 // IP and TCP, less than which no packet has
	// The kernel keeps some 320 bytes of it for headers below TCP's.
	const kept = 400
	packets := maxTrain / (wire.LinkHeader + frameHeader + gso.MaxRecord + etherOverhead + mtu + wire.Tag)
	return packets*(mtu-headers) + kept
}

// uplink carries frames from one network's TAP to the underlay. It belongs to the goroutine in run.
//
// Short frames that follow each other to the same receivers share packets, as many as fit; super-frames are cut into
// segments, one packet each. Packets that follow each other and are of one size make a train: one call of the kernel.
type uplink struct {
	e      *Engine
	nw     *network
	w      PacketWriter
	space  []byte   // what frames are read into
	frames [][]byte // parts of it
	split  gso.Splitter
	burst  byte // counts super-frames

	to      dest
	pkt     packet
	train   train
	sealed  arena
	wrapped arena    // copies in envelopes
	scratch []byte   // a plaintext that must be cut
	out     []Packet // not yet written; they point into the arenas
	bucket  bucket
	watch   bool      // in this batch, see follow
	watched time.Time // when that last was so
	fragID  uint32    // of group packets
}

// dest is where frames go: found once for those that follow each other.
type dest struct {
	one      bool
	first    **link.Peer // of the table's list: names it
	audience *tree.Audience
	label    uint32
	group    netip.AddrPort // one packet more to the underlay group, if valid
	paths    []receiver
	missing  int // receivers without a path
	room     int // plaintext of a packet in bytes
	head     int // of its header
	sealer   *seal.Sealer
}

// copies returns the packets that leave for one.
func (d *dest) copies() int {
	if d.group.IsValid() {
		return len(d.paths) + 1
	}
	return len(d.paths)
}

// receiver is one host that gets a copy and the path it takes.
type receiver struct {
	peer *link.Peer
	path *link.Path
	tree tree.ID // passes it on under this id, if not zero
}

// packet is the one being filled: a plaintext of n bytes behind room for the header, at the end of the arena.
type packet struct {
	open bool
	long bool // of one frame that has it for itself
	at   int
	n    int
}

// train is sealed packets in the arena that go to the same receivers in one call each.
type train struct {
	at, end int
	size    int // of every packet but the last
	count   int
	short   bool // the last is shorter: no more follow
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
	return &uplink{
		e: e, nw: nw, w: e.cfg.NewWriter(),
		space: make([]byte, readSpace), frames: make([][]byte, batchFrames),
		scratch: make([]byte, frameHeader+gso.MaxRecord+nw.mtu+etherOverhead),
		out:     make([]Packet, 0, batchPackets),
		sealed:  arena{buf: make([]byte, arenaSize)}, wrapped: arena{buf: make([]byte, arenaSize)},
	}
}

// run reads until the device is closed.
func (u *uplink) run() {
	for u.turn() {
	}
}

// turn reads and sends once; false at the end.
func (u *uplink) turn() bool {
	u.nw.turn <- struct{}{}
	defer func() { <-u.nw.turn }()
	n, err := u.nw.dev.Read(u.space, u.frames)
	switch {
	case err == nil:
		u.batch(n, u.e.cfg.Now())
		return true
	case errors.Is(err, os.ErrDeadlineExceeded): // paused: the next turn comes after it
		return true
	case !errors.Is(err, net.ErrClosed):
		u.e.log.Error("uplink stopped", "vni", u.nw.vni, "err", err)
	}
	return false
}

// batch sends the n frames that were read.
func (u *uplink) batch(n int, now time.Time) {
	u.bucket.fill(now, u.nw.rate.Load())
	if u.watch = now.Sub(u.watched) >= watchEvery; u.watch {
		u.watched = now
	}
	t := u.nw.table.Load()
	for _, f := range u.frames[:n] {
		if t == nil {
			u.nw.drops.count(dropNoTable)
			continue
		}
		u.frame(t, gso.Parse(f), f[gso.HeaderLen:])
	}
	u.flush()
	u.to.first = nil // paths may be others by the next batch
}

// frame decides on a frame and sends it.
func (u *uplink) frame(t *fdb.Table, h gso.Header, f []byte) {
	longest := len(f)
	if h.Type != gso.TypeNone {
		u.burst++
		if u.split.Init(h, f, u.burst) != nil {
			u.nw.drops.count(dropOffload)
			return
		}
		longest = u.split.Segment()
	}
	if longest > u.nw.mtu+etherOverhead {
		u.nw.drops.count(dropTooBig)
		return
	}
	d := t.Lookup(f)
	frames, copies := 1, 0
	switch {
	case d.Drop != fdb.Deliver:
		u.nw.drops.count(drop(d.Drop))
	case d.Flood && !u.bucket.take():
		u.nw.drops.count(dropRate)
	case len(d.To) == 0:
	default:
		u.aim(&d)
		if u.to.missing > 0 {
			u.nw.drops[dropNoPath].Add(uint64(u.to.missing))
		}
		if n := u.to.copies(); n > 0 {
			frames = u.pack(h, f)
			copies = frames * n
		}
	}
	c := d.Counters
	if c == nil {
		return
	}
	c.PacketsIn.Add(uint64(frames))
	c.BytesIn.Add(uint64(len(f)))
	c.CopiesSent.Add(uint64(copies))
	if saved := frames*t.Others() - copies; !d.One && saved > 0 {
		c.CopiesSaved.Add(uint64(saved))
	}
}

// aim makes the receivers of a decision those of the packets that follow.
func (u *uplink) aim(d *fdb.Decision) {
	to := &u.to
	first := &d.To[0]
	if to.first != nil && to.one == d.One && (to.first == first || d.One && *to.first == *first) {
		return
	}
	u.depart()
	*to = dest{one: d.One, first: first, audience: d.Audience, paths: to.paths[:0]}
	var route *tree.Route
	if d.Audience != nil {
		route = d.Audience.Route()
	}
	payload := wire.MaxDatagram
	if route == nil {
		for _, p := range d.To {
			payload = min(payload, to.add(p, tree.ID{}))
		}
	} else {
		payload = to.follow(route, u.watch)
	}
	switch {
	case to.copies() == 0:
	case d.One:
		to.head, to.sealer = wire.LinkHeader, to.paths[0].path.Session
	default:
		payload = max(payload, wire.MinPath-wire.RelayTotal)
		to.head, to.sealer = wire.GroupHeader, u.nw.key.Load()
	}
	to.room = payload - to.head - wire.Tag
}

// add adds a copy and returns the payload that its path carries.
func (d *dest) add(p *link.Peer, id tree.ID) (payload int) {
	path := p.Use()
	if path == nil || path.Relay != nil && !id.IsZero() {
		d.missing++
		return wire.MaxDatagram
	}
	d.paths = append(d.paths, receiver{p, path, id})
	if !id.IsZero() {
		return path.Payload - wire.RelayTotal
	}
	return path.Payload
}

// follow takes the receivers from a route and returns the payload that all its paths carry. The paths of those that hear
// the multicast packet only tell how long it may be: watch says to use them all the same, so that they stay true.
func (d *dest) follow(r *tree.Route, watch bool) (payload int) {
	d.label, d.group, payload = r.Label, r.Group, wire.MaxDatagram
	for _, p := range r.Heard {
		path := p.Path()
		if watch {
			path = p.Use()
		}
		if path != nil {
			payload = min(payload, path.Payload)
		}
	}
	for i := range r.Edges {
		payload = min(payload, d.add(r.Edges[i].Peer, r.Edges[i].Tree))
	}
	if r.Room > 0 {
		payload = min(payload, r.Room-wire.RelayTotal)
	}
	return payload
}

// pack puts a frame, or the segments of a super-frame, into packets, and returns how many frames that were.
func (u *uplink) pack(h gso.Header, f []byte) (frames int) {
	if h.Type == gso.TypeNone {
		var r gso.Record
		if r.Plain(h, f) != nil {
			u.nw.drops.count(dropOffload)
			return 0
		}
		n := r.Overhead() + len(f)
		if b := u.place(n); b != nil {
			r.Put(b)
		} else {
			r.Put(u.scratch[frameHeader:])
			u.cut(frameHeader + n)
		}
		return 1
	}
	for n := u.split.Len(); n > 0; n = u.split.Len() {
		if plain := u.whole(n); plain != nil {
			u.sealFrom(plain)
		} else if b := u.place(n); b != nil {
			u.split.Put(b)
		} else {
			u.split.Put(u.scratch[frameHeader:])
			u.cut(frameHeader + n)
		}
		frames++
	}
	return frames
}

// whole returns the plaintext of a packet that holds the next segment, a record of n bytes, and nothing else, where it lies:
// nil when others should share the packet, or it fits none.
func (u *uplink) whole(n int) []byte {
	if !u.long(n) || frameHeader+n > u.to.room {
		return nil
	}
	plain := u.split.Take(frameHeader)
	if plain != nil {
		u.begin(plain)
	}
	return plain
}

// begin writes what every plaintext of frames begins with.
func (u *uplink) begin(b []byte) {
	b[0], b[1], b[2], b[3] = wire.KindFrame, byte(u.nw.vni>>16), byte(u.nw.vni>>8), byte(u.nw.vni)
}

// long reports whether a record of n bytes has a packet for itself: where a path swallows what is long, short frames must
// not be lost with long ones.
func (u *uplink) long(n int) bool { return 2*n > u.to.room }

// place returns room for a record of n bytes in a packet, nil when no packet on the way to the receivers has it.
func (u *uplink) place(n int) []byte {
	long := u.long(n)
	if u.pkt.open && (long || u.pkt.long || u.pkt.n+n > u.to.room) {
		u.close()
	}
	if !u.pkt.open {
		if frameHeader+n > u.to.room {
			return nil
		}
		u.open()
		u.begin(u.sealed.buf[u.pkt.at+u.to.head:])
		u.pkt.n, u.pkt.long = frameHeader, long
	}
	at := u.pkt.at + u.to.head + u.pkt.n
	u.pkt.n += n
	return u.sealed.buf[at : at+n]
}

// open begins a packet at the end of the arena.
func (u *uplink) open() {
	u.pkt = packet{open: true, at: u.next()}
}

// next returns where the next packet goes: there is room for the largest.
func (u *uplink) next() int {
	if len(u.sealed.buf)-u.sealed.used < largestPacket {
		u.leave()
		u.write()
		u.sealed.used = 0
	}
	return u.sealed.used
}

// cut sends the plaintext of n bytes in scratch, which fits no packet, in fragments.
func (u *uplink) cut(n int) {
	u.begin(u.scratch)
	count, each, err := frag.Plan(n, u.to.room)
	if err != nil {
		u.nw.drops.count(dropTooBig)
		return
	}
	var id uint32
	if u.to.one {
		id = u.e.cfg.NextFragment()
	} else {
		u.fragID++
		id = u.fragID
	}
	for k := range count {
		part := u.scratch[k*each : min((k+1)*each, n)]
		if u.pkt.open {
			u.close()
		}
		u.open()
		b := u.sealed.buf[u.pkt.at+u.to.head:]
		frag.PutHeader(b, id, k, count)
		u.pkt.n = frag.Header + copy(b[frag.Header:], part)
	}
	u.close()
}

// close seals the packet being filled.
func (u *uplink) close() {
	at := u.pkt.at
	u.pkt.open = false
	u.seal(at, u.sealed.buf[at+u.to.head:at+u.to.head+u.pkt.n])
}

// sealFrom makes a packet of a plaintext that lies elsewhere.
func (u *uplink) sealFrom(plain []byte) {
	if u.pkt.open {
		u.close()
	}
	u.seal(u.next(), plain)
}

// seal makes a packet at a place of the arena and couples it to the train.
func (u *uplink) seal(at int, plain []byte) {
	var pkt []byte
	var err error
	if u.to.one {
		pkt, err = u.to.sealer.SealLinkFrom(u.sealed.buf[at:], plain)
	} else {
		pkt, err = u.to.sealer.SealGroupFrom(u.sealed.buf[at:], plain, u.to.label)
	}
	if err != nil {
		reason := dropSealing
		if errors.Is(err, seal.ErrSpent) {
			reason = dropKeySpent
		}
		u.nw.drops.count(reason)
		return
	}
	u.sealed.used = at + len(pkt)
	t := &u.train
	if t.count > 0 && (t.short || at != t.end || len(pkt) > t.size || t.count == trainPackets || t.end-t.at+len(pkt) > maxTrain) {
		u.leave()
	}
	if t.count == 0 {
		*t = train{at: at, size: len(pkt)}
	}
	t.end = at + len(pkt)
	t.count++
	t.short = len(pkt) < t.size
}

// leave queues the train for all receivers.
func (u *uplink) leave() {
	t := u.train
	u.train.count = 0
	if t.count == 0 {
		return
	}
	if a := u.to.audience; a != nil && len(a.Peers) > 1 && a.Sent(t.count) {
		u.e.wake(u.nw.vni, a)
	}
	whole := u.sealed.buf[t.at:t.end:t.end]
	p := Packet{Data: whole}
	if t.count > 1 {
		p.Segment = t.size
	}
	if u.to.group.IsValid() {
		p.To = u.to.group
		u.queue(p)
	}
	for i := range u.to.paths {
		r := &u.to.paths[i]
		switch {
		case !r.tree.IsZero():
			u.wrap(r, r.path.Session, r.tree, whole, t.size)
		case r.path.Relay != nil:
			u.wrap(r, r.path.Relay.Hop, r.peer.ID, whole, t.size)
		default:
			p.To = r.path.Endpoint
			u.queue(p)
		}
	}
}

func (u *uplink) queue(p Packet) {
	if len(u.out) == cap(u.out) {
		u.write()
	}
	u.out = append(u.out, p)
}

// wrap queues copies of the packets of a train, of size bytes each but the last, in envelopes for one who passes them on:
// again as a train, or two when they have grown too long for one.
func (u *uplink) wrap(r *receiver, hop *seal.Sealer, dst [16]byte, whole []byte, size int) {
	most := maxTrain / (wire.RelayTotal + size) * size
	for len(whole) > 0 {
		part := whole[:min(most, len(whole))]
		whole = whole[len(part):]
		n := len(part) + (len(part)+size-1)/size*wire.RelayTotal
		b := u.wrapped.take(n)
		if b == nil {
			u.write()
			u.wrapped.used = 0
			b = u.wrapped.take(n)
		}
		p := Packet{Data: b, To: r.path.Endpoint}
		if len(part) > size {
			p.Segment = wire.RelayTotal + size
		}
		for len(part) > 0 {
			pkt := part[:min(size, len(part))]
			part = part[len(pkt):]
			copy(b[wire.RelayTotal:], pkt)
			if err := hop.PutEnvelope(b, u.e.cfg.Self, dst, wire.MaxHops); err != nil {
				u.nw.drops.count(dropKeySpent)
				return
			}
			b = b[wire.RelayTotal+len(pkt):]
		}
		u.queue(p)
	}
}

// depart queues all that is on the way to the receivers of the moment.
func (u *uplink) depart() {
	if u.pkt.open {
		u.close()
	}
	u.leave()
}

// write sends what is queued. The arenas stay as they are: the packet at hand lies in one.
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

// flush sends all and takes the arenas back.
func (u *uplink) flush() {
	u.depart()
	u.write()
	u.sealed.used, u.wrapped.used = 0, 0
}
