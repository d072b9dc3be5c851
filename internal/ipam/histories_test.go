package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// simKind says which faults a history has. Kills, crashes, pauses, lost messages, full disks and cuts of one direction are in all.
type simKind struct {
	older bool // disks are put back to an older state
	loose bool // hosts are removed by a majority that may not know their last word, and two may think to be the heir
}

// Histories of a cluster. At every step no address has two owners that live, and none is used twice (until a disk is put
// back to an older state). When all has healed no free address has two owners, all agree on every owner, nobody gives out
// what another uses, and the whole space has owners (of which a lost disk may cost a little, see the end of testHistories).
// WEFT_LONG=N runs N histories of each kind.
func TestHistories(t *testing.T)          { testHistories(t, simKind{}, 200) }
func TestHistoriesOlderDisk(t *testing.T) { testHistories(t, simKind{older: true}, 200) }
func TestHistoriesLoose(t *testing.T)     { testHistories(t, simKind{older: true, loose: true}, 100) }

// kept are seeds beyond the first that failed once.
var kept = map[simKind][]uint64{
	{}:                         {326, 374},
	{older: true}:              {1303, 1737, 2775},
	{older: true, loose: true}: {1207},
}

func testHistories(t *testing.T, kind simKind, n int) {
	if v, err := strconv.Atoi(os.Getenv("WEFT_LONG")); err == nil {
		n = v
	}
	var total simCounts
	seeds := kept[kind]
	for seed := range uint64(n) {
		seeds = append(seeds, seed+1)
	}
	for _, seed := range seeds {
		c, err := history(t, seed, kind)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total.add(c)
	}
	t.Logf("%+v", total)
	// What a disk lost may leave addresses without owner, and gives that wait: few of the 80 of each history.
	if total.Leaked+total.Waiting > 4*n {
		t.Errorf("of %d addresses %d have no owner, and %d are on a way that does not end", 80*n, total.Leaked, total.Waiting)
	}
	// A simulator in which nothing happens proves nothing.
	if total.Lent < n/2 || total.Gives < 5*n || total.Kills < 2*n || total.Allocs < 10*n || total.Pauses < n || total.Cuts < n || total.Added < n/4 || total.Removals < n/20 {
		t.Errorf("too little happened: %+v", total)
	}
	if kind.older && (total.Rollbacks < n/2 || total.Recalls == 0 || total.Told == 0) {
		t.Errorf("too little happened: %+v", total)
	}
}

func history(t *testing.T, seed uint64, kind simKind) (c simCounts, err error) {
	bubbletest.Run(t, func(*testing.T) {
		var w *world
		if w, err = newWorld(seed, 2); err != nil {
			return
		}
		for range 1 + w.rnd.IntN(3) {
			w.addHost()
		}
		err = w.run(kind)
		c = w.n
	})
	return c, err
}

func (w *world) run(kind simKind) error {
	for i := range 600 {
		if err := w.step(kind); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		for _, h := range w.hosts {
			if h.crash {
				h.kill()
			}
		}
		if err := w.check(kind); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		if i%10 == 0 {
			if err := w.onDisk(); err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
		}
	}
	return w.heal(kind)
}

func (w *world) pick() *simHost { return w.hosts[w.rnd.IntN(len(w.hosts))] }

func (w *world) step(kind simKind) error {
	h, o := w.pick(), w.pick()
	runs := h.up && !h.paused && !h.gone
	switch p := w.rnd.IntN(1000); {
	case p < 380:
		w.send(h, o, false)
	case p < 520:
		if len(w.air) > 0 {
			i := w.rnd.IntN(len(w.air))
			m := w.air[i]
			w.air = slices.Delete(w.air, i, i+1)
			w.deliver(m)
		}
	case p < 700:
		later(time.Duration(w.rnd.IntN(2000)) * time.Millisecond)
		if runs {
			return w.tick(h)
		}
	case p < 830:
		if runs {
			return w.allocate(h)
		}
	case p < 860:
		if runs {
			return w.release(h)
		}
	case p < 880:
		if h.up {
			h.kill()
		}
	case p < 920:
		for _, h := range w.hosts {
			if !h.up && !h.gone && w.rnd.IntN(2) == 0 {
				if kind.older && h.backup != nil && w.rnd.IntN(4) != 0 {
					h.rollBack()
				}
				w.n.Restarts++
				if err := h.start(); err != nil {
					return err
				}
			}
		}
	case p < 935:
		if h.up && !h.paused {
			h.paused = true
			w.n.Pauses++
		}
	case p < 950:
		for _, h := range w.hosts {
			h.paused = h.paused && w.rnd.IntN(2) == 0
		}
	case p < 970:
		if h != o {
			w.cut[[2]ident.HostID{h.id, o.id}] = true
			w.n.Cuts++
		}
	case p < 980:
		clear(w.cut)
	case p < 986:
		if h.backup == nil || w.rnd.IntN(6) == 0 {
			h.save()
		}
	case p < 990:
		if len(w.hosts) < 9 {
			w.addHost()
			w.n.Added++
		}
	case p < 993:
		if runs {
			return w.leave(h)
		}
	default:
		return w.remove(h, kind)
	}
	return nil
}

func (w *world) tick(h *simHost) error {
	sp := h.space(simVNI)
	if sp == nil || !sp.joined && !sp.left {
		return h.join()
	}
	if h.wants != "" {
		if err := w.allocate(h); err != nil {
			return err
		}
	}
	before := h.svc.Counts()
	h.svc.tick(time.Now())
	after := h.svc.Counts()
	w.n.Gives += int(after.AsksMet - before.AsksMet)
	w.n.Told += int(after.BooksTold - before.BooksTold)
	return nil
}

