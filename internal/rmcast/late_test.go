package rmcast

import (
	"math"
	"testing"
	"time"
)

// TestLateNacks: what a receiver asked for and has confirmed since is not sent again, because confirmations overtake NACKs where those to the group
// wait in a longer queue; a receiver that goes on asking for it gets it.
func TestLateNacks(t *testing.T) {
	s, p := quiet(t, 6, SenderConfig{})
	p.send(200)
	s.run(s.now.Add(100 * time.Millisecond))
	x := s.nodes[3]
	ask := func() SenderStats {
		before := p.tx.Snapshot()
		if before.Packets < 3 || len(p.tx.Receivers()) == 0 {
			t.Fatalf("%d packets: too little happened", before.Packets)
		}
		p.node.act(func() {
			p.node.n.nacked(s.now, p.node.n.byID[x.id], p.node.id, p.tx.ID(), math.MaxUint64, []Range{{From: 1, Count: 2}, {From: 3, Count: 1}})
		})
		after := p.tx.Snapshot()
		return SenderStats{Repairs: after.Repairs - before.Repairs, LateNacks: after.LateNacks - before.LateNacks}
	}
	if got, want := ask(), (SenderStats{LateNacks: 3}); got != want {
		t.Errorf("when it has just confirmed them: %+v, want %+v", got, want)
	}
	s.run(s.now.Add(markTrust + time.Second))
	if got, want := ask(), (SenderStats{Repairs: 3}); got != want {
		t.Errorf("when that is long ago: %+v, want %+v", got, want)
	}
}

// TestRemarks: a receiver that goes on asking for what is on its way, and knows of no mark, has some sent to all, but none each 20 ms.
func TestRemarks(t *testing.T) {
	s, p := quiet(t, 6, SenderConfig{NoParity: true})
	x, y := s.nodes[3], s.nodes[4] // what only one lacks goes to that one alone
	s.drop = func(from, to *simNode, _ bool, _ []byte) bool { return from == x || to == x || from == y || to == y }
	p.send(1)
	s.run(s.now.Add(time.Millisecond))
	before := p.tx.marks
	for end := s.now.Add(markTrust * 9 / 10); s.now.Before(end); s.run(s.now.Add(time.Millisecond)) {
		p.node.act(func() {
			p.node.n.nacked(s.now, p.node.n.byID[x.id], p.node.id, p.tx.ID(), 0, []Range{{From: p.tx.sent - 1, Count: 1}})
			p.node.arm(p.node.n.Done(s.now))
		})
	}
	if n := p.tx.marks - before; n < remarkBurst || n > remarkBurst+16 {
		t.Errorf("%d marks", n)
	}
}
