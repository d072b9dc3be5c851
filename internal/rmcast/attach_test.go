package rmcast

import (
	"container/heap"
	"testing"
	"time"
)

// attach lets time pass until a publisher knows so many receivers, and no event longer: not even the tick that announces.
func (s *simNet) attach(p *simPub, n int) {
	for len(p.tx.targets) < n && len(s.events) > 0 {
		e := heap.Pop(&s.events).(event)
		s.now = e.at
		p.tx.arrangedAt = s.now // if there are very many, others have just come
		e.do()
	}
}

// TestAttached: what is sent once a subscription is known to the publisher reaches it, also before the stream is announced, and
// when announcements are lost.
func TestAttached(t *testing.T) {
	for _, lose := range []bool{false, true} {
		s := newSim(4)
		p := s.join().publish("x", SenderConfig{})
		p.send(5)
		s.join(Interest{ID: 1, Pattern: "x"})
		s.attach(p, 1)
		p.send(3)
		if lose {
			s.loss = 1
			s.run(s.now.Add(120 * time.Millisecond))
			p.send(3)
			s.loss = 0
		}
		if err := s.converge(10 * time.Second); err != nil {
			t.Error(err)
		}
		if want := int(p.sent) - 5; s.count.Delivered != want || s.count.LostTold != 0 {
			t.Errorf("losing %v: %d of %d messages came, %d losses told", lose, s.count.Delivered, want, s.count.LostTold)
		}
	}
}

// TestAttachedWaits: a publisher that has more to send than its window holds waits for a receiver from the attachment on, also when it does not hear of the
// stream for a while, or gets the oldest that is kept; and when there are so many that they are arranged together.
func TestAttachedWaits(t *testing.T) {
	for what, c := range map[string]struct {
		mode   byte
		before int // receivers
		silent time.Duration
	}{
		"from now, not told":        {FromNow, 0, 400 * time.Millisecond},
		"from the oldest":           {FromOldest, 0, 0},
		"from the oldest, not told": {FromOldest, 0, 400 * time.Millisecond},
		"one of very many":          {FromOldest, crowd, 5 * time.Millisecond},
	} {
		s := newSim(5)
		p := s.join().publish("x", SenderConfig{Window: 256 << 10})
		for range c.before {
			s.join(Interest{ID: 1, Pattern: "x"})
		}
		s.run(s.now.Add(3 * time.Second))
		for range 300 { // the window is full
			p.send(10)
			s.run(s.now.Add(time.Millisecond))
		}
		s.join(Interest{ID: 1, Pattern: "x", Mode: c.mode}).lossless = true
		if s.attach(p, c.before+1); len(p.tx.targets) <= c.before {
			t.Fatalf("%s: %d receivers", what, len(p.tx.targets))
		}
		s.drop = func(_, to *simNode, _ bool, _ []byte) bool { return to.lossless }
		s.after(c.silent, func() { s.drop = nil })
		for end := s.now.Add(c.silent + 100*time.Millisecond); s.now.Before(end); s.run(s.now.Add(time.Millisecond)) {
			p.send(20)
		}
		if err := s.converge(10 * time.Second); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestAttachedSilent: who never answers the announcement is waited for half a second, once.
func TestAttachedSilent(t *testing.T) {
	s := newSim(6)
	p := s.join().publish("x", SenderConfig{Window: 256 << 10})
	p.send(5000)
	x := s.join(Interest{ID: 1, Pattern: "x", Mode: FromOldest})
	s.attach(p, 1)
	s.cut[[2]int{0, x.index}] = true
	began, last, longest := s.now, s.now, time.Duration(0)
	for s.now.Before(began.Add(3 * time.Second)) {
		if p.send(20) > 0 {
			longest = max(longest, s.now.Sub(last))
			last = s.now
		}
		s.run(s.now.Add(time.Millisecond))
	}
	longest = max(longest, s.now.Sub(last))
	if longest < patience/2 || longest > patience+50*time.Millisecond {
		t.Errorf("the publisher was held up for %v", longest)
	}
	s.calm()
	if err := s.converge(10 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestLastValueAgain: a receiver that its publisher takes for gone before the snapshot has come, and that has not missed the publisher itself, gets
// another snapshot when it is heard again, and reads it; nothing is left of the first.
func TestLastValueAgain(t *testing.T) {
	s := newSim(7)
	p := s.join().publish("a.*", SenderConfig{Class: LastValue})
	p.send(50)
	x := s.join(Interest{ID: 1, Pattern: "a.*"})
	s.drop = func(_, to *simNode, _ bool, pkt []byte) bool { return to == x && pkt[0] == TypeData }
	s.run(s.now.Add(time.Second))
	for range 2 { // the first time the snapshot does not come, either
		s.cut[[2]int{x.index, 0}] = true
		s.run(s.now.Add(30 * time.Second))
		if m := p.node.n.byID[x.id]; m.State != Unreachable {
			t.Fatalf("the receiver is %d", m.State)
		}
		s.calm()
		s.run(s.now.Add(2 * time.Second))
	}
	s.drop = nil
	if err := s.converge(10 * time.Second); err != nil {
		t.Error(err)
	}
	s.run(s.now.Add(time.Second))
	if a, b := len(x.n.order), len(p.node.n.senders); a != 1 || b != 1 {
		t.Errorf("%d streams are left at the receiver, %d at the sender", a, b)
	}
}
