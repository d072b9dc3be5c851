package rmcast

import (
	"net/netip"
	"slices"
	"time"
)

// To check a signature takes fifty times as long as to open a packet, so who forges packets makes others work. What comes from where its sender is said to be, or
// from where signed packets of it came before (relays, others that repair), is always checked; of all else only so much that a forger who does not lie about
// his address costs at most a twentieth of a processor.

const (
	// forgedEvery is how often a packet may be found forged that comes from elsewhere, forgedBurst for how long that can be saved up.
	forgedEvery = time.Millisecond
	forgedBurst = 250 * time.Millisecond
	// maxStanding is from how many addresses beside its own signed packets of a member are known to come.
	maxStanding = 4
)

// standing are addresses from which signed packets of a member came, the last ones.
type standing struct {
	from [maxStanding]netip.AddrPort
	next int
}

// isFrom reports whether the datagram at hand comes from where a member's do.
func (n *Node) isFrom(m *member) bool {
	return n.from == m.Addr || n.from == m.udp && m.udp != zeroAddr || slices.Contains(m.standing.from[:], n.from)
}

// mayCheck reports whether to check the signature of what is at hand; m nil: nobody knows its sender.
func (n *Node) mayCheck(now time.Time, m *member) bool {
	if m != nil && n.isFrom(m) || n.forgedUntil.Sub(now) < forgedBurst {
		return true
	}
	n.Stats.Unchecked++
	return false
}

// judge notes what came of a check, and returns it.
func (n *Node) judge(now time.Time, m *member, good bool) bool {
	switch {
	case good && m != nil && !n.isFrom(m):
		m.standing.from[m.standing.next%maxStanding] = n.from
		m.standing.next++
	case good:
	default:
		n.Stats.Unsigned++
		if m != nil {
			if i := slices.Index(m.standing.from[:], n.from); i >= 0 {
				m.standing.from[i] = zeroAddr
			}
		}
		if m == nil || !n.isFrom(m) {
			n.forgedUntil = maxTime(n.forgedUntil, now).Add(forgedEvery)
		}
	}
	return good
}
