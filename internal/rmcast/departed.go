package rmcast

import (
	"math"
	"slices"

	"github.com/weft-net/weft/internal/buskey"
)

// Who has recorded what a member said to us, its hello among it, could say it again when that one is forgotten, and have its messages come again. So
// what tells old from new is kept for a while: one that signs and said goodbye does not come back, and any other that was forgotten says what it has not said before.

// maxDeparted is how many members that are gone are remembered, at about 2 kB each; the oldest are forgotten for good.
const maxDeparted = 256

// departed is a member that is gone.
type departed struct {
	id     ID
	number uint64 // of its last hello
	ctl    *buskey.Control
}

// depart remembers a member that is gone; left says that it said so itself.
func (n *Node) depart(m *member, left bool) {
	d := departed{m.ID, m.helloNumber, m.ctl}
	if left && m.signs != nil { // of others anyone could have said it
		d.number, d.ctl = math.MaxUint64, nil
	}
	if len(n.departed) == maxDeparted {
		n.departed = slices.Delete(n.departed, 0, 1)
	}
	n.departed = append(n.departed, d)
}

// returns reports whether a hello by which one would become a member is new, and gives back the counters of one that was known; nil: it was not.
func (n *Node) returns(h *hello) (ctl *buskey.Control, ok bool) {
	i := slices.IndexFunc(n.departed, func(d departed) bool { return d.id == h.epoch })
	if i < 0 {
		return nil, true
	}
	d := n.departed[i]
	if h.number <= d.number {
		return nil, false
	}
	n.departed = slices.Delete(n.departed, i, i+1)
	return d.ctl, true
}
