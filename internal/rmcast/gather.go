package rmcast

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// TypeBundle is a datagram that holds several, of types data and control, one behind the other: [type][length 2][datagram]...
// It is not sealed: what it holds is.
const TypeBundle = 0x43

// bundleEach is what a bundle adds to each datagram in it, bundleFirst to the whole.
const (
	bundleFirst = 1
	bundleEach  = 2
	maxBundled  = 256 // in one
)

// Gatherer is a Wire that lets datagrams for one address wait a while for others, and sends them as one. Where a hop is far and messages are
// few that saves most of the datagrams: confirmations ride with data, and what a relay passes on for many publishers leaves together. Multicast and hellos
// do not wait. Its methods may be called by any goroutine.
type Gatherer struct {
	mu            sync.Mutex
	wire          Wire
	clock         func() time.Time
	data, control time.Duration
	size          int
	waiting       map[netip.AddrPort]*parcel
	free          []*parcel
	plain         []netip.AddrPort
	next          time.Time // when the first of them is due; zero: none waits
}

// parcel is what waits for one address.
type parcel struct {
	buf []byte // as a bundle
	n   int
	due time.Time
}

// NewGatherer returns a Wire over another. data and control are how long datagrams of streams and others wait at most; 0: they don't, and take
// along what waits for the same address. size is the longest datagram to make.
func NewGatherer(wire Wire, clock func() time.Time, data, control time.Duration, size int) *Gatherer {
	return &Gatherer{
		wire: wire, clock: clock, data: data, control: control, size: min(max(size, MinDatagram), MaxDatagram), waiting: map[netip.AddrPort]*parcel{},
	}
}

// Send implements Wire.
func (g *Gatherer) Send(buf []byte, segment int, group bool, to []netip.AddrPort) {
	if len(buf) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	hold, gathered := g.control, buf[0] == TypeData || buf[0] == TypeControl
	if buf[0] == TypeData {
		hold = g.data
	}
	if group || !gathered {
		g.wire.Send(buf, segment, group, nil)
	}
	if !gathered {
		g.wire.Send(buf, segment, false, to)
		return
	}
	g.plain = g.plain[:0]
	now := g.clock()
	for _, a := range to {
		p := g.waiting[a]
		if hold == 0 && p == nil {
			g.plain = append(g.plain, a)
			continue
		}
		for rest := buf; len(rest) > 0; {
			k := min(segment, len(rest))
			g.put(now, a, rest[:k], hold)
			rest = rest[k:]
		}
		if hold == 0 {
			g.send(a)
		}
	}
	if len(g.plain) > 0 {
		g.wire.Send(buf, segment, false, g.plain)
	}
}

// put adds a datagram to what waits for an address.
func (g *Gatherer) put(now time.Time, a netip.AddrPort, pkt []byte, hold time.Duration) {
	p := g.waiting[a]
	if p != nil && (len(p.buf)+bundleEach+len(pkt) > g.size || p.n == maxBundled) {
		g.send(a)
		p = nil
	}
	if p == nil {
		if k := len(g.free); k > 0 {
			p, g.free = g.free[k-1], g.free[:k-1]
		} else {
			p = &parcel{}
		}
		p.buf, p.n, p.due = append(p.buf[:0], TypeBundle), 0, now.Add(hold)
		g.waiting[a] = p
	}
	p.buf = append(binary.BigEndian.AppendUint16(p.buf, uint16(len(pkt))), pkt...)
	p.n++
	if p.due = earlier(p.due, now.Add(hold)); g.next.IsZero() || p.due.Before(g.next) {
		g.next = p.due
	}
}

// send sends what waits for an address; one datagram alone as it is.
func (g *Gatherer) send(a netip.AddrPort) {
	p := g.waiting[a]
	if p == nil {
		return
	}
	delete(g.waiting, a)
	out := p.buf
	if p.n == 1 {
		out = out[bundleFirst+bundleEach:]
	}
	g.wire.Send(out, len(out), false, []netip.AddrPort{a})
	if len(g.free) < crowd {
		g.free = append(g.free, p)
	}
}

// Flush sends what has waited long enough.
func (g *Gatherer) Flush(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next.IsZero() || now.Before(g.next) {
		return
	}
	var due []netip.AddrPort
	g.next = time.Time{}
	for a, p := range g.waiting {
		if !now.Before(p.due) {
			due = append(due, a)
		} else if g.next.IsZero() || p.due.Before(g.next) {
			g.next = p.due
		}
	}
	slices.SortFunc(due, netip.AddrPort.Compare)
	for _, a := range due {
		g.send(a)
	}
}

// Next is when Flush is to be called; zero: nothing waits.
func (g *Gatherer) Next() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.next
}

// bundle takes the datagrams in one.
func (n *Node) bundle(now time.Time, from netip.AddrPort, group bool, pkt []byte) {
	for pkt = pkt[bundleFirst:]; len(pkt) > 0; {
		if len(pkt) < bundleEach {
			n.Stats.Malformed++
			return
		}
		k := int(binary.BigEndian.Uint16(pkt))
		if pkt = pkt[bundleEach:]; k == 0 || k > len(pkt) || pkt[0] != TypeData && pkt[0] != TypeControl {
			n.Stats.Malformed++
			return
		}
		n.take(now, from, group, pkt[:k])
		pkt = pkt[k:]
	}
}
