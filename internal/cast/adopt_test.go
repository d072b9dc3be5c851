package cast

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/wire"
)

// handOver puts another engine in the place of a host's: what a second process would do, with the same TAP.
func (h *rigHost) handOver() (old *Engine) {
	h.t.Helper()
	old = h.eng
	old.Pause()
	x, err := old.Export()
	check(h.t, err)
	cfg := old.cfg
	cfg.Counters = nil
	next, err := New(cfg)
	check(h.t, err)
	next.Pause()
	dev := newTAP()
	dev.in, dev.out = h.tap.in, h.tap.out // the old one closes its own descriptor
	check(h.t, next.AddNetwork(testVNI, dev, 1400))
	check(h.t, next.Adopt(x))
	h.eng, h.tap = next, dev
	return old
}

// TestAdoptedEngineGoesOn: the engine that takes over seals under the same key where the other stopped, offers nothing,
// asks nothing, and takes nothing twice.
func TestAdoptedEngineGoesOn(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		r := newRig(t, 3, 1400, nil)
		defer r.close()
		h := r.host(1)
		for _, x := range r.hosts {
			x.members(join(1, "239.1.1.1"), join(2, "239.1.1.1"), join(3, "239.1.1.1"))
		}
		r.tick(time.Second)
		first := multicast(1, "239.1.1.1", 200)
		h.tap.in <- first
		synctest.Wait()
		r.host(2).tap.in <- multicast(2, "239.1.1.1", 300)
		synctest.Wait()
		h.want("before", multicast(2, "239.1.1.1", 300))
		r.host(2).want("before", first)
		was := r.sent(wire.TypeGroup)

		table := (*h.eng.networks.Load())[testVNI].table.Load()
		old := h.handOver()
		check(t, h.eng.SetHosts(testVNI, h.ids()))
		check(t, h.eng.SetTable(testVNI, table))
		second := multicast(1, "239.1.1.1", 201)
		h.tap.in <- second
		synctest.Wait()
		if got := r.sent(wire.TypeGroup); len(got) != 0 {
			t.Fatalf("%d packets from a paused engine", len(got))
		}
		check(t, old.Close()) // the other process ends
		h.eng.Resume()
		synctest.Wait()
		sent := r.sent(wire.TypeGroup)
		if len(sent) != 2 {
			t.Fatalf("%d packets, want one for each other host", len(sent))
		}
		for _, p := range was {
			_, id, counter, _ := wire.Group(p.data)
			_, after, next, _ := wire.Group(sent[0].data)
			if p.from == 1 && (after != id || next != counter+1) {
				t.Errorf("key %x at %d follows key %x at %d", after, next, id, counter)
			}
		}
		r.host(2).want("after", second)
		r.host(3).want("after", first, multicast(2, "239.1.1.1", 300), second)
		for _, p := range was { // what was taken before is a replay now
			if p.to == 1 {
				h.in <- datagram{endpoint(2), bytes.Clone(p.data)}
			}
		}
		synctest.Wait()
		h.want("replayed")
		h.wantDrop("replay", 1)
		r.tick(time.Second)
		if got := r.sent(wire.TypeLink); len(got) != 0 {
			t.Errorf("%d messages on links: keys were offered or asked for again", len(got))
		}
		r.host(2).tap.in <- multicast(2, "239.1.1.1", 302)
		synctest.Wait()
		h.want("on", multicast(2, "239.1.1.1", 302))
	})
}

// TestResumedEngineGoesOn: a hand-over that came to nothing leaves no trace.
func TestResumedEngineGoesOn(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		r := newRig(t, 2, 1400, nil)
		defer r.close()
		h := r.host(1)
		for _, x := range r.hosts {
			x.members(join(2, "239.1.1.1"))
		}
		r.tick(time.Second)
		for i := range 5 {
			h.eng.Pause()
			if _, err := h.eng.Export(); err != nil {
				t.Fatal(err)
			}
			frame := multicast(1, "239.1.1.1", 200+i)
			h.tap.in <- frame
			synctest.Wait()
			r.host(2).want("paused")
			h.eng.Resume()
			synctest.Wait()
			r.host(2).want("resumed", frame)
		}
	})
}

// TestAdoptRefusesWhatIsRunning: keys are swapped in a paused engine only, and a paused one can be closed.
func TestAdoptRefusesWhatIsRunning(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		r := newRig(t, 2, 1400, nil)
		h := r.host(1)
		h.eng.Pause()
		h.eng.Pause()
		x, err := h.eng.Export()
		check(t, err)
		h.eng.Resume()
		h.eng.Resume()
		if h.eng.Adopt(x) == nil {
			t.Error("keys were swapped under way")
		}
		if !h.eng.Carries(testVNI, h.tap) || h.eng.Carries(testVNI, newTAP()) || h.eng.Carries(testVNI+1, h.tap) {
			t.Error("Carries")
		}
		h.eng.Pause()
		r.close()
	})
}
