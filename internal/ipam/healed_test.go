package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ring"
)

// check finds two living hosts that own one address, two attachments that use one, and what a host counts on that is not
// on its disk.
func (w *world) check(kind simKind) error {
	user := map[uint32]*simHost{}
	for _, h := range w.hosts {
		if h.gone {
			continue
		}
		for key, a := range h.attached {
			if o := user[a]; o != nil && !w.excused(kind) {
				return fmt.Errorf("%s is used by %s and %s", toAddr(a), o, h)
			}
			user[a] = h
			if sp := h.space(simVNI); h.up && sp != nil && h.svc.scopes[simVNI].own[key] != a {
				return fmt.Errorf("%s does not know any more that %s uses %s", h, key, toAddr(a))
			}
		}
	}
	for _, scope := range []uint32{0, simVNI} {
		owner := map[uint32]*simHost{}
		for _, h := range w.hosts {
			sp := h.space(scope)
			if !h.up || h.gone || sp == nil {
				continue
			}
			for _, r := range sp.ring.Owned(h.id) {
				for a := r.First; a <= r.Last; a++ {
					if o := owner[a]; o != nil && !w.excused(kind) {
						return fmt.Errorf("%s has two owners, %s and %s", w.name(scope, a), o, h)
					}
					owner[a] = h
				}
			}
		}
	}
	return nil
}

// onDisk finds books that are further in memory than on the disk.
func (w *world) onDisk() error {
	for _, h := range w.hosts {
		for _, scope := range []uint32{0, simVNI} {
			sp := h.space(scope)
			if !h.up || sp == nil || sp.rewrite || sp.ring.Serial(h.id) == 0 {
				continue
			}
			e, err := decodeBook(h.logs[h.id].live()[simKey{scope, keyRing + sp.prefix.String()}].value)
			if err != nil {
				return fmt.Errorf("%s: book of %s on disk: %w", h, sp.prefix, err)
			}
			if e.book.Serial < sp.ring.Serial(h.id) {
				return fmt.Errorf("%s goes by book %d of %s, on its disk is %d", h, sp.ring.Serial(h.id), sp.prefix, e.book.Serial)
			}
		}
	}
	return nil
}

func (w *world) name(scope, a uint32) string {
	if scope == 0 {
		return fmt.Sprintf("subnet %d", a)
	}
	return toAddr(a).String()
}

// excused reports whether two owners can be before all has healed: a host that gave a range away, and lost the memory of
// that, serves it beside the new owner or gives it to a second one, until it hears of either.
func (w *world) excused(kind simKind) bool {
	return kind.loose || slices.ContainsFunc(w.hosts, func(h *simHost) bool { return h.lapsed })
}

// heal lets all live who can, and all hear each other, until nobody says anything new.
func (w *world) heal(kind simKind) error {
	clear(w.cut)
	w.calm = true
	for _, h := range w.hosts {
		h.paused = false
		if !h.gone && !h.up {
			if err := h.start(); err != nil {
				return err
			}
		}
	}
	if kind.loose { // a removal that only a disk knew which was put back since: whoever removed the host does it again
		live := w.living()
		w.exchange(live)
		for _, gone := range w.hosts {
			if gone.gone && slices.ContainsFunc(live, func(h *simHost) bool { return !h.barred[gone.id] }) {
				if err := live[0].publishRemoval(gone); err != nil {
					return err
				}
			}
		}
	}
	quiet := 0
	for round := 0; quiet < 12; round++ {
		if round > 300 {
			return errors.New("no rest after 300 s without faults")
		}
		before := w.written()
		later(time.Second)
		w.exchange(w.hosts)
		air := w.air
		w.air = nil
		for _, m := range air {
			w.deliver(m)
		}
		for _, h := range w.hosts {
			if h.up && !h.gone {
				if err := w.tick(h); err != nil {
					return err
				}
			}
		}
		if quiet++; w.written() != before {
			quiet = 0
		}
	}
	return w.final(kind)
}

func (w *world) written() (n int) {
	for _, h := range w.hosts {
		n += h.written
	}
	return n
}

func (w *world) living() (out []*simHost) {
	for _, h := range w.hosts {
		if h.up && !h.gone {
			out = append(out, h)
		}
	}
	return out
}

// final looks at the end, when all has healed.
func (w *world) final(kind simKind) error {
	live := slices.DeleteFunc(w.living(), func(h *simHost) bool { return h.space(0) == nil || h.space(simVNI) == nil })
	if len(live) < len(w.living()) && !kind.older {
		return errors.New("healed: a host knows nothing of the network")
	}
	if len(live) == 0 {
		return nil // all that knew the network were removed, or lost it
	}
	for _, h := range live {
		w.n.Recalls += int(h.svc.Counts().Lapses)
	}
	for _, scope := range []uint32{0, simVNI} {
		sp := live[0].space(scope)
		all := sp.ring.Space()
		for v := uint64(all.First); v <= uint64(all.Last); v++ {
			a := uint32(v)
			var owners, users []*simHost
			var seen []string
			for _, h := range live {
				p := h.space(scope)
				if slices.ContainsFunc(p.ring.Owned(h.id), func(r ring.Range) bool { return r.Contains(a) }) {
					owners = append(owners, h)
				}
				if _, ok := p.pool.Holder(a); ok && scope != 0 {
					users = append(users, h)
				}
				id, ok := p.ring.Owner(a)
				seen = append(seen, fmt.Sprint(id.Short(), ok))
			}
			switch {
			case len(owners) > 1 && len(users) == 0:
				return fmt.Errorf("healed: %s has the owners %v, and is not in use", w.name(scope, a), owners)
			case len(owners) == 0:
				if !kind.older {
					return fmt.Errorf("healed: %s has no owner; seen as %v", w.name(scope, a), seen)
				}
				w.n.Leaked++
			case len(owners) == 1 && len(slices.Compact(slices.Clone(seen))) != 1:
				// A give that waits until a host with an older disk no longer uses a part of it.
				if !kind.older {
					return fmt.Errorf("healed: %s is owned by %v, seen as %v", w.name(scope, a), owners, seen)
				}
				w.n.Waiting++
			}
			if len(users) > 1 && !kind.older {
				return fmt.Errorf("healed: %s is used by %v", w.name(scope, a), users)
			}
		}
	}
	return w.giveOut(live)
}

// giveOut has every host give out what it can: nothing that another uses.
func (w *world) giveOut(live []*simHost) error {
	used := map[uint32]*simHost{}
	for _, h := range live {
		for a := range h.space(simVNI).pool.All() {
			used[a] = h
		}
	}
	for i := range 30 {
		for _, h := range live {
			key := fmt.Sprint("last", i)
			got, sp, err := h.svc.tryAllocate(simVNI, netip.Prefix{}, key, Address{}.IP4.Addr())
			if err != nil || sp != nil {
				continue
			}
			a := toU32(got.IP4.Addr())
			if o := used[a]; o != nil {
				return fmt.Errorf("healed: %s gives out %s, which %s uses", h, got.IP4, o)
			}
			used[a] = h
			w.exchange(live)
		}
	}
	return nil
}
