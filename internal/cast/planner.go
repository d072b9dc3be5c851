package cast

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/island"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/wire"
)

const (
	// beatSize is the plaintext of a beat or beacon: kind and sequence.
	beatSize = 1 + 8
	// planQueue bounds what waits for the planner; it is told again of what finds no place.
	planQueue = 4096
	// hearingPause is the least time between two reports of whom this host hears.
	hearingPause = 3 * time.Second
)

// planner owns the cores that decide how frames for many travel. It sleeps while nobody sends much to many.
type planner struct {
	e        *Engine
	sender   *tree.Sender
	receiver *tree.Receiver
	ear      *island.Ear
	mouth    *island.Mouth
	group    netip.AddrPort // of the underlay; the zero AddrPort: none
	w        PacketWriter
	events   chan planEvent
	done     chan struct{}
	once     sync.Once

	watches atomic.Pointer[tree.Watches] // read by the reader of the underlay
	stats   atomic.Pointer[WayStats]

	told time.Time // when hearing was last reported
}

// planEvent is one thing the planner is told.
type planEvent struct {
	from    ident.HostID
	message *tree.Message // of from
	beacon  uint64        // of from, by number
	wake    *tree.Audience
	vni     uint32
	forget  bool // network vni
	changed bool // tables or paths
	news    bool // another host is here
	hearing tree.Hearing
	group   *netip.AddrPort
}

// WayStats tell how frames for many travel.
type WayStats struct {
	tree.SenderStats
	Flights  int // audiences sent to at the moment
	Watches  int // labels of others listened for
	Branches int // trees of others in which this host passes packets on
	Voices   int // hosts whose beacons came
}

func (e *Engine) startPlanner() error {
	p := &planner{e: e, events: make(chan planEvent, planQueue), done: make(chan struct{})}
	p.watches.Store(&tree.Watches{})
	p.stats.Store(&WayStats{})
	e.planner = p
	if e.cfg.Peer == nil {
		return nil
	}
	var first [8]byte
	if _, err := io.ReadFull(e.cfg.Rand, first[:]); err != nil {
		return err
	}
	p.sender = tree.NewSender(tree.SenderConfig{Self: e.cfg.Self, Peer: e.cfg.Peer, Rand: e.cfg.Rand, Fanout: e.cfg.Fanout})
	p.receiver = tree.NewReceiver(e.cfg.Peer, e.cfg.Fanout)
	p.ear = island.NewEar()
	p.mouth = island.NewMouth(binary.BigEndian.Uint64(first[:]) >> 1)
	p.w = e.cfg.NewWriter()
	e.wg.Go(p.run)
	return nil
}

func (p *planner) stop() { p.once.Do(func() { close(p.done) }) }

// tell hands an event to the planner; false when it is busy. It never waits.
func (p *planner) tell(ev planEvent) bool {
	if p.sender == nil {
		return true
	}
	select {
	case p.events <- ev:
		return true
	default:
		p.e.drops.count(dropPlanQueue)
		return false
	}
}

// set is tell for what nobody repeats: it waits.
func (p *planner) set(ev planEvent) {
	if p.sender == nil {
		return
	}
	select {
	case p.events <- ev:
	case <-p.done:
	}
}

// wake tells the planner that an audience at rest is being sent to.
func (e *Engine) wake(vni uint32, a *tree.Audience) {
	if !e.planner.tell(planEvent{vni: vni, wake: a}) {
		a.Unheard()
	}
}

// HandleTree takes a plaintext of kind wire.KindTree that came over the link with host from.
func (e *Engine) HandleTree(from ident.HostID, plain []byte) {
	m, err := tree.Decode(plain)
	if err != nil {
		e.drops.count(dropTreeMessage)
		return
	}
	if nw := (*e.networks.Load())[m.VNI]; nw == nil || !nw.has(from) {
		e.drops.count(dropNotOfNetwork) // it will be said again
		return
	}
	e.planner.tell(planEvent{from: from, message: &m})
}

// SetUnderlayGroup says to which group this host sends native multicast; the zero AddrPort: to none.
func (e *Engine) SetUnderlayGroup(group netip.AddrPort) { e.planner.set(planEvent{group: &group}) }

// SetHearing says who hears whose native multicast, in the whole cluster.
func (e *Engine) SetHearing(h tree.Hearing) { e.planner.set(planEvent{hearing: h}) }

// Ways tells how frames for many travel.
func (e *Engine) Ways() WayStats { return *e.planner.stats.Load() }

func (p *planner) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var ticked time.Time
	for {
		select {
		case <-p.done:
			return
		case ev := <-p.events:
			p.event(p.e.cfg.Now(), ev)
			for range len(p.events) {
				p.event(p.e.cfg.Now(), <-p.events)
			}
		case <-timer.C:
		}
		now := p.e.cfg.Now()
		if now.Sub(ticked) >= tree.TickEvery {
			ticked = now
			p.sender.Tick(now)
			p.receiver.Tick(now)
		}
		next := p.beacon(now)
		p.hearing(now)
		p.act()
		if p.sender.Live() || p.receiver.Live() {
			next = min(next, ticked.Add(tree.TickEvery).Sub(now))
		}
		timer.Reset(max(next, 0))
	}
}

