package rmcast

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// families is a network with a group in each of two address families.
type families struct {
	s    *simNet
	by   int             // the group of what is being sent
	deaf map[[2]int]bool // {group, node}: nothing comes there by it
	data [2]int          // data packets that the publisher sends to each group
}

// speaker is the Wire of a node with both.
type speaker struct {
	*simNode
	f     *families
	group int
}

func (w *speaker) Send(buf []byte, segment int, group bool, to []netip.AddrPort) {
	if w.f.by = w.group; group && buf[0] == TypeData && w.index == 0 {
		w.f.data[w.group] += (len(buf) + segment - 1) / segment
	}
	w.simNode.Send(buf, segment, group, to)
}

func (w *speaker) Aside(buf []byte) {
	w.f.by = 1 - w.group
	w.simNode.Send(buf, len(buf), true, nil)
}

func (w *speaker) Use(group int) { w.group = group }

// onFamilies is a world of n members, the first of which publishes; with which groups each has, and after a while.
func onFamilies(t *testing.T, n int, usable func(i int) byte, deaf ...[2]int) (*families, *simPub) {
	t.Helper()
	return seeded(t, uint64(n), n, usable, deaf...)
}

// seeded is onFamilies with a seed.
func seeded(t *testing.T, seed uint64, n int, usable func(i int) byte, deaf ...[2]int) (*families, *simPub) {
	t.Helper()
	f := &families{s: newSim(seed), deaf: map[[2]int]bool{}}
	s := f.s
	s.adapt = func(x *simNode, cfg *Config) {
		w := &speaker{simNode: x, f: f}
		cfg.Wire, cfg.Groups = w, w
	}
	s.drop = func(_, to *simNode, group bool, _ []byte) bool {
		return group && (f.deaf[[2]int{f.by, to.index}] || usable(to.index)&(1<<f.by) == 0)
	}
	for _, d := range deaf {
		f.deaf[d] = true
	}
	for i := range n {
		var want []Interest
		if i > 0 {
			want = []Interest{{ID: 1, Pattern: "x", Mode: FromNow}}
		}
		x := s.join(want...)
		x.n.Usable(s.now, usable(i))
		x.lossless = true
	}
	p := s.nodes[0].publish("x", SenderConfig{})
	s.run(s.now.Add(25 * time.Second))
	if got := len(p.tx.Receivers()); got != n-1 {
		t.Fatalf("%d receivers of %d", got, n-1)
	}
	return f, p
}

func both(int) byte { return 3 }

// silence has a publisher send for a while, and returns the longest time that a receiver was without messages.
func (s *simNet) silence(p *simPub, d time.Duration) time.Duration {
	return slices.Max(silences(s, s.now.Add(d), func() { p.send(5) })[1:])
}

// doubles is how many packets have come twice to each node.
func (s *simNet) doubles() (each []uint64) {
	for _, x := range s.nodes {
		each = append(each, x.n.Stats.Duplicates)
	}
	return each
}

func (s *simNet) duplicates() (sum uint64) {
	for _, d := range s.doubles() {
		sum += d
	}
	return sum
}

