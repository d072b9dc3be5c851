package cast

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/island"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/wire"
)

// newWaysRig is newRig with planners: hosts that hear each other as told, all but the first members of a group.
func newWaysRig(t *testing.T, n int, hears func(by, whom int) bool) *rig {
	hosts := map[ident.HostID]*rigHost{}
	r := newRig(t, n, 1400, func(c *Config) {
		self := c.Self
		c.Peer = func(id ident.HostID) *link.Peer { return hosts[self].peers[id] }
		c.Branches = func(b tree.Branches) { hosts[self].branches.Store(&b) }
		c.Hearing = func(heard []island.Heard) {
			h := hosts[self]
			h.mu.Lock()
			defer h.mu.Unlock()
			h.heard = heard
		}
	}, hosts)
	r.hears = hears
	var members []fdb.Member
	for _, h := range r.hosts[1:] {
		members = append(members, join(h.n, "239.1.1.1"))
	}
	for _, h := range r.hosts {
		h.members(members...)
		h.eng.SetUnderlayGroup(testGroup)
	}
	return r
}

// spread passes what each host hears on to all, as the state tables do.
func (r *rig) spread() {
	all := tree.Hearing{}
	r.mu.Lock()
	for _, h := range r.hosts {
		all[h.id] = map[ident.HostID]struct{}{}
		for _, o := range h.heard {
			all[h.id][o.Host] = struct{}{}
		}
	}
	r.mu.Unlock()
	for _, h := range r.hosts {
		h.eng.SetHearing(all)
	}
	synctest.Wait()
}

// stream sends a frame every 10 ms from the first host, for a time, and returns the frames.
func (r *rig) stream(d time.Duration, size int) (frames [][]byte) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		f := multicast(1, "239.1.1.1", size)
		copy(f[40:], fmt.Sprintf("%016x", time.Now().UnixNano()))
		frames = append(frames, f)
		r.host(1).tap.in <- f
		time.Sleep(10 * time.Millisecond)
	}
	synctest.Wait()
	return frames
}

// copies counts the packets with frames that were sent since the last look, by host.
func (r *rig) copies() map[int]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := map[int]int{}
	for _, p := range r.wire {
		if (p.data[0] == wire.TypeGroup || p.data[0] == wire.TypeRelay) && len(p.data) > 300 {
			n[p.from]++
		}
	}
	r.wire = nil
	return n
}

// TestOneMulticastForAnIsland: copies at first, then one packet for all that hear it.
func TestOneMulticastForAnIsland(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newWaysRig(t, 6, func(int, int) bool { return true })
		defer r.close()
		r.tick(5 * time.Second)
		r.spread()
		frames := r.stream(2*time.Second, 400)
		r.copies()
		steady := r.stream(time.Second, 400)
		if n := r.copies(); n[1] != len(steady) || len(n) != 1 {
			t.Errorf("%v packets for %d frames; %+v", n, len(steady), r.host(1).eng.Ways())
		}
		for _, h := range r.hosts[1:] {
			h.want("all frames", append(frames, steady...)...)
		}
	})
}
