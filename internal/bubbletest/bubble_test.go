package bubbletest

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestRun sets timers that are due at once from many goroutines, as the race detector does not bear on several
// threads: there it ends the process in most runs.
func TestRun(t *testing.T) {
	before := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(before)
	Run(t, func(t *testing.T) {
		if n := runtime.GOMAXPROCS(0); n != 1 {
			t.Errorf("a bubble runs on %d threads", n)
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 2000 {
					<-time.After(0)
				}
			})
		}
		all.Wait()
	})
	if n := runtime.GOMAXPROCS(0); n != 4 {
		t.Errorf("after the bubble: %d threads, before: 4", n)
	}
}
