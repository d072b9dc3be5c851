package state

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// simNet drives production cores over a network that delays, reorders, duplicates and loses messages, in simulated time.
type simNet struct {
	t       testing.TB
	rand    *rand.Rand
	now     time.Time
	nodes   []*simNode
	byID    map[ident.HostID]*simNode
	queue   simQueue
	seq     int
	loss    float64 // of each datagram of about 1,200 bytes that a message is cut in
	dup     float64
	cut     func(a, b int) bool // links that carry nothing
	bytes   uint64
	cluster ident.ClusterID
}

type simNode struct {
	i      int
	id     ident.HostID
	keys   ident.Keys
	tables *Tables
	sync   *Sync
	disk   []byte
	view   map[string]string // rebuilt from changes alone
}

type simMsg struct {
	at       time.Time
	seq      int
	from, to *simNode
	msg      []byte
}

type simQueue []simMsg

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simMsg)) }
func (q *simQueue) Pop() any     { o := *q; x := o[len(o)-1]; *q = o[:len(o)-1]; return x }

// testKeys returns the keys of host i, always the same.
func testKeys(t testing.TB, i int) ident.Keys {
	t.Helper()
	seed := make([]byte, 64)
	seed[0], seed[1], seed[32] = byte(i), byte(i>>8), byte(i)|1
	k, err := ident.KeysFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSim(t testing.TB, n int, seed uint64) *simNet {
	s := &simNet{
		t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_000_000, 0),
		byID: map[ident.HostID]*simNode{}, cluster: ident.ClusterID{1}, cut: func(int, int) bool { return false },
	}
	for i := range n {
		keys := testKeys(t, i+1)
		nd := &simNode{i: i, id: keys.ID(), keys: keys}
		s.start(nd, nil)
		s.nodes = append(s.nodes, nd)
		s.byID[nd.id] = nd
	}
	return s
}

// start gives a node fresh memory, and what is on its disk.
func (s *simNet) start(nd *simNode, disk []byte, scopes ...Scope) {
	nd.tables = New(Config{Keys: nd.keys, Cluster: s.cluster})
	nd.sync = NewSync(nd.tables, SyncConfig{Rand: rand.New(rand.NewPCG(s.rand.Uint64(), 2))})
	nd.view = map[string]string{}
	for _, sc := range scopes {
		if err := nd.tables.Hold(sc); err != nil {
			s.t.Fatal(err)
		}
	}
	if disk != nil {
		if err := nd.tables.Import(disk); err != nil {
			s.t.Fatal(err)
		}
	}
}

// link brings links up between all pairs that are not cut and have none, and down where they are cut.
func (s *simNet) link() {
	for _, a := range s.nodes {
		for _, b := range s.nodes {
			switch {
			case a == b:
			case s.cut(a.i, b.i):
				a.sync.PeerDown(b.id)
			default:
				s.send(a, a.sync.PeerUp(s.now, b.id))
			}
		}
	}
}

func (s *simNet) send(from *simNode, out []Send) {
	for _, m := range out {
		to := s.byID[m.To]
		if len(m.Msg) > MaxMessage {
			s.t.Fatalf("message of %d bytes", len(m.Msg))
		}
		s.bytes += uint64(len(m.Msg))
		copies := 1
		if s.rand.Float64() < s.dup {
			copies = 2
		}
		for range copies {
			lost := s.cut(from.i, to.i)
			for n := 0; n < len(m.Msg); n += 1200 {
				lost = lost || s.rand.Float64() < s.loss
			}
			if lost {
				continue
			}
			s.seq++
			delay := time.Millisecond + time.Duration(s.rand.Int64N(int64(20*time.Millisecond)))
			heap.Push(&s.queue, simMsg{s.now.Add(delay), s.seq, from, to, slices.Clone(m.Msg)})
		}
	}
}

// run lets d pass, or less when done says so at a tick.
func (s *simNet) run(d time.Duration, done func() bool) time.Duration {
	begin, end := s.now, s.now.Add(d)
	for s.now.Before(end) {
		tick := s.now.Add(100 * time.Millisecond)
		for len(s.queue) > 0 && s.queue[0].at.Before(tick) {
			m := heap.Pop(&s.queue).(simMsg)
			s.now = m.at
			out, changes, _ := m.to.sync.Input(s.now, m.from.id, m.msg)
			m.to.note(changes)
			s.send(m.to, out)
		}
		s.now = tick
		for _, nd := range s.nodes {
			s.send(nd, nd.sync.Tick(s.now))
		}
		if done != nil && done() {
			break
		}
	}
	return s.now.Sub(begin)
}

func (nd *simNode) note(changes []Change) {
	for _, c := range changes {
		k := fmt.Sprintf("%s/%d/%s", c.Writer, c.Scope, c.Key)
		if c.Gone {
			delete(nd.view, k)
		} else {
			nd.view[k] = string(c.Value)
		}
	}
}

// commit writes what is staged to the disk, then publishes it.
func (s *simNet) commit(nd *simNode) {
	blocks := commit(nd.tables)
	nd.disk = nd.tables.ExportOwn()
	s.send(nd, nd.sync.Published(s.now, blocks))
}

func (s *simNet) put(nd *simNode, sc Scope, key, value string) {
	if err := nd.tables.Put(sc, key, []byte(value)); err != nil {
		s.t.Fatal(err)
	}
}

// equal reports whether all holders of a scope have the same tables of it.
func (s *simNet) equal(sc Scope) bool {
	var first *simNode
	for _, nd := range s.nodes {
		if !nd.tables.Holds(sc) {
			continue
		}
		if first == nil {
			first = nd
		} else if nd.tables.scopes[sc].sum != first.tables.scopes[sc].sum {
			return false
		}
	}
	return true
}

func (s *simNet) allEqual() bool { return s.equal(Cluster) }

// check compares what the holders say a scope holds, entry by entry, and with the views made of changes.
func (s *simNet) check(sc Scope) {
	s.t.Helper()
	text := func(nd *simNode) (out []string) {
		for it := range nd.tables.All(sc, "") {
			out = append(out, fmt.Sprintf("%s/%d/%s=%s", it.Writer, sc, it.Key, it.Value))
		}
		return out
	}
	var first []string
	for i, nd := range s.nodes {
		if !nd.tables.Holds(sc) {
			continue
		}
		got := text(nd)
		others := 0
		for it := range nd.tables.All(sc, "") {
			if it.Writer == nd.id {
				continue
			}
			others++
			if v, ok := nd.view[fmt.Sprintf("%s/%d/%s", it.Writer, sc, it.Key)]; !ok || v != string(it.Value) {
				s.t.Fatalf("node %d: the changes told %q of %s, the table says %q", i, v, it.Key, it.Value)
			}
		}
		for k := range nd.view {
			if strings.Contains(k, fmt.Sprintf("/%d/", sc)) && !strings.HasPrefix(k, nd.id.String()) {
				others--
			}
		}
		if others != 0 {
			s.t.Fatalf("node %d: %d entries fewer than the changes told", i, -others)
		}
		if first == nil {
			first = got
		} else if !slices.Equal(first, got) {
			s.t.Fatalf("node %d differs: %d and %d entries", i, len(got), len(first))
		}
	}
}
