package rmcast

import (
	"math"
	"net/netip"
	"testing"
	"time"
)

// quiet is a world of n members, the first of which publishes, after all know each other and who hears whom.
func quiet(t *testing.T, n int, cfg SenderConfig) (*simNet, *simPub) {
	t.Helper()
	return quietOn(t, "x", n, cfg)
}

func quietOn(t *testing.T, subj string, n int, cfg SenderConfig) (*simNet, *simPub) {
	t.Helper()
	s := newSim(uint64(n))
	s.join()
	for range n - 1 {
		s.join(Interest{ID: 1, Pattern: subj, Mode: FromNow})
	}
	p := s.nodes[0].publish(subj, cfg)
	s.run(s.now.Add(12 * time.Second))
	if got := len(p.tx.Receivers()); got != n-1 {
		t.Fatalf("%d receivers of %d", got, n-1)
	}
	return s, p
}

func (s *simNet) sub(i int) *simSub {
	for _, sub := range s.nodes[i].heard {
		return sub
	}
	return nil
}

func byMulticast(p *simPub) int {
	p.tx.mu.Lock()
	defer p.tx.mu.Unlock()
	return p.tx.groupOf
}

// TestTail: when the last packets of a burst are lost, heartbeats show it and they are there within 200 ms.
func TestTail(t *testing.T) {
	for _, multicast := range []bool{true, false} {
		s := newSim(1)
		s.multicast = multicast
		s.join()
		for range 5 {
			s.join(Interest{ID: 1, Pattern: "x"})
		}
		p := s.nodes[0].publish("x", SenderConfig{})
		s.run(s.now.Add(5 * time.Second))
		p.send(3)
		s.run(s.now.Add(100 * time.Millisecond))
		s.loss = 1
		p.send(3)
		s.run(s.now.Add(time.Millisecond))
		s.loss = 0
		s.run(s.now.Add(199 * time.Millisecond))
		for i := 1; i <= 5; i++ {
			if sub := s.sub(i); sub == nil || sub.next != 7 {
				t.Errorf("multicast %v: member %d has %+v", multicast, i, sub)
			}
		}
		if s.err != nil {
			t.Error(s.err)
		}
	}
}

