package rmcast

import (
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
)

// candidate is an address where a member may be, or an epoch that was answered lately.
type candidate struct {
	addr  netip.AddrPort
	id    ID   // who is there, as others say; 0: not told
	seed  bool // asked for ever
	self  bool // it is ours
	at    time.Time
	pause time.Duration
	tries int
	aside bool // a beacon aside of it came
}

const candidateTries = 6

// AddSeed has an address asked, from now on, whenever no member is there. Of too many (names change their addresses) one that
// nobody is at is forgotten.
func (n *Node) AddSeed(now time.Time, addr netip.AddrPort) {
	for _, c := range n.candidates {
		if c.addr == addr {
			c.seed = true
			return
		}
	}
	if len(n.candidates) >= MaxMembers {
		i := slices.IndexFunc(n.candidates, func(c *candidate) bool {
			return !slices.ContainsFunc(n.members, func(m *member) bool { return m.Addr == c.addr })
		})
		if i < 0 {
			return // all of them are there
		}
		n.candidates = slices.Delete(n.candidates, i, i+1)
	}
	n.candidates = append(n.candidates, &candidate{addr: addr, seed: true, at: now, pause: helloEvery})
	n.wake(now)
}

// SetKeys replaces the keys under which members are believed. The first is ours, and must be what it was.
func (n *Node) SetKeys(keys []*buskey.Bus) { n.cfg.Keys = append(n.cfg.Keys[:1:1], keys[1:]...) }

// candidate has an address asked that another member knows.
func (n *Node) candidate(now time.Time, addr netip.AddrPort) {
	most := MaxMembers
	if !n.seeks() {
		most = n.cfg.View
	}
	if len(n.candidates) >= most || !unicastTo(addr) ||
		slices.ContainsFunc(n.candidates, func(c *candidate) bool { return c.addr == addr }) {
		return
	}
	n.candidates = append(n.candidates, &candidate{addr: addr, at: now, pause: helloEvery})
	n.wake(now)
}

var zeroAddr netip.AddrPort

func unicastTo(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && !a.Addr().IsMulticast() && !a.Addr().IsUnspecified() && !isEdge(a)
}

func (n *Node) sendHello(to netip.AddrPort, group bool, h hello) {
	n.number++
	h.epoch, h.suite, h.name = n.cfg.Self, n.cfg.Suite, n.cfg.Name
	if !h.beacon {
		h.number = n.number
	}
	var nonce [24]byte
	if _, err := io.ReadFull(n.cfg.Nonces, nonce[:]); err != nil {
		return // without a nonce nothing is said
	}
	h.signs = n.cfg.Sign != nil
	if n.greeting = h.append(n.greeting[:0]); h.signs {
		n.greeting = n.cfg.Sign.SignHello(n.greeting)
	}
	n.sealed = n.cfg.Keys[0].SealHello(n.sealed[:0], TypeHello, &nonce, n.greeting)
	switch {
	case h.aside:
		n.cfg.Groups.Aside(n.sealed)
	case group:
		n.cfg.Wire.Send(n.sealed, len(n.sealed), true, nil)
	default:
		n.cfg.Wire.Send(n.sealed, len(n.sealed), false, []netip.AddrPort{to})
	}
}

// hello takes a hello. From one that nobody has introduced it costs this AEAD check and, if it is authentic, an answer.
func (n *Node) hello(now time.Time, from netip.AddrPort, group bool, pkt []byte) {
	var (
		plain []byte
		bus   *buskey.Bus
		err   error
	)
	for _, k := range n.cfg.Keys {
		if plain, err = k.OpenHello(n.plain, pkt); err == nil {
			bus = k
			break
		}
	}
	if err != nil {
		n.Stats.Forged++
		return
	}
	h, err := decodeHello(plain)
	switch {
	case err == errVersion: //nolint:errorlint // it is returned as it is
		n.Stats.OtherVersion++
		return
	case err != nil:
		n.Stats.Malformed++
		return
	}
	if !n.vouched(now, bus, &h, plain) {
		return
	}
	n.Stats.Hellos++
	if h.epoch == n.cfg.Self {
		for _, c := range n.candidates {
			c.self = c.self || !group && c.addr == from
		}
		return
	}
	m := n.byID[h.epoch]
	if m == nil {
		n.stranger(now, from, group, bus, h)
		return
	}
	if h.beacon {
		n.beacon(now, m, group, h)
		return
	}
	if h.number <= m.helloNumber {
		n.Stats.Replayed++
		return
	}
	m.helloNumber = h.number
	if !group && (m.signs == nil || h.to == n.cfg.Self) { // else anyone could have passed it on
		n.met(now, m, from)
	}
	n.heard(now, m, group)
	if h.to == n.cfg.Self && h.known {
		m.believed = true
	} else if h.to == n.cfg.Self || h.to == 0 {
		n.introduce(now, m)
	}
}

