package lease

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// Histories of one holder and two to six hosts that stay, with cuts in one direction or both, messages that come late or not at
// all, restarts from disk, pauses, hosts that come and are removed. Whenever anybody may count the holder as gone, it does not
// serve, then or ever. When it dies at the end and all the others are well, it is counted as gone.
// WEFT_LONG=N runs N of them.
func TestHistories(t *testing.T) {
	n := 300
	if v, err := strconv.Atoi(os.Getenv("WEFT_LONG")); err == nil {
		n = v
	}
	var total simCounts
	for seed := range uint64(n) {
		w := newSim(seed + 1)
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v", seed+1, err)
		}
		total.serving += w.n.serving
		total.steps += w.n.steps
		total.gone += w.n.gone
		total.terms += w.n.terms
		total.lapses += w.n.lapses
	}
	t.Logf("%+v", total)
	// A simulator in which nothing happens proves nothing.
	if total.serving < total.steps/8 || total.gone < n/10 || total.terms < 2*n || total.lapses < n/10 {
		t.Errorf("too little happened: %+v", total)
	}
}

// latest is how late a message can come.
const latest = 20 * time.Minute

type simCounts struct{ steps, serving, gone, terms, lapses int }

type simElector struct {
	*Elector
	up, paused, removed bool
	disk                map[ident.HostID]Vote // by elector: votes about the holder that have come here
	lease               *Lease
}

type simMail struct {
	at   time.Time
	from ident.HostID
	m    Message
}

type sim struct {
	rnd     *rand.Rand
	now     time.Time
	id      ident.HostID
	holder  *Holder
	disk    *Lease
	up      bool // the holder runs
	paused  bool
	hosts   map[ident.HostID]*simElector
	order   []ident.HostID
	cut     map[[2]ident.HostID]bool
	mail    []simMail
	decided bool // somebody may count it as gone
	after   int  // steps since
	n       simCounts
}

func newSim(seed uint64) *sim {
	w := &sim{rnd: rand.New(rand.NewPCG(seed, 5)), now: start, id: host(200), up: true, hosts: map[ident.HostID]*simElector{}, cut: map[[2]ident.HostID]bool{}}
	w.holder = NewHolder(nil, w.rnd.Uint64())
	for range 1 + w.rnd.IntN(5) {
		w.add()
	}
	return w
}

func (w *sim) add() {
	id := host(byte(1 + len(w.order)))
	w.hosts[id] = &simElector{Elector: NewElector(id, w.now), up: true, disk: map[ident.HostID]Vote{}}
	w.order = append(w.order, id)
}

func (w *sim) any() *simElector { return w.hosts[w.order[w.rnd.IntN(len(w.order))]] }

func (w *sim) run() error {
	for range 150 {
		if w.rnd.IntN(3) > 0 {
			w.fault()
		}
		quick := time.Duration(1+w.rnd.IntN(20)) * time.Second
		for range 1 + w.rnd.IntN(20) {
			w.now = w.now.Add(quick)
			if err := w.step(); err != nil || w.after > 300 {
				return err
			}
		}
	}
	return w.end()
}

func (w *sim) fault() {
	a, b := w.order[w.rnd.IntN(len(w.order))], w.order[w.rnd.IntN(len(w.order))]
	if w.rnd.IntN(2) == 0 {
		a = w.id
	}
	if w.rnd.IntN(2) == 0 {
		a, b = b, a
	}
	switch w.rnd.IntN(20) {
	case 0, 1:
		w.cut[[2]ident.HostID{a, b}] = true
	case 2, 3:
		w.cut[[2]ident.HostID{a, b}], w.cut[[2]ident.HostID{b, a}] = true, true
	case 4, 5, 6, 15, 16, 17, 18, 19:
		clear(w.cut)
		w.up, w.paused = true, false
	case 7: // cut off whole
		for _, id := range w.order {
			w.cut[[2]ident.HostID{a, id}], w.cut[[2]ident.HostID{id, a}] = true, true
		}
		w.cut[[2]ident.HostID{a, w.id}], w.cut[[2]ident.HostID{w.id, a}] = true, true
	case 8:
		if w.up = !w.up; w.up {
			w.holder = NewHolder(w.disk, w.rnd.Uint64())
		}
	case 9:
		w.paused = !w.paused
	case 10:
		if e := w.any(); !e.removed {
			if e.up = !e.up; e.up {
				e.restart(w)
			}
		}
	case 11:
		e := w.any()
		e.paused = !e.paused
	case 12:
		if len(w.order) < 12 && w.rnd.IntN(4) == 0 {
			w.add()
		}
	case 13: // a majority removes a host that does not run
		if e := w.any(); !e.up && w.rnd.IntN(4) == 0 {
			e.removed = true
		}
	case 14:
		w.up, w.paused = true, false
		w.holder = NewHolder(w.disk, w.rnd.Uint64())
	}
}

func (e *simElector) restart(w *sim) {
	e.Elector = NewElector(e.self, w.now)
	if e.lease != nil {
		e.SetLease(w.now, w.id, *e.lease)
	}
	for id, v := range e.disk {
		e.SetVote(id, w.id, v)
	}
}