// TestMulticastEnds: when the network ceases to carry multicast in mid-stream, for all or for one receiver, each is served
// again within a second, nothing lost; when it carries it again, it is used again.
func TestMulticastEnds(t *testing.T) {
	for name, fault := range map[string]func(s *simNet, on bool){
		"all": func(s *simNet, on bool) { s.multicast = !on },
		"one": func(s *simNet, on bool) { s.deaf[[2]int{0, 3}] = on },
	} {
		s, p := quiet(t, 8, SenderConfig{})
		for _, x := range s.nodes {
			x.lossless = true
		}
		if n := byMulticast(p); n != 7 {
			t.Fatalf("%s: %d of 7 are served by multicast", name, n)
		}
		end := s.now.Add(4 * time.Second)
		p.pump(end, 2*time.Millisecond, 10)
		s.after(time.Second, func() { fault(s, true) })
		var worst time.Duration
		last := make([]time.Time, 8)
		had := make([]uint64, 8)
		for s.now.Before(end) {
			s.run(s.now.Add(5 * time.Millisecond))
			for i := 1; i < 8; i++ {
				if sub := s.sub(i); sub != nil && sub.next != had[i] {
					if !last[i].IsZero() {
						worst = max(worst, s.now.Sub(last[i]))
					}
					had[i], last[i] = sub.next, s.now
				}
			}
		}
		t.Logf("%s: longest silence %v", name, worst)
		if worst > time.Second {
			t.Errorf("%s: a receiver was without messages for %v", name, worst)
		}
		fault(s, false)
		s.run(s.now.Add(25 * time.Second))
		if n := byMulticast(p); n != 7 {
			t.Errorf("%s: %d of 7 are served by multicast again", name, n)
		}
		if err := s.converge(5 * time.Second); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStopped: a receiver that stops holds the others up for half a second and no longer; when it goes on it gets what is kept,
// and is told what is not, within a second.
func TestStopped(t *testing.T) {
	s, p := quiet(t, 5, SenderConfig{Window: 256 << 10})
	var pump func()
	sent, stalled, longest := p.sent, s.now, time.Duration(0)
	end := s.now.Add(8 * time.Second)
	pump = func() { // as fast as receivers allow
		if p.send(12); p.sent != sent {
			longest = max(longest, s.now.Sub(stalled))
			sent, stalled = p.sent, s.now
		}
		if s.now.Before(end) {
			s.after(time.Millisecond, pump)
		}
	}
	pump()
	s.run(s.now.Add(time.Second))
	before := p.sent
	s.nodes[3].pause(5 * time.Second)
	s.run(s.now.Add(5 * time.Second))
	t.Logf("%d messages in the second before, %d in 5 s while one is stopped; longest stall %v", before, p.sent-before, longest)
	if longest > 600*time.Millisecond {
		t.Errorf("the publisher stood still for %v", longest)
	}
	if float64(p.sent-before) < 0.85*5*float64(before) {
		t.Errorf("%d messages in the second before, %d in 5 s while one is stopped", before, p.sent-before)
	}
	s.run(s.now.Add(time.Second))
	if s.count.LostTold == 0 {
		t.Error("it was not told within a second")
	}
	s.run(end)
	if err := s.converge(5 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestRepairCost: fifty receivers that lose 14.5 % each, independently: repairs cost at most 1.1 times what sending each packet
// until all have it must, and there are less than 3 NACK packets for each packet lost, in the whole group. (82 % of losses are at
// other places than those of the receiver that asks first, so suppression does little here, and aggregation much.)
func TestRepairCost(t *testing.T) {
	const receivers, loss = 50, 0.145
	s, p := quiet(t, receivers+1, SenderConfig{NoParity: true})
	before := p.tx.Snapshot()
	nacks := 0
	for _, x := range s.nodes {
		nacks -= int(x.n.Stats.Nacks)
	}
	s.loss = loss
	for range 250 {
		p.send(8)
		s.run(s.now.Add(4 * time.Millisecond))
	}
	if err := s.converge(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	for _, x := range s.nodes {
		nacks += int(x.n.Stats.Nacks)
	}
	st := p.tx.Snapshot()
	packets := st.Packets - before.Packets
	ratio := float64(st.Repairs-before.Repairs) / float64(packets)
	theory := untilAll(receivers, loss)
	lost := float64(packets) * receivers * loss
	t.Logf("%d packets: repairs %.0f %% of data, theory %.0f %%; %.3f NACK packets for each packet lost", packets, 100*ratio, 100*theory, float64(nacks)/lost)
	if ratio > 1.1*theory {
		t.Errorf("repairs are %.2f of the data, theory %.2f", ratio, theory)
	}
	if float64(nacks) > 3*lost {
		t.Errorf("%d NACKs for %.0f lost", nacks, lost)
	}
}

// loaded sends 300,000 messages in a second to receivers that lose packets and all share one processor, for which packets wait tens of milliseconds,
// and returns what the publisher did.
func loaded(t *testing.T, receivers int, loss float64, cfg SenderConfig) (st SenderStats) {
	t.Helper()
	s, p := quiet(t, receivers+1, cfg)
	before := p.tx.Snapshot()
	s.loss, s.service = loss, 2*time.Microsecond
	for end := s.now.Add(time.Second); s.now.Before(end); {
		p.send(300)
		s.run(s.now.Add(time.Millisecond))
	}
	if err := s.converge(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	after := p.tx.Snapshot()
	st = SenderStats{
		Packets: after.Packets - before.Packets, Bytes: after.Bytes - before.Bytes, Repairs: after.Repairs - before.Repairs,
		RepairBytes: after.RepairBytes - before.RepairBytes, Parity: after.Parity - before.Parity, Nacks: after.Nacks - before.Nacks,
	}
	t.Logf("%d packets: repairs %.0f %% of data, %d of %d packets of parity, and %d by receivers; %d NACKs", st.Packets,
		100*float64(st.RepairBytes)/float64(st.Bytes), st.Parity, st.Repairs, s.count.PeerRepairs, st.Nacks)
	return st
}

// TestRepairCostLoaded is TestRepairCost where the machine is the bottleneck. What is on its way is not asked for and not sent again.
func TestRepairCostLoaded(t *testing.T) {
	const receivers, loss = 50, 0.145
	st := loaded(t, receivers, loss, SenderConfig{NoParity: true})
	if ratio, theory := float64(st.Repairs)/float64(st.Packets), untilAll(receivers, loss); ratio > 1.1*theory {
		t.Errorf("repairs are %.2f of the data, theory %.2f", ratio, theory)
	}
}

// TestParityCostLoaded is TestRepairCostLoaded with parity packets: what waits in a receiver's queue is not sent to it again, neither to
// all nor to it alone.
func TestParityCostLoaded(t *testing.T) {
	st := loaded(t, 50, 0.145, SenderConfig{})
	if ratio := float64(st.RepairBytes) / float64(st.Bytes); ratio > 0.6 {
		t.Errorf("repairs are %.2f of the data", ratio)
	}
}

// TestParityCost is TestRepairCost at a rate at which blocks are full within milliseconds: parity packets serve receivers that lost
// different packets, and cost a fraction of the data. It begins by itself, and ends when the loss does.
func TestParityCost(t *testing.T) {
	const receivers, loss = 50, 0.145
	s, p := quiet(t, receivers+1, SenderConfig{})
	s.loss = loss
	stream := func(d time.Duration) (st SenderStats) {
		before := p.tx.Snapshot()
		for end := s.now.Add(d); s.now.Before(end); {
			p.send(40)
			s.run(s.now.Add(2 * time.Millisecond))
		}
		if err := s.converge(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		st = p.tx.Snapshot()
		st.Packets -= before.Packets
		st.Bytes -= before.Bytes
		st.Repairs -= before.Repairs
		st.RepairBytes -= before.RepairBytes
		st.Parity -= before.Parity
		return st
	}
	stream(200 * time.Millisecond) // it finds out
	st := stream(time.Second)
	ratio := float64(st.RepairBytes) / float64(st.Bytes)
	t.Logf("%d packets: repairs %.0f %% of data, %d of %d packets of parity; sent again it would be %.0f %%", st.Packets, 100*ratio, st.Parity, st.Repairs, 100*untilAll(receivers, loss))
	if ratio > 0.6 {
		t.Errorf("repairs are %.2f of the data", ratio)
	}
	s.loss = 0
	stream(time.Second)
	if p.tx.byParity {
		t.Error("parity goes on without loss")
	}
}

// untilAll is how often a packet is sent again on average until each of n receivers has it, when every one loses a share of the
// packets by itself: the mean of the maximum of n geometric variables, less one.
func untilAll(n int, loss float64) (sum float64) {
	for k := 1; ; k++ {
		miss := 1 - math.Pow(1-math.Pow(loss, float64(k)), float64(n))
		if sum += miss; miss < 1e-9 {
			return sum
		}
	}
}

// TestCommonLoss: what all receivers lose is repaired once: repairs are at most 1.3 times the loss.
func TestCommonLoss(t *testing.T) {
	s, p := quiet(t, 21, SenderConfig{})
	if n := byMulticast(p); n != 20 {
		t.Fatalf("%d are served by multicast", n)
	}
	before := p.tx.Snapshot()
	lost := 0
	for i := range 2000 {
		had := int(p.tx.Snapshot().Packets)
		if i%10 == 3 { // on the sender's own link
			s.loss = 1
		}
		p.send(1)
		if s.loss > 0 {
			lost += int(p.tx.Snapshot().Packets) - had
		}
		s.loss = 0
		s.run(s.now.Add(2 * time.Millisecond))
	}
	if err := s.converge(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	st := p.tx.Snapshot()
	repairs := float64(st.Repairs - before.Repairs)
	t.Logf("%d packets lost on the sender's link, %v repaired; NACKs heard and obeyed: %d", lost, repairs, s.count.Suppressed)
	if repairs > 1.3*float64(lost) || s.count.Suppressed == 0 {
		t.Errorf("%v repairs for %d lost, %d NACKs suppressed", repairs, lost, s.count.Suppressed)
	}
}

// TestIdle: fifty members that say nothing cost each less than 2 kB a second, headers of Ethernet, IP and UDP counted, both directions together.
func TestIdle(t *testing.T) {
	const members = 50
	s, _ := quiet(t, members, SenderConfig{})
	s.run(s.now.Add(30 * time.Second))
	var sent, got int
	s.tap = func(group bool, size int) {
		sent += size + 42
		if group {
			got += (members - 1) * (size + 42)
		} else {
			got += size + 42
		}
	}
	const d = 30
	s.run(s.now.Add(d * time.Second))
	each := float64(sent+got) / members / d
	t.Logf("%.0f bytes a second and member", each)
	if each >= 2000 {
		t.Errorf("an idle member costs %.0f bytes a second", each)
	}
}

// TestHostile: a member that asks for everything all the time, names packets that never were and never will be, and claims streams of
// enormous length costs the others no memory and little of their rate.
func TestHostile(t *testing.T) {
	s, p := quiet(t, 6, SenderConfig{Window: 1 << 20})
	bad := s.nodes[5]
	run := func(d time.Duration) uint64 {
		before := p.sent
		end := s.now.Add(d)
		for s.now.Before(end) {
			p.send(20)
			s.run(s.now.Add(time.Millisecond))
		}
		return p.sent - before
	}
	clean := run(time.Second)
	data := p.tx.Snapshot()
	end := s.now.Add(time.Second)
	var storm func()
	storm = func() {
		n := bad.n
		for _, m := range n.members {
			n.say(m, func(b []byte) []byte {
				for _, from := range []uint64{0, 1, p.tx.sent - 1000, p.tx.sent, 1 << 62, math.MaxUint64 - 70000} {
					b = appendNack(b, s.nodes[0].id, p.tx.ID(), from, []Range{{from, math.MaxUint16}})
				}
				b = appendNack(b, s.nodes[1].id, 77, 1<<63, []Range{{5, 5}})
				b = heartbeat{stream: 9, next: math.MaxUint64, first: 3, flags: flagAnswer}.append(b)
				b = announce{stream: 10, from: 1, fromMessage: 1, next: 1 << 63, nextMessage: 1 << 63, subject: "x"}.append(b)
				b = appendTail(b, s.nodes[0].id, p.tx.ID(), 1<<63, 1<<63)
				b = appendSkip(b, 10, 1<<40, 1<<40)
				b = status{stream: p.tx.ID(), next: math.MaxUint64, room: math.MaxUint32}.append(b)
				return b
			})
		}
		n.flush()
		if s.now.Before(end) {
			s.after(time.Millisecond, storm)
		}
	}
	storm()
	dirty := run(time.Second)
	st := p.tx.Snapshot()
	t.Logf("%d messages in 1 s, %d beside the storm; repairs %d packets of %d, %d refused", clean, dirty, st.Repairs-data.Repairs, st.Packets-data.Packets, st.RefusedRepairs)
	if float64(dirty) < 0.95*float64(clean) {
		t.Errorf("%d messages in 1 s, %d beside the storm", clean, dirty)
	}
	for _, x := range s.nodes[1:5] {
		for _, r := range x.n.order {
			if len(r.gaps) > maxGaps || len(r.store.ring) > 2*maxAhead || r.store.bytes > 8<<20 {
				t.Errorf("%d keeps %d gaps, %d slots, %d bytes", x.index, len(r.gaps), len(r.store.ring), r.store.bytes)
			}
		}
		if len(x.n.candidates) > MaxMembers || len(x.n.members) != 5 {
			t.Errorf("%d knows %d candidates, %d members", x.index, len(x.n.candidates), len(x.n.members))
		}
	}
}

// discard is a Wire and a Sink that keep nothing.
type discard struct{ to *Node }

func (d *discard) Send(buf []byte, segment int, _ bool, _ []netip.AddrPort) {
	if d.to == nil {
		return
	}
	for len(buf) > 0 {
		n := min(segment, len(buf))
		d.to.Packet(simStart, netip.AddrPort{}, true, buf[:n])
		buf = buf[n:]
	}
}
func (*discard) Begin(*Stream)                  {}
func (*discard) Deliver(*Stream, []Packet) bool { return true }
func (*discard) End(*Stream, []Packet)          {}
func (*discard) Event(Event)                    {}

// TestNoAllocation: in steady state a message costs no allocation, from Send to Deliver; a slab for a few thousand does.
func TestNoAllocation(t *testing.T) {
	s, p := quiet(t, 3, SenderConfig{Window: 256 << 10})
	to := s.nodes[1]
	d := &discard{}
	p.tx.mu.Lock()
	p.tx.wire = d
	p.tx.mu.Unlock()
	to.n.cfg.Sink, to.n.cfg.Wire = d, &discard{}
	d.to = to.n
	payload := make([]byte, 64)
	const each = 1000
	now := s.now
	round := func() {
		for range each {
			if _, full, err := p.tx.Send("", nil, payload); err != nil {
				t.Fatal(err)
			} else if full {
				p.tx.FlushFull(now)
				to.n.Done(now)
			}
		}
		p.tx.Flush(now)
		to.n.Done(now)
		for _, m := range p.tx.targets {
			p.tx.status(now, m.id, status{stream: p.tx.id, next: p.tx.sent, room: 1 << 20})
		}
	}
	for range 20 {
		round() // grow what grows
	}
	if n := testing.AllocsPerRun(50, round); n > each/200 {
		t.Errorf("%v allocations for %d messages", n, each)
	}
}

// TestFanout: fifty receivers without multicast get everything while at most eight copies of a packet leave the sender, and as many
// any other; then half of them die at once, and the others still get everything.
func TestFanout(t *testing.T) {
	const receivers = 50
	s := newSim(50)
	s.multicast = false
	s.join()
	for range receivers {
		s.join(Interest{ID: 1, Pattern: "x", Mode: FromNow})
	}
	p := s.nodes[0].publish("x", SenderConfig{})
	s.run(s.now.Add(3 * time.Second))
	stream := func(d time.Duration) (packets, copies float64) {
		data := p.tx.Snapshot().Packets
		s.sees = func(from int, pkt []byte) {
			if pkt[0] == TypeData && from == 0 {
				copies++
			}
		}
		defer func() { s.sees = nil }()
		for end := s.now.Add(d); s.now.Before(end); {
			p.send(5)
			s.run(s.now.Add(2 * time.Millisecond))
		}
		return float64(p.tx.Snapshot().Packets - data), copies
	}
	stream(time.Second)
	for _, x := range s.nodes {
		x.lossless = true
	}
	packets, copies := stream(2 * time.Second)
	worst := uint64(0)
	for _, x := range s.nodes[1:] {
		worst = max(worst, x.n.Stats.Relayed)
	}
	t.Logf("%.2f copies of a packet leave the sender; %d packets passed on at most", copies/packets, worst)
	if copies > 8.2*packets {
		t.Errorf("%.2f copies of a packet leave the sender", copies/packets)
	}
	for i := 1; i <= receivers; i += 2 {
		s.nodes[i].kill()
	}
	before := make([]uint64, len(s.nodes))
	for i := 2; i <= receivers; i += 2 {
		before[i] = s.sub(i).next
	}
	stream(1500 * time.Millisecond)
	for i := 2; i <= receivers; i += 2 {
		if sub := s.sub(i); sub.next == before[i] {
			t.Errorf("%d got nothing for 1.5 s after half of them died", i)
		}
	}
	if err := s.converge(5 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestLongBehindFull: a long message whose packets cost more than the part of the window that is free for it drives nothing out that a receiver is
// waited for to confirm.
func TestLongBehindFull(t *testing.T) {
	s, p := quiet(t, 2, SenderConfig{Window: 256 << 10})
	s.drop = func(_, to *simNode, _ bool, _ []byte) bool { return to == s.nodes[1] }
	tx := p.tx
	tx.limit, tx.congestion = 200, 1<<20
	tx.pace()
	first, send := tx.store.next, func(size int) {
		if _, _, err := tx.Send("", nil, make([]byte, size)); err != nil {
			t.Fatalf("at %d of %d bytes: %v", tx.total, tx.edge, err)
		}
	}
	for tx.total+2000 < tx.edge {
		send(64)
	}
	tx.Flush(s.now)
	send(60_000)
	tx.Flush(s.now)
	if tx.store.bytes <= tx.cfg.Window {
		t.Fatalf("%d bytes for a window of %d", tx.store.bytes, tx.cfg.Window)
	}
	if tx.store.first > first {
		t.Errorf("packets %d to %d are gone, and nobody has confirmed them", first, tx.store.first-1)
	}
}