// TestVoice: of two groups members use the first while as many hear it, else the other; each packet is sent to one of them, and comes once.
func TestVoice(t *testing.T) {
	for _, c := range []struct {
		name   string
		usable func(int) byte
		deaf   [][2]int
		voice  int
		served int
	}{
		{"both", both, nil, 0, 5},
		{"the second only", func(int) byte { return 2 }, nil, 1, 5},
		{"some have the second only", func(i int) byte { return []byte{3, 3, 3, 3, 2, 2}[i] }, nil, 1, 5},
		{"some have the first only", func(i int) byte { return []byte{3, 3, 3, 3, 1, 1}[i] }, nil, 0, 5},
		{"each some", func(i int) byte { return []byte{3, 1, 1, 2, 2, 2}[i] }, nil, 1, 3},
		{"the first does not pass", both, [][2]int{{0, 0}, {0, 1}, {0, 2}, {0, 3}, {0, 4}, {0, 5}}, 1, 5},
		{"the first passes to few", both, [][2]int{{0, 2}, {0, 3}, {0, 4}, {0, 5}}, 1, 5},
		{"neither passes", both, [][2]int{{0, 1}, {0, 2}, {0, 3}, {0, 4}, {0, 5}, {1, 1}, {1, 2}, {1, 3}, {1, 4}, {1, 5}}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, p := onFamilies(t, 6, c.usable, c.deaf...)
			s := f.s
			if v, n := s.nodes[0].n.Voice(), byMulticast(p); v != c.voice || n != c.served {
				t.Fatalf("group %d serves %d, want group %d and %d", v, n, c.voice, c.served)
			}
			before := s.duplicates()
			s.silence(p, 3*time.Second)
			if err := s.converge(5 * time.Second); err != nil {
				t.Error(err)
			}
			if f.data[1-c.voice] > 0 || (f.data[c.voice] > 0) != (c.served > 1) {
				t.Errorf("%d data packets to each group", f.data)
			}
			if n := s.duplicates() - before; n > uint64(f.data[c.voice]/50) && c.served == 5 { // some are repaired too early
				t.Errorf("%d packets came twice", n)
			}
			for _, m := range s.nodes[1].n.Members() {
				if m.ID == s.nodes[0].id && m.Hear && int(m.Voice) != c.voice {
					t.Errorf("a receiver takes group %d for the publisher's", m.Voice)
				}
			}
		})
	}
}

// TestVoiceChanges: when the group in use ceases to reach some in mid-stream, they get copies within a second, and all are served by the other group
// after that. When it does again, nothing changes any more; when the other one ends, all goes back. Meanwhile hardly anything comes twice.
func TestVoiceChanges(t *testing.T) {
	for _, n := range []int{4, 6, 9} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%d members, seed %d", n, seed), func(t *testing.T) {
				t.Parallel()
				voiceChanges(t, n, seed)
			})
		}
	}
}

