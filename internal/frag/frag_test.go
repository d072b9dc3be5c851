package frag

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/wire"
)

var epoch = time.Unix(1_800_000_000, 0)

// plaintext makes n random bytes that begin with a kind.
func plaintext(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	b[0] = wire.KindState
	return b
}

func cut(t testing.TB, p []byte, room int, id uint32) [][]byte {
	t.Helper()
	count, each, err := Plan(len(p), room)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for i := range count {
		b := make([]byte, Header, room)
		PutHeader(b, id, i, count)
		b = append(b, p[i*each:min(len(p), (i+1)*each)]...)
		if len(b) > room {
			t.Fatalf("part %d of %d: %d bytes, room for %d", i, count, len(b), room)
		}
		out = append(out, b)
	}
	return out
}

func TestPlan(t *testing.T) {
	for room := Header + 1; room < 2000; room += 7 {
		for _, n := range []int{1, 2, room - 1, room, room + 1, 2 * room, 1400, 9000, 65535, wire.MaxPlain, wire.MaxPlain + 1} {
			count, each, err := Plan(n, room)
			if err != nil {
				if !errors.Is(err, ErrSize) || n <= wire.MaxPlain && (n+room-Header-1)/(room-Header) <= MaxCount {
					t.Fatalf("Plan(%d, %d): %v", n, room, err)
				}
				continue
			}
			if count == 1 {
				if n > room || each != n {
					t.Fatalf("Plan(%d, %d) = 1, %d", n, room, each)
				}
				continue
			}
			last := n - (count-1)*each
			if count > MaxCount || n > wire.MaxPlain || each+Header > room || last <= 0 || last > each {
				t.Fatalf("Plan(%d, %d) = %d, %d: last %d", n, room, count, each, last)
			}
		}
	}
	for _, room := range []int{-1, 0, Header} {
		if _, _, err := Plan(100, room); !errors.Is(err, ErrSize) {
			t.Errorf("room %d: %v", room, err)
		}
	}
	if _, _, err := Plan(wire.MaxPlain, wire.MinPath-wire.RelayTotal-wire.LinkHeader-wire.Tag); err != nil {
		t.Errorf("the largest plaintext does not go over the smallest path: %v", err)
	}
}

// TestShuffleDuplicateLose: whatever the order, each plaintext of which all parts come is handed out once and
// whole, and no other one ever.
func TestShuffleDuplicateLose(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var a Assembler
	now := epoch
	for round := range 100 {
		type piece struct {
			id   uint32
			data []byte
		}
		var pieces []piece
		want, lost := map[uint32][]byte{}, map[uint32]bool{}
		for i := range 1 + r.IntN(8) {
			id := uint32(round*16 + i)
			p := plaintext(r, 1500+r.IntN(20000))
			want[id] = p
			for _, f := range cut(t, p, 150+r.IntN(1300), id) {
				if r.IntN(100) == 0 {
					lost[id] = true
					continue
				}
				for range 1 + r.IntN(5)/4 {
					pieces = append(pieces, piece{id, f})
				}
			}
		}
		r.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		got := map[uint32]int{}
		for _, p := range pieces {
			whole, ok := a.Add(now, p.data)
			if !ok {
				continue
			}
			got[p.id]++
			if !bytes.Equal(whole, want[p.id]) {
				t.Fatalf("round %d: plaintext %d differs", round, p.id)
			}
		}
		for id := range want {
			if n := got[id]; n != 1 && !lost[id] || n != 0 && lost[id] {
				t.Fatalf("round %d: plaintext %d handed out %d times, lost parts: %v", round, id, n, lost[id])
			}
		}
		now = now.Add(MaxAge + time.Second)
	}
	c := a.Counters()
	if c.Malformed+c.Lie+c.Large+c.Crowded != 0 || c.Whole == 0 || c.Old == 0 || c.Duplicate == 0 || c.Late == 0 {
		t.Errorf("%+v", c)
	}
	a.Tick(now.Add(time.Hour))
	if n, b := a.Unfinished(); n != 0 || b != 0 {
		t.Errorf("%d unfinished, %d bytes", n, b)
	}
}

