package rmcast

import (
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/buskey"
)

// archipelago is a world of islands of equal size; the first node publishes to all others, who know each other and who hears whom.
func archipelago(t *testing.T, islands, each int, cfg SenderConfig) (*simNet, *simPub) {
	t.Helper()
	s := newSim(uint64(islands*1000 + each))
	s.islands = islands
	s.join()
	for range islands*each - 1 {
		s.join(Interest{ID: 1, Pattern: "x"})
	}
	p := s.nodes[0].publish("x", cfg)
	s.run(s.now.Add(12 * time.Second))
	if got := len(p.tx.Receivers()); got != islands*each-1 {
		t.Fatalf("%d receivers of %d", got, islands*each-1)
	}
	stream(s, p, 2*time.Second) // relays begin
	for _, x := range s.nodes {
		x.lossless = true
	}
	return s, p
}

// stream sends 5 messages each 2 ms.
func stream(s *simNet, p *simPub, d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		p.send(5)
		s.run(s.now.Add(2 * time.Millisecond))
	}
}

// relayIn returns the relay of an island, as the publisher has it.
func relayIn(s *simNet, p *simPub, island int) *simNode {
	p.tx.mu.Lock()
	defer p.tx.mu.Unlock()
	for _, t := range p.tx.targets {
		if t.relay == t {
			for _, x := range s.nodes {
				if x.id == t.id && s.island(x) == island {
					return x
				}
			}
		}
	}
	return nil
}

// TestIslands: a packet crosses to each other island once, to the relay; all there get it by that one's multicast.
func TestIslands(t *testing.T) {
	for _, c := range []struct{ islands, each int }{{2, 5}, {4, 5}, {12, 3}} {
		s, p := archipelago(t, c.islands, c.each, SenderConfig{})
		packets := p.tx.Snapshot().Packets
		s.crossed = map[byte]int{}
		worst := 0
		out := map[int]int{}
		s.sees = func(from int, pkt []byte) {
			if pkt[0] == TypeData {
				out[from]++
			}
		}
		group := s.count.GroupPackets
		stream(s, p, time.Second)
		s.sees = nil
		packets = p.tx.Snapshot().Packets - packets
		for _, n := range out {
			worst = max(worst, n)
		}
		crossed := float64(s.crossed[TypeData]) / float64(packets)
		t.Logf("%d islands of %d: %.3f copies of a packet cross, %.2f multicasts, control packets %.3f", c.islands, c.each, crossed,
			float64(s.count.GroupPackets-group)/float64(packets), float64(s.crossed[TypeControl])/float64(packets))
		if most := float64(c.islands-1) * 1.02; crossed > most {
			t.Errorf("%d islands of %d: %.2f copies of a packet cross to other islands, %d are needed", c.islands, c.each, crossed, c.islands-1)
		}
		// Copies that leave a member, and what its multicast costs the simulator: one for each that hears it.
		if most := (DefaultFanout + c.each - 1) * int(packets); worst > most+most/50 {
			t.Errorf("%d islands of %d: %d packets leave a member, %d are passed on", c.islands, c.each, worst, packets)
		}
		if err := s.converge(5 * time.Second); err != nil {
			t.Error(err)
		}
	}
}

// silences notes how long each receiver was without news of the first stream it gets, at most, while time passes.
func silences(s *simNet, end time.Time, each func()) []time.Duration {
	worst, last, had := make([]time.Duration, len(s.nodes)), make([]time.Time, len(s.nodes)), make([]uint64, len(s.nodes))
	for s.now.Before(end) {
		each()
		s.run(s.now.Add(5 * time.Millisecond))
		for i, x := range s.nodes {
			sub := s.sub(i)
			if sub == nil || !x.up {
				continue
			}
			if last[i].IsZero() || sub.next != had[i] {
				had[i], last[i] = sub.next, s.now
			}
			worst[i] = max(worst[i], s.now.Sub(last[i]))
		}
	}
	return worst
}

