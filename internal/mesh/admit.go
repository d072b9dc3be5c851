package mesh

import (
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
)

const attemptLife = 10 * time.Second

// handshakeLate is when a handshake message that waited for this host to get to it is of no use any
// more: whoever sent it has tried again. Answering old ones makes a busy host busier.
const handshakeLate = 2 * time.Second

// skewWarn is how far a host's wall clock may be off before `hosts` says so. Nothing depends on it.
const skewWarn = 30 * time.Second

// newRun is a handshake with another run of a host whose old run we still have a link to: it
// restarted, or its disk was copied and both run. The old run is asked once more in its session;
// if it answers after the new one's handshake, both are alive.
type newRun struct {
	result *handshake.Result
	from   link.Addr
	at     time.Time
}

// cloneWait is how long the old run has to answer.
const cloneWait = 700 * time.Millisecond

func (m *Mesh) newMachine() *handshake.Machine {
	return handshake.New(handshake.Config{
		Keys: m.cfg.Keys, Cluster: m.cfg.Cluster, Rand: rand.Reader,
		Secret: func() ident.Secret { return m.secret },
		Self: func(now time.Time) handshake.Info {
			return handshake.Info{
				Card: m.cfg.Keys.Card(), Name: m.cfg.Name, Suites: suites(), Port: m.cfg.Port,
				Unix: now.Unix(), Build: m.cfg.Build, Boot: m.boot,
			}
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

// admit decides about a host that has proved to hold the token or its key; nil lets it in.
func (m *Mesh) admit(id ident.HostID, info handshake.Info, _ bool) *handshake.Refusal {
	if id == m.self {
		return &handshake.Refusal{Code: handshake.CodeElsewhere, Text: fmt.Sprintf(
			"its HostID %s is alive elsewhere, on %s: the state directory was copied; remove it on one of the two and join again", id.Short(), m.cfg.Name)}
	}
	h := m.hosts[id]
	if h != nil && h.barred {
		return &handshake.Refusal{Code: handshake.CodeBarred, Text: fmt.Sprintf(
			"host %s was removed from the cluster%s; to come back, remove its state directory and join with the present token", info.Name, m.remover(h))}
	}
	if h != nil && h.up && h.cloneBoot != 0 && h.cloneBoot == info.Boot {
		return &handshake.Refusal{Code: handshake.CodeElsewhere, Text: fmt.Sprintf(
			"its HostID %s is alive elsewhere, at %s: the state directory was copied; remove it on one of the two and join again", id.Short(), h.link.Addr())}
	}
	taken := info.Name == m.cfg.Name
	owner := m.self
	for _, o := range m.hosts {
		if o.id != id && o.rec.Name == info.Name && o.known && !o.barred && !o.rec.Left && !o.stopped && o.there() {
			taken, owner = true, o.id
		}
	}
	// A host that was let in under this name keeps it, whoever else came by it behind a partition.
	if taken && (h == nil || !h.known || h.rec.Name != info.Name) {
		return &handshake.Refusal{Code: handshake.CodeNameTaken, Text: fmt.Sprintf(
			"the host name %q is taken by %s; start with --name OTHER", info.Name, owner.Short())}
	}
	return nil
}

// there reports whether a host counts as running: one that the others hold for dead does if the link to it answers.
func (h *host) there() bool {
	return h.live == liveAlive || h.up && (h.live != liveDead || h.link.Quiet())
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

// handshakes takes handshake messages, the newest first: when there are more than this host can
// answer, somebody still waits for the answer to that one.
func (m *Mesh) handshakes(first datagram) {
	batch := []datagram{first}
	for len(m.hello) > 0 {
		batch = append(batch, <-m.hello)
	}
	for _, d := range slices.Backward(batch) {
		m.handshake(time.Now(), d)
	}
}

// handshake takes a handshake message.
func (m *Mesh) handshake(now time.Time, d datagram) {
	if now.Sub(d.at) > handshakeLate {
		m.drops.add(dropHandshakeLate)
		return
	}
	if m.gone {
		m.drops.add(dropGone)
		return
	}
	if m.isFrozen() {
		m.drops.add(dropHandingOver)
		return
	}
	out := m.machine.Input(now, d.from.String(), d.pkt)
	if out.Reply != nil {
		m.sendRaw(d.from, d.src, out.Reply)
	}
	if out.Refused != nil {
		m.refused(now, d.from, out.Index, out.Refused)
	}
	if out.Done != nil {
		m.established(now, d.from, out.Done)
	}
}

// established takes a finished handshake.
func (m *Mesh) established(now time.Time, from link.Addr, r *handshake.Result) {
	h := m.addHost(now, r.ID, r.Peer.Card)
	if h == nil || h.stopped && h.boot == r.Peer.Boot { // begun before the goodbye
		m.machine.Release(r.Local)
		return
	}
	if h.up && h.boot != 0 && h.boot != r.Peer.Boot {
		if h.next != nil {
			m.machine.Release(h.next.result.Local)
		} else {
			m.act(now, h, h.link.Check(now))
			h.next = &newRun{at: now}
		}
		h.next.result, h.next.from = r, from
		return
	}
	m.adopt(now, h, from, r)
}

// tickNewRun decides about a host that seems to have restarted.
func (m *Mesh) tickNewRun(now time.Time, h *host) {
	n := h.next
	switch {
	case n == nil:
	case h.pong.After(n.at):
		h.next, h.cloneBoot = nil, n.result.Peer.Boot
		m.machine.Release(n.result.Local)
		m.warn(now, fmt.Sprintf("host %s (%s) runs twice, at %s and %s: its state directory was copied", h.name(), h.id.Short(), h.link.Addr(), n.from))
	case now.Sub(n.at) >= cloneWait:
		h.next = nil
		m.adopt(now, h, n.from, n.result)
	}
}

// adopt takes a session into use.
func (m *Mesh) adopt(now time.Time, h *host, from link.Addr, r *handshake.Result) {
	at := m.attempts[r.Local]
	delete(m.attempts, r.Local)
	if h.barred { // since the handshake began
		m.machine.Release(r.Local)
		return
	}
	s, err := newSession(h, r)
	if err != nil {
		m.log.Error("session not made", "host", h.name(), "err", err)
		m.machine.Release(r.Local)
		return
	}
	restarted := h.boot != 0 && h.boot != r.Peer.Boot
	if h.boot != r.Peer.Boot {
		if h.boot != 0 { // what the other run had is void
			m.endRun(now, h)
		}
		h.boot, h.stopped = r.Peer.Boot, false
	}
	m.addSession(s)
	h.skew = time.Unix(r.Peer.Unix, 0).Sub(now).Truncate(time.Second)
	if h.skew > skewWarn || h.skew < -skewWarn {
		m.warn(now, fmt.Sprintf("the clock of host %s is %v off ours; weft does not mind, logs may", h.name(), h.skew))
	}
	if h.rec.Name == "" {
		h.rec.Name = r.Peer.Name
	}
	if at.seed != "" {
		m.seedReached(at.seed, h)
	}
	if f := m.found[at.found]; f != nil {
		f.host, f.since, f.pause = h.id, time.Time{}, 0
	}
	if !from.IsRelay() {
		h.seen = from.AP
	}
	if !h.known {
		h.known, m.dirStale = true, true
		m.admitted(h)
	}
	m.candidates(h)
	m.act(now, h, h.link.Established(now, r.Local, r.Confirmed, from))
	if restarted && h.up {
		// It waits to hear what it said before: what it asked so far went to the old run's link, and was lost.
		m.sync.PeerDown(h.id)
		m.sendState(m.sync.PeerUp(now, h.id))
	}
}

// endRun forgets what there was with the run of a host that has ended.
func (m *Mesh) endRun(now time.Time, h *host) {
	m.releaseSessions(func(s *session) bool { return s.host == h.id })
	fresh := link.New(now)
	fresh.SetCandidates(h.link.Candidates())
	h.link = fresh
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
	return &session{host: h.id, peer: h.peer, local: r.Local, sealer: se, opener: op, parts: &frag.Assembler{}}, nil
}

// refused takes a "no, and why" to a handshake that we began.
func (m *Mesh) refused(now time.Time, from link.Addr, index uint32, r *handshake.Refusal) {
	at := m.attempts[index]
	delete(m.attempts, index)
	if r.Code == handshake.CodeUnknown {
		m.firstContact(now, at)
		return
	}
	if at.found.IsValid() && m.foundRefused(at, r.Code) {
		return
	}
	who := from.String()
	if at.seed != "" {
		who = at.seed
	}
	m.warn(now, fmt.Sprintf("%s refuses this host: %s", who, r.Text))
	m.refusal = refusal{text: r.Text, at: now}
	if s := m.seeds[at.seed]; s != nil {
		s.refusal = r.Text
	}
	if r.Code == handshake.CodeBarred {
		m.expelled(who, r.Text)
	}
	if m.hopeless(r.Code) {
		m.cfg.Rejected(fmt.Errorf("%s refuses this host: %s", who, r.Text))
	}
}

// firstContact asks a host under the token that does not know us although we know it: the last message by which it would have let us in
// was lost, or its disk was put back. While there is a session in which it answers this can wait: its tables may be newer at the next try.
func (m *Mesh) firstContact(now time.Time, refused attempt) {
	h := m.hosts[refused.to]
	if h == nil || !m.wanted(h) || h.up && !h.pong.IsZero() || m.greetings < 1 {
		return
	}
	m.greetings--
	at, err := m.machine.Start(now, nil)
	if err != nil {
		m.log.Debug("handshake not begun", "host", h.name(), "err", err)
		return
	}
	m.attempts[at.Index] = attempt{to: h.id, addr: refused.addr, at: now}
	m.sendRaw(refused.addr, h.id, at.Packet)
}

// expelled takes a member's word that this host was removed. Whoever is linked to it still may not have heard of that, or the
// member be wrong: then it counts when the last link is gone.
func (m *Mesh) expelled(who, text string) {
	for _, h := range m.hosts {
		if h.up {
			return
		}
	}
	if m.removal == "" {
		m.log.Error("this host was removed from the cluster", "says", who, "text", text)
		m.removal = who + " says: " + text
		m.cfg.Removed(m.removal)
	}
}

// remover names who removed a host, as far as it is known.
func (m *Mesh) remover(h *host) string {
	switch by := m.hosts[h.barredBy]; {
	case h.barredBy == m.self:
		return " by host " + m.cfg.Name
	case by != nil:
		return " by host " + by.name()
	}
	return ""
}

// hopeless reports whether a refusal ends this run. A host that has been let in stays: one member's
// "no" does not outweigh that, except that two runs of one host must not go on.
func (m *Mesh) hopeless(code string) bool {
	switch code {
	case handshake.CodeElsewhere:
		return true
	case handshake.CodeNameTaken, handshake.CodeBarred:
		for _, h := range m.hosts {
			if !h.lastUp.IsZero() {
				return false
			}
		}
		return true
	}
	return false // of another version, say: another host may have been upgraded already
}

// warn notes something for a person: in the log when it is new, and in `status` for a while.
func (m *Mesh) warn(now time.Time, text string) {
	if m.warnings.add(now, text) {
		m.log.Warn("warning", "text", text)
	}
}
