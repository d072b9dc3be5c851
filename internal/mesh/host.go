package mesh

import (
	"maps"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
)

// maxHosts bounds the hosts of a cluster.
const maxHosts = 4096

// host is what the loop knows of another host. Owned by the loop.
type host struct {
	id        ident.HostID
	card      ident.Card
	rec       hostRecord // zero until its table arrived
	link      *link.Link
	peer      *link.Peer
	up        bool
	known     bool // admitted by somebody
	barred    bool
	barredBy  ident.HostID // who removed it
	live      liveness
	stopped   bool   // the run that boot names has said goodbye
	boot      uint64 // of the run we hold sessions with
	next      *newRun
	pong      time.Time     // last answer of the run we hold sessions with
	cloneBoot uint64        // a second run that lives beside it
	skew      time.Duration // its wall clock less ours, at the last handshake
	seen      netip.AddrPort
	lastUp    time.Time
}

// liveness is memberlist's opinion of a host.
type liveness byte

const (
	liveUnknown liveness = iota
	liveAlive
	liveDead
)

func (h *host) name() string {
	if h.rec.Name != "" {
		return h.rec.Name
	}
	return h.id.Short()
}

// session is one pair of keys with a host. The fields below the line belong to the reader.
type session struct {
	host   ident.HostID
	peer   *link.Peer
	local  uint32
	sealer *seal.Sealer

	opener *seal.Opener
	parts  *frag.Assembler
	seen   link.Addr // last address told to the loop
}

// datagram is a handshake message on its way to the loop.
type datagram struct {
	from link.Addr
	src  ident.HostID // whom the relay names, when it came through one
	pkt  []byte
	at   time.Time
}

// event is what the reader tells the loop.
type event struct {
	from  ident.HostID
	addr  link.Addr
	local uint32 // != 0: first packet of a session, or a new address
	kind  byte   // != 0: a control message
	body  []byte
	at    time.Time
}

// attempt is a handshake that we began.
type attempt struct {
	to   ident.HostID // zero: whoever is at a seed's address, or at one that was found
	addr link.Addr
	seed string
	at   time.Time
	// found is set where somebody else said that a host is there.
	found netip.AddrPort
}

// addHost makes room for a host; nil when the cluster is full.
func (m *Mesh) addHost(now time.Time, id ident.HostID, card ident.Card) *host {
	if h := m.hosts[id]; h != nil {
		return h
	}
	if id == m.self || len(m.hosts) >= maxHosts {
		return nil
	}
	h := &host{id: id, card: card, link: link.New(now), peer: &link.Peer{ID: id}, live: m.early[id]}
	delete(m.early, id)
	m.hosts[id] = h
	peers := make(map[ident.HostID]*link.Peer, len(m.hosts))
	for i, o := range m.hosts {
		peers[i] = o.peer
	}
	m.peers.Store(&peers)
	m.dirStale = true
	return h
}

// dropHost forgets a host that was removed from the cluster.
func (m *Mesh) dropHost(h *host) {
	h.peer.SetPath(nil)
	m.releaseSessions(func(s *session) bool { return s.host == h.id })
	h.link = link.New(time.Now())
	if h.up {
		h.up = false
		m.sync.PeerDown(h.id)
	}
	m.list() // before Drop: no new session with it
	m.streams.Drop(h.id)
	m.cfg.HostChanged(h.id)
}

func (m *Mesh) addSession(s *session) {
	old := *m.sessions.Load()
	next := make(map[uint32]*session, len(old)+1)
	maps.Copy(next, old)
	next[s.local] = s
	m.sessions.Store(&next)
}

func (m *Mesh) releaseSessions(gone func(*session) bool) {
	old := *m.sessions.Load()
	next := make(map[uint32]*session, len(old))
	for i, o := range old {
		if gone(o) {
			m.machine.Release(i)
			continue
		}
		next[i] = o
	}
	m.sessions.Store(&next)
}