func voiceChanges(t *testing.T, n int, seed uint64) {
	f, p := seeded(t, seed, n, both)
	s := f.s
	fault := func(group int, on bool) {
		for i := 1; i <= n/2; i++ {
			f.deaf[[2]int{group, i}] = on
		}
	}
	stream := func(d time.Duration, when string) {
		t.Helper()
		packets, twice := p.tx.Snapshot().Packets, s.doubles()
		if worst := s.silence(p, d); worst > time.Second {
			t.Errorf("%s: a receiver was without messages for %v", when, worst)
		}
		packets = p.tx.Snapshot().Packets - packets
		for i, d := range s.doubles() {
			if d -= twice[i]; d > packets/20 {
				t.Errorf("%s: %d of %d packets came to member %d twice", when, d, packets, i)
			}
		}
	}
	served := func(voice int, when string) {
		t.Helper()
		if v, k := s.nodes[0].n.Voice(), byMulticast(p); v != voice || k != n-1 {
			t.Errorf("%s: group %d serves %d of %d", when, v, k, n-1)
		}
	}
	s.after(time.Second, func() { fault(0, true) })
	stream(12*time.Second, "the first group ends for some")
	served(1, "the first group has ended for some")
	fault(0, false)
	s.run(s.now.Add(2 * time.Minute))
	served(1, "it is back")
	s.after(time.Second, func() { fault(1, true) })
	stream(12*time.Second, "the second group ends for some")
	served(0, "the second group has ended for some")
	if k := s.nodes[0].n.Stats.VoiceChanges; k != 2 {
		t.Errorf("%d changes", k)
	}
	s.nodes[0].n.Usable(s.now, 2)
	s.run(s.now.Add(5 * time.Second))
	if v := s.nodes[0].n.Voice(); v != 1 {
		t.Error("a group is used that cannot be")
	}
	s.nodes[0].n.Usable(s.now, 0)
	stream(3*time.Second, "neither can be used any more")
	if k := byMulticast(p); k != 0 {
		t.Errorf("%d are served by multicast that cannot be sent", k)
	}
	if err := s.converge(5 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestOnceEach: where some have one family only and some the other, those who have both get nothing twice if copies for those who cannot hear the publisher
// are no more than that would be. Else one copy goes to these, and one of them multicasts it.
func TestOnceEach(t *testing.T) {
	for _, c := range []struct {
		name    string
		has     string // which groups each member has
		relayed bool
	}{
		{"one has both", "3311222", false},
		{"none has both", "311222", true},
		{"one has both, and many the first only", "331111222222", true},
		{"all have both but two", "333333112", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, p := onFamilies(t, len(c.has), func(i int) byte { return c.has[i] - '0' })
			s := f.s
			stream(s, p, 5*time.Second)
			packets, before, relayed := p.tx.Snapshot().Packets, s.doubles(), s.islandRelayed()
			stream(s, p, 5*time.Second)
			packets = p.tx.Snapshot().Packets - packets
			for i, d := range s.doubles() {
				most := packets / 50
				if c.relayed && c.has[i] == '3' {
					most += packets
				}
				if d -= before[i]; d > most {
					t.Errorf("%d of %d packets came to member %d twice", d, packets, i)
				}
			}
			if n := s.islandRelayed() - relayed; c.relayed != (n >= packets) || !c.relayed && n > 0 {
				t.Errorf("%d of %d packets were multicast by relays", n, packets)
			}
			if err := s.converge(5 * time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}

// islandRelayed is how many packets relays have multicast.
func (s *simNet) islandRelayed() (sum uint64) {
	for _, x := range s.nodes {
		sum += x.n.Stats.IslandRelayed
	}
	return sum
}

// TestBeaconAside: a beacon counts once, and one that comes by unicast says nothing of groups.
func TestBeaconAside(t *testing.T) {
	f, _ := onFamilies(t, 2, both)
	n, o := f.s.nodes[0].n, f.s.nodes[1].n
	m := n.byID[o.cfg.Self]
	h := hello{epoch: m.ID, beacon: true, aside: true, second: true, number: m.aside + 1}
	m.runs[1] = asideLeast - 1
	n.beacon(f.s.now, m, false, h)
	if got := m.comesBy(f.s.now); got != 1 {
		t.Errorf("by unicast: %d", got)
	}
	was := n.Stats.Replayed
	n.beacon(f.s.now, m, true, h)
	if n.Stats.Replayed != was+1 || m.comesBy(f.s.now) != 1 {
		t.Error("the same again is taken")
	}
	h.number++
	n.beacon(f.s.now, m, true, h)
	if got := m.comesBy(f.s.now); got != 3 {
		t.Errorf("by multicast: %d", got)
	}
	if got := m.comesBy(f.s.now.Add(heardFor)); got&2 != 0 {
		t.Error("it counts for ever")
	}
}

// TestOvertaken: what a member says of its hearing holds until it says something later, in whatever order that comes.
func TestOvertaken(t *testing.T) {
	f, _ := onFamilies(t, 2, both)
	n := f.s.nodes[0].n
	m := n.members[0]
	first := m.word
	for _, c := range []struct {
		counter uint64
		says    bool
		want    bool
	}{{2, true, true}, {1, false, true}, {3, false, false}} {
		n.counter = first + c.counter
		n.ping(f.s.now, m, recPong, ping{kind: recPong, yours: n.version, hears: c.says, groups: flag(c.says, 3), circle: n.circle()})
		if m.Hears != c.want || m.reaches != flag(c.want, 3) {
			t.Errorf("word %d: hears %v, by %d", c.counter, m.Hears, m.reaches)
		}
	}
}
