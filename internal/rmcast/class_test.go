package rmcast

import (
	"bytes"
	"fmt"
	"maps"
	"testing"
	"time"
)

// classHistories runs histories in which streams are of a class.
func classHistories(t *testing.T, class Class) (total simCounts, n int) {
	t.Helper()
	n = eachSeed(t, 40, nil, func(seed uint64) (func(), error) {
		c, err := history(seed, class)
		return func() { total.add(c) }, err
	})
	t.Logf("%d histories: %+v", n, total)
	return total, n
}

// TestBestEffortHistories: of best-effort streams through all faults of the simulator nothing comes twice or out of order, what
// does not come is counted, and when the faults are over all are at the end. Reliable streams beside them lack nothing.
func TestBestEffortHistories(t *testing.T) {
	total, n := classHistories(t, BestEffort)
	if n >= 40 && (total.Missed < 20*n || total.Delivered < 100*n || total.Dropped < 20*n || total.Relayed < n) {
		t.Errorf("too little happened: %+v", total)
	}
}

// TestBestEffort: what is lost is passed over at once, nobody asks for it, it holds nobody up, and the sender keeps nothing.
func TestBestEffort(t *testing.T) {
	for _, multicast := range []bool{true, false} {
		s := newSim(6)
		s.multicast = multicast
		p := s.join().publish("x", SenderConfig{Class: BestEffort})
		for range 4 {
			s.join(Interest{ID: 1, Pattern: "x"})
		}
		s.run(s.now.Add(12 * time.Second))
		s.loss, s.jitter = 0.1, 0 // what comes late is as good as lost
		for range 400 {
			if p.send(10) != 10 {
				t.Fatal("it waits for receivers")
			}
			s.run(s.now.Add(time.Millisecond))
			for i := 1; i <= 4; i++ {
				if sub := s.sub(i); sub.next+200 < p.sent {
					t.Fatalf("member %d is at %d of %d", i, sub.next, p.sent)
				}
			}
		}
		st := p.tx.Snapshot()
		if kept := p.tx.store.next - p.tx.store.first; st.Nacks != 0 || st.Repairs != 0 || kept > 400 {
			t.Errorf("multicast %v: %+v, %d packets kept", multicast, st, kept)
		}
		if lost := float64(s.count.Missed) / float64(4*p.sent); lost < 0.05 || lost > 0.15 {
			t.Errorf("multicast %v: %.2f of the messages missed at 10 %% loss of packets", multicast, lost)
		}
		// The end is known although the last packets are lost; then the stream is forgotten.
		s.loss = 1
		p.send(5)
		p.tx.End(s.now)
		s.run(s.now.Add(10 * time.Millisecond))
		s.loss = 0
		s.run(s.now.Add(time.Second))
		for i := 1; i <= 4; i++ {
			if sub := s.sub(i); sub.next != p.sent+1 || !sub.ended {
				t.Errorf("multicast %v: member %d is at %d of %d, ended: %v", multicast, i, sub.next, p.sent, sub.ended)
			}
		}
		if !p.tx.Ended() {
			t.Error("not ended")
		}
	}
}

// TestBestEffortMulticastEnds: when multicast ceases, copies come within a second, although nobody asks for anything.
func TestBestEffortMulticastEnds(t *testing.T) {
	s, p := quiet(t, 6, SenderConfig{Class: BestEffort})
	if n := byMulticast(p); n != 5 {
		t.Fatalf("%d of 5 are served by multicast", n)
	}
	s.jitter = 0
	p.pump(s.now.Add(4*time.Second), 2*time.Millisecond, 5)
	s.run(s.now.Add(time.Second))
	s.multicast = false
	before := s.count.Missed
	s.run(s.now.Add(time.Second))
	if s.count.Missed == before {
		t.Fatal("nothing was missed: the test proves nothing")
	}
	before = s.count.Missed
	s.run(s.now.Add(2 * time.Second))
	if n := s.count.Missed - before; n > 0 || s.err != nil {
		t.Errorf("%d messages missed a second later, %v", n, s.err)
	}
}

// simKey is the subject of a message of a stream with values: some change often, some seldom.
func simKey(number uint64) string {
	if number%23 == 0 {
		return fmt.Sprint("a.seldom", number/23%40)
	}
	return fmt.Sprint("a.k", number%7)
}

