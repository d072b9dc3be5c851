package mesh

import (
	"encoding/binary"
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
	tickEvery   = 100 * time.Millisecond
	saveEvery   = 2 * time.Second
	selfEvery   = time.Second // own record: endpoints may have changed
	rejoinEvery = 2 * time.Second
)

// loop owns loopState.
func (m *Mesh) loop() {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	var saved, self time.Time
	for {
		select {
		case <-m.ctx.Done():
			m.saveOthers()
			return
		case f := <-m.do_:
			f()
		case d := <-m.hello:
			m.handshake(time.Now(), d)
		case e := <-m.events:
			m.event(e)
		case now := <-tick.C:
			m.tick(now)
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
	}
}

func (m *Mesh) tick(now time.Time) {
	m.machine.Tick(now)
	for i, a := range m.attempts {
		if now.Sub(a.at) > attemptLife {
			delete(m.attempts, i)
		}
	}
	relays := m.relays()
	for _, h := range m.hosts {
		m.tickNewRun(now, h)
		if !m.wanted(h) {
			continue
		}
		env := link.Env{NATed: m.natted, Relays: without(relays, h.id)}
		if s := (*m.sessions.Load())[h.link.Use()]; s != nil {
			env.Sent = s.sealer.Used()
			env.Spent = s.sealer.Used() > s.sealer.Budget()/2
		}
		m.act(now, h, h.link.Tick(now, env))
	}
	m.tickSeeds(now)
	m.sendState(m.sync.Tick(now))
	m.rejoin(now)
	if m.dirStale {
		m.list()
	}
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
	var b [pingSize]byte
	b[0] = wire.KindPing
	binary.BigEndian.PutUint64(b[1:], p.ID)
	_ = m.transmit(r, b[:]) // a ping that cannot be sent is a ping not answered
}

// setPath tells the datapath the path of the moment.
func (m *Mesh) setPath(now time.Time, h *host) {
	up := h.link.Up(now)
	var path *link.Path
	if s := (*m.sessions.Load())[h.link.Use()]; up && s != nil {
		a := h.link.Addr()
		path = &link.Path{Endpoint: a.AP, Session: s.sealer, Payload: m.payload(h, a)}
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

// payload returns the UDP payload that fits everywhere on the way, as far as one knows without probing.
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
			m.observe(h, e.body[8:])
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
		if m.cfg.Tables.Pending() { // a lost history of ours came to light: everything is put again above it
			if err := m.commit(nil); err != nil {
				m.log.Error("own state not published", "err", err)
			}
		}
	case wire.KindNote:
		m.note(h, e.body)
	default:
		m.cfg.Handle(e.from, e.kind, e.body)
	}
}

// observe learns how another host sees us: a NAT shows by an address that is none of ours.
func (m *Mesh) observe(h *host, b []byte) {
	if len(b) < 18 {
		return
	}
	addr := netip.AddrFrom16([16]byte(b)).Unmap()
	ap := netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[16:]))
	if addr.IsUnspecified() || ap.Port() == 0 {
		return
	}
	m.observed[h.id] = ap
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
		m.lastJoin = now
		m.joinMembers(lost[rand.IntN(len(lost))])
	}
}

func (m *Mesh) setLive(id ident.HostID, l liveness) {
	h := m.hosts[id]
	if h == nil || h.live == l {
		return
	}
	if h.live != liveUnknown || l == liveAlive {
		m.log.Info("host changed", "host", h.name(), "state", [...]string{"unknown", "alive", "dead", "gone"}[l])
	}
	h.live = l
	m.cfg.HostChanged(id)
}

// peerUp greets a host that we can talk to now.
func (m *Mesh) peerUp(now time.Time, h *host) {
	m.sendState(m.sync.PeerUp(now, h.id))
	if h.live != liveAlive {
		m.lastJoin = now
		m.joinMembers(h.id)
	}
	for _, o := range m.hosts { // a new relay, perhaps
		if !o.up {
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
