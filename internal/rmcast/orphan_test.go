package rmcast

import (
	"testing"
	"time"
)

// TestNewcomerTells: a publisher dies whose last messages nobody has got; one that came too late for them knows at least that there were some, and
// tells the others, who are told of their loss.
func TestNewcomerTells(t *testing.T) {
	for _, sign := range []bool{true, false} {
		s := newSim(5)
		if sign {
			s.signs = all
		}
		s.join()
		s.join(Interest{ID: 1, Pattern: "x"})
		a, b := s.nodes[0], s.nodes[1]
		p := a.publish("x", SenderConfig{})
		s.run(s.now.Add(2 * time.Second))
		p.send(20)
		s.run(s.now.Add(100 * time.Millisecond))
		s.cut[[2]int{0, 1}] = true
		p.send(30)
		s.run(s.now.Add(10 * time.Millisecond))
		c := s.join(Interest{ID: 1, Pattern: "x"})
		s.run(s.now.Add(500 * time.Millisecond))
		a.kill()
		clear(s.cut)
		s.run(s.now.Add(time.Minute))
		key := streamKey{a.id, p.tx.ID()}
		if c.heard[key] == nil || c.heard[key].next != 51 || s.count.Delivered != 20 {
			t.Fatalf("signed %v: the newcomer has %+v, %+v", sign, c.heard[key], s.count)
		}
		if next := b.heard[key].next; next != 51 || s.count.LostTold != 1 || s.count.Lost != 30 {
			t.Errorf("signed %v: the other is at message %d, %+v", sign, next, s.count)
		}
	}
}
