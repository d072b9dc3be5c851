package rmcast

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestHistories runs seeded histories through all faults of the simulator: no message is lost without a word, none comes
// twice or out of order, and when the faults are over everybody has everything or was told. WEFT_LONG=N runs N of them,
// WEFT_AFTER=N those after seed N; WEFT_SEED=N one. Seeds that failed in a long run are added to testdata/seeds, and run first from then on.
func TestHistories(t *testing.T) {
	var total simCounts
	n := eachSeed(t, 240, kept(t), func(seed uint64) (func(), error) {
		c, err := history(seed, Reliable)
		return func() {
			if total.add(c); err != nil {
				keep(t, seed, err)
			}
		}, err
	})
	t.Logf("%d histories: %+v", n, total)
	// A simulator in which nothing happens proves nothing.
	if n >= 240 && (total.Dropped < 20*n || total.Doubled < 5*n || total.Delivered < 200*n || total.Crashes < n/10 || total.Pauses < n/10 ||
		total.Cuts < n/10 || total.Bursts < n/10 || total.Deaf < n/10 || total.Repairs < 10*n || total.LostTold == 0 || total.PeerRepairs == 0 ||
		total.Suppressed == 0 || total.Relayed < 10*n || total.Fragments < n || total.IslandRelayed < 10*n || total.IslandRepairs < n/10 ||
		total.RelaysKilled < n/40 || total.Parity < n || total.Rebuilt < n || total.Reused < n) {
		t.Errorf("too little happened: %+v", total)
	}
}

// history is one of the many: members, publishers and faults as the seed has it. class is that of its streams, or of some of them.
func history(seed uint64, class Class) (simCounts, error) {
	return historyIn(newSim(seed), seed, class)
}

func historyIn(s *simNet, seed uint64, class Class) (simCounts, error) {
	r := s.rnd
	chance := func(p float64) bool { return r.Float64() < p }
	nodes := 3 + r.IntN(6)
	switch {
	case chance(0.02):
		nodes = 50
	case chance(0.06):
		nodes = 10 + r.IntN(10)
	}
	s.multicast = chance(0.7)
	own := rand.New(rand.NewPCG(seed, 11)) // the rest of a history is as it would be without islands
	if own.IntN(2) == 0 {
		s.islands = 2 + own.IntN(3)
	}
	s.delay = time.Duration(100+r.IntN(3000)) * time.Microsecond
	s.jitter = time.Duration(1+r.IntN(4000)) * time.Microsecond
	faults := r.IntN(5)
	patterns := []string{">", "a.*", "a.x", "*.x"}
	for i := range nodes {
		s.join(Interest{ID: 1, Pattern: patterns[r.IntN(len(patterns))], Mode: byte(r.IntN(4)), N: uint64(r.IntN(50))})
		if i > 0 && chance(0.3) {
			s.run(s.now.Add(time.Duration(r.IntN(50)) * time.Millisecond))
		}
	}
	if chance(0.7) {
		s.run(s.now.Add(2 * time.Second)) // all know each other, and who hears whom
	}
	long := time.Duration(500+r.IntN(1000)) * time.Millisecond
	end := s.now.Add(long)
	for i := range 1 + r.IntN(3) {
		x := s.nodes[r.IntN(nodes)]
		subj := []string{"a.x", "a.y"}[r.IntN(2)]
		cfg := SenderConfig{Window: 256 << 10 << r.IntN(4), Fanout: 1 + r.IntN(4), parity: seed%3 == 0, NoParity: seed%3 == 1}
		if faults > 0 && chance(0.15) {
			cfg.Flow = FlowNone
		}
		if class != Reliable && (i == 0 || chance(0.5)) {
			if cfg.Class = class; class == LastValue {
				subj = "a.*"
			}
		}
		p := x.publish(subj, cfg)
		every, most := time.Duration(1+r.IntN(30))*time.Millisecond, 1+r.IntN(10)
		if chance(0.07) {
			most *= 5
		}
		if nodes >= 20 {
			every, most = 40*time.Millisecond, 6
		}
		p.pump(end, every, most)
	}
	if chance(0.8) {
		s.loss = r.Float64() * 0.25
	}
	if chance(0.6) {
		s.dup = r.Float64() * 0.2
	}
	if chance(0.3) {
		for _, x := range s.nodes {
			x.slow = r.Float64() * 0.5
		}
	}
	for _, x := range s.nodes {
		x.lossless = faults == 0
	}
	for range faults {
		at := time.Duration(r.Int64N(int64(long)))
		s.after(at, func() { s.fault(end) })
	}
	s.sink(own, end, faults)
	s.edges.faults(seed, end)
	s.run(end)
	s.calm()
	if err := s.converge(90 * time.Second); err != nil {
		return s.count, fmt.Errorf("%d members: %w", nodes, err)
	}
	return s.count, nil
}

