package tree

import (
	"math/rand/v2"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

func id(n int) ident.HostID { return ident.HostID{byte(n >> 8), byte(n)} }

func ids(from, to int) (out []ident.HostID) {
	for n := from; n <= to; n++ {
		out = append(out, id(n))
	}
	return out
}

func yes(ident.HostID) bool { return true }

// hearEachOther adds an island to what is heard.
func hearEachOther(h Hearing, hosts ...ident.HostID) {
	for _, a := range hosts {
		if h[a] == nil {
			h[a] = map[ident.HostID]struct{}{}
		}
		for _, b := range hosts {
			if a != b {
				h[a][b] = struct{}{}
			}
		}
	}
}

// cost is what a plan takes: the packets that leave each host for one frame, whom it serves, how deep it is.
type cost struct {
	sends  map[ident.HostID]int
	served map[ident.HostID]int
	depth  int
}

func (c *cost) all() (n int) {
	for _, k := range c.sends {
		n += k
	}
	return n
}

func (c *cost) most() (n int) {
	for _, k := range c.sends {
		n = max(n, k)
	}
	return n
}

func costOf(self ident.HostID, p *Plan) *cost {
	c := &cost{sends: map[ident.HostID]int{}, served: map[ident.HostID]int{}}
	var walk func(from ident.HostID, multicast []ident.HostID, children []*Node, depth int)
	walk = func(from ident.HostID, multicast []ident.HostID, children []*Node, depth int) {
		c.depth = max(c.depth, depth)
		if len(multicast) > 0 {
			c.sends[from]++
		}
		for _, h := range multicast {
			c.served[h]++
		}
		for _, n := range children {
			c.sends[from]++
			c.served[n.Host]++
			if n.Forwards() {
				walk(n.Host, n.Multicast, n.Children, depth+1)
			}
		}
	}
	walk(self, p.Multicast, p.Children, 1)
	return c
}

// check makes a plan and fails when it does not serve each receiver once.
func check(t *testing.T, in Input) *cost {
	t.Helper()
	p := Make(in)
	c := costOf(in.Self, &p)
	for _, r := range in.Receivers {
		if c.served[r] != 1 {
			t.Fatalf("%v is served %d times", r, c.served[r])
		}
		delete(c.served, r)
	}
	if len(c.served) > 0 {
		t.Fatalf("served without having asked: %v", c.served)
	}
	return c
}

func TestOneIslandTakesOnePacket(t *testing.T) {
	h := Hearing{}
	hearEachOther(h, ids(1, 17)...)
	c := check(t, Input{Self: id(1), Receivers: ids(2, 17), Hearing: h, Direct: yes, Forwards: yes})
	if c.all() != 1 {
		t.Errorf("%d packets", c.all())
	}
}

func TestFourIslandsTakeSeven(t *testing.T) {
	h := Hearing{}
	hearEachOther(h, ids(1, 5)...)
	hearEachOther(h, ids(6, 9)...)
	hearEachOther(h, ids(10, 13)...)
	hearEachOther(h, ids(14, 17)...)
	c := check(t, Input{Self: id(1), Receivers: ids(2, 17), Hearing: h, Direct: yes, Forwards: yes})
	if c.all() != 7 || c.sends[id(1)] != 4 {
		t.Errorf("%d packets, %d from the sender", c.all(), c.sends[id(1)])
	}
}

func TestWithoutMulticastNoneSendsMoreThanTheFanout(t *testing.T) {
	for _, n := range []int{2, 8, 9, 16, 73, 500} {
		c := check(t, Input{Self: id(1), Receivers: ids(2, n+1), Direct: yes, Forwards: yes})
		if c.all() != n || c.most() > DefaultFanout {
			t.Errorf("%d receivers: %d packets, %d from one host", n, c.all(), c.most())
		}
	}
}

func TestFewGetCopies(t *testing.T) {
	p := Make(Input{Self: id(1), Receivers: ids(2, 9), Direct: yes, Forwards: yes})
	if !p.Plain() {
		t.Errorf("%+v", p)
	}
	h := Hearing{}
	hearEachOther(h, id(1), id(2))
	if p := Make(Input{Self: id(1), Receivers: ids(2, 2), Hearing: h, Direct: yes, Forwards: yes}); !p.Plain() {
		t.Errorf("multicast for one: %+v", p)
	}
}

// TestThoseWithoutDirectPathStayWithTheSender: nobody knows whether others reach them.
func TestThoseWithoutDirectPathStayWithTheSender(t *testing.T) {
	direct := func(h ident.HostID) bool { return h[1]%3 != 0 }
	p := Make(Input{Self: id(1), Receivers: ids(2, 40), Direct: direct, Forwards: yes})
	root := map[ident.HostID]bool{}
	for _, n := range p.Children {
		root[n.Host] = true
		if n.Forwards() && !direct(n.Host) {
			t.Errorf("%v forwards", n.Host)
		}
	}
	for n := 3; n <= 40; n += 3 {
		if !root[id(n)] {
			t.Errorf("%v has no copy from the sender", id(n))
		}
	}
}

func TestPlansServeEachReceiverOnce(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := 1 + r.IntN(60)
		h := Hearing{}
		for range r.IntN(8) { // islands that overlap, and one-way hearing
			var in []ident.HostID
			for _, x := range ids(1, n+1) {
				if r.IntN(4) == 0 {
					in = append(in, x)
				}
			}
			hearEachOther(h, in...)
		}
		for range r.IntN(2 * n) {
			delete(h[id(1+r.IntN(n+1))], id(1+r.IntN(n+1)))
		}
		some := func(share int) func(ident.HostID) bool {
			off := map[ident.HostID]bool{}
			for _, x := range ids(1, n+1) {
				off[x] = r.IntN(10) >= share
			}
			return func(x ident.HostID) bool { return !off[x] }
		}
		in := Input{Self: id(1), Receivers: ids(2, n+1), Hearing: h, Direct: some(8), Forwards: some(7), Fanout: 2 + r.IntN(8)}
		c := check(t, in)
		if c.depth > maxDepth+1 {
			t.Errorf("seed %d: depth %d", seed, c.depth)
		}
		for x, k := range c.sends {
			if x != in.Self && k > in.Fanout {
				t.Errorf("seed %d: %v sends %d", seed, x, k)
			}
		}
		if !Make(in).Equal(Make(in)) {
			t.Errorf("seed %d: two plans of one input", seed)
		}
	}
}

func BenchmarkMake(b *testing.B) {
	h := Hearing{}
	for i := range 10 {
		hearEachOther(h, ids(2+100*i, 101+100*i)...)
	}
	in := Input{Self: id(1), Receivers: ids(2, 1001), Hearing: h, Direct: yes, Forwards: yes}
	for b.Loop() {
		Make(in)
	}
}
