package cast

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
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
	bubbletest.Run(t, func(t *testing.T) {
		r := newWaysRig(t, 6, func(int, int) bool { return true })
		defer r.close()
		r.tick(15 * time.Second)
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

// TestCopiesOfCopies: without multicast twelve receivers take twelve packets, eight at most from the sender.
func TestCopiesOfCopies(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		r := newWaysRig(t, 13, func(int, int) bool { return false })
		defer r.close()
		r.tick(time.Second)
		frames := r.stream(2*time.Second, 400)
		r.copies()
		steady := r.stream(time.Second, 400)
		sum := 0
		n := r.copies()
		for _, k := range n {
			sum += k
		}
		if sum != 12*len(steady) || n[1] != 8*len(steady) {
			t.Errorf("%v packets for %d frames; %+v", n, len(steady), r.host(1).eng.Ways())
		}
		for _, h := range r.hosts[1:] {
			h.want("all frames", append(frames, steady...)...)
		}
	})
}

// TestLongFramesByTrees: what does not fit into the packets that forwarders can pass on goes in fragments.
func TestLongFramesByTrees(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		r := newWaysRig(t, 12, func(int, int) bool { return false })
		defer r.close()
		r.tick(time.Second)
		frames := r.stream(3*time.Second, 1414)
		for _, p := range r.wire {
			if len(p.data) > 1472 {
				t.Fatalf("a packet of %d bytes", len(p.data))
			}
		}
		for _, h := range r.hosts[1:] {
			h.want("all frames", frames...)
		}
	})
}

// TestDeafReceiverGetsCopies: half a second after multicast stopped reaching one, it is served again, and nobody gets a
// frame twice.
func TestDeafReceiverGetsCopies(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		r := newWaysRig(t, 5, func(int, int) bool { return true })
		defer r.close()
		r.tick(15 * time.Second)
		r.spread()
		frames := r.stream(2*time.Second, 400)
		r.mu.Lock()
		r.hears = func(by, _ int) bool { return by != 3 }
		r.mu.Unlock()
		frames = append(frames, r.stream(2*time.Second, 400)...)
		for _, h := range r.hosts[1:] {
			if h.n != 3 {
				h.want("all frames", frames...)
				continue
			}
			got := h.tap.got()
			if lost := len(frames) - len(got); lost == 0 || lost > 70 {
				t.Errorf("the deaf host lost %d frames of 10 ms each", lost)
			}
			h.wantDrop("replay", 0)
		}
		if w := r.host(1).eng.Ways(); w.Moves != 1 {
			t.Errorf("%+v", w)
		}
	})
}

// TestHostsOutsideTheNetworkAreLeftAlone: native multicast reaches them, too; they must not ask for the key.
func TestHostsOutsideTheNetworkAreLeftAlone(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		r := newWaysRig(t, 4, func(int, int) bool { return true })
		defer r.close()
		outside := r.host(4)
		for _, h := range r.hosts {
			if h == outside {
				check(t, h.eng.RemoveNetwork(testVNI))
				check(t, h.eng.AddNetwork(testVNI+1, newTAP(), 1400))
				check(t, h.eng.SetHosts(testVNI+1, r.ids()))
				continue
			}
			check(t, h.eng.SetHosts(testVNI, r.ids()[:3]))
			h.members(join(2, "239.1.1.1"), join(3, "239.1.1.1"))
		}
		r.tick(15 * time.Second)
		r.spread()
		r.sent(0)
		r.stream(2*time.Second, 400)
		for _, p := range r.sent(wire.TypeLink) {
			if p.from == outside.n && p.to == 1 {
				t.Fatal("it talks to the sender")
			}
		}
		if outside.eng.Drops()["not_expected"] == 0 {
			t.Errorf("nothing came: %v", outside.eng.Drops())
		}
	})
}
