package ring

import (
	"errors"
	"slices"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

var (
	hostA = ident.HostID{1}
	hostB = ident.HostID{2}
	hostC = ident.HostID{3}
	hostD = ident.HostID{4}
	space = Range{1000, 1999}
)

// commit takes a plan and its error, and makes it the host's book.
func commit(t *testing.T, r *Ring, b Book, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(b); err != nil {
		t.Fatal(err)
	}
}

func nobody(ident.HostID) bool { return false }

// show puts from's book before the others and settles them.
func show(t *testing.T, from *Ring, to ...*Ring) {
	t.Helper()
	for _, r := range to {
		if _, err := r.Set(from.self, *from.own()); err != nil {
			t.Fatal(err)
		}
		if b, ok := r.Settle(nil); ok {
			commit(t, r, b, nil)
		}
	}
}

func founded(t *testing.T) (a, b, c *Ring) {
	t.Helper()
	a, b, c = New(hostA, space, nobody), New(hostB, space, nobody), New(hostC, space, nobody)
	plan, err := a.Found()
	commit(t, a, plan, err)
	show(t, a, b, c)
	return a, b, c
}

func TestHandOver(t *testing.T) {
	a, b, c := founded(t)
	plan, err := a.Give(hostB, Range{1500, 1999})
	commit(t, a, plan, err)
	if got := a.Owned(hostA); !slices.Equal(got, []Range{{1000, 1499}}) {
		t.Fatalf("giver owns %v", got)
	}
	if got := a.Giving(hostB); !slices.Equal(got, []Range{{1500, 1999}}) {
		t.Fatalf("on the way: %v", got)
	}
	show(t, a, b)
	if got := b.Owned(hostB); !slices.Equal(got, []Range{{1500, 1999}}) {
		t.Fatalf("receiver owns %v", got)
	}
	// The same book again gives nothing again.
	if _, ok := b.Settle(nil); ok {
		t.Fatal("a give was taken twice")
	}
	show(t, b, a, c)
	if a.OnTheWay() != 0 || len(a.own().Gives) != 0 {
		t.Fatal("a taken give stays in the book")
	}
	if id, ok := c.Owner(1700); !ok || id != hostB {
		t.Fatalf("third host sees owner %v", id)
	}
	if id, _ := c.Owner(1200); id != hostA {
		t.Fatalf("third host sees owner %v", id)
	}
	if s := a.Shares(); len(s) != 2 || s[0].Size != 500 || s[1].Size != 500 {
		t.Fatalf("shares %v", s)
	}
}

func TestOnlyOwnerGives(t *testing.T) {
	a, b, c := founded(t)
	if _, err := b.Give(hostC, Range{1000, 1001}); !errors.Is(err, ErrNotOwned) {
		t.Fatalf("gave what it does not own: %v", err)
	}
	if _, err := b.Found(); !errors.Is(err, ErrFounded) {
		t.Fatalf("founded twice: %v", err)
	}
	// A host that lies about its range: the receiver waits, the owner names it.
	lie := Book{Serial: 1, Seq: 1, Gives: []Give{{Holding: Holding{Range: Range{1500, 1999}, Version: 9, Root: hostA}, From: hostB, Seq: 1, To: hostC}}}
	if _, err := c.Set(hostB, lie); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Settle(nil); ok {
		t.Fatal("took a range from a host that does not own it")
	}
	if c.Counts().HeldGives == 0 {
		t.Fatal("held give not counted")
	}
	if _, err := a.Set(hostB, lie); err != nil {
		t.Fatal(err)
	}
	if got := a.Conflicts(); len(got) != 1 || got[0].Other != hostC {
		t.Fatalf("conflicts %v", got)
	}
	if got := a.Owned(hostA); !slices.Equal(got, []Range{space}) {
		t.Fatalf("owner gave way to a lie: %v", got)
	}
}

// A hand-over in between is not seen yet: the receiver waits for the first giver's newer book.
func TestOutOfOrder(t *testing.T) {
	a, b, c := founded(t)
	plan, err := a.Give(hostB, Range{1500, 1999})
	commit(t, a, plan, err)
	show(t, a, b)
	plan, err = b.Give(hostC, Range{1800, 1999})
	commit(t, b, plan, err)
	show(t, b, c)
	if got := c.Owned(hostC); len(got) != 0 {
		t.Fatalf("took %v although the founder still seems to own it", got)
	}
	show(t, a, c)
	if got := c.Owned(hostC); !slices.Equal(got, []Range{{1800, 1999}}) {
		t.Fatalf("after all books: %v", got)
	}
	if changed, err := c.Set(hostA, Book{Serial: 1, Owned: []Holding{{Range: space, Version: 1, Root: hostA}}}); changed || err != nil {
		t.Fatalf("an old book replaced a newer: %v %v", changed, err)
	}
}

func TestTakeOver(t *testing.T) {
	a, b, c := founded(t)
	plan, err := a.Give(hostB, Range{1500, 1999})
	commit(t, a, plan, err)
	show(t, a, b, c)
	show(t, b, a, c)
	// B gives to A and to C, C has not seen it; A gives to B, which B never sees. Then B is gone.
	plan, err = b.Give(hostC, Range{1900, 1999})
	commit(t, b, plan, err)
	plan, err = a.Give(hostB, Range{1000, 1000})
	commit(t, a, plan, err)
	show(t, b, a)
	a.removed = func(id ident.HostID) bool { return id == hostB }
	plan, err = a.TakeOver(hostB)
	commit(t, a, plan, err)
	if _, err := a.TakeOver(hostB); !errors.Is(err, ErrInherited) {
		t.Fatalf("took over twice: %v", err)
	}
	if plan, ok := a.Settle(nil); ok {
		commit(t, a, plan, nil)
	}
	if got := a.Owned(hostA); !slices.Equal(got, []Range{{1000, 1000}, {1001, 1499}, {1500, 1899}}) {
		t.Fatalf("heir owns %v", got)
	}
	c.removed = a.removed
	show(t, a, c)
	if got := c.Owned(hostC); !slices.Equal(got, []Range{{1900, 1999}}) {
		t.Fatalf("the give of the host gone: %v", got)
	}
	show(t, c, a)
	if id, _ := c.Owner(1600); id != hostA {
		t.Fatalf("owner after succession: %v", id)
	}
}

// The heir did not know of a last give of the host gone: it yields what it does not use.
func TestHeirYields(t *testing.T) {
	a, b, c := founded(t)
	plan, err := a.Give(hostB, Range{1500, 1999})
	commit(t, a, plan, err)
	show(t, a, b, c)
	show(t, b, a)
	plan, err = b.Give(hostC, Range{1900, 1999})
	commit(t, b, plan, err)
	show(t, b, c) // C has it, A does not know
	a.removed = func(id ident.HostID) bool { return id == hostB }
	plan, err = a.TakeOver(hostB)
	commit(t, a, plan, err)
	if _, err := a.Set(hostC, *c.own()); err != nil {
		t.Fatal(err)
	}
	plan, ok := a.Settle([]uint32{1950})
	if !ok {
		t.Fatal("heir does not yield")
	}
	commit(t, a, plan, nil)
	if got := a.Owned(hostA); !slices.Equal(got, []Range{{1000, 1499}, {1500, 1899}, {1950, 1950}}) {
		t.Fatalf("heir keeps %v", got)
	}
	if got := a.Conflicts(); len(got) != 1 || got[0] != (Conflict{Range{1950, 1950}, hostC}) {
		t.Fatalf("conflicts %v", got)
	}
	if a.Counts().Yielded != 99 {
		t.Fatalf("yielded %d", a.Counts().Yielded)
	}
	c.removed = a.removed
	if _, err := c.Set(hostA, *a.own()); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Settle(nil); ok {
		t.Fatal("the host with the better right changed something")
	}
}

// Two hosts that could not see each other founded one space: the lower root holds.
func TestFoundedTwice(t *testing.T) {
	a, b := New(hostA, space, nobody), New(hostB, space, nobody)
	plan, err := a.Found()
	commit(t, a, plan, err)
	plan, err = b.Found()
	commit(t, b, plan, err)
	if _, err := b.Set(hostA, *a.own()); err != nil {
		t.Fatal(err)
	}
	plan, _ = b.Settle([]uint32{1002})
	commit(t, b, plan, nil)
	if got := b.Owned(hostB); !slices.Equal(got, []Range{{1002, 1002}}) {
		t.Fatalf("second founder keeps %v", got)
	}
	show(t, b, a)
	if got := a.Owned(hostA); !slices.Equal(got, []Range{space}) {
		t.Fatalf("first founder keeps %v", got)
	}
}

// The disk of a host is put back to before it gave a part away: it gives way to whoever has it now.
func TestOlderDisk(t *testing.T) {
	a, b, c := founded(t)
	old := *a.own()
	plan, err := a.Give(hostB, Range{1500, 1999})
	commit(t, a, plan, err)
	show(t, a, b)
	show(t, b, c)
	again := New(hostA, space, nobody)
	if _, err := again.Set(hostA, old); err != nil {
		t.Fatal(err)
	}
	show(t, b, again)
	if got := again.Owned(hostA); !slices.Equal(got, []Range{{1000, 1499}}) {
		t.Fatalf("owns %v beside the new owner", got)
	}
	if !again.own().Lapsed || again.own().Seq != 1 {
		t.Fatalf("its book does not say that it lost a part: %+v", again.own())
	}
	// What it gives now has a number that nobody took before.
	plan, err = again.Give(hostC, Range{1000, 1009})
	commit(t, again, plan, err)
	if g := again.own().Gives; len(g) != 1 || g[0].Seq != 2 {
		t.Fatalf("gives %+v", g)
	}
}

// It wrote on from the older disk under the numbers that were used, so that no cursor tells: told that its table has two
// histories, it gives way to what is on its way, too.
func TestLapse(t *testing.T) {
	a, b, c := founded(t)
	old := *a.own()
	plan, err := a.Give(hostB, Range{1500, 1999})
	commit(t, a, plan, err)
	show(t, a, b)
	plan, err = b.Give(hostC, Range{1500, 1999})
	commit(t, b, plan, err)
	again := New(hostA, space, nobody)
	if _, err := again.Set(hostA, old); err != nil {
		t.Fatal(err)
	}
	plan, err = again.Give(hostD, Range{1000, 1009})
	commit(t, again, plan, err)
	show(t, b, again)
	if got := again.Owned(hostA); !slices.Equal(got, []Range{{1010, 1999}}) {
		t.Fatalf("owns %v: a give alone is no reason to give way", got)
	}
	again.Lapse()
	plan, ok := again.Settle(nil)
	if !ok {
		t.Fatal("nothing follows from a lapse")
	}
	commit(t, again, plan, nil)
	if got := again.Owned(hostA); !slices.Equal(got, []Range{{1010, 1499}}) {
		t.Fatalf("owns %v", got)
	}
	show(t, again, c)
	show(t, b, c)
	if got := c.Owned(hostC); !slices.Equal(got, []Range{{1500, 1999}}) {
		t.Fatalf("the give is taken as %v", got)
	}
}

// An heir that knows of a hand-over by the receiver's book only does not take that part.
func TestHeirLeavesLaterClaims(t *testing.T) {
	a, b, c := founded(t)
	plan, err := a.Give(hostB, Range{1500, 1999})
	commit(t, a, plan, err)
	show(t, a, b, c)
	show(t, b, a, c)
	plan, err = b.Give(hostC, Range{1900, 1999})
	commit(t, b, plan, err)
	show(t, b, c)
	if _, err := a.Set(hostC, *c.own()); err != nil {
		t.Fatal(err)
	}
	a.removed = func(id ident.HostID) bool { return id == hostB }
	plan, err = a.TakeOver(hostB)
	commit(t, a, plan, err)
	if got := a.Owned(hostA); !slices.Equal(got, []Range{{1000, 1499}, {1500, 1899}}) {
		t.Fatalf("heir owns %v", got)
	}
}

// Others still know what it said since: it goes on from that, with what it took and what is on its way.
func TestRecall(t *testing.T) {
	a, b, c := founded(t)
	plan, err := a.Give(hostB, Range{1500, 1999})
	commit(t, a, plan, err)
	show(t, a, b, c)
	show(t, b, a, c)
	old := *b.own()
	plan, err = a.Give(hostB, Range{1400, 1499})
	commit(t, a, plan, err)
	show(t, a, b)
	show(t, b, a) // taken, and the give is gone
	plan, err = b.Give(hostC, Range{1990, 1999})
	commit(t, b, plan, err)
	lost := *b.own()
	again := New(hostB, space, nobody)
	for id, book := range map[ident.HostID]Book{hostB: old, hostA: *a.own()} {
		if _, err := again.Set(id, book); err != nil {
			t.Fatal(err)
		}
	}
	plan, err = again.Give(hostA, Range{1500, 1509}) // it writes on before it hears of what it lost
	commit(t, again, plan, err)
	if ok, err := again.Recall(lost); !ok || err != nil {
		t.Fatalf("recall: %v %v", ok, err)
	}
	plan, ok := again.Settle(nil)
	if !ok {
		t.Fatal("nothing follows from a later book")
	}
	commit(t, again, plan, nil)
	if got := again.Owned(hostB); !slices.Equal(got, []Range{{1400, 1499}, {1510, 1989}}) {
		t.Fatalf("owns %v", got)
	}
	if got := again.Giving(hostC); !slices.Equal(got, []Range{{1990, 1999}}) {
		t.Fatalf("on the way to C: %v", got)
	}
	if again.Serial(hostB) <= lost.Serial || again.own().Gives[0].Seq == again.own().Gives[1].Seq {
		t.Fatalf("book %+v after %+v", again.own(), lost)
	}
	if ok, _ := again.Recall(lost); ok {
		t.Fatal("the same book once more")
	}
}

func TestRefusedBooks(t *testing.T) {
	h := func(first, last uint32) Holding { return Holding{Range: Range{first, last}, Version: 1, Root: hostA} }
	for name, b := range map[string]Book{
		"no serial":        {},
		"outside":          {Serial: 1, Owned: []Holding{h(0, 5)}},
		"backwards":        {Serial: 1, Owned: []Holding{h(1100, 1000)}},
		"overlap":          {Serial: 1, Owned: []Holding{h(1000, 1100), h(1100, 1200)}},
		"order":            {Serial: 1, Owned: []Holding{h(1200, 1300), h(1000, 1100)}},
		"count":            {Serial: 1, Gives: []Give{{h(1050, 1060), hostB, 1, hostC}}},
		"twice":            {Serial: 1, Seq: 1, Gives: []Give{{h(1050, 1060), hostB, 1, hostC}, {h(1070, 1080), hostB, 1, hostC}}},
		"for others":       {Serial: 1, Seq: 1, Gives: []Give{{h(1050, 1060), hostD, 1, hostC}}},
		"takes for others": {Serial: 1, Cursors: []Cursor{{hostD, hostA, 1}}},
		"own heir":         {Serial: 1, Estates: []Estate{{Host: hostB}}},
		"large":            {Serial: 1, Owned: make([]Holding, MaxOwned+1)},
	} {
		r := New(hostA, space, nobody)
		if _, err := r.Set(hostB, b); !errors.Is(err, ErrBook) {
			t.Errorf("%s: %v", name, err)
		}
		if r.Counts().RefusedBooks != 1 {
			t.Errorf("%s: not counted", name)
		}
	}
}

func TestPool(t *testing.T) {
	p := NewPool(1000, 1001, 1999)
	owned := []Range{{1000, 1004}, {1010, 1010}}
	var got []uint32
	for _, k := range []string{"a", "b", "c", "d"} {
		a, ok := p.Alloc(k, owned)
		if !ok {
			t.Fatal(k)
		}
		got = append(got, a)
	}
	if !slices.Equal(got, []uint32{1002, 1003, 1004, 1010}) {
		t.Fatalf("given %v", got)
	}
	if _, ok := p.Alloc("e", owned); ok {
		t.Fatal("gave an address of a full range")
	}
	if a, ok := p.Alloc("b", owned); !ok || a != 1003 {
		t.Fatal("a key changed its address")
	}
	p.Free("a")
	p.Free("d")
	p.next = 1010
	if a, _ := p.Alloc("f", owned); a != 1010 {
		t.Fatalf("reused %d at once", a)
	}
	if err := p.AllocAt("g", 1003, owned); err == nil {
		t.Fatal("address given twice")
	}
	if err := p.AllocAt("g", 1999, owned); err == nil {
		t.Fatal("reserved address given")
	}
	if err := p.AllocAt("g", 1500, owned); !errors.Is(err, ErrNotOwned) {
		t.Fatalf("address of another owner: %v", err)
	}
	if !p.Restore("g", 1500) || p.Restore("h", 1500) {
		t.Fatal("restore")
	}
	if got := p.Runs(owned); !slices.Equal(got, []Range{{1002, 1002}}) {
		t.Fatalf("runs %v", got)
	}
}

func TestSpare(t *testing.T) {
	p := NewPool()
	all := []Range{{0, 99}, {200, 4095}}
	p.Restore("x", 2000)
	for _, c := range []struct {
		owned []Range
		most  uint64
		want  Range
		ok    bool
	}{
		{all, 1000, Range{3096, 4095}, true},
		{all, 1 << 32, Range{2001, 4095}, true}, // around an address in use
		{[]Range{{7, 7}}, 1, Range{7, 7}, true},
		{[]Range{{0, ^uint32(0)}}, 1 << 31, Range{1 << 31, ^uint32(0)}, true},
		{all, 0, Range{}, false},
		{nil, 1, Range{}, false},
		{[]Range{{2000, 2000}}, 1, Range{}, false},
	} {
		if got, ok := p.Spare(c.owned, c.most); got != c.want || ok != c.ok {
			t.Errorf("at most %d of %v: %v %v, want %v", c.most, c.owned, got, ok, c.want)
		}
	}
}
