package tree

import (
	"encoding/binary"
	"io"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/wire"
)

// Times.
const (
	// TickEvery is how often Sender and Receiver want Tick while there is something to do.
	TickEvery = 100 * time.Millisecond
	// Silence is how long a receiver hears nothing before it complains. Beats come at most 200 ms apart.
	Silence = 500 * time.Millisecond
	// Penance is how long a way that failed is not tried again.
	Penance = 30 * time.Second

	restAfter  = 2 * time.Second        // without a packet: the plan is given up
	resendTime = 200 * time.Millisecond // of messages that were not answered
	readyWait  = time.Second            // for forwarders
	heardWait  = 600 * time.Millisecond // for receivers, from the first beat on
	refreshAge = 10 * time.Second       // of what others hold for a plan
	replanTime = 300 * time.Millisecond // between two plans of one audience
)

const (
	// worthRate is the rate in packets a second from which a plan is worth its set-up: voice has 50.
	worthRate = 20
	// MaxFlights bounds the audiences that a host has plans for at a time; others get copies.
	MaxFlights = 1024
)

// SenderConfig is what a Sender needs. All but Fanout is required.
type SenderConfig struct {
	Self ident.HostID
	// Peer returns another host, nil for one that is not known.
	Peer   func(ident.HostID) *link.Peer
	Rand   io.Reader
	Fanout int
	// Group is the underlay group this host sends to; the zero AddrPort: it has no native multicast.
	Group netip.AddrPort
}

// Sender makes, sets up, watches and replaces the plans of this host. One goroutine owns it.
type Sender struct {
	cfg     SenderConfig
	hearing Hearing
	changes uint64 // counts what may make other plans

	flights  map[*Audience]*flight
	plans    map[uint32]*plan // by label
	avoid    map[pair]time.Time
	suspects map[ident.HostID]time.Time // forward nothing until then

	out   []Out
	beats []Beat
	stats SenderStats
}

// SenderStats count since the start.
type SenderStats struct {
	Plans  uint64 // put to use
	Moves  uint64 // receivers that got copies because their way failed
	Failed uint64 // plans given up before use
}

// pair is a receiver and whom it did not hear.
type pair struct{ by, whom ident.HostID }

// Out is a message to a host.
type Out struct {
	To  ident.HostID
	Msg Message
}

// Beat is a packet of kind wire.KindBeat to send by a route.
type Beat struct {
	VNI   uint32
	Route *Route
}

// flight is an audience that is being sent to.
type flight struct {
	vni     uint32
	aud     *Audience
	sent    uint64
	rate    float64 // packets a second, smoothed
	last    time.Time
	planned time.Time
	seen    uint64 // Sender.changes when last planned

	current, next *plan
	trial         *Route // of next
}

// NewSender returns a Sender without flights.
func NewSender(cfg SenderConfig) *Sender {
	return &Sender{
		cfg: cfg, flights: map[*Audience]*flight{}, plans: map[uint32]*plan{}, avoid: map[pair]time.Time{}, suspects: map[ident.HostID]time.Time{},
	}
}

// SetHearing says who hears whom from now on.
func (s *Sender) SetHearing(h Hearing) { s.hearing = h; s.changes++ }

// Changed says that paths or hosts are others: plans may be better now.
func (s *Sender) Changed() { s.changes++ }

// SetGroup says to which underlay group this host sends; the zero AddrPort: to none.
func (s *Sender) SetGroup(group netip.AddrPort) {
	if group != s.cfg.Group {
		s.cfg.Group = group
		s.changes++
	}
}

// Wake says that an audience is being sent to.
func (s *Sender) Wake(now time.Time, vni uint32, aud *Audience) {
	if s.flights[aud] != nil {
		return
	}
	f := &flight{vni: vni, aud: aud, last: now}
	if len(s.flights) >= MaxFlights {
		s.rest(f)
		return
	}
	if r := aud.Route(); r != nil { // of the audience before
		f.current = r.plan
		f.current.users++
		f.rate = worthRate
		aud.route.Store(s.route(f.current, aud.Peers))
	}
	s.flights[aud] = f
}

// Take returns what is to be sent since the last call.
func (s *Sender) Take() ([]Out, []Beat) {
	out, beats := s.out, s.beats
	s.out, s.beats = nil, nil
	return out, beats
}

// Live reports whether Tick has anything to do.
func (s *Sender) Live() bool { return len(s.flights) > 0 }

// Flights returns how many audiences are being sent to.
func (s *Sender) Flights() int { return len(s.flights) }

// Stats returns the counters.
func (s *Sender) Stats() SenderStats { return s.stats }

// Forget drops the flights of a network.
func (s *Sender) Forget(vni uint32) {
	for aud, f := range s.flights {
		if f.vni == vni {
			s.rest(f)
			delete(s.flights, aud)
		}
	}
}

