package rmcast

import (
	"testing"
	"time"
)

// TestForgedFlood: a member that forges packets without end, in the name of a publisher and of one that nobody knows, from its own address, has few of them checked;
// the receivers have all that the publisher sends meanwhile, by multicast, by copies, by relays and repaired by others.
func TestForgedFlood(t *testing.T) {
	for _, multicast := range []bool{true, false} {
		s := newSim(11)
		s.signs, s.multicast = all, multicast
		s.join()
		for range 7 {
			s.join(Interest{ID: 1, Pattern: "x"})
		}
		p := s.nodes[0].publish("x", SenderConfig{Fanout: 2})
		s.run(s.now.Add(12 * time.Second))
		f := &forger{t: t, s: s, p: p, pub: s.nodes[0], from: s.nodes[7], key: s.keys.Stream(s.nodes[0].n.cfg.Suite, uint64(s.nodes[0].id), p.tx.ID())}
		f.ctl = f.control(f.pub, counterAhead)
		for _, x := range s.nodes {
			x.lossless = true
		}
		const seconds, each = 1, 20
		nobody := simIdentity(s.keys, 77)
		h := hello{epoch: ID(nobody.Epoch()), number: 1, suite: s.nodes[0].n.cfg.Suite, signs: true, name: "nobody"}
		greeting := h.append(nil)
		greeting = simIdentity(s.keys, 78).SignHello(greeting)
		var nonce [24]byte
		forgedHello := s.keys.SealHello(nil, TypeHello, &nonce, greeting)
		s.loss = 0.05
		forged := 0
		for end := s.now.Add(seconds * time.Second); s.now.Before(end); {
			p.send(3)
			data := f.seal(p.tx.sent+3, lie(p.sent+4, ""))
			control := f.ctl.Seal(nil, TypeControl, ping{kind: recPong}.append(nil))
			for _, x := range s.nodes[1:7] {
				for range each {
					f.give(x, f.from.addr, false, data)
				}
				f.give(x, f.from.addr, true, control)
				f.give(x, f.from.addr, false, forgedHello)
			}
			forged += each + 2
			s.run(s.now.Add(2 * time.Millisecond))
		}
		s.loss = 0
		if err := s.converge(10 * time.Second); err != nil {
			t.Errorf("multicast %v: %v", multicast, err)
		}
		for _, x := range s.nodes[1:7] {
			st := x.n.Stats
			most := uint64(seconds*time.Second/forgedEvery + forgedBurst/forgedEvery + 100)
			// The forged control packets are not signed at all: that costs nothing to see.
			if signed := uint64(seconds * 500); st.Unsigned > most+signed || st.Unchecked < uint64(forged)/2 || st.Unsigned == 0 {
				t.Errorf("multicast %v: member %d has checked %d of %d forged packets, %d not", multicast, x.index, st.Unsigned, forged, st.Unchecked)
			}
		}
	}
}