// readValues reads what is new: numbers grow, and each message is as it was sent.
func (x *simNode) readValues(sub *simSub) {
	if sub.last == nil {
		sub.last, sub.next = map[string]uint64{}, 1
	}
	buf := make([]*Value, 0, 8)
	for vs := sub.st.Values.Next(sub.next-1, buf); len(vs) > 0; vs = sub.st.Values.Next(sub.next-1, buf) {
		for _, v := range vs {
			if v.Number < sub.next || v.Subject != simKey(v.Number) {
				x.s.fail("%d: value %d of %s after %d", x.index, v.Number, v.Subject, sub.next-1)
			}
			if want := simPayload(sub.st.Publisher, sub.st.ID, v.Number); !bytes.Equal(want, v.Payload) {
				x.s.fail("%d: value %d is another: %d bytes, want %d", x.index, v.Number, len(v.Payload), len(want))
			}
			x.s.count.Missed += int(v.Number - sub.next)
			x.s.count.Delivered++
			sub.next = v.Number + 1
			sub.last[v.Subject] = v.Number
		}
	}
}

// TestLastValueHistories: of streams with last values through all faults of the simulator nothing comes twice or out of order, and
// when the faults are over every member has the last value of each subject. Reliable streams beside them lack nothing.
func TestLastValueHistories(t *testing.T) {
	total, n := classHistories(t, LastValue)
	if n >= 40 && (total.Delivered < 100*n || total.Dropped < 20*n || total.Repairs < n || total.Fragments < n) {
		t.Errorf("too little happened: %+v", total)
	}
}

// TestLastValueLate: who comes late has the last value of each subject first, in order, whatever the window forgot, then what is new.
func TestLastValueLate(t *testing.T) {
	for _, multicast := range []bool{true, false} {
		s := newSim(8)
		s.multicast = multicast
		p := s.join().publish("a.*", SenderConfig{Class: LastValue, Window: 256 << 10, Keep: time.Second})
		s.join(Interest{ID: 1, Pattern: "a.*"})
		s.run(s.now.Add(2 * time.Second))
		for range 300 {
			p.send(12)
			s.run(s.now.Add(5 * time.Millisecond))
		}
		s.run(s.now.Add(5 * time.Second))
		if p.tx.store.first < p.tx.store.next {
			t.Fatalf("%d packets are still in the window", p.tx.store.next-p.tx.store.first)
		}
		s.loss = 0.1
		before := p.sent
		s.join(Interest{ID: 1, Pattern: "a.*"})
		p.pump(s.now.Add(500*time.Millisecond), 5*time.Millisecond, 3)
		s.run(s.now.Add(2 * time.Second))
		s.calm()
		if err := s.converge(5 * time.Second); err != nil {
			t.Errorf("multicast %v: %v", multicast, err)
		}
		old := 0
		for _, n := range s.sub(2).last {
			if n <= before {
				old++
			}
		}
		if old == 0 {
			t.Error("no value is from before: the test proves nothing")
		}
		if n := len(s.nodes[0].n.senders); n != 1 {
			t.Errorf("%d streams are left at the sender", n)
		}
		if n := len(s.nodes[2].n.order); n != 1 {
			t.Errorf("%d streams are left at the receiver", n)
		}
	}
}

// TestLastValueStopped: a receiver that stops while the window moves on has the last values when it goes on, and no word of a loss.
func TestLastValueStopped(t *testing.T) {
	s, p := quietOn(t, "a.*", 4, SenderConfig{Class: LastValue, Window: 256 << 10})
	s.nodes[2].pause(4 * time.Second)
	end := s.now.Add(3 * time.Second)
	for s.now.Before(end) {
		p.send(40)
		s.run(s.now.Add(time.Millisecond))
	}
	behind := maps.Clone(s.sub(2).last)
	s.run(s.now.Add(2 * time.Second))
	if err := s.converge(5 * time.Second); err != nil {
		t.Error(err)
	}
	if p.tx.Snapshot().Skips == 0 || maps.Equal(behind, p.last) {
		t.Error("it missed nothing: the test proves nothing")
	}
}

// TestValuesBound: a value for which there is no room is refused, a newer one of a key that is there is not; what was refused
// leaves no trace. A table that gets more than it may hold forgets the oldest.
func TestValuesBound(t *testing.T) {
	s := newSim(1)
	p := s.join().publish("a.*", SenderConfig{Class: LastValue, Window: 256 << 10})
	big := make([]byte, 50_000)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		_, _, err = p.tx.Send(fmt.Sprint("a.", n), nil, big)
	}
	if err != ErrValues || n != 6 { //nolint:errorlint // it is returned as it is
		t.Errorf("%d values: %v", n, err)
	}
	if _, _, err = p.tx.Send("a.0", nil, big); err != nil {
		t.Error(err)
	}
	if got := len(p.tx.Values().all()); got != 5 {
		t.Errorf("%d values", got)
	}
	v := newValues(1000, true)
	forgotten := uint64(0)
	for i := range uint64(10) {
		forgotten += v.put(i+1, fmt.Append(nil, i), nil, make([]byte, 100))
	}
	if got := v.Next(0, make([]*Value, 0, 20)); forgotten != 7 || len(got) != 3 || got[2].Number != 10 {
		t.Errorf("%d forgotten, %d left", forgotten, len(got))
	}
}
