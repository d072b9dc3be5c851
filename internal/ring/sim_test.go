package ring

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

// The simulator runs histories: hosts ask, give, allocate, free, are killed and restarted with what
// they persisted (their own book) and nothing else, are removed; links are cut; books arrive late,
// twice, out of order or never. After every step no address may have two owners among the hosts
// that live, and none may be in use twice. WEFT_LONG=N runs N histories instead of 2,000.
func TestHistories(t *testing.T) {
	n := histories(2000)
	var total simCounts
	for seed := 1; seed <= n; seed++ {
		s := newSim(uint64(seed), false)
		if err := s.run(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total.add(s.n)
	}
	t.Logf("%+v", total)
	// A simulator in which nothing happens proves nothing.
	if total.Gives < n || total.Restarts < n/2 || total.Removals < n/8 || total.Allocs < 10*n || total.Lost < n {
		t.Errorf("too little happened: %+v", total)
	}
}

// Histories in which hosts are removed by force, by hosts that do not know their last gives, and by
// two at once: duplicates can arise, but when all have heard of all, no free address has two owners.
func TestHistoriesByForce(t *testing.T) {
	var total simCounts
	n := histories(500)
	for seed := 1; seed <= n; seed++ {
		s := newSim(uint64(seed), true)
		if err := s.run(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total.add(s.n)
	}
	t.Logf("%+v", total)
	if total.Removals < n || total.Yielded == 0 {
		t.Errorf("too little happened: %+v", total)
	}
}

func histories(n int) int {
	if v, err := strconv.Atoi(os.Getenv("WEFT_LONG")); err == nil {
		return v
	}
	return n
}

type simCounts struct{ Gives, Takes, Restarts, Removals, Allocs, Lost, Yielded int }

func (c *simCounts) add(o simCounts) {
	c.Gives += o.Gives
	c.Takes += o.Takes
	c.Restarts += o.Restarts
	c.Removals += o.Removals
	c.Allocs += o.Allocs
	c.Lost += o.Lost
	c.Yielded += o.Yielded
}

// simHost is a host: what is in memory, and disk, which outlives a kill.
type simHost struct {
	id   ident.HostID
	ring *Ring
	pool *Pool
	up   bool
	gone bool // removed for good
	disk struct {
		book Book
		keys map[string]uint32
	}
	removed map[ident.HostID]bool // heard of
}

type letter struct {
	to   int
	from ident.HostID
	book Book
}

type sim struct {
	rnd   *rand.Rand
	force bool
	space Range
	hosts []*simHost
	cut   map[[2]int]bool
	air   []letter
	n     simCounts
	keys  int
}

func newSim(seed uint64, force bool) *sim {
	s := &sim{rnd: rand.New(rand.NewPCG(seed, 1)), force: force, space: Range{0, 63}, cut: map[[2]int]bool{}}
	for i := range 3 + s.rnd.IntN(4) {
		h := &simHost{id: ident.HostID{byte(1 + i)}}
		h.removed = map[ident.HostID]bool{}
		h.disk.keys = map[string]uint32{}
		s.hosts = append(s.hosts, h)
		s.start(i)
	}
	b, err := s.hosts[0].ring.Found()
	if err == nil {
		err = s.commit(s.hosts[0], b)
	}
	if err != nil {
		panic(err)
	}
	return s
}

func (s *sim) start(i int) {
	h := s.hosts[i]
	h.up = true
	h.ring, h.pool = New(h.id, s.space, func(id ident.HostID) bool { return h.removed[id] }), NewPool()
	if h.disk.book.Serial > 0 {
		if _, err := h.ring.Set(h.id, h.disk.book); err != nil {
			panic(err)
		}
	}
	for k, a := range h.disk.keys {
		h.pool.Restore(k, a)
	}
}

// commit persists a book; one time in twenty the host is killed right after, before it acts.
func (s *sim) commit(h *simHost, b Book) error {
	h.disk.book = b
	if s.rnd.IntN(20) == 0 {
		h.up = false
		return nil
	}
	return h.ring.Commit(b)
}

func (s *sim) pick() (int, *simHost) {
	i := s.rnd.IntN(len(s.hosts))
	return i, s.hosts[i]
}

// spread shows everything a host knows to another, as gossip does.
func (s *sim) spread(i, j int) {
	if i == j || s.cut[[2]int{i, j}] {
		return
	}
	for _, h := range s.hosts { // in order, so that a seed is a history
		b := s.hosts[i].ring.books[h.id]
		if b == nil || b.Serial == 0 || s.rnd.IntN(3) == 0 {
			continue
		}
		if s.rnd.IntN(6) == 0 {
			s.n.Lost++
			continue
		}
		s.air = append(s.air, letter{j, h.id, *b})
		if s.rnd.IntN(8) == 0 {
			s.air = append(s.air, letter{j, h.id, *b})
		}
	}
}

func (s *sim) deliver(l letter) error {
	h := s.hosts[l.to]
	if !h.up || l.from == h.id {
		return nil
	}
	for _, o := range s.hosts { // the news of a removal comes some time
		if o.gone && s.rnd.IntN(8) == 0 {
			h.removed[o.id] = true
		}
	}
	_, err := h.ring.Set(l.from, l.book)
	return err
}

func (s *sim) settle(h *simHost) error {
	took := h.ring.own().Cursors
	y := h.ring.Counts().Yielded
	b, ok := h.ring.Settle(h.pool.InUse())
	s.n.Yielded += int(h.ring.Counts().Yielded - y)
	if !ok {
		return nil
	}
	if len(took) != len(b.Cursors) {
		s.n.Takes++
	}
	return s.commit(h, b)
}

func (s *sim) step() error {
	i, h := s.pick()
	j, o := s.pick()
	switch p := s.rnd.IntN(100); {
	case p < 30:
		if h.up {
			s.spread(i, j)
		}
	case p < 60:
		if len(s.air) > 0 {
			k := s.rnd.IntN(len(s.air))
			l := s.air[k]
			s.air = slices.Delete(s.air, k, k+1)
			if err := s.deliver(l); err != nil {
				return err
			}
		}
	case p < 72:
		if h.up {
			return s.settle(h)
		}
	case p < 80: // o asks h
		if i == j || !h.up || s.cut[[2]int{j, i}] || o.gone {
			return nil
		}
		owned := h.ring.Owned(h.id)
		part, ok := h.pool.Spare(owned, (h.pool.Available(owned)+1)/2)
		if !ok || len(h.ring.Giving(o.id)) > 0 {
			return nil
		}
		b, err := h.ring.Give(o.id, part)
		if err != nil {
			return err
		}
		s.n.Gives++
		return s.commit(h, b)
	case p < 90:
		if h.up {
			s.keys++
			key := fmt.Sprint("k", s.keys)
			if a, ok := h.pool.Alloc(key, h.ring.Owned(h.id)); ok {
				h.disk.keys[key] = a
				s.n.Allocs++
			}
		}
	case p < 93:
		if h.up {
			if used := h.pool.InUse(); len(used) > 0 {
				k, _ := h.pool.Holder(used[s.rnd.IntN(len(used))])
				h.pool.Free(k)
				delete(h.disk.keys, k)
			}
		}
	case p < 94:
		h.up = false
	case p < 97:
		for i, h := range s.hosts {
			if !h.up && !h.gone && s.rnd.IntN(2) == 0 {
				s.n.Restarts++
				s.start(i)
			}
		}
	case p < 98:
		if i != j && !(s.force && s.rnd.IntN(2) == 0) {
			s.cut[[2]int{i, j}] = !s.cut[[2]int{i, j}]
		}
	case p < 99:
		clear(s.cut)
	default:
		return s.remove(h, o)
	}
	return nil
}

// remove makes o the heir of h. Not by force: the lowest living host is the heir, and it and all
// who live have seen the last book of h, which the majority's answers make sure of.
func (s *sim) remove(h, o *simHost) error {
	if s.force && s.rnd.IntN(2) == 0 {
		h.up = false
	}
	if h.up || h.gone || h == o || s.living() < 2 {
		return nil
	}
	if !s.force { // the lowest living host
		for _, x := range s.hosts {
			if x.up {
				o = x
				break
			}
		}
		// The heir has asked everyone; who does not answer could hold a give that it has not seen.
		for _, x := range s.hosts {
			if x != h && !x.gone && !x.up {
				return nil
			}
		}
		for _, x := range s.hosts {
			if x == o || x.disk.book.Serial == 0 {
				continue
			}
			if _, err := o.ring.Set(x.id, x.disk.book); err != nil {
				return err
			}
		}
	}
	return s.succeed(h, o)
}

func (s *sim) living() int {
	n := 0
	for _, h := range s.hosts {
		if h.up {
			n++
		}
	}
	return n
}

func (s *sim) succeed(h, o *simHost) error {
	if !o.up {
		return nil
	}
	o.removed[h.id] = true
	b, err := o.ring.TakeOver(h.id)
	if err != nil {
		o.removed[h.id] = h.gone
		return nil //nolint:nilerr // it has an heir
	}
	h.gone = true
	s.n.Removals++
	return s.commit(o, b)
}

// check finds two living hosts that own one address, or one that both use.
func (s *sim) check(inUseToo bool) error {
	var owner, user [64]*simHost
	for _, h := range s.hosts {
		if !h.up {
			continue
		}
		for _, r := range h.ring.own().Owned {
			for a := r.First; a <= r.Last; a++ {
				if o := owner[a]; o != nil {
					_, here := h.pool.Holder(a)
					_, there := o.pool.Holder(a)
					if (here || there) && !inUseToo {
						continue // kept because it is in use
					}
					return fmt.Errorf("%d is owned by %s and %s", a, o.id.Short(), h.id.Short())
				}
				owner[a] = h
			}
			for _, g := range h.ring.own().Gives {
				if _, hit := g.Overlap(r.Range); hit && inUseToo {
					return fmt.Errorf("%v is owned by %s and on its way", g.Range, h.id.Short())
				}
			}
		}
		if !inUseToo {
			continue
		}
		for a := range h.pool.used {
			if o := user[a]; o != nil {
				return fmt.Errorf("%d is used by %s and %s", a, o.id.Short(), h.id.Short())
			}
			user[a] = h
		}
	}
	return nil
}

func (s *sim) run() error {
	for range 500 {
		if err := s.step(); err != nil {
			return err
		}
		if !s.force {
			if err := s.check(true); err != nil {
				return err
			}
		}
	}
	return s.heal()
}

// heal lets all live who can, tells all everything, and looks at the end: nothing on the way, and
// the living own the whole space.
func (s *sim) heal() error {
	clear(s.cut)
	s.air = nil
	for i, h := range s.hosts {
		if !h.gone && !h.up {
			s.start(i)
		}
	}
	for round := 0; ; round++ {
		before := fmt.Sprint(s.serials())
		for _, h := range s.hosts {
			for _, o := range s.hosts {
				if !h.up || o.disk.book.Serial == 0 || o == h {
					continue
				}
				if o.gone && s.force {
					continue
				}
				if _, err := h.ring.Set(o.id, o.disk.book); err != nil {
					return err
				}
			}
			for _, o := range s.hosts {
				h.removed[o.id] = o.gone
			}
			if !h.gone {
				for b, ok := h.ring.Settle(h.pool.InUse()); ok; b, ok = h.ring.Settle(h.pool.InUse()) {
					h.disk.book, h.up = b, true
					if err := h.ring.Commit(b); err != nil {
						return err
					}
				}
			}
		}
		if before == fmt.Sprint(s.serials()) {
			break
		}
		if round > 100 {
			return fmt.Errorf("no rest after %d rounds", round)
		}
	}
	return s.final()
}

func (s *sim) serials() (out []uint64) {
	for _, h := range s.hosts {
		out = append(out, h.disk.book.Serial)
	}
	return out
}

func (s *sim) final() error {
	var size uint64
	for _, h := range s.hosts {
		if h.gone {
			continue
		}
		if n := len(h.ring.own().Gives); n > 0 && !s.force {
			return fmt.Errorf("%d gives of %s still on the way: %+v", n, h.id.Short(), h.ring.own().Gives)
		}
		for _, r := range h.ring.Owned(h.id) {
			size += r.Size()
		}
		if c := h.ring.Conflicts(); len(c) > 0 && !s.force {
			return fmt.Errorf("conflicts at %s: %v", h.id.Short(), c)
		}
	}
	if !s.force && size != s.space.Size() {
		return fmt.Errorf("the living own %d of %d", size, s.space.Size())
	}
	return s.check(!s.force)
}
