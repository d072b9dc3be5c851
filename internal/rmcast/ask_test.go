package rmcast

import (
	"testing"
	"time"
)

// TestAskAgain: a packet that all have lost is asked for again, and comes, however long the publisher was silent before, and however often others
// were asked meanwhile.
func TestAskAgain(t *testing.T) {
	for silent := 50 * time.Millisecond; silent < 900*time.Millisecond; silent += 25 * time.Millisecond {
		s, p := quiet(t, 5, SenderConfig{})
		s.drop = func(_, _ *simNode, _ bool, pkt []byte) bool { return pkt[0] == TypeData }
		p.send(1)
		s.run(s.now.Add(time.Millisecond))
		s.drop = nil
		p.send(1) // this shows the gap
		s.run(s.now.Add(time.Millisecond))
		s.drop = func(from, _ *simNode, _ bool, _ []byte) bool { return from == p.node }
		s.run(s.now.Add(silent))
		s.drop = nil
		if err := s.converge(5 * time.Second); err != nil {
			t.Errorf("silent for %v: %v", silent, err)
		}
	}
}

// TestAskUnheard: a receiver that the publisher does not hear, but that hears of repairs for others, gets from those what it lacks.
func TestAskUnheard(t *testing.T) {
	s, p := quiet(t, 6, SenderConfig{Flow: FlowNone})
	x := s.nodes[2]
	s.drop = func(_, to *simNode, _ bool, pkt []byte) bool { return to == x && pkt[0] == TypeData }
	p.send(1)
	s.run(s.now.Add(time.Millisecond))
	s.drop = func(from, to *simNode, _ bool, pkt []byte) bool {
		return from == x && to == p.node || to != x && pkt[0] == TypeData && s.rnd.IntN(4) == 0
	}
	p.pump(s.now.Add(3*time.Second), 10*time.Millisecond, 3)
	s.run(s.now.Add(2 * time.Second))
	if sub := s.sub(2); sub.next == 1 {
		t.Errorf("after 2 s and %d NACKs, %d of them to others, it has nothing", x.n.Stats.Nacks, x.n.Stats.PeerNacks)
	}
	if s.err != nil {
		t.Error(s.err)
	}
}
