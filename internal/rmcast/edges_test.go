package rmcast

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// edged is a world without multicast whose first node publishes to all others; setup says what is in the way before they join.
func edged(t *testing.T, nodes int, cfg SenderConfig, setup func(s *simNet)) (*simNet, *simPub) {
	t.Helper()
	s := newSimWithEdges(uint64(nodes))
	s.multicast = false
	if setup != nil {
		setup(s)
	}
	s.join()
	for range nodes - 1 {
		s.join(Interest{ID: 1, Pattern: "x"})
	}
	p := s.nodes[0].publish("x", cfg)
	s.run(s.now.Add(6 * time.Second))
	if got := len(p.tx.Receivers()); got != nodes-1 {
		for _, x := range s.nodes {
			t.Logf("%d knows %+v", x.index, x.n.Members())
		}
		t.Fatalf("%d receivers of %d: %+v", got, nodes-1, s.edges.counts)
	}
	for _, x := range s.nodes {
		x.lossless = true
	}
	return s, p
}

// blockAll has UDP dropped between all nodes.
func blockAll(s *simNet, nodes int) {
	for i := range nodes {
		for j := range nodes {
			s.edges.udp[[2]int{i, j}] = true
		}
	}
}

func converged(t *testing.T, s *simNet) {
	t.Helper()
	if err := s.converge(20 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestEdgesOnly: where UDP is dropped between all, members meet by TCP and get everything; where it is not there is no edge.
func TestEdgesOnly(t *testing.T) {
	s, p := edged(t, 5, SenderConfig{}, func(s *simNet) { blockAll(s, 5) })
	stream(s, p, 2*time.Second)
	converged(t, s)
	for _, x := range s.nodes[1:] {
		if path, m := s.nodes[0].pathTo(x); path != ByTCP || m.State != Alive {
			t.Errorf("%d is reached by %v: %+v", x.index, path, m)
		}
	}
	t.Logf("%+v", s.edges.counts)

	s, p = edged(t, 5, SenderConfig{}, nil)
	stream(s, p, 2*time.Second)
	s.run(s.now.Add(time.Minute))
	converged(t, s)
	if s.edges.counts != (simEdgeCounts{}) {
		t.Errorf("UDP works, and %+v", s.edges.counts)
	}
	s.nodes[3].kill() // is that UDP that does not work any more? Nobody else makes a connection to find out
	stream(s, p, 30*time.Second)
	if c := s.edges.counts; c.Up > 0 || c.Refused > 4*8 {
		t.Errorf("a member has died, and %+v", c)
	}
	converged(t, s)
}

// TestUDPDies: in mid-stream UDP between the publisher and one receiver dies, both ways or one: that one is served by TCP within a second,
// others notice nothing; when UDP is back it is used again, and nothing is lost.
func TestUDPDies(t *testing.T) {
	for _, c := range []struct {
		name string
		way  func(e *simEdges, a, b *simNode)
	}{
		{"both ways", func(e *simEdges, a, b *simNode) { e.block(a, b, true) }},
		{"to the receiver", func(e *simEdges, a, b *simNode) { e.udp[[2]int{a.index, b.index}] = true }},
		{"to the publisher", func(e *simEdges, a, b *simNode) { e.udp[[2]int{b.index, a.index}] = true }},
	} {
		for _, dial := range []string{"both can dial", "the receiver cannot be dialled", "the publisher cannot be dialled"} {
			s, p := edged(t, 5, SenderConfig{}, nil)
			a, b := s.nodes[0], s.nodes[2]
			stream(s, p, time.Second)
			s.edges.shut[b.index] = dial == "the receiver cannot be dialled"
			s.edges.shut[a.index] = dial == "the publisher cannot be dialled"
			c.way(s.edges, a, b)
			worst := silences(s, s.now.Add(4*time.Second), func() { p.send(5) })
			t.Logf("%s, %s: without messages %v, %+v", c.name, dial, worst[1:], s.edges.counts)
			for i, d := range worst {
				if i == b.index && d >= time.Second || i != b.index && d > 100*time.Millisecond {
					t.Errorf("%s, %s: %d was without messages for %v", c.name, dial, i, d)
				}
			}
			if path, _ := a.pathTo(b); path != ByTCP {
				t.Errorf("%s, %s: the publisher's path is %v", c.name, dial, path)
			}
			if path, _ := b.pathTo(a); path != ByTCP {
				t.Errorf("%s, %s: the receiver's path is %v", c.name, dial, path)
			}
			s.edges.block(a, b, false)
			worst = silences(s, s.now.Add(20*time.Second), func() { p.send(2) })
			if d := slices.Max(worst[1:]); d > 100*time.Millisecond {
				t.Errorf("%s, %s: going back, somebody was without messages for %v", c.name, dial, d)
			}
			pa, _ := a.pathTo(b)
			pb, _ := b.pathTo(a)
			if pa != ByUDP || pb != ByUDP {
				t.Errorf("%s, %s: UDP is back, the paths are %v and %v", c.name, dial, pa, pb)
			}
			if n := s.edges.counts.Up; n != 1 {
				t.Errorf("%s, %s: %d edges were made", c.name, dial, n)
			}
			s.run(s.now.Add(edgeIdle + 5*time.Second))
			if len(s.edges.up) != 0 {
				t.Errorf("%s, %s: the edge is still there", c.name, dial)
			}
			converged(t, s)
		}
	}
}

// TestEdgeAndUDP: the connection ends just when UDP works again: that is noticed at once.
func TestEdgeAndUDP(t *testing.T) {
	s, p := edged(t, 4, SenderConfig{}, func(s *simNet) { blockAll(s, 4) })
	stream(s, p, 30*time.Second) // UDP is probed seldom by now
	a, b := s.nodes[0], s.nodes[1]
	s.edges.block(a, b, false)
	s.edges.shut[0], s.edges.shut[1] = true, true
	s.edges.end(s.edges.between(a, b))
	worst := silences(s, s.now.Add(3*time.Second), func() { p.send(5) })
	if d := slices.Max(worst[1:]); d >= 500*time.Millisecond {
		t.Errorf("somebody was without messages for %v", d)
	}
	if path, _ := a.pathTo(b); path != ByUDP {
		t.Errorf("the path is %v", path)
	}
	converged(t, s)
}

// TestHeardByMulticastOnly: a publisher dies, and of two that got its stream one lacks the end; only multicast passes between them, so neither takes
// the other for dead. The path by which they tell each other, and repair, is tried then, and another found: nothing is lost.
func TestHeardByMulticastOnly(t *testing.T) {
	for _, sign := range []bool{true, false} {
		for _, lacks := range []string{"the end", "a part"} {
			s := newSimWithEdges(9)
			if sign {
				s.signs = all
			}
			s.join()
			s.join(Interest{ID: 1, Pattern: "x"})
			s.join(Interest{ID: 1, Pattern: "x"})
			a, b, c := s.nodes[0], s.nodes[1], s.nodes[2]
			p := a.publish("x", SenderConfig{})
			s.run(s.now.Add(3 * time.Second))
			stream(s, p, time.Second)
			s.edges.block(b, c, true)
			cut := [2]int{a.index, b.index}
			s.cut[cut] = true
			p.send(20)
			if lacks == "a part" {
				s.run(s.now.Add(10 * time.Millisecond))
				delete(s.cut, cut)
				p.send(1)
			}
			s.run(s.now.Add(10 * time.Millisecond))
			a.kill()
			delete(s.cut, cut)
			s.run(s.now.Add(30 * time.Second))
			for _, x := range []*simNode{b, c} {
				if next := x.heard[streamKey{a.id, p.tx.ID()}].next; next != p.sent+1 || s.count.Lost > 0 {
					t.Errorf("signed %v, %s: %d has %d of %d messages, %+v", sign, lacks, x.index, next-1, p.sent, s.count)
				}
			}
			if path, _ := c.pathTo(b); path != ByTCP {
				t.Errorf("signed %v, %s: the path is %v", sign, lacks, path)
			}
		}
	}
}

// TestOneWayFromStart: multicast passes, and UDP in one direction only, before two have met. What comes says that one is there, but it never
// hears that we are: whoever can dial does.
func TestOneWayFromStart(t *testing.T) {
	for _, blocked := range [][2]int{{0, 1}, {1, 0}} {
		for _, shut := range []int{-1, 0, 1} {
			s := newSimWithEdges(3)
			s.edges.udp[blocked] = true
			s.edges.shut[shut] = true
			s.join(Interest{ID: 1, Pattern: "x"})
			s.join(Interest{ID: 1, Pattern: "x"})
			p, q := s.nodes[0].publish("x", SenderConfig{}), s.nodes[1].publish("x", SenderConfig{})
			s.run(s.now.Add(10 * time.Second))
			if len(p.tx.Receivers()) != 1 || len(q.tx.Receivers()) != 1 {
				t.Errorf("no UDP from %d to %d, %d cannot be dialled: %d and %d receivers, %+v", blocked[0], blocked[1], shut, len(p.tx.Receivers()), len(q.tx.Receivers()), s.edges.counts)
			}
			stream(s, p, time.Second)
			stream(s, q, time.Second)
			converged(t, s)
		}
	}
}

// TestFlapping: UDP that comes and goes is left for longer each time.
func TestFlapping(t *testing.T) {
	s, p := edged(t, 3, SenderConfig{}, nil)
	a, b := s.nodes[0], s.nodes[1]
	stream(s, p, time.Second)
	before := a.n.Stats.PathChanges
	for range 20 {
		s.edges.block(a, b, true)
		stream(s, p, 1500*time.Millisecond)
		s.edges.block(a, b, false)
		stream(s, p, 4500*time.Millisecond)
	}
	if n := a.n.Stats.PathChanges - before; n > 16 {
		t.Errorf("%d changes in 2 minutes", n)
	} else {
		t.Logf("%d changes in 2 minutes", n)
	}
	converged(t, s)
}

// TestNATs: two members behind NATs reach each other by one between them; it dies, and another takes its place within a second.
func TestNATs(t *testing.T) {
	s := newSimWithEdges(8)
	s.multicast = false
	s.edges.nat[3], s.edges.nat[4] = true, true
	for i := range 5 {
		if i == 3 {
			s.join()
			continue
		}
		s.join(Interest{ID: 1, Pattern: "x"})
	}
	a, b := s.nodes[3], s.nodes[4]
	p := a.publish("x", SenderConfig{})
	s.run(s.now.Add(8 * time.Second))
	for _, x := range s.nodes {
		x.lossless = true
	}
	stream(s, p, time.Second)
	for range 2 {
		path, m := a.pathTo(b)
		if path != ByMember {
			t.Fatalf("the path is %v: %+v", path, m)
		}
		var between *simNode
		for _, x := range s.nodes {
			if x.id == m.Via {
				between = x
			}
		}
		between.kill()
		worst := silences(s, s.now.Add(4*time.Second), func() { p.send(5) })
		t.Logf("%d was between, and was killed: without messages %v, %+v", between.index, worst, s.edges.counts)
		for i, d := range worst {
			if s.nodes[i].up && (i == b.index && d >= time.Second || i < a.index && d > 100*time.Millisecond) {
				t.Errorf("%d was without messages for %v", i, d)
			}
		}
	}
	converged(t, s)
	// The last that could be between dies: then they say that they cannot reach each other, and why.
	for _, x := range s.nodes[:3] {
		if x.up {
			x.kill()
		}
	}
	s.run(s.now.Add(30 * time.Second))
	if _, m := a.pathTo(b); m.State != Unreachable || m.Why == "" {
		t.Errorf("%+v", m)
	} else {
		t.Log(m.Why)
	}
}

// TestEdgeEnds: a connection ends again and again, or is stuck for a while: nothing is lost.
func TestEdgeEnds(t *testing.T) {
	s, p := edged(t, 4, SenderConfig{}, func(s *simNet) { blockAll(s, 4) })
	for i := range 20 {
		if x := s.edges.between(s.nodes[0], s.nodes[1+i%3]); x != nil {
			if i%2 == 0 {
				s.edges.end(x)
			} else {
				s.edges.hinder(x.a, x.b, true)
				s.after(400*time.Millisecond, func() { s.edges.hinder(x.a, x.b, false) })
			}
		}
		worst := silences(s, s.now.Add(time.Second), func() { p.send(5) })
		for i, d := range worst[1:] {
			if d >= 600*time.Millisecond {
				t.Errorf("%d was without messages for %v", i+1, d)
			}
		}
	}
	converged(t, s)
	t.Logf("%+v", s.edges.counts)
}

// TestSlowEdge: a connection that carries a fifth of what is sent drops the rest, which is asked for when there is room, or told as lost; nobody waits for it,
// and it is not taken for dead.
func TestSlowEdge(t *testing.T) {
	s, p := edged(t, 5, SenderConfig{Flow: FlowNone, Window: 512 << 10}, func(s *simNet) { blockAll(s, 5) })
	slow := s.nodes[2]
	slow.lossless = false
	s.edges.rate[order(s.nodes[0], slow)] = 200 << 10
	ended := s.edges.counts.Ended
	worst := silences(s, s.now.Add(5*time.Second), func() { p.send(40) })
	t.Logf("without messages %v, %+v, %d messages lost", worst[1:], s.edges.counts, s.count.Lost)
	for i, d := range worst {
		if i > 0 && i != slow.index && d > 50*time.Millisecond {
			t.Errorf("%d was without messages for %v", i, d)
		}
	}
	if s.edges.counts.Full == 0 || s.edges.counts.Ended != ended {
		t.Errorf("%+v", s.edges.counts)
	}
	delete(s.edges.rate, order(s.nodes[0], slow))
	converged(t, s)
}

// TestMulticastOnly: where multicast passes and all other UDP is dropped, members meet, and NACKs and confirmations go by TCP.
func TestMulticastOnly(t *testing.T) {
	s := newSimWithEdges(7)
	blockAll(s, 5)
	s.join()
	for range 4 {
		s.join(Interest{ID: 1, Pattern: "x"})
	}
	p := s.nodes[0].publish("x", SenderConfig{})
	s.run(s.now.Add(25 * time.Second))
	for _, x := range s.nodes {
		x.lossless = true
	}
	s.loss = 0.1
	before := s.count.GroupPackets
	stream(s, p, 2*time.Second)
	group, n := s.count.GroupPackets-before, p.tx.Snapshot().Packets
	t.Logf("%d packets by multicast of %d, %+v", group, n, s.edges.counts)
	if uint64(group) < n/2 {
		t.Error("they are not served by multicast")
	}
	converged(t, s)
}

// TestTreeOfEdges: thirty receivers, no UDP at all: what one of them costs the publisher is a copy, for as many as the fan-out; the others
// get packets by way of those.
func TestTreeOfEdges(t *testing.T) {
	s, p := edged(t, 31, SenderConfig{Fanout: 4}, func(s *simNet) { blockAll(s, 31) })
	stream(s, p, 2*time.Second)
	out := 0
	s.sees = func(from int, pkt []byte) {
		if from == 0 && pkt[0] == TypeData {
			out++
		}
	}
	before := p.tx.Snapshot().Packets
	stream(s, p, time.Second)
	copies := float64(out) / float64(p.tx.Snapshot().Packets-before)
	t.Logf("%.2f copies leave the publisher", copies)
	if copies > 4.1 {
		t.Errorf("%.2f copies leave the publisher, the fan-out is 4", copies)
	}
	s.sees = nil
	// A node of the tree dies.
	for _, x := range s.nodes[1:] {
		if r := x.n.streams[streamKey{s.nodes[0].id, p.tx.ID()}]; r != nil && len(r.relay.to) > 0 {
			x.kill()
			break
		}
	}
	worst := silences(s, s.now.Add(4*time.Second), func() { p.send(5) })
	if d := slices.Max(worst[1:]); d >= time.Second {
		t.Errorf("somebody was without messages for %v", d)
	}
	converged(t, s)
}

// TestIdleEdges: members that may use TCP and need not cost what others do when nothing happens; and that UDP has died meanwhile is found out, and
// told by whoever notices first.
func TestIdleEdges(t *testing.T) {
	const members, d = 50, 30
	cost := func(s *simNet) float64 {
		for range members {
			s.join(Interest{ID: 1, Pattern: "x"})
		}
		s.run(s.now.Add(60 * time.Second))
		sum := 0
		s.tap = func(group bool, size int) {
			if sum += 2 * (size + 42); group {
				sum += (members - 2) * (size + 42)
			}
		}
		s.run(s.now.Add(d * time.Second))
		return float64(sum) / members / d
	}
	without, with := cost(newSim(3)), cost(newSimWithEdges(3))
	t.Logf("%.0f bytes a second and member, %.0f without edges", with, without)
	if with >= 2000 || with > without*1.2 {
		t.Errorf("an idle member costs %.0f bytes a second, %.0f without edges", with, without)
	}

	s, p := edged(t, 4, SenderConfig{}, nil)
	s.run(s.now.Add(30 * time.Second))
	s.edges.block(s.nodes[0], s.nodes[1], true)
	s.run(s.now.Add(16 * time.Second))
	if path, m := s.nodes[0].pathTo(s.nodes[1]); path != ByTCP || m.State != Alive {
		t.Errorf("UDP died in silence: %v, %+v", path, m)
	}
	s.edges.block(s.nodes[0], s.nodes[2], true) // and here it is found out by the first packet
	worst := silences(s, s.now.Add(3*time.Second), func() { p.send(5) })
	if d := slices.Max(worst[1:]); d >= time.Second {
		t.Errorf("somebody was without messages for %v", d)
	}
	converged(t, s)
}

// FuzzEdge: whatever comes by an edge, from a member or one that is none, ends no process and leaves nothing that grows.
func FuzzEdge(f *testing.F) {
	via := func(to, from ID, b ...byte) []byte {
		return append(u64(u64([]byte{TypeVia}, uint64(to)), uint64(from)), b...)
	}
	f.Add([]byte{}, false)
	f.Add(via(1, 2, TypeHello, 0, 0, 0), true)
	f.Add(via(0, 0), true)
	f.Add(via(7, 9, TypeVia, 1), true)
	f.Add(via(7, 9, TypeData), false)
	for _, kind := range []byte{recProbe, recProbed, recHold, recSeek, recFound, recPeers} {
		b, at := record(nil, kind)
		f.Add(done(appendPeer(b, 77, zeroAddr), at), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, ours bool) {
		s := newSimWithEdges(9)
		s.multicast = false
		for range 3 {
			s.join()
		}
		s.run(s.now.Add(time.Second))
		x, from := s.nodes[0], s.nodes[1].id
		if len(b) > viaHeader && ours {
			copy(b[1:], u64(nil, uint64(x.id)))
		}
		x.n.EdgePacket(s.now, from, b) // there is no edge
		x.n.EdgeUp(s.now, from, zeroAddr)
		x.n.EdgeUp(s.now, 77, x.addr)
		for _, id := range []ID{from, 77} {
			x.n.EdgePacket(s.now, id, b)
		}
		_ = eachRecord(b, func(kind byte, r reader) { x.n.record(s.now, x.n.byID[from], kind, r) })
		x.n.Done(s.now)
		x.n.EdgeDown(s.now, 77)
		x.n.EdgeFailed(s.now, 0, x.addr, "why", false)
		if len(x.n.members) > 2 || len(x.n.edges.far) > maxFar || len(x.n.edges.roads.by) > 3 {
			t.Errorf("%d members, %d far, %d roads", len(x.n.members), len(x.n.edges.far), len(x.n.edges.roads.by))
		}
		s.run(s.now.Add(time.Second))
	})
}

// TestEdgeHistories runs histories in which UDP does not pass between some, NATs stand before others, and connections end.
func TestEdgeHistories(t *testing.T) {
	var total simEdgeCounts
	paths := 0
	n := eachSeed(t, 120, nil, func(seed uint64) (func(), error) {
		s := newSimWithEdges(seed)
		e, own := s.edges, rand.New(rand.NewPCG(seed, 17))
		for i := range 50 {
			for j := range i {
				if own.IntN(4) == 0 {
					e.udp[[2]int{i, j}], e.udp[[2]int{j, i}] = true, true
				}
			}
			e.nat[i] = i > 0 && own.IntN(5) == 0
		}
		_, err := historyIn(s, seed, Class(seed%3))
		return func() {
			c := e.counts
			total.Up, total.Ended, total.Refused = total.Up+c.Up, total.Ended+c.Ended, total.Refused+c.Refused
			total.Datagrams, total.Blocked, total.Held = total.Datagrams+c.Datagrams, total.Blocked+c.Blocked, total.Held+c.Held
			for _, x := range s.nodes {
				paths += int(x.n.Stats.PathChanges)
			}
		}, err
	})
	t.Logf("%d histories: %+v, %d paths changed", n, total, paths)
	if n >= 120 && (total.Up < n || total.Ended < n/4 || total.Datagrams < 100*n || total.Blocked < 10*n || total.Held < n/4 || paths < n) {
		t.Errorf("too little happened: %+v, %d paths changed", total, paths)
	}
}
