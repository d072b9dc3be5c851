package docker

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Docker looks whether the subnet of a pool is in use on the host: a route leads there, or a name server is in it. If so, and the user did
// not say the subnet, it keeps the pool and asks for another one, until it gets one or is refused. weft has no other, so it must notice.

const (
	// mostRepeats is how often a pool is given before a network is made with one: more than people do at once.
	mostRepeats = 4
	// repeatTime is how long a pool that was given counts.
	repeatTime = 10 * time.Second
)

// repeats counts pools that were given and not used yet, by network and family.
type repeats struct {
	mu    sync.Mutex
	given map[string][]time.Time
}

func repeatKey(x pool) string { return x.Network + "," + strconv.FormatBool(x.V6) }

// note counts a pool that is about to be given; false when there are too many.
func (r *repeats) note(x pool, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.given == nil {
		r.given = map[string][]time.Time{}
	}
	for key, at := range r.given {
		at = slices.DeleteFunc(at, func(t time.Time) bool { return now.Sub(t) > repeatTime })
		if r.given[key] = at; len(at) == 0 {
			delete(r.given, key)
		}
	}
	key := repeatKey(x)
	if len(r.given[key]) >= mostRepeats {
		delete(r.given, key)
		return false
	}
	r.given[key] = append(r.given[key], now)
	return true
}

// used notes that a network was made with pools of a weft network.
func (r *repeats) used(network string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.given, repeatKey(pool{Network: network}))
	delete(r.given, repeatKey(pool{Network: network, V6: true}))
}

// inUse says what to do when Docker does not take a subnet.
func inUse(x pool) error {
	return fmt.Errorf("subnet %s of network %s is in use on this host, says Docker: a route leads there, or a name server is in it; if you mean it: %s",
		x.prefix(), x.Network, command(x.Network, "--subnet "+x.prefix().String()))
}
