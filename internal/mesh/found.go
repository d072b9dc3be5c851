package mesh

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
)

// found is an address at which somebody else says that a host is. Owned by the loop.
type found struct {
	since time.Time // first try without an answer
	tried time.Time
	pause time.Duration // before the next try
	host  ident.HostID  // who answered there last
	own   bool          // this host did
}

const (
	// maxFound bounds the addresses that others tell, so that a liar among them costs little.
	maxFound = 512
	// foundEvery is how often they are gone through.
	foundEvery = time.Second
	// foundSlow is the longest pause between two tries of an address while this host reaches others: what is listed somewhere may
	// be gone for good. A host that reaches nobody tries as often as it tries seeds.
	foundSlow = 30 * time.Second
	// foundPatient is how long an address may be silent before a person hears of it.
	foundPatient = 15 * time.Second
)

// Endpoints are where others reach this host, best first.
func (m *Mesh) Endpoints() []netip.AddrPort {
	var out []netip.AddrPort
	_ = m.do(func() { out = slices.Clone(m.published.Endpoints) })
	return out
}

// SetFound replaces the addresses at which hosts are said to be. Those of hosts that are linked, and this host's own, are left alone; at the others a
// host of this cluster is greeted as at a seed. Those beyond maxFound are left out.
func (m *Mesh) SetFound(addrs []netip.AddrPort) error {
	return m.do(func() {
		next := make(map[netip.AddrPort]*found, min(len(addrs), maxFound))
		for _, ap := range addrs {
			if len(next) >= maxFound {
				break
			}
			if next[ap] = m.found[ap]; next[ap] == nil {
				next[ap] = &found{}
			}
		}
		m.found, m.foundAt = next, time.Time{}
	})
}

// FoundState says what is at an address that was found.
type FoundState int

// At an address that was found.
const (
	FoundTrying FoundState = iota // no host of this cluster has answered so far
	FoundSilent                   // nor has one for foundPatient
	FoundLinked                   // a host that there is a link to
	FoundOwn                      // this host
)

// Found returns what is known of the addresses that were found.
func (m *Mesh) Found() map[netip.AddrPort]FoundState {
	out := map[netip.AddrPort]FoundState{}
	_ = m.do(func() {
		now := time.Now()
		own, linked := m.whose()
		for ap, f := range m.found {
			switch {
			case f.own || own[ap]:
				out[ap] = FoundOwn
			case m.answers(f) || linked[ap]:
				out[ap] = FoundLinked
			case !f.since.IsZero() && now.Sub(f.since) >= foundPatient:
				out[ap] = FoundSilent
			default:
				out[ap] = FoundTrying
			}
		}
	})
	return out
}

// answers reports whether the host that answered at an address is linked now.
func (m *Mesh) answers(f *found) bool {
	h := m.hosts[f.host]
	return h != nil && h.up
}

// whose returns this host's own endpoints, and those of the hosts that there is a link to.
func (m *Mesh) whose() (own, linked map[netip.AddrPort]bool) {
	own, linked = map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
	for _, ap := range m.published.Endpoints {
		own[ap] = true
	}
	for _, a := range m.cfg.Underlay.Endpoints() {
		own[netip.AddrPortFrom(a, m.cfg.Port)] = true
	}
	for _, h := range m.hosts {
		if !h.up {
			continue
		}
		linked[h.seen] = true
		for _, ap := range h.rec.Endpoints {
			linked[ap] = true
		}
	}
	return own, linked
}

// tickFound greets hosts at addresses that were found. Like all handshakes they are budgeted; the order is the map's, so that none is
// always the last.
func (m *Mesh) tickFound(now time.Time) {
	if len(m.found) == 0 || m.leaving || m.isFrozen() || now.Sub(m.foundAt) < foundEvery {
		return
	}
	m.foundAt = now
	own, linked := m.whose()
	slow := foundSlow
	if len(linked) == 0 {
		slow = seedSlow
	}
	for ap, f := range m.found {
		if own[ap] || f.own || linked[ap] || m.answers(f) {
			f.since, f.pause = time.Time{}, 0
			continue
		}
		if h := m.hosts[f.host]; h != nil && h.barred {
			continue
		}
		if f.since.IsZero() {
			f.since = now
		}
		if now.Sub(f.tried) < min(f.pause, slow) {
			continue
		}
		if m.greetings < 1 {
			return
		}
		m.greetings--
		f.tried = now
		f.pause = min(max(2*f.pause, seedRetry), foundSlow)
		at, err := m.machine.Start(now, nil)
		if err != nil {
			m.log.Debug("handshake not begun", "found", ap, "err", err)
			return
		}
		a := link.Direct(ap)
		m.attempts[at.Index] = attempt{addr: a, found: ap, at: now}
		m.sendRaw(a, ident.HostID{}, at.Packet)
	}
}

// foundRefused takes a "no" from an address that was found; true when there is nothing more to say about it.
func (m *Mesh) foundRefused(at attempt, code string) bool {
	f := m.found[at.found]
	if f == nil || code != handshake.CodeSelf {
		return false
	}
	f.own = true // behind a NAT a host cannot tell beforehand
	return true
}

// foundMoved forgets what was known of whose the addresses are: this host has others now.
func (m *Mesh) foundMoved() {
	for f := range maps.Values(m.found) {
		f.own = false
	}
}
