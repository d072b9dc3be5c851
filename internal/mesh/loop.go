package mesh

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/wire"
)

const (
	tickEvery   = 100 * time.Millisecond // while a link is being made or is in doubt
	tickQuiet   = time.Second
	tickNATed   = 500 * time.Millisecond // a NAT's new mapping must be noticed soon
	saveEvery   = 5 * time.Second
	selfEvery   = time.Second // own record: endpoints may have changed
	rejoinEvery = 2 * time.Second
	rejoinSoon  = 200 * time.Millisecond // after one that failed
	listEvery   = 100 * time.Millisecond
	relayHope   = 5 * time.Second
	moveEvery   = time.Second // others' word for where we are: how often it may cost anything

	// Handshakes begun per second, of all links together: many hosts that start at once, or a machine
	// that was asleep, must not spend all their time on them.
	greetRate  = 10.0
	greetBurst = 20.0

	// quietShare is the time between two pings of quiet links, of all together: with many hosts each is asked less often, or
	// what idle hosts cost would grow with the square of their number. That a host died others find out sooner (SWIM).
	quietShare = 200 * time.Millisecond
)

// loop owns loopState.
func (m *Mesh) loop() {
	tick := time.NewTimer(tickEvery)
	defer tick.Stop()
	var saved, self time.Time
	hurried := false // the next tick makes the list of hosts that streams go by
	for {
		hello, events, ticks := m.hello, m.events, tick.C
		if m.halted {
			hello, events, ticks = nil, nil, nil
		}
		select {
		case <-m.ctx.Done():
			m.saveOthers()
			return
		case f := <-m.do_:
			f()
		case d := <-hello:
			m.handshakes(d)
		case e := <-events:
			m.event(e)
		case <-ticks:
			for range len(m.events) { // answers that are here already must not count as missing
				m.event(<-m.events)
			}
			hurried = false
			now := time.Now()
			quiet := m.tick(now)
			switch {
			case !quiet:
				tick.Reset(tickEvery)
			case m.natted:
				tick.Reset(tickNATed)
			default:
				tick.Reset(tickQuiet)
			}
			if now.Sub(saved) >= saveEvery {
				saved = now
				m.saveOthers()
			}
			if now.Sub(self) >= selfEvery {
				self = now
				if err := m.publishSelf(now, false); err != nil {
					m.log.Error("own record not published", "err", err)
				}
			}
		}
		if m.dirStale && !hurried { // once for a burst: with many hosts it costs
			if time.Since(m.listed) >= listEvery {
				m.list()
			} else {
				tick.Reset(listEvery)
				hurried = true
			}
		}
	}
}

// tick lets time pass; quiet says that nothing waits for the next tick.
func (m *Mesh) tick(now time.Time) (quiet bool) {
	quiet = m.sync.Settled()
	m.greetings = min(m.greetings+greetRate*now.Sub(m.lastTick).Seconds(), greetBurst)
	m.lastTick = now
	m.machine.Tick(now)
	for i, a := range m.attempts {
		if now.Sub(a.at) > attemptLife {
			delete(m.attempts, i)
		}
		if !a.found.IsValid() { // whoever is not there is no reason to hurry
			quiet = false
		}
	}
	var relays []ident.HostID
	for _, h := range m.hosts {
		m.tickNewRun(now, h)
		if !m.wanted(h) {
			continue
		}
		if relays == nil && !h.link.Quiet() { // a quiet link asks for no relay
			relays = m.relays()
		}
		quiet = quiet && h.link.Quiet()
		m.act(now, h, h.link.Tick(now, m.env(h, relays)))
		quiet = quiet && h.link.Idle()
	}
	m.tickSeeds(now)
	m.tickFound(now)
	m.sendState(m.sync.Tick(now))
	m.rejoin(now)
	if m.dirStale {
		m.list()
	}
	return quiet
}

// env is what the link to a host must know of the rest.
func (m *Mesh) env(h *host, relays []ident.HostID) link.Env {
	env := link.Env{
		NATed: m.natted, Relays: without(relays, h.id), Yield: h.id.Less(m.self), Sent: h.peer.Used(),
		Quiet: time.Duration(len(m.hosts)) * quietShare,
		Phase: 4 * time.Duration(binary.BigEndian.Uint32(m.self[:])), // up to 17 s
	}
	if s := (*m.sessions.Load())[h.link.Use()]; s != nil {
		env.Spent = s.sealer.Used() > s.sealer.Budget()/2
	}
	return env
}

// wanted reports whether a link to the host is to be held.
func (m *Mesh) wanted(h *host) bool {
	return h.known && !h.barred && !h.rec.Left && !m.leaving
}

