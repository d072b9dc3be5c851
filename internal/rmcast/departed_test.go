package rmcast

import (
	"slices"
	"testing"
	"time"
)

// TestDeparted: what a member said is recorded, and said again when it has left: it does not come back, nor do its messages. One that was cut off for
// so long that it was forgotten does, with what is new.
func TestDeparted(t *testing.T) {
	for _, sign := range []bool{true, false} {
		s := newSim(7)
		if sign {
			s.signs = all
		}
		type recorded struct {
			group bool
			pkt   []byte
		}
		var tape []recorded
		s.join()
		to := s.join(Interest{ID: 1, Pattern: "x"})
		s.drop = func(_, o *simNode, group bool, pkt []byte) bool {
			if o == to {
				tape = append(tape, recorded{group, slices.Clone(pkt)})
			}
			return false
		}
		from := s.nodes[0]
		p := from.publish("x", SenderConfig{})
		s.run(s.now.Add(2 * time.Second))
		p.send(50)
		s.run(s.now.Add(time.Second))
		from.n.Leave(s.now)
		from.up = false
		s.run(s.now.Add(time.Second))
		if len(to.n.members) != 0 || s.sub(1).next != 51 {
			t.Fatalf("%d members, message %d", len(to.n.members), s.sub(1).next)
		}
		replayed := to.n.Stats.Replayed
		for range 3 {
			for _, r := range tape {
				to.n.Packet(s.now, from.addr, r.group, r.pkt)
				to.arm(to.n.Done(s.now))
			}
			s.run(s.now.Add(time.Second))
		}
		if len(to.n.members) != 0 || len(to.n.order) != 0 || to.n.Stats.Replayed == replayed || s.err != nil {
			t.Errorf("signed %v: %d members, %d streams, %v", sign, len(to.n.members), len(to.n.order), s.err)
		}
		s.drop = nil

		back := s.join()
		s.run(s.now.Add(2 * time.Second))
		s.cut[[2]int{1, 2}], s.cut[[2]int{2, 1}] = true, true
		s.run(s.now.Add(forgetAfter + time.Minute))
		if len(to.n.members) != 0 || len(to.n.departed) != 2 {
			t.Fatalf("%d members, %d departed", len(to.n.members), len(to.n.departed))
		}
		clear(s.cut)
		q := back.publish("x", SenderConfig{})
		s.run(s.now.Add(20 * time.Second))
		q.send(20)
		if err := s.converge(10 * time.Second); err != nil || len(to.n.departed) != 1 {
			t.Errorf("signed %v: it is not back: %v; %d departed", sign, err, len(to.n.departed))
		}
	}
	n := newSim(1).join().n
	for i := range 2 * maxDeparted {
		n.depart(&member{Member: Member{ID: ID(i + 1)}}, false)
	}
	if len(n.departed) != maxDeparted || n.departed[0].id != maxDeparted+1 {
		t.Errorf("%d are remembered", len(n.departed))
	}
}