// TestRelayDies: the relay of an island dies in mid-stream, then the one that took its place. Nobody loses a message, nobody is without
// for a second, others notice nothing, and the island is served by one copy again.
func TestRelayDies(t *testing.T) {
	s, p := archipelago(t, 3, 6, SenderConfig{})
	for range 2 {
		dead := relayIn(s, p, 1)
		if dead == nil {
			t.Fatal("the island has no relay")
		}
		dead.kill()
		worst := silences(s, s.now.Add(3*time.Second), func() { p.send(5) })
		for i, d := range worst {
			if s.island(s.nodes[i]) == 1 && s.nodes[i].up {
				t.Logf("member %d of the island was without messages for %v", i, d)
			}
			if d > time.Second || s.island(s.nodes[i]) != 1 && d > 100*time.Millisecond {
				t.Errorf("member %d of island %d was without messages for %v", i, s.island(s.nodes[i]), d)
			}
		}
	}
	packets := p.tx.Snapshot().Packets
	s.crossed = map[byte]int{}
	stream(s, p, time.Second)
	packets = p.tx.Snapshot().Packets - packets
	if crossed := float64(s.crossed[TypeData]) / float64(packets); crossed > 2.05 {
		t.Errorf("%.2f copies of a packet cross after the relays died", crossed)
	}
	if err := s.converge(5 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestIslandMulticastEnds: in mid-stream a member does not hear its relay any more, then nobody does, then the relay hears nobody: each is
// served again within a second, by copies or another relay, and by the island's multicast when it passes again; nothing is lost or comes twice.
func TestIslandMulticastEnds(t *testing.T) {
	for name, fault := range map[string]func(s *simNet, relay, member int, on bool){
		"one":   func(s *simNet, relay, member int, on bool) { s.deaf[[2]int{relay, member}] = on },
		"all":   func(s *simNet, _, _ int, on bool) { s.multicast = !on },
		"relay": func(s *simNet, relay, _ int, on bool) { s.mute(relay, on) },
		"other way": func(s *simNet, relay, _ int, on bool) {
			for i := range s.nodes {
				s.deaf[[2]int{i, relay}] = on
			}
		},
	} {
		s, p := archipelago(t, 3, 6, SenderConfig{})
		relay := relayIn(s, p, 1)
		member := s.nodes[1]
		if member == relay {
			member = s.nodes[4]
		}
		fault(s, relay.index, member.index, true)
		for i, d := range silences(s, s.now.Add(4*time.Second), func() { p.send(5) }) {
			if d > time.Second {
				t.Errorf("%s: member %d of island %d was without messages for %v", name, i, s.island(s.nodes[i]), d)
			}
		}
		fault(s, relay.index, member.index, false)
		for range 450 { // no relay is tried again for half a minute
			p.send(5)
			s.run(s.now.Add(100 * time.Millisecond))
		}
		packets := p.tx.Snapshot().Packets
		s.crossed = map[byte]int{}
		stream(s, p, time.Second)
		packets = p.tx.Snapshot().Packets - packets
		if crossed := float64(s.crossed[TypeData]) / float64(packets); crossed > 2.05 {
			t.Errorf("%s: %.2f copies of a packet cross after multicast came back", name, crossed)
		}
		if err := s.converge(5 * time.Second); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// mute has nobody hear a member's multicast.
func (s *simNet) mute(i int, on bool) {
	for j := range s.nodes {
		s.deaf[[2]int{i, j}] = on
	}
}

// TestLANSplits: multicast ceases to pass between two parts of a LAN in mid-stream: nobody is without messages for a second, and soon one copy crosses to the
// other part, where one member multicasts it. When it passes again one packet serves all.
func TestLANSplits(t *testing.T) {
	s, p := quiet(t, 9, SenderConfig{})
	split := func(on bool) {
		for i := range 5 {
			for j := 5; j < 9; j++ {
				s.deaf[[2]int{i, j}], s.deaf[[2]int{j, i}] = on, on
			}
		}
	}
	leave := 0
	s.leaves = func(from *simNode, pkt []byte, copies int) {
		if from == p.node && pkt[0] == TypeData {
			leave += copies
		}
	}
	for _, c := range []struct {
		split bool
		most  float64
	}{{false, 1.05}, {true, 2.05}, {false, 1.05}} {
		s.after(time.Second, func() { split(c.split) })
		if worst := slices.Max(silences(s, s.now.Add(8*time.Second), func() { p.send(5) })[1:]); worst > time.Second {
			t.Errorf("split %v: a receiver was without messages for %v", c.split, worst)
		}
		for range 300 { // who was not heard is tried again after half a minute
			p.send(1)
			s.run(s.now.Add(100 * time.Millisecond))
		}
		packets := p.tx.Snapshot().Packets
		leave = 0
		stream(s, p, time.Second)
		packets = p.tx.Snapshot().Packets - packets
		if each := float64(leave) / float64(packets); each > c.most {
			t.Errorf("split %v: %.2f copies of a packet leave the publisher", c.split, each)
		}
	}
	if err := s.converge(5 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestIslandAsksPublisher: what a relay's multicast does not bring is asked of the publisher and comes from there, also where the publisher hears those who
// do not hear it.
func TestIslandAsksPublisher(t *testing.T) {
	s, p := quiet(t, 6, SenderConfig{})
	for i := 2; i < 6; i++ {
		s.deaf[[2]int{0, i}] = true
	}
	stream(s, p, 8*time.Second)
	relay := relayIn(s, p, 0)
	if relay == nil {
		t.Fatal("the island has no relay")
	}
	first := p.tx.sent
	s.drop = func(from, _ *simNode, group bool, pkt []byte) bool {
		_, _, seq, ok := buskey.ParseHeader(pkt)
		return from == relay && group && pkt[0] == TypeData && ok && seq >= first && seq < first+3
	}
	for i, d := range silences(s, s.now.Add(2*time.Second), func() { p.send(5) }) {
		if d > 200*time.Millisecond {
			t.Errorf("member %d was without messages for %v", i, d)
		}
	}
	if err := s.converge(5 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestIslandRepair: what a member of an island misses is repaired in the island: no data crosses for it.
func TestIslandRepair(t *testing.T) {
	s, p := archipelago(t, 2, 8, SenderConfig{})
	relay := relayIn(s, p, 1)
	packets, lost, repairs := p.tx.Snapshot(), 0, relay.n.Stats.IslandRepairs
	s.crossed = map[byte]int{}
	s.drop = func(from, to *simNode, group bool, pkt []byte) bool {
		if gone := from == relay && group && pkt[0] == TypeData && s.rnd.Float64() < 0.1; gone {
			lost++
			return true
		}
		return false
	}
	stream(s, p, time.Second)
	s.drop = nil
	s.run(s.now.Add(time.Second))
	st := p.tx.Snapshot()
	t.Logf("%d of %d packets lost at 6 members: the relay repaired %d, the publisher %d, %d crossed", lost, st.Packets-packets.Packets,
		relay.n.Stats.IslandRepairs-repairs, st.Repairs-packets.Repairs, s.crossed[TypeData])
	if extra := uint64(s.crossed[TypeData]) - (st.Packets - packets.Packets); float64(extra) > 0.02*float64(lost) {
		t.Errorf("%d packets crossed again for %d lost in the island", extra, lost)
	}
	if err := s.converge(5 * time.Second); err != nil {
		t.Error(err)
	}
}