// act carries out what a link wants.
func (m *Mesh) act(now time.Time, h *host, out link.Out) {
	for _, i := range out.Release {
		m.releaseSessions(func(s *session) bool { return s.local == i })
	}
	for _, a := range out.Hellos {
		if m.greetings < 1 || m.isFrozen() {
			h.link.Postpone()
			break
		}
		m.greetings--
		m.sayHello(now, h, a)
	}
	for _, p := range out.Pings {
		m.ping(h, p)
	}
	if out.Changed {
		m.setPath(now, h)
	}
}

func (m *Mesh) ping(h *host, p link.Ping) {
	r, ok := m.routeVia(h, p.To)
	if !ok {
		return
	}
	b := make([]byte, max(pingSize, p.Size-wire.LinkHeader-wire.Tag))
	b[0] = wire.KindPing
	binary.BigEndian.PutUint64(b[1:], p.ID)
	r.payload = max(r.payload, p.Size) // in one packet: its length is the question
	_ = m.transmit(r, b)               // a ping that cannot be sent is a ping not answered
}

// setPath tells the datapath the path of the moment.
func (m *Mesh) setPath(now time.Time, h *host) {
	up := h.link.Up(now)
	var path *link.Path
	var probes []link.Ping
	if s := (*m.sessions.Load())[h.link.Use()]; up && s != nil {
		a := h.link.Addr()
		probes = h.link.SetLimit(now, m.payload(h, a)).Pings
		path = &link.Path{Endpoint: a.AP, Session: s.sealer, Payload: h.link.Payload()}
		if a.IsRelay() {
			hop := pathOf(m.Peer(a.Relay))
			if hop == nil || hop.Relay != nil {
				path, up = nil, false
			} else {
				path.Endpoint = hop.Endpoint
				path.Relay = &link.Relay{Host: a.Relay, Hop: hop.Session}
			}
		}
	} else {
		up = false
	}
	h.peer.SetPath(path)
	for _, p := range probes {
		m.ping(h, p)
	}
	m.dirStale = true
	if up && !h.up {
		h.up = true
		h.lastUp = now
		m.log.Info("link up", "host", h.name(), "path", h.link.Addr().String())
		m.peerUp(now, h)
	} else if !up && h.up {
		h.up = false
		m.log.Info("link down", "host", h.name())
		m.sync.PeerDown(h.id)
	}
	if !h.link.Addr().IsRelay() {
		// Paths through this host use its endpoint and session: they follow.
		for _, o := range m.hosts {
			if o.link.Addr().Relay == h.id && o != h {
				m.setPath(now, o)
			}
		}
	}
	m.cfg.HostChanged(h.id)
}

// payload returns the UDP payload that fits everywhere on the way, as far as interfaces tell; probes say whether it is true.
func (m *Mesh) payload(h *host, a link.Addr) int {
	ap := a.AP
	if a.IsRelay() {
		if hop := pathOf(m.Peer(a.Relay)); hop != nil {
			ap = hop.Endpoint
		}
	}
	mtu := m.cfg.Underlay.MTU(ap.Addr())
	least := func(v int) {
		if v > 0 && (mtu == 0 || v < mtu) {
			mtu = v
		}
	}
	least(h.rec.MTU)
	if a.IsRelay() {
		least(m.published.MTU)
		if r := m.hosts[a.Relay]; r != nil {
			least(r.rec.MTU)
		}
	}
	p := mtu - 48 // IPv6 and UDP; on IPv4 20 bytes stay unused, so that a path may change family
	if ap.Addr().Is4() {
		p = mtu - 28
	}
	p = min(max(p, wire.MinPath), wire.MaxDatagram)
	if a.IsRelay() {
		p -= wire.RelayTotal
	}
	return p
}

// relays returns the hosts with a direct path, nearest first.
func (m *Mesh) relays() []ident.HostID {
	var direct []*host
	for _, h := range m.hosts {
		if p := h.peer.Path(); p != nil && p.Relay == nil {
			direct = append(direct, h)
		}
	}
	slices.SortFunc(direct, func(a, b *host) int {
		if a.link.RTT() != b.link.RTT() {
			return int(a.link.RTT() - b.link.RTT())
		}
		return slices.Compare(a.id[:], b.id[:])
	})
	ids := make([]ident.HostID, len(direct))
	for i, h := range direct {
		ids[i] = h.id
	}
	return ids
}

func without(ids []ident.HostID, id ident.HostID) []ident.HostID {
	if i := slices.Index(ids, id); i >= 0 {
		return append(append(make([]ident.HostID, 0, len(ids)-1), ids[:i]...), ids[i+1:]...)
	}
	return ids
}