func (w *world) allocate(h *simHost) error {
	w.keys++
	key := fmt.Sprint("k", w.keys)
	switch {
	case h.wants != "" && w.rnd.IntN(12) == 0: // it has waited long enough
		delete(h.svc.awaited, stray{simVNI, h.wants})
		h.wants = ""
		return nil
	case h.wants != "":
		key = h.wants
	case h.borrows: // the same again and again: what was given back for a key must not come off what it has now
		key = fmt.Sprint("b", w.rnd.IntN(3))
		if _, ok := h.attached[key]; ok {
			return nil
		}
	}
	var want Address
	got, sp, err := h.svc.tryAllocate(simVNI, netip.Prefix{}, key, want.IP4.Addr())
	switch {
	case err == nil && sp == nil:
		h.attached[key] = toU32(got.IP4.Addr())
		w.n.Allocs++
		if h.borrows {
			w.n.Lent++
			delete(h.svc.awaited, stray{simVNI, key})
			h.wants = ""
		}
	case err == nil && h.borrows: // as borrow asks
		h.wants = key
		x := stray{simVNI, key}
		if h.svc.awaited[x].n == 0 {
			h.svc.await(x)
		}
		if to, ok := h.svc.nextOwnerLocked(sp, h.alive(), 1); ok {
			h.svc.askLoan(sp, to, key, 0, h.svc.awaited[x].serial)
			sp.tries++
		}
	case err == nil: // as waitForShare asks
		if to, ok := h.svc.nextOwnerLocked(sp, h.alive(), 1); ok {
			h.svc.ask(sp, to, 0, true)
			sp.tries++
		}
	case errors.Is(err, errDisk), errors.Is(err, ErrNoNetwork), errors.Is(err, ErrExhausted), errors.Is(err, ErrRemoved):
	default:
		return err
	}
	return nil
}

func (w *world) release(h *simHost) error {
	if keys := slices.Sorted(maps.Keys(h.attached)); len(keys) > 0 {
		key := keys[0]
		a := h.attached[key]
		delete(h.attached, key)
		if err := h.svc.Release(simVNI, key); err != nil && !errors.Is(err, errDisk) {
			return err
		}
		if _, still := h.svc.Allocations(simVNI)[key]; still {
			h.attached[key] = a
		}
	}
	return nil
}

// leave gives a host's part of the network back; it comes again by a later tick of its own, or a restart.
func (w *world) leave(h *simHost) error {
	sp := h.space(simVNI)
	if sp == nil || !sp.joined || sp.pool.Used() > 0 {
		return nil
	}
	w.n.Leaves++
	if err := h.svc.setLeft(sp, true); err != nil {
		return ignore(err)
	}
	_, err := h.svc.giveAll(sp)
	return ignore(err)
}

func ignore(err error) error {
	if errors.Is(err, errDisk) || errors.Is(err, ring.ErrFull) {
		return nil
	}
	return err
}

// remove shuts a dead host out for good. Not loosely: all others live, and know all that it said.
func (w *world) remove(gone *simHost, kind simKind) error {
	if gone.up && !gone.gone && w.rnd.IntN(2) == 0 {
		gone.kill()
	}
	if gone.up || gone.gone || gone.lapsed && !kind.loose {
		return nil
	}
	if !kind.loose {
		for _, h := range w.hosts {
			h.paused = false
			if h != gone && !h.gone && !h.up {
				if err := h.start(); err != nil {
					return err
				}
			}
		}
	}
	var live []*simHost
	members := 0
	for _, h := range w.hosts {
		if h == gone || h.gone {
			continue
		}
		members++
		if h.up && !h.paused && h.space(0) != nil {
			live = append(live, h)
		}
	}
	if 2*len(live) <= members || !kind.loose && (len(live) < members || len(live) < 2) {
		return nil
	}
	by := live[w.rnd.IntN(len(live))]
	if by.borrows && !slices.ContainsFunc(by.alive(), w.stays) {
		return nil // nobody could be the heir
	}
	if !kind.loose {
		clear(w.cut)
		w.calm = true
		defer func() { w.calm = false }()
		for _, h := range live {
			h.logs[gone.id] = gone.logs[gone.id]
			for k, op := range sorted(gone.logs[gone.id].live()) {
				h.follow(gone.id, simOp{scope: k.scope, key: k.key, value: op.value}, false)
			}
		}
		w.exchange(live)
	}
	gone.gone = true
	w.n.Removals++
	if err := by.publishRemoval(gone); err != nil {
		gone.gone = false
		return ignore(err) // its disk is full: not removed
	}
	if !kind.loose {
		w.exchange(live)
		for _, h := range live {
			later(heirAfter)
			h.svc.tick(time.Now())
			w.exchange(live)
		}
	}
	return nil
}

// publishRemoval is what weft host rm does: one write says that a host is gone, who its heirs are, and what it said of others.
func (h *simHost) publishRemoval(gone *simHost) error {
	puts := map[string][]byte{"bar/" + string(gone.id[:]): nil}
	for k := range h.logs[gone.id].live() {
		if strings.HasPrefix(k.key, "bar/") {
			puts[k.key] = nil
		}
	}
	having := map[uint32][]ident.HostID{}
	for _, o := range h.w.hosts {
		if sp := o.space(simVNI); !o.gone && sp != nil && sp.joined {
			having[simVNI] = append(having[simVNI], o.id)
		}
	}
	heirs, err := h.svc.Bequeath(gone.id, having, h.alive())
	if err != nil {
		return err
	}
	maps.Copy(puts, heirs)
	if err := h.Publish(0, puts, nil); err != nil {
		return err
	}
	h.followBars()
	return nil
}

func (w *world) exchange(hs []*simHost) {
	for range 2 {
		for _, h := range hs {
			for _, o := range hs {
				w.send(h, o, true)
			}
		}
	}
}
