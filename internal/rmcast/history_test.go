package rmcast

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestHistories runs seeded histories through all faults of the simulator: no message is lost without a word, none comes
// twice or out of order, and when the faults are over everybody has everything or was told. WEFT_LONG=N runs N of them;
// WEFT_SEED=N one. Seeds that failed in a long run are added to testdata/seeds, and run first from then on.
func TestHistories(t *testing.T) {
	if v, err := strconv.ParseUint(os.Getenv("WEFT_SEED"), 10, 64); err == nil {
		if _, err := history(v); err != nil {
			t.Fatalf("seed %d: %v", v, err)
		}
		return
	}
	n := 240
	if v, err := strconv.Atoi(os.Getenv("WEFT_LONG")); err == nil {
		n = v
	}
	seeds := kept(t)
	for i := range n {
		seeds = append(seeds, uint64(i+1))
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		total  simCounts
		next   int
		failed int
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(seeds) || failed == 10 {
					mu.Unlock()
					return
				}
				seed := seeds[next]
				next++
				mu.Unlock()
				c, err := history(seed)
				mu.Lock()
				if total.add(c); err != nil {
					failed++
					t.Errorf("seed %d: %v (WEFT_SEED=%[1]d runs it alone)", seed, err)
					keep(t, seed, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d histories: %+v", len(seeds), total)
	// A simulator in which nothing happens proves nothing.
	if n >= 240 && (total.Dropped < 20*n || total.Doubled < 5*n || total.Delivered < 200*n || total.Crashes < n/10 || total.Pauses < n/10 ||
		total.Cuts < n/10 || total.Bursts < n/10 || total.Deaf < n/10 || total.Repairs < 10*n || total.LostTold == 0 || total.PeerRepairs == 0 ||
		total.Suppressed == 0 || total.Relayed < 10*n || total.Fragments < n) {
		t.Errorf("too little happened: %+v", total)
	}
}

// keep adds a seed that failed in a long run to testdata/seeds.
func keep(t *testing.T, seed uint64, why error) {
	t.Helper()
	if os.Getenv("WEFT_LONG") == "" {
		return
	}
	f, err := os.OpenFile(filepath.Join("testdata", "seeds"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d %s\n", seed, strings.ReplaceAll(why.Error(), "\n", "; "))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Errorf("keep the seed: %v", err)
	}
}

func kept(t *testing.T) (seeds []uint64) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "seeds"))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 0 && f[0] != "#" {
			v, err := strconv.ParseUint(f[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			seeds = append(seeds, v)
		}
	}
	return seeds
}

// history is one of the many: members, publishers and faults as the seed has it.
func history(seed uint64) (simCounts, error) {
	s := newSim(seed)
	r := s.rnd
	chance := func(p float64) bool { return r.Float64() < p }
	nodes := 3 + r.IntN(6)
	switch {
	case chance(0.02):
		nodes = 50
	case chance(0.06):
		nodes = 10 + r.IntN(10)
	}
	s.multicast = chance(0.7)
	s.delay = time.Duration(100+r.IntN(3000)) * time.Microsecond
	s.jitter = time.Duration(1+r.IntN(4000)) * time.Microsecond
	faults := r.IntN(5)
	patterns := []string{">", "a.*", "a.x", "*.x"}
	for i := range nodes {
		s.join(Interest{ID: 1, Pattern: patterns[r.IntN(len(patterns))], Mode: byte(r.IntN(4)), N: uint64(r.IntN(50))})
		if i > 0 && chance(0.3) {
			s.run(s.now.Add(time.Duration(r.IntN(50)) * time.Millisecond))
		}
	}
	if chance(0.7) {
		s.run(s.now.Add(2 * time.Second)) // all know each other, and who hears whom
	}
	long := time.Duration(500+r.IntN(1000)) * time.Millisecond
	end := s.now.Add(long)
	for range 1 + r.IntN(3) {
		x := s.nodes[r.IntN(nodes)]
		subj := []string{"a.x", "a.y"}[r.IntN(2)]
		cfg := SenderConfig{Window: 256 << 10 << r.IntN(4), Fanout: 1 + r.IntN(4)}
		if faults > 0 && chance(0.15) {
			cfg.Flow = FlowNone
		}
		p := x.publish(subj, cfg)
		every, most := time.Duration(1+r.IntN(30))*time.Millisecond, 1+r.IntN(10)
		if chance(0.07) {
			most *= 5
		}
		if nodes >= 20 {
			every, most = 40*time.Millisecond, 6
		}
		p.pump(end, every, most)
	}
	if chance(0.8) {
		s.loss = r.Float64() * 0.25
	}
	if chance(0.6) {
		s.dup = r.Float64() * 0.2
	}
	if chance(0.3) {
		for _, x := range s.nodes {
			x.slow = r.Float64() * 0.5
		}
	}
	for _, x := range s.nodes {
		x.lossless = faults == 0
	}
	for range faults {
		at := time.Duration(r.Int64N(int64(long)))
		s.after(at, func() { s.fault(end) })
	}
	s.run(end)
	s.calm()
	if err := s.converge(90 * time.Second); err != nil {
		return s.count, fmt.Errorf("%d members: %w", nodes, err)
	}
	return s.count, nil
}

// fault lets something happen that is over by itself, or at the end.
func (s *simNet) fault(end time.Time) {
	r := s.rnd
	i, j := r.IntN(len(s.nodes)), r.IntN(len(s.nodes))
	x := s.nodes[i]
	brief := time.Duration(50+r.IntN(1500)) * time.Millisecond
	if r.IntN(4) == 0 {
		brief += time.Duration(r.IntN(6000)) * time.Millisecond
	}
	switch r.IntN(7) {
	case 0:
		s.count.Bursts++
		s.burst = true
		s.after(min(brief, 400*time.Millisecond), func() { s.burst = false })
	case 1: // one direction
		s.count.Cuts++
		s.cut[[2]int{i, j}] = true
		s.after(brief, func() { delete(s.cut, [2]int{i, j}) })
	case 2: // two halves
		s.count.Cuts++
		k := 1 + r.IntN(len(s.nodes))
		for a := range s.nodes {
			for b := range s.nodes {
				if (a < k) != (b < k) {
					s.cut[[2]int{a, b}] = true
				}
			}
		}
		s.after(brief, func() { clear(s.cut) })
	case 3:
		if x.up && !x.paused {
			x.pause(brief)
		}
	case 4:
		if x.up && s.living() > 2 {
			x.kill()
			if r.IntN(2) == 0 { // the next process on that machine
				s.after(brief/2, func() { s.join(x.want...) })
			}
		}
	case 5: // multicast ends for one ordered pair, and comes back or not
		s.count.Deaf++
		s.deaf[[2]int{i, j}] = true
		if r.IntN(2) == 0 {
			s.after(brief, func() { delete(s.deaf, [2]int{i, j}) })
		}
	case 6: // a switch begins or ceases to drop multicast
		s.count.Deaf++
		s.multicast = !s.multicast
	}
}

func (s *simNet) living() (n int) {
	for _, x := range s.nodes {
		if x.up {
			n++
		}
	}
	return n
}