// Tick lets time pass.
func (s *Sender) Tick(now time.Time) {
	for p, until := range s.avoid {
		if now.After(until) {
			delete(s.avoid, p)
			s.changes++
		}
	}
	for h, until := range s.suspects {
		if now.After(until) {
			delete(s.suspects, h)
			s.changes++
		}
	}
	for aud, f := range s.flights {
		quiet := f.count(now)
		if now.Sub(f.last) >= restAfter {
			s.rest(f)
			delete(s.flights, aud)
			continue
		}
		s.check(now, f)
		s.replan(now, f)
		s.prepare(now, f)
		if f.current != nil {
			if now.Sub(f.current.opened) >= refreshAge {
				s.open(now, f.current, true)
			}
			if quiet {
				s.beats = append(s.beats, Beat{f.vni, f.aud.route.Load()})
			}
		}
	}
}

// count takes the packets since the last tick; quiet says that there were none.
func (f *flight) count(now time.Time) (quiet bool) {
	sent := f.aud.sent.Load()
	n := sent - f.sent
	f.sent = sent
	if n > 0 {
		f.last = now
	}
	f.rate += 0.3 * (float64(n)*float64(time.Second/TickEvery) - f.rate)
	return n == 0
}

// rest ends a flight: copies for all from here on.
func (s *Sender) rest(f *flight) {
	f.aud.route.Store(nil)
	f.aud.awake.Store(false)
	s.release(f.current)
	s.release(f.next)
	f.current, f.next = nil, nil
}

// release lets go of a plan; the last to do so closes it.
func (s *Sender) release(p *plan) {
	if p == nil {
		return
	}
	if p.users--; p.users > 0 {
		return
	}
	p.closed.Store(true)
	delete(s.plans, p.label)
	for h := range p.ways {
		m := Message{Op: OpClose, VNI: p.vni, Label: p.label}
		if p.nodes[h] != nil {
			m.ID = p.id
		}
		s.out = append(s.out, Out{h, m})
	}
}

// check looks for forwarders that went out of reach: the link notices before the receivers do.
func (s *Sender) check(now time.Time, f *flight) {
	if f.current == nil {
		return
	}
	for h, n := range f.current.nodes {
		if n.parent.IsZero() && !f.current.lost(h) && !s.direct(h) {
			s.suspect(now, h)
			s.move(f.current, h)
		}
	}
}

func (s *Sender) direct(h ident.HostID) bool {
	p := s.cfg.Peer(h)
	if p == nil {
		return false
	}
	path := p.Path()
	return path != nil && path.Relay == nil
}

// replan begins another plan when one may be better than that in use.
func (s *Sender) replan(now time.Time, f *flight) {
	same := f.seen == s.changes && !f.planned.IsZero()
	switch {
	case f.next != nil, now.Sub(f.planned) < replanTime:
		return
	case f.current == nil && (same || f.rate < worthRate):
		return // not worth it, or found so before
	case f.current != nil && same && f.serves():
		return
	}
	f.planned, f.seen = now, s.changes
	in := Input{
		Self: s.cfg.Self, Hearing: s.hearing, Direct: s.direct, Fanout: s.cfg.Fanout,
		Avoid: func(by, whom ident.HostID) bool {
			_, ok := s.avoid[pair{by, whom}]
			return ok || whom == s.cfg.Self && !s.cfg.Group.IsValid()
		},
		Forwards: func(h ident.HostID) bool { _, ok := s.suspects[h]; return !ok },
	}
	for _, p := range f.aud.Peers {
		in.Receivers = append(in.Receivers, p.ID)
	}
	tree := Make(in)
	switch {
	case tree.Plain():
		s.use(f, nil)
	case f.current != nil && f.serves() && f.current.effective().Equal(tree):
	default:
		s.begin(now, f, tree)
	}
}

// serves reports whether the plan in use is for the receivers of the audience and no others.
func (f *flight) serves() bool {
	if len(f.current.ways) != len(f.aud.Peers) {
		return false
	}
	for _, p := range f.aud.Peers {
		if _, ok := f.current.ways[p.ID]; !ok {
			return false
		}
	}
	return true
}

// begin sets a plan up.
func (s *Sender) begin(now time.Time, f *flight, tree Plan) {
	var b [4 + len(ID{})]byte
	if _, err := io.ReadFull(s.cfg.Rand, b[:]); err != nil {
		return // copies do
	}
	label := binary.BigEndian.Uint32(b[:]) >> 8
	if label == wire.NoLabel || label == wire.BeaconLabel || s.plans[label] != nil {
		return // at the next tick, then
	}
	p := newPlan(ID(b[4:]), label, f.vni, tree, now)
	p.users = 1
	s.plans[label] = p
	f.next = p
	f.trial = s.route(p, f.aud.Peers)
	s.open(now, p, true)
}