// stranger answers who is not known, so that it names our epoch; when it does, it is a member.
func (n *Node) stranger(now time.Time, from netip.AddrPort, group bool, bus *buskey.Bus, h hello) {
	n.edges.learn(h.epoch)
	if h.to != n.cfg.Self {
		if h.to != 0 {
			return
		}
		c := n.answered[h.epoch]
		if c == nil {
			if len(n.answered) >= maxAnswered {
				for id, o := range n.answered {
					if now.Sub(o.at) > time.Second {
						delete(n.answered, id)
					}
				}
				if len(n.answered) >= maxAnswered {
					return
				}
			}
			c = &candidate{}
			n.answered[h.epoch] = c
		}
		if group && h.aside && !c.aside { // who hears its voice, too, answers that one: one family for both costs less than two
			c.aside, c.at = true, now
			return
		}
		if c.tries > 0 && now.Sub(c.at) < helloEvery*3/4 {
			return
		}
		c.at, c.tries = now, c.tries+1
		n.sendHello(from, false, hello{to: h.epoch})
		n.edges.unanswered(h.epoch, from, c)
		return
	}
	if len(n.members) >= MaxMembers {
		n.Stats.MembersFull++
		return
	}
	ctl, ok := n.returns(&h)
	if !ok {
		n.Stats.Replayed++
		return
	}
	if ctl == nil {
		var err error
		if ctl, err = bus.Control(h.suite, uint64(h.epoch)); err != nil {
			return
		}
	}
	delete(n.answered, h.epoch)
	m := &member{
		Member: Member{ID: h.epoch, Name: h.name, Addr: from}, bus: bus, suite: h.suite, ctl: ctl, helloNumber: h.number,
		believed: h.known, last: now, stateAt: now, statePause: stateAgain,
	}
	n.signer(m, &h)
	n.newcomer(now, m, from)
	n.members = append(n.members, m)
	n.byID[m.ID] = m
	n.heard(now, m, group)
	n.introduce(now, m)
	n.tellPeers(m)
	if len(n.members) <= n.cfg.View {
		for _, o := range n.members {
			o.peersPause = 0
		}
	}
	n.mouth.News()
	n.mouthAt = now
	n.event(Joined, m)
	n.ask(now, m, recPing)
	n.wake(now)
}

// introduce names a member's epoch to it: from then on it believes in us.
func (n *Node) introduce(now time.Time, m *member) {
	if m.hellos > 0 && now.Sub(m.helloAt) < helloEvery/2 {
		return
	}
	m.helloAt, m.hellos = now, m.hellos+1
	n.sendHello(m.Addr, false, hello{to: m.ID, known: true})
}

// tellPeers tells a newcomer whom we know; of very many, as many as fit a packet, by chance.
func (n *Node) tellPeers(to *member) {
	const most = 36 // of 26 bytes
	var b []byte
	at, count := 0, 0
	known := n.members
	if len(known) > n.cfg.View {
		from := n.cfg.Rand.IntN(len(known))
		known = slices.Concat(known[from:], known[:from])[:min(most, len(known))]
	}
	for _, m := range known {
		if m == to || m.State == Unreachable {
			continue
		}
		if count == 0 {
			b, at = record(b[:0], recPeers)
		}
		b = appendPeer(b, m.ID, n.where(m))
		if count++; count == most {
			n.say(to, func(o []byte) []byte { return append(o, done(b, at)...) })
			count = 0
		}
	}
	if count > 0 {
		n.say(to, func(o []byte) []byte { return append(o, done(b, at)...) })
	}
}
