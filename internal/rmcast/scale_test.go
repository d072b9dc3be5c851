package rmcast

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/subject"
)

// scale is a world of very many members in islands, of which the first publishes. It begins when members have found each other, which
// is not simulated: the publisher knows all, others know it and the 16 lowest epochs of their island; who hears whom is known.
type scale struct {
	*simNet
	pub     *simPub
	hops    [][]uint8 // by node and packet: over how many members it came; 0: not yet
	arrived []uint64  // data packets, by node
}

func newScale(nodes, islands int) *scale {
	w := &scale{simNet: newSim(uint64(nodes + islands))}
	s := w.simNet
	s.islands = islands
	want := Interest{ID: 1, Pattern: "x"}
	s.alone, s.view = true, islandVoices+1
	s.join()
	for range nodes - 1 {
		s.join(want)
	}
	by := make([][]*simNode, islands)
	for _, x := range s.nodes {
		by[s.island(x)] = append(by[s.island(x)], x)
	}
	for _, island := range by {
		slices.SortFunc(island, func(a, b *simNode) int { return cmp.Compare(a.id, b.id) })
		for i, a := range island {
			for _, b := range island[:min(i, islandVoices)] {
				meet(a, b, true)
			}
		}
	}
	p := s.nodes[0]
	for _, x := range s.nodes[1:] {
		if p.n.byID[x.id] == nil {
			meet(x, p, s.island(x) == s.island(p))
		}
	}
	for _, x := range s.nodes {
		x.n.ear.Tick(x.s.now)
		x.n.nameIsland()
	}
	w.hops, w.arrived = make([][]uint8, nodes), make([]uint64, nodes)
	s.arrives = w.arrive
	return w
}

// meet makes two nodes members of each other; near: a hears b, which is one of those that send beacons.
func meet(a, b *simNode, near bool) {
	one := func(x, y *simNode) *member {
		ctl, err := x.s.keys.Control(seal.SuiteAES, uint64(y.id))
		if err != nil {
			panic(err)
		}
		m := &member{
			Member: Member{ID: y.id, Addr: y.addr}, bus: x.s.keys, suite: seal.SuiteAES, ctl: ctl, believed: true,
			last: x.s.now, jitter: time.Duration(x.s.rnd.Int64N(int64(pingRest))), stateAt: x.s.now, statePause: stateAgain,
			interests: y.want, version: y.n.version, has: x.n.version,
		}
		for i := range m.interests {
			x.n.wants.Add(m.interests[i].Pattern, subject.Entry[ID]{Value: m.ID})
		}
		x.n.members = append(x.n.members, m)
		x.n.byID[m.ID] = m
		return m
	}
	ab, ba := one(a, b), one(b, a)
	if near {
		hear(a, ab, ba)
		if a.index == 0 { // it publishes
			hear(b, ba, ab)
		}
	}
}

// hear has a node hear a member, which is another's view of it.
func hear(x *simNode, m, back *member) {
	m.hear, m.Hear, m.groupRun, back.Hears = true, true, 2, true
	x.n.ear.Beacon(x.s.now, m.ID.host(), 1)
	x.n.ear.Beacon(x.s.now, m.ID.host(), 2)
}

// arrive sees each data packet that comes to a living node.
func (w *scale) arrive(from, to *simNode, pkt []byte) {
	if pkt[0] != TypeData || to.index == 0 {
		return
	}
	seq := int(pkt[19]) | int(pkt[18])<<8
	w.arrived[to.index]++
	h := w.hops[to.index]
	for len(h) <= seq {
		h = append(h, 0)
	}
	w.hops[to.index] = h
	if h[seq] == 0 {
		if h[seq] = 1; from.index != 0 {
			h[seq] = w.hops[from.index][seq] + 1
		}
	}
}

// phase is what happened in a while.
type phase struct {
	packets   int
	first     int // arrivals of packets that were not there
	redundant float64
	hops      int
	copies    float64 // that leave the publisher for a packet
}

// stream sends a message each 40 ms.
func (w *scale) stream(d time.Duration) phase {
	tx := w.pub.tx
	from := int(tx.Snapshot().Packets) + 1
	var before uint64
	for i, x := range w.nodes {
		if x.up {
			before += w.arrived[i]
		}
	}
	had := w.had()
	sent := 0
	w.leaves = func(from *simNode, pkt []byte, copies int) {
		if from.index == 0 && pkt[0] == TypeData {
			sent += copies
		}
	}
	for end := w.now.Add(d); w.now.Before(end); {
		w.pub.send(1)
		w.run(w.now.Add(40 * time.Millisecond))
	}
	w.leaves = nil
	var after uint64
	p := phase{packets: int(tx.Snapshot().Packets) + 1 - from}
	for i, x := range w.nodes {
		if !x.up {
			continue
		}
		after += w.arrived[i]
		for seq := from; seq < len(w.hops[i]); seq++ {
			p.hops = max(p.hops, int(w.hops[i][seq]))
		}
	}
	p.first = w.had() - had
	p.redundant = float64(int(after-before)-p.first) / float64(max(1, p.first))
	p.copies = float64(sent) / float64(max(1, p.packets))
	return p
}

// had counts packets at the living, one by one.
func (w *scale) had() (n int) {
	for i, x := range w.nodes {
		if x.up {
			for _, h := range w.hops[i] {
				if h > 0 {
					n++
				}
			}
		}
	}
	return n
}

// lacking counts living receivers that do not have all messages before a number.
func (w *scale) lacking(next uint64) (n int) {
	for i, x := range w.nodes[1:] {
		if sub := w.sub(i + 1); x.up && (sub == nil || sub.next < next) {
			n++
		}
	}
	return n
}