func (p *planner) event(now time.Time, ev planEvent) {
	switch {
	case ev.message != nil:
		switch ev.message.Op {
		case tree.OpOpen, tree.OpClose:
			p.receiver.Message(now, ev.from, ev.message)
		default:
			p.sender.Message(now, ev.from, ev.message)
		}
	case ev.wake != nil:
		p.sender.Wake(now, ev.vni, ev.wake)
	case ev.forget:
		p.sender.Forget(ev.vni)
	case ev.hearing != nil:
		p.sender.SetHearing(ev.hearing)
	case ev.group != nil:
		p.group = *ev.group
		p.sender.SetGroup(p.group)
		p.receiver.SetGroup(p.group)
	case ev.changed:
		p.sender.Changed()
	case ev.news:
		p.mouth.News()
	default:
		p.ear.Beacon(now, ev.from, ev.beacon)
	}
}

// act sends what the cores want sent and publishes what the datapath follows.
func (p *planner) act() {
	if w := p.receiver.Watches(); w != nil {
		p.watches.Store(w)
	}
	if b := p.receiver.Branches(); b != nil && p.e.cfg.Branches != nil {
		p.e.cfg.Branches(b)
	}
	out, beats := p.sender.Take()
	for _, o := range append(out, p.receiver.Take()...) {
		if err := p.e.cfg.Send(o.To, o.Msg.Encode()); err != nil {
			p.e.log.Debug("tree message not sent", "host", o.To.Short(), "err", err) // repeated, or its effect is seen
		}
	}
	nets := *p.e.networks.Load()
	for _, b := range beats {
		if nw := nets[b.VNI]; nw != nil && b.Route != nil {
			p.beat(nw, b.Route)
		}
	}
	s := WayStats{SenderStats: p.sender.Stats(), Flights: p.sender.Flights(), Voices: p.ear.Voices()}
	s.Watches, s.Branches = p.receiver.Counts()
	p.stats.Store(&s)
}

// beat sends a packet without a frame by a route.
func (p *planner) beat(nw *network, r *tree.Route) {
	pkt := p.seal(nw, r.Label, 0)
	if pkt == nil {
		return
	}
	var out []Packet
	if r.Group.IsValid() {
		out = append(out, Packet{Data: pkt, To: r.Group})
	}
	for _, e := range r.Edges {
		path := e.Peer.Path()
		if path == nil {
			continue
		}
		data := pkt
		hop, dst := path.Session, [16]byte(e.Tree)
		if path.Relay != nil {
			hop, dst = path.Relay.Hop, e.Peer.ID
		}
		if path.Relay != nil || !e.Tree.IsZero() {
			data = append(make([]byte, wire.RelayTotal), pkt...)
			if hop.PutEnvelope(data, p.e.cfg.Self, dst, wire.MaxHops) != nil {
				continue
			}
		}
		out = append(out, Packet{Data: data, To: path.Endpoint})
	}
	p.write(out)
}

// seal makes a packet without a frame under the sender key of a network, nil when it cannot be.
func (p *planner) seal(nw *network, label uint32, seq uint64) []byte {
	buf := make([]byte, wire.GroupHeader+beatSize+wire.Tag)
	buf[wire.GroupHeader] = wire.KindBeat
	binary.BigEndian.PutUint64(buf[wire.GroupHeader+1:], seq)
	pkt, err := nw.key.Load().SealGroup(buf, beatSize, label)
	if err != nil {
		nw.drops.count(dropKeySpent)
		return nil
	}
	return pkt
}

func (p *planner) write(out []Packet) {
	if n, err := p.w.WriteBatch(out); err != nil || n < len(out) {
		p.e.drops[dropSend].Add(uint64(len(out) - n))
	}
}

// beacon sends one when it is due and returns when to look again. It goes out under the sender keys of as many
// networks as it takes to be understood by all hosts that have one with this host.
func (p *planner) beacon(now time.Time) time.Duration {
	seq, due, again := p.mouth.Due(now)
	if due && p.group.IsValid() {
		var out []Packet
		for _, nw := range p.audible() {
			if pkt := p.seal(nw, wire.BeaconLabel, seq); pkt != nil {
				out = append(out, Packet{Data: pkt, To: p.group})
			}
		}
		p.write(out)
	}
	// Hosts that started together shall not send together for ever.
	return again.Sub(now) + rand.N(again.Sub(now)/16+1)
}

// audible returns networks that together have all hosts.
func (p *planner) audible() (out []*network) {
	var all []*network
	for _, nw := range *p.e.networks.Load() {
		all = append(all, nw)
	}
	slices.SortFunc(all, func(a, b *network) int {
		if n := len(*b.hosts.Load()) - len(*a.hosts.Load()); n != 0 {
			return n
		}
		return int(a.vni) - int(b.vni)
	})
	covered := map[ident.HostID]bool{}
	for _, nw := range all {
		more := false
		for h := range *nw.hosts.Load() {
			more = more || !covered[h]
			covered[h] = true
		}
		if more {
			out = append(out, nw)
		}
	}
	return out
}

// hearing reports whom this host hears when that has changed.
func (p *planner) hearing(now time.Time) {
	if p.e.cfg.Hearing == nil || now.Sub(p.told) < hearingPause {
		return
	}
	if heard, changed := p.ear.Tick(now); changed {
		p.told = now
		p.e.cfg.Hearing(heard)
	}
}
