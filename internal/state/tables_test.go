package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

var testCluster = ident.ClusterID{7}

func newTables(t testing.TB, host int) *Tables {
	return New(Config{Keys: testKeys(t, host), Cluster: testCluster})
}

func put(t testing.TB, tb *Tables, s Scope, key, value string) {
	t.Helper()
	if err := tb.Put(s, key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

// apply takes blocks in order and returns all changes as text.
func apply(t testing.TB, tb *Tables, blocks []Block) string {
	t.Helper()
	var out []string
	for _, b := range blocks {
		parsed, err := ParseBlock(bytes.Clone(b.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		changes, err := tb.Apply(parsed)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if c.Gone {
				out = append(out, "-"+c.Key)
			} else {
				out = append(out, c.Key+"="+string(c.Value))
			}
		}
	}
	return strings.Join(out, " ")
}

// commit is Commit to a disk that never fails.
func commit(tb *Tables) []Block {
	blocks, _ := tb.Commit(func([]byte) error { return nil })
	return blocks
}

func TestCommitAndApply(t *testing.T) {
	a, b := newTables(t, 1), newTables(t, 2)
	put(t, a, Cluster, "x", "1")
	put(t, a, Cluster, "y", "2")
	if _, ok := a.Get(a.Self(), Cluster, "x"); ok {
		t.Error("staged, and shown")
	}
	if got := apply(t, b, commit(a)); got != "x=1 y=2" {
		t.Errorf("changes %q", got)
	}
	put(t, a, Cluster, "x", "1")
	if !a.Pending() || commit(a) != nil || a.Pending() {
		t.Error("the same value is no change")
	}
	if err := errors.Join(a.Delete(Cluster, "y"), a.Delete(Cluster, "never")); err != nil {
		t.Fatal(err)
	}
	put(t, a, Cluster, "x", "3")
	blocks := commit(a)
	if got := apply(t, b, blocks); got != "x=3 -y" {
		t.Errorf("changes %q", got)
	}
	if got := apply(t, b, blocks); got != "" {
		t.Errorf("a repeat changes %q", got)
	}
	if v, ok := b.Get(a.Self(), Cluster, "x"); !ok || string(v) != "3" {
		t.Errorf("x is %q", v)
	}
	if a.scopes[Cluster].sum != b.scopes[Cluster].sum || b.Version(a.Self(), Cluster) != 4 {
		t.Errorf("versions %d", b.Version(a.Self(), Cluster))
	}
	if got := fmt.Sprint(b.Forget(a.Self())); !strings.Contains(got, "x") || b.scopes[Cluster].sum != 0 || b.total != 0 {
		t.Errorf("forgotten: %s, %d bytes", got, b.total)
	}
}

func TestReleaseAndHoldAgain(t *testing.T) {
	const vni = Scope(5)
	a, b := newTables(t, 1), newTables(t, 2)
	if err := errors.Join(a.Hold(vni), b.Hold(vni)); err != nil {
		t.Fatal(err)
	}
	put(t, a, vni, "old", "1")
	put(t, a, vni, "kept", "2")
	apply(t, b, commit(a))
	put(t, a, vni, "dropped", "3")
	a.Release(vni)
	if err := a.Hold(vni); err != nil {
		t.Fatal(err)
	}
	put(t, a, vni, "kept", "2")
	put(t, a, vni, "new", "4")
	if got := apply(t, b, commit(a)); got != "new=4 -old" {
		t.Errorf("changes %q", got)
	}
	a.Release(vni)
	blocks := commit(a)
	if got := apply(t, b, blocks); len(blocks) != 1 || (got != "-kept -new" && got != "-new -kept") {
		t.Errorf("%d blocks, changes %q", len(blocks), got)
	}
	if a.total != b.total || b.table(a.Self(), vni).held != len(blocks[0].raw) || len(a.OwnScopes()) != 0 {
		t.Errorf("%d and %d bytes are left", a.total, b.total)
	}
	if err := a.Put(vni, "x", nil); !errors.Is(err, ErrScope) {
		t.Errorf("put in a released scope: %v", err)
	}
}

func TestRefusedBlocks(t *testing.T) {
	a := newTables(t, 1)
	var blocks []Block
	for i := range 3 {
		put(t, a, Cluster, "k", fmt.Sprint(i))
		blocks = append(blocks, commit(a)...)
	}
	stranger := testKeys(t, 9)
	fresh := func() *Tables {
		return New(Config{Keys: testKeys(t, 2), Cluster: testCluster, Allowed: func(id ident.HostID) bool { return id != stranger.ID() }})
	}
	seal := func(k ident.Keys, c ident.ClusterID, s Scope, from, floor uint64, prev blockHash) Block {
		return sealBlock(k.Sign, c, s, from, floor, prev, []Entry{{Key: "k", Value: []byte("evil")}})
	}
	edit := func(b Block, f func(raw []byte)) Block {
		raw := bytes.Clone(b.Bytes())
		f(raw)
		out, err := ParseBlock(raw)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	keys := testKeys(t, 1)
	otherPub := testKeys(t, 3).Card().Sign
	for _, tt := range []struct {
		name  string
		prior int // blocks applied before
		b     Block
		want  error
	}{
		{"value changed", 0, edit(blocks[0], func(r []byte) { r[blockHeader+5] ^= 1 }), ErrForged},
		{"version changed", 0, edit(blocks[0], func(r []byte) { binary.BigEndian.PutUint64(r[37:], 2) }), ErrForged},
		{"floor changed", 0, edit(blocks[2], func(r []byte) { binary.BigEndian.PutUint64(r[45:], 2) }), ErrForged},
		{"under another host's key", 0, edit(blocks[0], func(r []byte) { copy(r[1:], otherPub[:]) }), ErrForged},
		{"signature cut off and filled", 0, edit(blocks[0], func(r []byte) { clear(r[len(r)-64:]) }), ErrForged},
		{"other cluster", 0, seal(keys, ident.ClusterID{8}, Cluster, 1, 0, blockHash{}), ErrForged},
		{"removed host", 0, seal(stranger, testCluster, Cluster, 1, 0, blockHash{}), ErrNotAllowed},
		{"scope not held", 0, seal(keys, testCluster, 5, 1, 0, blockHash{}), ErrScope},
		{"gap", 1, blocks[2], ErrGap},
		{"same version, other content", 2, seal(keys, testCluster, Cluster, 2, 0, blocks[0].hash()), ErrEquivocation},
		{"after another history", 1, seal(keys, testCluster, Cluster, 2, 0, blockHash{1}), ErrEquivocation},
		{"first with a past", 0, seal(keys, testCluster, Cluster, 1, 0, blockHash{1}), ErrEquivocation},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tb := fresh()
			apply(t, tb, blocks[:tt.prior])
			sum := tb.scopes[Cluster].sum
			if ch, err := tb.Apply(tt.b); !errors.Is(err, tt.want) || len(ch) != 0 {
				t.Fatalf("%v, %d changes; want %v", err, len(ch), tt.want)
			}
			if tb.Stats().Refused[tt.want.Error()] != 1 {
				t.Error("not counted")
			}
			if tb.scopes[Cluster].sum != sum {
				t.Error("and yet it changed something")
			}
			if got := apply(t, tb, blocks[tt.prior:]); got == "" {
				t.Error("the honest blocks are not taken any more")
			}
		})
	}
	for n := range blocks[0].Bytes() {
		if _, err := ParseBlock(blocks[0].Bytes()[:n]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestPutLimits(t *testing.T) {
	a := newTables(t, 1)
	for _, err := range []error{
		a.Put(Cluster, "", nil), a.Put(Cluster, strings.Repeat("k", MaxKey+1), nil), a.Put(Cluster, "\xff", nil),
		a.Put(Cluster, "k", make([]byte, MaxValue+1)), a.Put(5, "k", nil),
	} {
		if err == nil {
			t.Error("accepted")
		}
	}
	put(t, a, Cluster, strings.Repeat("k", MaxKey), strings.Repeat("v", MaxValue))
	b := newTables(t, 2)
	apply(t, b, commit(a))
	for i := 1; i < MaxEntries; i++ {
		put(t, a, Cluster, fmt.Sprint(i), "")
		if i%1000 == 0 {
			apply(t, b, commit(a))
		}
	}
	if err := a.Put(Cluster, "one more", nil); !errors.Is(err, ErrFull) {
		t.Errorf("entries: %v", err)
	}
	put(t, a, Cluster, "1", "an old key still changes")
	apply(t, b, commit(a))
	if a.scopes[Cluster].sum != b.scopes[Cluster].sum {
		t.Error("not equal")
	}
	c := newTables(t, 3)
	for i := range MaxLive/MaxValue - 1 {
		put(t, c, Cluster, fmt.Sprint(i), strings.Repeat("v", MaxValue))
	}
	if err := c.Put(Cluster, "one more", make([]byte, MaxValue)); !errors.Is(err, ErrFull) {
		t.Errorf("bytes: %v", err)
	}
	apply(t, b, commit(c))
	for s := range Scope(MaxScopes + 1) {
		if err := c.Hold(s); (err != nil) != (s >= MaxScopes) {
			t.Fatalf("hold %d: %v", s, err)
		}
	}
}

// TestReaderLimits checks that a writer that ignores the limits cannot fill a reader.
func TestReaderLimits(t *testing.T) {
	b := New(Config{Keys: testKeys(t, 2), Cluster: testCluster, MaxTotal: 100_000})
	k := testKeys(t, 1)
	var prev blockHash
	var err error
	for i := uint64(1); err == nil && i < 100; i++ {
		bl := sealBlock(k.Sign, testCluster, Cluster, i, 0, prev, []Entry{{Key: fmt.Sprint(i), Value: make([]byte, MaxValue)}})
		prev = bl.hash()
		_, err = b.Apply(bl)
	}
	if !errors.Is(err, ErrFull) || b.Stats().Bytes > 100_000 {
		t.Errorf("%d bytes, %v", b.Stats().Bytes, err)
	}
	c := newTables(t, 2)
	for i := 3; i < MaxWriters+10; i++ {
		_, err = c.Apply(sealBlock(testKeys(t, i).Sign, testCluster, Cluster, 1, 0, blockHash{}, []Entry{{Key: "k", Gone: true}}))
	}
	if !errors.Is(err, ErrFull) || len(c.scopes[Cluster].tables) != MaxWriters {
		t.Errorf("%d writers, %v", len(c.scopes[Cluster].tables), err)
	}
}

// TestCleaning makes 100,000 updates of a table of which most never changes, and follows it with two readers: one that
// hears everything must see no live entry flap, one that sleeps must catch up over the floor.
func TestCleaning(t *testing.T) {
	a, live, late := newTables(t, 1), newTables(t, 2), newTables(t, 3)
	r := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	for i := range 200 {
		k := fmt.Sprintf("static/%d", i)
		want[k] = strings.Repeat("s", 40)
		put(t, a, Cluster, k, want[k])
	}
	apply(t, live, commit(a))
	catchUp := func() {
		proof, rest := live.table(a.Self(), Cluster).missing(late.Version(a.Self(), Cluster))
		if proof != nil {
			if _, err := late.Apply(*proof); err != nil && !errors.Is(err, ErrGap) {
				t.Fatal(err)
			}
		}
		apply(t, late, rest)
		if late.scopes[Cluster].sum != live.scopes[Cluster].sum {
			t.Fatal("the late reader differs")
		}
		checkTable(t, late, a.Self(), want)
	}
	peak := 0
	for n := 0; n < 100_000; {
		changed := map[string]bool{}
		for range 100 {
			k := fmt.Sprintf("busy/%d", r.IntN(60))
			changed[k] = true
			if r.IntN(4) == 0 {
				delete(want, k)
				_ = a.Delete(Cluster, k)
			} else {
				want[k] = fmt.Sprint(n)
				put(t, a, Cluster, k, want[k])
			}
			n++
		}
		put(t, a, Cluster, "static/7", want["static/7"]) // no change, and yet it must survive the cleaning
		for _, b := range commit(a) {
			changes, err := live.Apply(b)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range changes {
				if !changed[c.Key] {
					t.Fatalf("update %d: %q flaps: %+v", n, c.Key, c)
				}
			}
		}
		own := a.table(a.Self(), Cluster)
		peak = max(peak, own.held)
		if limit := cleanFactor*own.live + cleanSlack + 8<<10; own.held > limit {
			t.Fatalf("update %d: %d bytes of blocks for %d live, limit %d", n, own.held, own.live, limit)
		}
		if live.total != a.total {
			t.Fatalf("the reader holds %d bytes, the writer %d", live.total, a.total)
		}
		if n%30_000 == 0 {
			catchUp()
		}
	}
	checkTable(t, live, a.Self(), want)
	catchUp()
	t.Logf("100,000 updates, %d live bytes: at most %d bytes of blocks", a.table(a.Self(), Cluster).live, peak)

	// What is on disk starts at the floor too.
	back := newTables(t, 1)
	if err := back.Import(a.ExportOwn()); err != nil {
		t.Fatal(err)
	}
	checkTable(t, back, a.Self(), want)
	if err := back.Import(live.ExportOthers()); err != nil || back.Pending() {
		t.Errorf("the same again from a cache: %v, pending %v", err, back.Pending())
	}
	put(t, back, Cluster, "after", "restart")
	if got := apply(t, live, commit(back)); got != "after=restart" {
		t.Errorf("after a restart %q", got)
	}
}

func checkTable(t *testing.T, tb *Tables, writer ident.HostID, want map[string]string) {
	t.Helper()
	n := 0
	for it := range tb.All(Cluster, "") {
		if it.Writer != writer {
			continue
		}
		if n++; want[it.Key] != string(it.Value) {
			t.Fatalf("%s is %q, want %q", it.Key, it.Value, want[it.Key])
		}
	}
	if n != len(want) {
		t.Fatalf("%d entries, want %d", n, len(want))
	}
	tab := tb.table(writer, Cluster)
	live := 0
	for k, e := range tab.entries {
		live += entrySize(k, e.value)
	}
	held := 0
	for _, b := range tab.blocks {
		held += len(b.raw)
	}
	if live != tab.live || held != tab.held {
		t.Fatalf("sizes are off: live %d of %d, held %d of %d", tab.live, live, tab.held, held)
	}
}

func TestImportDamaged(t *testing.T) {
	a := newTables(t, 1)
	put(t, a, Cluster, "k", "v")
	commit(a)
	good := a.ExportOwn()
	for n := range good {
		if err := newTables(t, 2).Import(bytes.Clone(good[:n])); n != 1 && !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	if err := newTables(t, 2).Import(bad); !errors.Is(err, ErrForged) {
		t.Error(err)
	}
}

func FuzzBlock(f *testing.F) {
	k := testKeys(f, 1)
	f.Add(sealBlock(k.Sign, testCluster, 3, 1, 0, blockHash{}, []Entry{{Key: "k", Value: []byte("v")}, {Key: "x", Gone: true}}).raw)
	f.Add([]byte{})
	tb := newTables(f, 2)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := ParseBlock(raw)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		n := uint64(0)
		for e := range b.Entries() {
			if e.Version != b.From+n || len(e.Key) > MaxKey || len(e.Value) > MaxValue {
				t.Fatalf("entry %+v of block %d-%d", e, b.From, b.To)
			}
			n++
		}
		if n != b.To-b.From+1 {
			t.Fatalf("%d entries, versions %d-%d", n, b.From, b.To)
		}
		_, _ = tb.Apply(b) // must not panic; nobody signed it
	})
}

func FuzzInput(f *testing.F) {
	s := newSim(f, 2, 1)
	a, b := s.nodes[0], s.nodes[1]
	f.Add((&digest{answer: true, held: []scopeSum{{0, 1}}, mine: []scopeVersion{{4, 1}}, yours: []scopeVersion{{5, 9}}}).encode())
	f.Add((&vector{answer: true, positions: []Position{{Writer: a.id, Version: 4, Head: [8]byte{1}}, {Writer: b.id, Version: 9}}}).encode())
	f.Add((&request{id: 1, limit: 5, lacks: []lack{{tableID{a.id, 0}, 0}}}).encode())
	bl := sealBlock(b.keys.Sign, s.cluster, 0, 1, 0, blockHash{}, []Entry{{Key: "k", Value: []byte("v")}})
	f.Add(appendBlock(newAnswer(0, 3), &bl))
	f.Add(appendBlock(newAnswer(blocksEvidence, 0), &bl))
	s.put(a, Cluster, "a", "b")
	commit(a.tables)
	f.Fuzz(func(t *testing.T, msg []byte) {
		a.sync.PeerUp(s.now, b.id)
		out, _, _ := a.sync.Input(s.now, b.id, msg)
		for _, m := range append(out, a.sync.Tick(s.now)...) {
			if len(m.Msg) > MaxMessage || m.To != b.id {
				t.Fatalf("%d bytes to %s", len(m.Msg), m.To)
			}
		}
		if len(a.sync.wants) > maxWants {
			t.Fatal("wants are not bounded")
		}
		a.sync.PeerDown(b.id)
		if len(a.sync.wants) != 0 {
			t.Fatal("a want without a source")
		}
	})
}

func FuzzImport(f *testing.F) {
	a := newTables(f, 1)
	put(f, a, Cluster, "k", "v")
	commit(a)
	f.Add(a.ExportOwn())
	f.Add([]byte{exportFormat, 0, 0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) { _ = newTables(t, 2).Import(b) })
}

func BenchmarkApply(b *testing.B) {
	a := newTables(b, 1)
	var blocks []Block
	for i := range 1000 {
		put(b, a, Cluster, fmt.Sprintf("member/%d", i%100), fmt.Sprint("239.1.2.3 ", i))
		blocks = append(blocks, commit(a)...)
	}
	b.ReportAllocs()
	var tb *Tables
	for i := 0; b.Loop(); i++ {
		if i%len(blocks) == 0 {
			tb = newTables(b, 2)
		}
		if _, err := tb.Apply(blocks[i%len(blocks)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	a := newTables(b, 1)
	for i := range 500 {
		put(b, a, Cluster, fmt.Sprintf("static/%d", i), "10.32.0.1 02:00:00:00:00:01")
	}
	commit(a)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		put(b, a, Cluster, "member/1", fmt.Sprint(i))
		if len(commit(a)) == 0 {
			b.Fatal("nothing")
		}
	}
}

// BenchmarkRepeat is what most received blocks are in a busy cluster: known already.
func BenchmarkRepeat(b *testing.B) {
	a, c := newTables(b, 1), newTables(b, 2)
	put(b, a, Cluster, "k", "v")
	blocks := commit(a)
	apply(b, c, blocks)
	if n := testing.AllocsPerRun(100, func() { _, _ = c.Apply(blocks[0]) }); n != 0 {
		b.Fatalf("%v allocations", n)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Apply(blocks[0]); err != nil {
			b.Fatal(err)
		}
	}
}

// TestCommitNotSaved: what could not be put on disk has not happened, whatever the commit was about.
func TestCommitNotSaved(t *testing.T) {
	full := errors.New("disk full")
	for name, stage := range map[string]func(t *testing.T, a *Tables){
		"first in a scope": func(t *testing.T, a *Tables) { _ = a.Hold(7); put(t, a, 7, "x", "1") },
		"another":          func(t *testing.T, a *Tables) { put(t, a, Cluster, "x", "2") },
		"withdrawn":        func(_ *testing.T, a *Tables) { a.Release(5) },
		"over a cleaned log": func(t *testing.T, a *Tables) {
			for i := range 4000 {
				put(t, a, Cluster, "x", fmt.Sprint(i))
				commit(a)
			}
			put(t, a, Cluster, "x", "last")
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newTables(t, 1), newTables(t, 2)
			_, _, _ = a.Hold(5), b.Hold(5), b.Hold(7)
			put(t, a, Cluster, "x", "1")
			put(t, a, 5, "y", "1")
			first := commit(a)
			stage(t, a)
			before, sums, size := a.ExportOwn(), [3]uint64{a.scopes[Cluster].sum, a.scopes[5].sum}, a.total
			if blocks, err := a.Commit(func([]byte) error { return full }); !errors.Is(err, full) || blocks != nil {
				t.Fatalf("%d blocks, %v", len(blocks), err)
			}
			if after := [3]uint64{a.scopes[Cluster].sum, a.scopes[5].sum}; !bytes.Equal(before, a.ExportOwn()) || after != sums || a.total != size {
				t.Errorf("not as before: %d bytes, were %d; sums %v, were %v", a.total, size, after, sums)
			}
			if name != "over a cleaned log" {
				apply(t, b, first)
			} else if err := b.Import(before); err != nil {
				t.Fatal(err)
			}
			put(t, a, Cluster, "z", "3")
			if got := apply(t, b, commit(a)); !strings.Contains(got, "z=3") || strings.Contains(got, "x=") || strings.Contains(got, "-y") != (name == "withdrawn") {
				t.Errorf("changes %q", got)
			}
		})
	}
}