// fault lets something happen that is over by itself, or at the end.
func (s *simNet) fault(end time.Time) {
	r := s.rnd
	i, j := r.IntN(len(s.nodes)), r.IntN(len(s.nodes))
	x := s.nodes[i]
	brief := time.Duration(50+r.IntN(1500)) * time.Millisecond
	if r.IntN(4) == 0 {
		brief += time.Duration(r.IntN(6000)) * time.Millisecond
	}
	switch r.IntN(7) {
	case 0:
		s.count.Bursts++
		s.burst = true
		s.after(min(brief, 400*time.Millisecond), func() { s.burst = false })
	case 1: // one direction
		s.count.Cuts++
		s.cut[[2]int{i, j}] = true
		s.after(brief, func() { delete(s.cut, [2]int{i, j}) })
	case 2: // two halves
		s.count.Cuts++
		k := 1 + r.IntN(len(s.nodes))
		for a := range s.nodes {
			for b := range s.nodes {
				if (a < k) != (b < k) {
					s.cut[[2]int{a, b}] = true
				}
			}
		}
		s.after(brief, func() { clear(s.cut) })
	case 3:
		if x.up && !x.paused {
			x.pause(brief)
		}
	case 4:
		if x.up && s.living() > 2 && !s.edges.needs(x) {
			x.kill()
			if r.IntN(2) == 0 { // the next process on that machine
				s.after(brief/2, func() { s.join(x.want...) })
			}
		}
	case 5: // multicast ends for one ordered pair, and comes back or not
		s.count.Deaf++
		s.deaf[[2]int{i, j}] = true
		if r.IntN(2) == 0 {
			s.after(brief, func() { delete(s.deaf, [2]int{i, j}) })
		}
	case 6: // a switch begins or ceases to drop multicast
		s.count.Deaf++
		s.multicast = !s.multicast
	}
}

// sink kills relays of islands in a history with faults, and lets one member hear another that does not hear it.
func (s *simNet) sink(own *rand.Rand, end time.Time, faults int) {
	if s.islands == 0 || faults == 0 {
		return
	}
	long := end.Sub(s.now)
	for range 1 + own.IntN(2) {
		s.after(time.Duration(own.Int64N(int64(long))), func() {
			for _, x := range s.nodes {
				for _, p := range x.pubs {
					for i := range s.islands {
						if r := relayIn(s, p, i); x.up && r != nil && r.up && s.living() > 2 && !s.edges.needs(r) {
							s.count.RelaysKilled++
							r.kill()
							return
						}
					}
				}
			}
		})
	}
	if own.IntN(2) == 0 {
		i, j := own.IntN(len(s.nodes)), own.IntN(len(s.nodes))
		s.count.Deaf++
		s.deaf[[2]int{i, j}] = true
	}
}

func (s *simNet) living() (n int) {
	for _, x := range s.nodes {
		if x.up {
			n++
		}
	}
	return n
}
