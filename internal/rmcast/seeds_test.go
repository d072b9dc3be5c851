package rmcast

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// eachSeed runs a history of each of n seeds, and of those in first before, on all processors, until ten have failed. What a run returns to be
// done is done for one at a time. WEFT_LONG=N runs N of them, WEFT_AFTER=N those after seed N, WEFT_SEED=N one alone. It returns how many seeds there are, or
// 0 for one alone, in which too little may happen.
func eachSeed(t *testing.T, n int, first []uint64, run func(seed uint64) (done func(), err error)) int {
	t.Helper()
	if v, err := strconv.Atoi(os.Getenv("WEFT_LONG")); err == nil {
		n = v
	}
	after, _ := strconv.ParseUint(os.Getenv("WEFT_AFTER"), 10, 64)
	seeds := slices.Clone(first)
	for i := range n {
		seeds = append(seeds, after+uint64(i+1))
	}
	counted := len(seeds)
	if v, err := strconv.ParseUint(os.Getenv("WEFT_SEED"), 10, 64); err == nil {
		seeds, counted = []uint64{v}, 0
	}
	var (
		wg           sync.WaitGroup
		mu           sync.Mutex
		next, failed int
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
				done, err := run(seed)
				mu.Lock()
				if done(); err != nil {
					failed++
					t.Errorf("seed %d: %v (WEFT_SEED=%[1]d runs it alone)", seed, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return counted
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

// kept are the seeds that failed once.
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
