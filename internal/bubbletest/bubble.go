// Package bubbletest runs tests under the fake time of testing/synctest, one thread at a time.
package bubbletest

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// open counts the bubbles that run now; threads is GOMAXPROCS from before the first of them.
var (
	mu      sync.Mutex
	open    int
	threads int
)

// Run is synctest.Test on one thread (GOMAXPROCS 1 as long as a bubble runs).
//
// A timer that is due when it is set or looked at (time.After(0), Reset to what has passed) is run there and then
// by the goroutine that does so, and in a bubble all of them do it under the bubble's one race context, unlocked
// (go1.26: runtime/time.go, timer.unlockAndRun). Two at once spoil it, and the race detector ends the process with
// "CHECK failed" or by a signal, about once in two hundred runs of a test with many such timers on two
// processors (https://go.dev/issue/78156 is of this kind). The code under test is still checked for races: the
// detector looks at what is ordered, not at what happened at once.
func Run(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	one()
	defer many()
	synctest.Test(t, f)
}

func one() {
	mu.Lock()
	defer mu.Unlock()
	if open == 0 {
		threads = runtime.GOMAXPROCS(1)
	}
	open++
}

func many() {
	mu.Lock()
	defer mu.Unlock()
	open--
	if open == 0 {
		runtime.GOMAXPROCS(threads)
	}
}