// row is one line of the table.
type row struct {
	nodes, islands     int
	before, dying, end phase
	again              time.Duration // after half of them died until all that live had everything
	memory             float64       // bytes a member
	events             uint64
	took               time.Duration
}

func atScale(t *testing.T, nodes, islands int) row {
	t.Helper()
	began := time.Now()
	runtime.GC()
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	w := newScale(nodes, islands)
	w.pub = w.nodes[0].publish("x", SenderConfig{})
	w.run(w.now.Add(time.Second))
	if got := len(w.pub.tx.Receivers()); got != nodes-1 {
		t.Fatalf("%d receivers of %d", got, nodes-1)
	}
	w.stream(time.Second) // relays begin
	for _, x := range w.nodes {
		x.lossless = true
	}
	r := row{nodes: nodes, islands: islands}
	r.before = w.stream(400 * time.Millisecond)
	next := w.pub.sent + 1
	w.run(w.now.Add(100 * time.Millisecond))
	if n := w.lacking(next); n > 0 {
		t.Errorf("%d members, %d islands: %d lack something before anybody died", nodes, islands, n)
	}
	runtime.GC()
	runtime.ReadMemStats(&m1)
	r.memory = float64(m1.HeapAlloc-m0.HeapAlloc) / float64(nodes)

	for _, i := range w.rnd.Perm(nodes - 1)[:nodes/2] {
		w.nodes[i+1].kill()
	}
	died := w.now
	r.again = -1
	var dying []phase
	for w.now.Before(died.Add(2 * time.Second)) {
		next := w.pub.sent + 1
		dying = append(dying, w.stream(100*time.Millisecond))
		if w.lacking(next) > 0 {
			r.again = -1
		} else if r.again < 0 {
			r.again = w.now.Sub(died)
		}
	}
	for _, p := range dying {
		r.dying.first += p.first
		r.dying.redundant += p.redundant * float64(p.first)
		r.dying.hops = max(r.dying.hops, p.hops)
		r.dying.copies = max(r.dying.copies, p.copies)
	}
	r.dying.redundant /= float64(max(1, r.dying.first))
	r.end = w.stream(400 * time.Millisecond)
	if err := w.converge(2 * time.Second); err != nil {
		t.Errorf("%d members, %d islands: %v", nodes, islands, err)
	}
	r.events, r.took = w.serial, time.Since(began)
	return r
}

const tableHead = `# A bus of thousands

Made by ` + "`make scale`" + `: one publisher, the members in islands of equal size, multicast within them, 0.2 to 0.3 ms between any two, 25 packets a
second; then half of the members, drawn at random, die at once. The members are the production cores of ` + "`internal/rmcast`" + `, joined by the simulator that
runs the histories, too. It begins when they have found each other: the publisher knows all, the others know it and those of their island that send beacons.

A hop is a datagram from one member to the next: a packet that reaches an island's relay in two hops is at the others there after three. Copies that leave the
publisher are datagrams of data for each of its packets, repairs among them, one multicast counting as one.

| members | islands | copies a delivery beyond the first: before; in the 2 s after half died; later | hops: before; while; later | copies that leave the publisher: before; most in 100 ms; later | all that live have everything again after | kB a member, simulated |
|---|---|---|---|---|---|---|
`

func (r row) String() string {
	return fmt.Sprintf("| %d | %d | %.3f; %.3f; %.3f | %d; %d; %d | %.1f; %.1f; %.1f | %.1f s | %.0f |\n", r.nodes, r.islands,
		r.before.redundant, r.dying.redundant, r.end.redundant, r.before.hops, r.dying.hops, r.end.hops,
		r.before.copies, r.dying.copies, r.end.copies, r.again.Seconds(), r.memory/1000)
}

// TestScale: a thousand members in 1, 10 and 100 islands: nobody gets a packet twice but for one in ten deliveries, the last of them is as
// many hops away as a tree has levels, all have everything before half of them die at once, and of those that live within 2 s after.
// By itself it takes ten islands; WEFT_SCALE=N takes all three, and all for N members as well. WEFT_SCALE_TABLE=FILE writes the table.
func TestScale(t *testing.T) {
	sizes, several := []int{1000}, []int{10}
	if v, err := strconv.Atoi(os.Getenv("WEFT_SCALE")); err == nil {
		sizes, several = append(sizes, v), []int{1, 10, 100}
	}
	var table strings.Builder
	for _, nodes := range sizes {
		for _, islands := range several {
			r := atScale(t, nodes, islands)
			t.Logf("%v %d events in %.1f s", r, r.events, r.took.Seconds())
			table.WriteString(r.String())
			// The publisher's copies, levels of relays below it, and the multicast of the last.
			levels := 1 + int(math.Ceil(math.Log(float64(islands))/math.Log(DefaultFanout)))
			for _, p := range []struct {
				when string
				phase
			}{{"before", r.before}, {"while half die", r.dying}, {"after", r.end}} {
				if p.redundant > 0.10 {
					t.Errorf("%d members, %d islands, %s: %.3f redundant copies a delivery", nodes, islands, p.when, p.redundant)
				}
				if p.when != "while half die" && p.hops > levels+1 {
					t.Errorf("%d members, %d islands, %s: %d hops", nodes, islands, p.when, p.hops)
				}
			}
			if r.again < 0 || r.again > 2*time.Second {
				t.Errorf("%d members, %d islands: all have everything %v after half died", nodes, islands, r.again)
			}
		}
	}
	if f := os.Getenv("WEFT_SCALE_TABLE"); f != "" {
		if err := os.WriteFile(f, []byte(tableHead+table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