func (w *sim) step() error {
	if w.up && !w.paused {
		stay := map[ident.HostID]bool{}
		for id, e := range w.hosts {
			if !e.removed {
				stay[id] = e.up && !w.cut[[2]ident.HostID{w.id, id}]
			}
		}
		write, msgs := w.holder.Tick(w.now, stay)
		if write {
			if w.rnd.IntN(50) == 0 { // the disk is full, or it crashes
				msgs = nil
				w.up = w.rnd.IntN(2) == 0
			} else {
				w.disk = w.holder.Lease()
				w.n.terms++
				w.holder.Written()
			}
		}
		for _, m := range msgs {
			w.post(w.id, m)
		}
	}
	w.deliver()
	w.spread()
	for _, id := range w.order {
		e := w.hosts[id]
		if !e.up || e.paused || e.removed {
			continue
		}
		for holder, v := range e.Tick(w.now, w.reached(id)) {
			e.disk[id] = v
			e.SetVote(id, holder, v)
		}
		w.decided = w.decided || len(e.Gone()) > 0
	}
	serving := w.up && !w.paused && w.holder.Serving(w.now)
	w.n.steps++
	if serving {
		w.n.serving++
	} else if w.up && len(w.holder.terms) > 0 {
		w.n.lapses++
	}
	if w.decided {
		w.after++
	}
	if w.decided && serving {
		return fmt.Errorf("after %v: serves, and is counted as gone: %v", w.now.Sub(start), w.holder.Lease())
	}
	return nil
}

// post sends a message that may come late, or not, or twice.
func (w *sim) post(from ident.HostID, m Message) {
	for range []int{1, 1, 1, 1, 1, 1, 1, 0, 0, 2}[w.rnd.IntN(10)] {
		late := time.Duration(0)
		if w.rnd.IntN(5) == 0 {
			late = time.Duration(w.rnd.IntN(int(latest/time.Second)) * int(time.Second))
		}
		if !w.cut[[2]ident.HostID{from, m.To}] {
			w.mail = append(w.mail, simMail{w.now.Add(late), from, m})
		}
	}
}

func (w *sim) deliver() {
	for k := 0; k < len(w.mail); k++ {
		x := w.mail[k]
		if x.at.After(w.now) {
			continue
		}
		w.mail = append(w.mail[:k:k], w.mail[k+1:]...)
		k--
		if x.m.To == w.id {
			if w.up && !w.paused {
				w.holder.Handle(x.from, x.m)
			}
			continue
		}
		e := w.hosts[x.m.To]
		if !e.up || e.paused || e.removed {
			continue
		}
		vote, answer := e.Handle(w.now, x.from, x.m)
		if vote != nil {
			if w.rnd.IntN(50) == 0 {
				continue // its disk is full
			}
			e.disk[e.self] = *vote
			e.SetVote(e.self, w.id, *vote)
		}
		if answer != nil {
			w.post(e.self, *answer)
		}
	}
}

func (w *sim) reached(id ident.HostID) (out []ident.HostID) {
	for _, o := range w.order {
		if e := w.hosts[o]; o != id && e.up && !e.removed && !w.cut[[2]ident.HostID{o, id}] {
			out = append(out, o)
		}
	}
	return out
}

// spread carries tables from host to host.
func (w *sim) spread() {
	for _, id := range w.order {
		e := w.hosts[id]
		if !e.up || e.paused || e.removed {
			continue
		}
		if w.up && !w.paused && w.disk != nil && !w.cut[[2]ident.HostID{w.id, id}] {
			e.take(w.now, w.id, w.disk)
		}
		for _, o := range w.reached(id) {
			from := w.hosts[o]
			if from.lease != nil {
				e.take(w.now, w.id, from.lease)
			}
			for who, v := range from.disk {
				if old := e.disk[who]; who != id && (v.Serial > old.Serial || v.Gone && !old.Gone) {
					e.disk[who] = v
					e.SetVote(who, w.id, v)
				}
			}
		}
	}
}

func (e *simElector) take(now time.Time, holder ident.HostID, l *Lease) {
	e.SetLease(now, holder, *l)
	if now, ok := e.leases[holder]; ok {
		e.lease = &now
	}
}

// end kills the holder, mends all else, and waits for its end to be seen.
func (w *sim) end() error {
	w.up = false
	clear(w.cut)
	for _, id := range w.order {
		if e := w.hosts[id]; !e.removed {
			e.paused = false
			if !e.up {
				e.up = true
				e.restart(w)
			}
		}
	}
	for until := w.now.Add(latest + GoneAfter + 3*SettleTime); w.now.Before(until); w.now = w.now.Add(5 * time.Second) {
		if err := w.step(); err != nil {
			return err
		}
	}
	if !w.decided {
		var lease *Lease
		votes := map[ident.HostID]Vote{}
		for _, e := range w.hosts {
			if e.lease != nil && (lease == nil || e.lease.Serial >= lease.Serial) {
				lease = e.lease
			}
			votes[e.self] = e.disk[e.self]
		}
		if lease == nil || w.stuck(lease) {
			return nil
		}
		return fmt.Errorf("it is dead, and nobody counts it as gone: lease %+v, votes %v", lease, votes)
	}
	w.n.gone++
	return nil
}

// stuck reports whether a majority of a lease's electors was removed: then it takes weft host rm.
func (w *sim) stuck(l *Lease) bool {
	here := 0
	for _, id := range l.Electors {
		if !w.hosts[id].removed {
			here++
		}
	}
	return 2*here <= len(l.Electors)
}