// open tells forwarders and receivers of a plan; all, or those that have not answered.
func (s *Sender) open(now time.Time, p *plan, all bool) {
	p.opened = now
	for h := range p.ways {
		m := Message{Op: OpOpen, VNI: p.vni, Label: p.label}
		n := p.nodes[h]
		if !all && (n == nil || n.ready) && (p.ways[h].copied() || p.heard[h]) {
			continue
		}
		if n != nil {
			m.ID, m.Parent, m.Multicast = p.id, n.parent, len(n.node.Multicast) > 0
			if n.parent.IsZero() {
				m.Parent = s.cfg.Self
			}
			for _, c := range n.node.Children {
				m.Children = append(m.Children, c.Host)
			}
		}
		s.out = append(s.out, Out{h, m})
	}
}

// prepare brings a plan that is being set up on its way.
func (s *Sender) prepare(now time.Time, f *flight) {
	p := f.next
	if p == nil {
		return
	}
	if now.Sub(p.opened) >= resendTime {
		s.open(now, p, false)
	}
	if p.beaten.IsZero() {
		switch {
		case p.ready():
			p.beaten = now
			f.trial = s.route(p, f.aud.Peers) // with what room the forwarders have
		case now.Sub(p.began) >= readyWait:
			for h, n := range p.nodes {
				if !n.ready {
					s.suspect(now, h)
				}
			}
			s.abandon(f)
			return
		default:
			return
		}
	}
	late := now.Sub(p.beaten) >= heardWait
	missing := p.awaited()
	if len(missing) > 0 && !late {
		s.beats = append(s.beats, Beat{f.vni, f.trial})
		return
	}
	for _, h := range missing {
		s.failed(now, p, h)
		p.moved[h] = true
	}
	if e := p.effective(); e.Plain() {
		s.abandon(f)
		return
	}
	f.next, f.trial = nil, nil
	p.users-- // use takes it over
	s.use(f, p)
	s.stats.Plans++
}

func (s *Sender) abandon(f *flight) {
	s.stats.Failed++
	s.release(f.next)
	f.next, f.trial = nil, nil
}

// use puts a plan in the place of the one before; nil: copies for all.
func (s *Sender) use(f *flight, p *plan) {
	old := f.current
	f.current = p
	if p == nil {
		f.aud.route.Store(nil)
	} else {
		p.users++
		f.aud.route.Store(s.route(p, f.aud.Peers))
	}
	s.release(old)
}

// Message takes what another host says about a plan of this one.
func (s *Sender) Message(now time.Time, from ident.HostID, m *Message) {
	p := s.plans[m.Label]
	if p == nil || p.vni != m.VNI {
		if m.Op == OpStarved {
			s.out = append(s.out, Out{from, Message{Op: OpClose, VNI: m.VNI, Label: m.Label}})
		}
		return
	}
	switch m.Op {
	case OpHeard:
		if _, ok := p.ways[from]; ok {
			p.heard[from] = true
		}
	case OpReady:
		n := p.nodes[from]
		if n == nil || m.ID != p.id {
			return
		}
		changed := n.room != m.Room
		n.ready, n.room = true, m.Room
		if len(m.Missing) > 0 {
			s.suspect(now, from)
			s.move(p, from)
		} else if changed {
			s.reroute(p)
		}
	case OpStarved:
		if w, ok := p.ways[from]; ok && !w.copied() && !p.lost(from) {
			s.failed(now, p, from)
			s.move(p, from)
		}
	}
}

// failed notes that a receiver is not served by the way it has.
func (s *Sender) failed(now time.Time, p *plan, h ident.HostID) {
	w := p.ways[h]
	via := w.via
	if via.IsZero() {
		via = s.cfg.Self
	} else if p.blamed[via]++; !w.multicast || p.blamed[via] >= 2 {
		s.suspect(now, via) // two that are not served by the same host: it is the host
		p.moved[via] = true
	}
	if w.multicast {
		s.avoid[pair{h, via}] = now.Add(Penance)
		s.changes++
	}
}

func (s *Sender) suspect(now time.Time, h ident.HostID) {
	s.suspects[h] = now.Add(Penance)
	s.changes++
}

// move has a host served by copies from here at once.
func (s *Sender) move(p *plan, h ident.HostID) {
	p.moved[h] = true
	s.stats.Moves++
	s.reroute(p)
}

// reroute puts what became of a plan to use.
func (s *Sender) reroute(p *plan) {
	for _, f := range s.flights {
		switch p {
		case f.current:
			f.aud.route.Store(s.route(p, f.aud.Peers))
		case f.next:
			f.trial = s.route(p, f.aud.Peers)
		}
	}
}