func TestLies(t *testing.T) {
	part := func(index, count, n int) []byte {
		b := make([]byte, Header+n)
		PutHeader(b, 7, index, count)
		return b
	}
	for _, c := range []struct {
		name string
		in   [][]byte
		want Counters
	}{
		{"empty", [][]byte{nil}, Counters{Malformed: 1}},
		{"header only", [][]byte{part(0, 2, 0)}, Counters{Malformed: 1}},
		{"other kind", [][]byte{{wire.KindFrame, 0, 0, 0, 7, 0, 2, 1}}, Counters{Malformed: 1}},
		{"no count", [][]byte{part(0, 0, 9)}, Counters{Malformed: 1}},
		{"one of one", [][]byte{part(0, 1, 9)}, Counters{Malformed: 1}},
		{"index beyond", [][]byte{part(2, 2, 9)}, Counters{Malformed: 1}},
		{"count changes", [][]byte{part(0, 3, 9), part(1, 4, 9)}, Counters{Lie: 1}},
		{"length changes", [][]byte{part(0, 3, 9), part(1, 3, 8)}, Counters{Lie: 1}},
		{"last is longer", [][]byte{part(0, 3, 9), part(2, 3, 10)}, Counters{Lie: 1}},
		{"last was longer", [][]byte{part(2, 3, 10), part(0, 3, 9)}, Counters{Lie: 1}},
		{"too large", [][]byte{part(0, 255, 300)}, Counters{Large: 1}},
		{"too large, last first", [][]byte{part(254, 255, 300)}, Counters{Large: 1}},
		{"too large by one", [][]byte{part(0, 3, wire.MaxPlain/2), part(1, 3, wire.MaxPlain/2)}, Counters{Large: 2}},
		{"too large in the end", [][]byte{part(2, 3, 100), part(0, 3, wire.MaxPlain/2-10)}, Counters{Lie: 1}},
		{"a fragment inside", [][]byte{append(part(0, 2, 0), wire.KindFragment, 1), part(1, 2, 1)}, Counters{Malformed: 1}},
	} {
		var a Assembler
		for _, p := range c.in {
			if whole, ok := a.Add(epoch, p); ok {
				t.Errorf("%s: %d bytes handed out", c.name, len(whole))
			}
		}
		if got := a.Counters(); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestBounds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var a Assembler
	check := func() {
		t.Helper()
		sum := 0
		for i := range a.slots {
			sum += cap(a.slots[i].buf)
		}
		if n, b := a.Unfinished(); n > MaxUnfinished || b > MaxBytes || b != sum {
			t.Fatalf("%d unfinished, %d bytes said, %d held", n, b, sum)
		}
	}
	for i := range 3 * MaxUnfinished { // small ones: the number is the bound
		a.Add(epoch.Add(time.Duration(i)), cut(t, plaintext(r, 2000), 1200, uint32(i))[0])
		check()
	}
	if n, _ := a.Unfinished(); n != MaxUnfinished || a.Counters().Crowded != 2*MaxUnfinished {
		t.Errorf("%d unfinished, %+v", n, a.Counters())
	}
	for i := range 100 { // large ones: the bytes are
		id := uint32(1000 + i)
		parts := cut(t, plaintext(r, wire.MaxPlain-i), 1200, id)
		a.Add(epoch.Add(time.Millisecond+time.Duration(i)), parts[len(parts)-1-i%2])
		a.Add(epoch.Add(time.Millisecond+time.Duration(i)), parts[i%3])
		check()
	}
	if n, _ := a.Unfinished(); n != MaxBytes/wire.MaxPlain {
		t.Errorf("%d of the largest are held, want %d", n, MaxBytes/wire.MaxPlain)
	}
	// The newest survives: the oldest made room.
	p := plaintext(r, wire.MaxPlain)
	var whole []byte
	for _, f := range cut(t, p, 1200, 5000) {
		whole, _ = a.Add(epoch.Add(time.Second), f)
		check()
	}
	if !bytes.Equal(whole, p) {
		t.Error("a plaintext among many unfinished ones is lost")
	}
	a.Tick(epoch.Add(time.Hour))
	if n, b := a.Unfinished(); n != 0 || b != 0 {
		t.Errorf("%d unfinished, %d bytes after an hour", n, b)
	}
}

func TestNoAllocation(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var a Assembler
	parts := cut(t, plaintext(r, 9000), 1200, 0)
	id := uint32(0)
	run := func() {
		id++
		count, _, _ := Plan(9000, 1200)
		ok := false
		for i := range parts {
			i = len(parts) - 1 - i // the last first: the dearer way
			PutHeader(parts[i], id, i, count)
			_, ok = a.Add(epoch, parts[i])
		}
		if !ok {
			t.Fatal("not joined")
		}
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzAssembler(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 8))
	var seed []byte
	for _, p := range cut(f, plaintext(r, 300), 120, 9) {
		seed = append(append(seed, byte(len(p))), p...)
	}
	f.Add(seed)
	f.Add([]byte{8, wire.KindFragment, 0, 0, 0, 1, 1, 2, 5, 8, wire.KindFragment, 0, 0, 0, 1, 0, 2, 5})
	f.Fuzz(func(t *testing.T, script []byte) {
		var a Assembler
		now := epoch
		for len(script) > 0 {
			n := min(int(script[0]), len(script)-1)
			whole, ok := a.Add(now, script[1:1+n])
			if ok && (len(whole) == 0 || len(whole) > wire.MaxPlain) {
				t.Fatalf("%d bytes handed out", len(whole))
			}
			script = script[1+n:]
			now = now.Add(10 * time.Millisecond)
			if n, b := a.Unfinished(); n < 0 || n > MaxUnfinished || b < 0 || b > MaxBytes {
				t.Fatalf("%d unfinished, %d bytes", n, b)
			}
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 6))
	var a Assembler
	parts := cut(b, plaintext(r, 9000), 1200, 0)
	b.SetBytes(9000)
	b.ReportAllocs()
	id := uint32(0)
	for b.Loop() {
		id++
		for i := range parts {
			PutHeader(parts[i], id, i, len(parts))
			a.Add(epoch, parts[i])
		}
	}
}
