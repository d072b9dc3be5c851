package mesh

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
)

const attemptLife = 10 * time.Second

// skewWarn is how far a host's wall clock may be off before `hosts` says so. Nothing depends on it.
const skewWarn = 30 * time.Second

// clonecheck tells a host that restarted from one whose disk was copied: the old run is asked
// once more in its session; if it answers after the new run's hello, both are alive.
type clonecheck struct {
	boot uint64    // the new run
	at   time.Time // of its first hello
	pong time.Time // last answer of the run we have sessions with
}

const cloneWait = 700 * time.Millisecond

func (m *Mesh) newMachine() *handshake.Machine {
	return handshake.New(handshake.Config{
		Keys: m.cfg.Keys, Cluster: m.cfg.Cluster, Rand: rand.Reader,
		Secret: func() ident.Secret { return m.secret },
		Self: func(now time.Time) handshake.Info {
			return handshake.Info{Card: m.cfg.Keys.Card(), Name: m.cfg.Name, Suites: suites(), Port: m.cfg.Port,
				Unix: now.Unix(), Build: m.cfg.Build, Boot: m.boot}
		},
		Known: m.knownCard,
		Admit: m.admit,
	})
}

func suites() []seal.Suite {
	if seal.Preferred() == seal.SuiteAES {
		return []seal.Suite{seal.SuiteAES, seal.SuiteChaCha}
	}
	return []seal.Suite{seal.SuiteChaCha, seal.SuiteAES}
}

// knownCard returns the card of an admitted host: such a host may come without the token.
func (m *Mesh) knownCard(id ident.HostID) (ident.Card, bool) {
	h := m.hosts[id]
	if h == nil || !h.known || h.barred {
		return ident.Card{}, false
	}
	return h.card, true
}

// admit decides about a host that has proved to hold the token or its key.
func (m *Mesh) admit(now time.Time, id ident.HostID, info handshake.Info, first bool) handshake.Verdict {
	refuse := func(format string, args ...any) handshake.Verdict {
		text := fmt.Sprintf(format, args...)
		m.warnings.add(now, fmt.Sprintf("refused host %s (%s): %s", info.Name, id.Short(), text))
		return handshake.Verdict{Refuse: text}
	}
	if err := ident.CheckName("host", info.Name); err != nil {
		return refuse("%v", err)
	}
	if id == m.self {
		return refuse("its HostID %s is this host's own (%s): the state directory was copied; stop it there and run `weft down --clean` before `weft up`", id.Short(), m.cfg.Name)
	}
	if info.Name == m.cfg.Name {
		return refuse("the name %q is taken by host %s; start with --name OTHER", info.Name, m.self.Short())
	}
	h := m.hosts[id]
	if h != nil && h.barred {
		return refuse("host %s was removed from the cluster; to come back it needs new keys (`weft down --clean`) and the present token", info.Name)
	}
	for _, o := range m.hosts {
		if o.id != id && o.rec.Name == info.Name && o.known && !o.barred && !o.rec.Left && (o.up || o.live == liveAlive) {
			return refuse("the name %q is taken by host %s; start with --name OTHER", info.Name, o.id.Short())
		}
	}
	if h != nil && h.up && h.boot != 0 && h.boot != info.Boot {
		switch {
		case h.clone.boot != info.Boot:
			h.clone = clonecheck{boot: info.Boot, at: now, pong: h.clone.pong}
			m.act(now, h, h.link.Check(now))
			return handshake.Verdict{Wait: true}
		case h.clone.pong.After(h.clone.at):
			return refuse("its HostID %s is alive elsewhere (%s at %s): the state directory was copied; run `weft down --clean` on one of the two", id.Short(), h.name(), h.link.Addr())
		case now.Sub(h.clone.at) < cloneWait:
			return handshake.Verdict{Wait: true}
		}
	}
	return handshake.Verdict{}
}

// sayHello begins a handshake with a known host.
func (m *Mesh) sayHello(now time.Time, h *host, a link.Addr) {
	if a.IsRelay() {
		if p := pathOf(m.Peer(a.Relay)); p == nil || p.Relay != nil {
			return
		}
	}
	at, err := m.machine.Start(now, &h.card)
	if err != nil {
		m.log.Debug("handshake not begun", "host", h.name(), "err", err)
		return
	}
	m.attempts[at.Index] = attempt{to: h.id, addr: a, at: now}
	m.sendRaw(a, h.id, at.Packet)
}

// handshake takes a handshake message.
func (m *Mesh) handshake(now time.Time, d datagram) {
	out := m.machine.Input(now, d.from.String(), d.pkt)
	if out.Reply != nil {
		m.sendRaw(d.from, d.src, out.Reply)
	}
	if out.Refused != nil {
		m.refused(now, d.from, out.Index, out.Refused.Text)
	}
	if out.Done != nil {
		m.established(now, d.from, out.Done)
	}
}

// established takes a finished handshake.
func (m *Mesh) established(now time.Time, from link.Addr, r *handshake.Result) {
	at, ours := m.attempts[r.Local]
	delete(m.attempts, r.Local)
	h := m.addHost(now, r.ID, r.Peer.Card)
	if h == nil {
		m.machine.Release(r.Local)
		return
	}
	s, err := newSession(h, r)
	if err != nil {
		m.log.Error("session not made", "host", h.name(), "err", err)
		return
	}
	if h.boot != r.Peer.Boot {
		if h.boot != 0 { // another run: what it had is void
			m.releaseSessions(func(s *session) bool { return s.host == h.id })
			fresh := link.New(now)
			fresh.SetCandidates(h.link.Candidates())
			h.link = fresh
		}
		h.boot = r.Peer.Boot
	}
	m.addSession(s)
	h.skew = time.Unix(r.Peer.Unix, 0).Sub(now).Truncate(time.Second)
	if h.rec.Name == "" {
		h.rec.Name = r.Peer.Name
	}
	h.rec.Left = false
	if at.seed != "" {
		m.seedReached(at.seed, h)
	}
	if !from.IsRelay() {
		h.seen = from.AP
	}
	if !h.known {
		h.known = true
		m.admitted(now, h)
	}
	m.candidates(h)
	m.act(now, h, h.link.Established(now, r.Local, ours || r.Initiator, from))
}

func newSession(h *host, r *handshake.Result) (*session, error) {
	se, err := seal.NewLinkSealer(r.Suite, r.SendKey[:], r.Remote, 0)
	if err != nil {
		return nil, err
	}
	op, err := seal.NewOpener(r.Suite, r.RecvKey[:])
	if err != nil {
		return nil, err
	}
	return &session{host: h.id, peer: h.peer, local: r.Local, sealer: se, opener: op, parts: frag.NewAssembler()}, nil
}

// refused takes a "no, and why" to a handshake that we began.
func (m *Mesh) refused(now time.Time, from link.Addr, index uint32, text string) {
	at := m.attempts[index]
	delete(m.attempts, index)
	who := from.String()
	if at.seed != "" {
		who = at.seed
	}
	text = printable(text)
	if m.warnings.add(now, fmt.Sprintf("host %s refuses this host: %s", who, text)) {
		m.log.Error("refused", "by", who, "reason", text)
	}
	if s := m.seeds[at.seed]; s != nil {
		s.refusal = text
	}
}

// printable makes a peer's text safe for a terminal and a log.
func printable(s string) string {
	if len(s) > 400 {
		s = s[:400]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}