// event takes what the reader saw.
func (m *Mesh) event(e event) {
	h := m.hosts[e.from]
	if h == nil || h.barred {
		return
	}
	if e.local != 0 {
		m.act(e.at, h, h.link.Received(e.at, e.local, e.addr))
		return
	}
	switch e.kind {
	case wire.KindPong:
		if len(e.body) >= 8 {
			m.observe(e.at, h, e.addr, e.body[8:])
			h.pong = e.at
			m.act(e.at, h, h.link.Pong(e.at, binary.BigEndian.Uint64(e.body)))
			m.probed(e)
		}
	case wire.KindMember:
		from := &net.UDPAddr{IP: net.IP(e.from[:]), Port: 1}
		select {
		case m.packets <- &memberlist.Packet{Buf: e.body, From: from, Timestamp: e.at}:
		default:
			m.drops.add(dropControlQueue)
		}
	case wire.KindState:
		out, changes, err := m.sync.Input(e.at, e.from, e.body)
		if err != nil {
			m.drops.add(dropState)
			m.log.Debug("state refused", "from", h.name(), "err", err)
		}
		m.sendState(out)
		m.changed(e.at, changes)
		if m.cfg.Tables.Pending() && !m.isFrozen() { // a lost history of ours came to light: everything is put again above it
			if err := m.commit(nil); err != nil {
				m.log.Error("own state not published", "err", err)
			}
		}
	case wire.KindNote:
		m.note(h, e.body)
	case wire.KindBye:
		m.bye(e.at, h, e.body)
	default:
		m.cfg.Handle(e.from, e.kind, e.body)
	}
}

// observe learns how another host sees us: a NAT shows by an address that is none of ours.
func (m *Mesh) observe(now time.Time, h *host, from link.Addr, b []byte) {
	if len(b) < 18 {
		return
	}
	addr := netip.AddrFrom16([16]byte(b)).Unmap()
	ap := netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[16:]))
	if addr.IsUnspecified() || ap.Port() == 0 {
		return
	}
	old := m.observed[h.id]
	m.observed[h.id] = ap
	if old.IsValid() && old != ap && old.Addr().Is4() == addr.Is4() && from == h.link.Addr() {
		m.moved(now, h, old)
	}
}

// moved says that this host has another address now: its NAT forgot the old one, or it has another
// network. What others send to the old one is lost, so every path is asked at once and all are told.
func (m *Mesh) moved(now time.Time, by *host, old netip.AddrPort) {
	if now.Sub(m.lastMove) < moveEvery {
		return
	}
	m.lastMove = now
	m.log.Info("this host is seen at another endpoint", "endpoint", m.observed[by.id], "before", old, "by", by.name())
	maps.DeleteFunc(m.observed, func(_ ident.HostID, ap netip.AddrPort) bool { return ap == old })
	relays := m.relays()
	for _, h := range m.hosts {
		if m.wanted(h) && h != by {
			m.act(now, h, h.link.Doubt(now, m.env(h, relays)))
		}
	}
	m.foundMoved()
	if err := m.publishSelf(now, false); err != nil {
		m.log.Error("own record not published", "err", err)
	}
}

// rejoin merges member lists with hosts that we reach although memberlist holds them for dead.
func (m *Mesh) rejoin(now time.Time) {
	if now.Sub(m.lastJoin) < rejoinEvery {
		return
	}
	var lost []ident.HostID
	for _, h := range m.hosts {
		if h.up && h.live != liveAlive {
			lost = append(lost, h.id)
		}
	}
	if len(lost) > 0 {
		m.joinMembers(now, lost[rand.IntN(len(lost))])
	}
}

func (m *Mesh) setLive(id ident.HostID, l liveness) {
	h := m.hosts[id]
	if h == nil && len(m.early) < maxHosts {
		m.early[id] = l
	}
	if h == nil || h.live == l {
		return
	}
	if h.live != liveUnknown || l == liveAlive {
		m.log.Info("host changed", "host", h.name(), "state", [...]string{"unknown", "alive", "dead"}[l])
	}
	h.live = l
	m.cfg.HostChanged(id)
	if l == liveDead && h.up { // what it has counts as long as the link does, and a quiet one is not asked for many seconds
		now := time.Now()
		m.act(now, h, h.link.Doubt(now, m.env(h, m.relays())))
	}
}

// peerUp greets a host that we can talk to now.
func (m *Mesh) peerUp(now time.Time, h *host) {
	if m.removal != "" {
		m.log.Info("this host is taken for a member", "by", h.name())
		m.removal = ""
		m.cfg.Removed("")
	}
	m.sendState(m.sync.PeerUp(now, h.id))
	if h.live != liveAlive {
		m.joinMembers(now, h.id)
	}
	for _, o := range m.hosts { // a new relay, perhaps, to one that was long out of reach
		if !o.up && now.Sub(o.link.Since()) > relayHope {
			o.link.Nudge()
		}
	}
}

func (m *Mesh) sendState(out []state.Send) {
	for _, s := range out {
		plain := make([]byte, 1+len(s.Msg))
		plain[0] = wire.KindState
		copy(plain[1:], s.Msg)
		_ = m.Send(s.To, plain) // asked for again when lost
	}
}
