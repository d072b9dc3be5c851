package rmcast

import (
	"slices"

	"github.com/weft-net/weft/internal/subject"
)

// Wanting returns the members that can be reached and subscribe to a subject, and those of whom it is not known yet.
func (n *Node) Wanting(subj string) (want, unknown []ID) {
	n.wants.Match(subj, func(e subject.Entry[ID]) {
		if m := n.byID[e.Value]; m != nil && m.State != Unreachable && !slices.Contains(want, m.ID) {
			want = append(want, m.ID)
		}
	})
	for _, m := range n.members {
		if m.State != Unreachable && m.version == 0 {
			unknown = append(unknown, m.ID)
		}
	}
	return want, unknown
}

// Interested returns what a member subscribes to, as far as it is known: ok says whether it is. The slice is not to be changed.
func (n *Node) Interested(id ID) (all []Interest, ok bool) {
	m := n.byID[id]
	if m == nil || m.version == 0 {
		return nil, false
	}
	return m.interests, true
}

// Lacks returns those of some members that do not know our interests of a version yet.
func (n *Node) Lacks(version uint32, of []ID) (lack []ID) {
	for _, id := range of {
		if m := n.byID[id]; m != nil && m.State != Unreachable && m.has < version {
			lack = append(lack, id)
		}
	}
	return lack
}

// Reachable reports whether a member is there.
func (n *Node) Reachable(id ID) bool {
	m := n.byID[id]
	return m != nil && m.State != Unreachable
}
