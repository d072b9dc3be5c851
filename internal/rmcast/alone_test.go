package rmcast

import (
	"math"
	"testing"
	"time"
)

// TestAlone: what one receiver of eleven loses costs the others next to nothing: it is sent to it alone.
func TestAlone(t *testing.T) {
	s, p := quiet(t, 12, SenderConfig{})
	bad := s.nodes[5]
	s.drop = func(_, to *simNode, group bool, pkt []byte) bool {
		return to == bad && group && pkt[0] == TypeData && s.rnd.Float64() < 0.5
	}
	byGroup := 0
	s.tap = func(group bool, size int) {
		if group && size > 500 { // data
			byGroup++
		}
	}
	before := p.tx.Snapshot()
	for end := s.now.Add(time.Second); s.now.Before(end); {
		p.send(20)
		s.run(s.now.Add(time.Millisecond))
	}
	if err := s.converge(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	st := p.tx.Snapshot()
	packets, repairs := int(st.Packets-before.Packets), int(st.Repairs-before.Repairs)
	t.Logf("%d packets, %d repairs, %d packets to the group", packets, repairs, byGroup)
	if repairs < packets/3 {
		t.Errorf("%d repairs of %d packets: too little happened", repairs, packets)
	}
	if most := packets + packets/5 + shareBurst/DefaultDatagram; byGroup > most {
		t.Errorf("%d packets to the group, want at most %d", byGroup, most)
	}
}

// TestOthersTails: how far a stream goes its publisher says, while it lives; nobody else has the others ask for what was never sent.
func TestOthersTails(t *testing.T) {
	s, p := quiet(t, 6, SenderConfig{})
	p.send(50)
	s.run(s.now.Add(time.Second))
	bad := s.nodes[5]
	nacks := p.tx.Snapshot().Nacks
	bad.act(func() {
		for _, m := range bad.n.members {
			bad.n.say(m, func(b []byte) []byte {
				return appendTail(b, s.nodes[0].id, p.tx.ID(), math.MaxUint64/2, math.MaxUint64/2)
			})
		}
		bad.arm(bad.n.Done(s.now))
	})
	s.run(s.now.Add(time.Second))
	if n := p.tx.Snapshot().Nacks - nacks; n > 0 {
		t.Errorf("%d NACKs for what was never sent", n)
	}
}
