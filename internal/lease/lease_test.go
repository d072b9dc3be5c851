package lease

import (
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

func host(n byte) ident.HostID { return ident.HostID{n} }

var start = time.Unix(1_700_000_000, 0)

// table drives a holder and electors by hand: messages arrive at once unless an elector is cut off.
type table struct {
	t        *testing.T
	now      time.Time
	holder   *Holder
	id       ident.HostID
	electors map[ident.HostID]*Elector
	cut      map[ident.HostID]bool // from the holder
	stay     map[ident.HostID]bool
}

func newTable(t *testing.T, n byte) *table {
	b := &table{t: t, now: start, holder: NewHolder(nil, 1<<63), id: host(100), electors: map[ident.HostID]*Elector{}, cut: map[ident.HostID]bool{}, stay: map[ident.HostID]bool{}}
	for i := range n {
		b.electors[host(i+1)] = NewElector(host(i+1), start)
		b.stay[host(i+1)] = true
	}
	return b
}

// run lets time pass in seconds. Electors reach each other.
func (b *table) run(d time.Duration) {
	for end := b.now.Add(d); b.now.Before(end); b.now = b.now.Add(time.Second) {
		reach := map[ident.HostID]bool{}
		for id := range b.stay {
			reach[id] = !b.cut[id]
		}
		_, msgs := b.holder.Tick(b.now, reach)
		b.holder.Written()
		if l := b.holder.Lease(); l != nil {
			for id, e := range b.electors {
				if !b.cut[id] {
					e.SetLease(b.now, b.id, *l)
				}
			}
		}
		for _, m := range msgs {
			if e := b.electors[m.To]; e != nil && !b.cut[m.To] {
				v, answer := e.Handle(b.now, b.id, m)
				b.spread(m.To, v)
				if answer != nil {
					b.holder.Handle(m.To, *answer)
				}
			}
		}
		var all []ident.HostID
		for id := range b.electors {
			all = append(all, id)
		}
		for id, e := range b.electors {
			for holder, v := range e.Tick(b.now, all) {
				if holder != b.id {
					b.t.Fatalf("vote about %s", holder.Short())
				}
				b.spread(id, &v)
			}
		}
	}
}

func (b *table) spread(from ident.HostID, v *Vote) {
	if v == nil {
		return
	}
	for _, e := range b.electors {
		e.SetVote(from, b.id, *v)
	}
}

func (b *table) gone() bool {
	b.t.Helper()
	n := 0
	for _, e := range b.electors {
		if len(e.Gone()) > 0 {
			n++
		}
	}
	if n != 0 && n != len(b.electors) {
		b.t.Fatalf("%d of %d electors say gone", n, len(b.electors))
	}
	return n > 0
}

// TestServes: from the first second to the last, and never voted about.
func TestServes(t *testing.T) {
	b := newTable(t, 3)
	b.run(2 * time.Second)
	if !b.holder.Serving(b.now) {
		t.Fatal("does not serve after 2 s")
	}
	b.run(2 * time.Hour)
	if !b.holder.Serving(b.now) || b.gone() {
		t.Fatal("does not serve after two hours")
	}
}

// TestOneOfThree: a minority's silence is nothing.
func TestOneOfThree(t *testing.T) {
	b := newTable(t, 3)
	b.run(time.Minute)
	b.cut[host(2)] = true
	b.run(time.Hour)
	if !b.holder.Serving(b.now) || b.gone() {
		t.Fatal("one of three electors is enough to end it")
	}
	if missing, n := b.holder.Missing(b.now); len(missing) != 1 || n != 3 {
		t.Fatalf("%d missing of %d", len(missing), n)
	}
	clear(b.cut)
	b.run(3 * time.Minute)
	if missing, n := b.holder.Missing(b.now); len(missing) != 0 || n != 2 || !b.holder.Serving(b.now) {
		t.Fatalf("%d missing of %d: want to go on without one that has voted", len(missing), n)
	}
}

// TestCutOff: it serves for 10 minutes after the last majority, and is gone 15 minutes after, by when it has stopped.
func TestCutOff(t *testing.T) {
	b := newTable(t, 3)
	b.run(time.Minute)
	b.cut[host(1)], b.cut[host(2)] = true, true
	b.run(ServeFor - RenewEvery - 2*time.Second)
	if !b.holder.Serving(b.now) {
		t.Fatal("stopped too early")
	}
	b.run(RenewEvery + 4*time.Second)
	if b.holder.Serving(b.now) {
		t.Fatal("serves without a majority for over 10 minutes")
	}
	if missing, n := b.holder.Missing(b.now); len(missing) != 2 || n != 3 {
		t.Fatalf("%d missing of %d", len(missing), n)
	}
	b.run(GoneAfter - ServeFor - RenewEvery - 10*time.Second)
	if b.gone() {
		t.Fatal("gone before 15 minutes")
	}
	b.run(RenewEvery + 30*time.Second)
	if !b.gone() {
		t.Fatal("not gone after 15 minutes")
	}
	clear(b.cut)
	b.run(time.Hour)
	if b.holder.Serving(b.now) {
		t.Fatal("serves again after it was voted gone")
	}
}

// TestBackInTime: before anybody has voted it serves on.
func TestBackInTime(t *testing.T) {
	b := newTable(t, 3)
	b.run(time.Minute)
	for id := range b.electors {
		b.cut[id] = true
	}
	b.run(GoneAfter - RenewEvery - 10*time.Second)
	if b.holder.Serving(b.now) {
		t.Fatal("serves without anybody")
	}
	clear(b.cut)
	b.run(3 * time.Second)
	if !b.holder.Serving(b.now) || b.gone() {
		t.Fatal("does not serve again")
	}
	b.run(time.Hour)
	if !b.holder.Serving(b.now) || b.gone() {
		t.Fatal("did not last")
	}
}

// TestElectorsChange: all of the first electors go one after the other while others come; the holder needs those of today.
func TestElectorsChange(t *testing.T) {
	b := newTable(t, 3)
	b.run(time.Minute)
	for i := range byte(3) {
		b.electors[host(10+i)], b.stay[host(10+i)] = NewElector(host(10+i), b.now), true
		b.run(3 * time.Minute)
		delete(b.electors, host(1+i)) // weft host rm
		delete(b.stay, host(1+i))
		b.run(3 * time.Minute)
		if !b.holder.Serving(b.now) {
			t.Fatalf("does not serve after change %d", i+1)
		}
	}
	l := b.holder.Lease()
	if l.Before != nil || len(l.Electors) != 3 || l.Electors[0] != host(10) {
		t.Fatalf("electors: %v", l)
	}
	b.run(time.Hour)
	if !b.holder.Serving(b.now) || b.gone() {
		t.Fatal("did not last")
	}
	for id := range b.electors {
		b.cut[id] = true
	}
	b.run(GoneAfter + time.Minute)
	if b.holder.Serving(b.now) || !b.gone() {
		t.Fatal("not gone by those of today")
	}
}

// TestRestarts: a restart of the holder goes on with its lease, one of the electors gives it 15 more minutes.
func TestRestarts(t *testing.T) {
	b := newTable(t, 3)
	b.run(time.Minute)
	b.holder = NewHolder(b.holder.Lease(), 1<<40)
	if b.holder.Serving(b.now) {
		t.Fatal("serves before anybody has renewed in this run")
	}
	b.run(2 * time.Second)
	if l := b.holder.Lease(); !b.holder.Serving(b.now) || l.Serial != 1 {
		t.Fatalf("does not go on: %v", l)
	}
	for id := range b.electors {
		b.cut[id] = true
	}
	b.run(GoneAfter - 2*time.Minute)
	lease, votes := *b.holder.Lease(), map[ident.HostID]Vote{}
	for id, e := range b.electors {
		votes[id] = e.votes[b.id][id]
	}
	for id := range b.electors {
		b.electors[id] = NewElector(id, b.now)
		b.electors[id].SetLease(b.now, b.id, lease)
	}
	for id, v := range votes {
		b.spread(id, &v)
	}
	b.run(GoneAfter - time.Minute)
	if b.gone() {
		t.Fatal("gone by electors who were away themselves")
	}
	b.run(2 * time.Minute)
	if !b.gone() {
		t.Fatal("not gone")
	}
}

// TestSlept: an elector that slept, or a holder that did, first hears what there is to hear.
func TestSlept(t *testing.T) {
	b := newTable(t, 1)
	b.run(time.Minute)
	b.now = b.now.Add(3 * time.Hour) // both
	e := b.electors[host(1)]
	if got := e.Tick(b.now, nil); len(got) != 0 {
		t.Fatal("votes as soon as it wakes up")
	}
	if b.holder.Serving(b.now) {
		t.Fatal("serves as soon as it wakes up")
	}
	b.run(3 * time.Second)
	if !b.holder.Serving(b.now) {
		t.Fatal("does not serve again")
	}
	b.run(time.Hour)
	if b.gone() {
		t.Fatal("gone")
	}
}

// TestNobodyStays: without an elector there is no lease.
func TestNobodyStays(t *testing.T) {
	b := newTable(t, 0)
	b.run(time.Hour)
	if b.holder.Serving(b.now) || b.holder.Lease() != nil {
		t.Fatal("serves by its own leave")
	}
}

// TestOldAnswers: answers to rounds long past, or from the future, count for nothing.
func TestOldAnswers(t *testing.T) {
	b := newTable(t, 1)
	b.run(time.Minute)
	old := b.holder.round
	b.cut[host(1)] = true
	b.run(ServeFor + 2*RenewEvery)
	for _, c := range []uint64{old, b.holder.round + 1, b.holder.round + rounds} {
		b.holder.Handle(host(1), Message{Op: Renewed, Serial: 1, Counter: c})
	}
	b.holder.Handle(host(9), Message{Op: Renewed, Serial: 1, Counter: b.holder.round}) // no elector
	b.holder.Handle(host(1), Message{Op: Renewed, Serial: 9, Counter: b.holder.round}) // of a term that was never proposed
	if b.holder.Serving(b.now) {
		t.Fatal("serves by an old answer")
	}
	b.holder.Handle(host(1), Message{Op: Renewed, Serial: 1, Counter: b.holder.round})
	if !b.holder.Serving(b.now) {
		t.Fatal("does not serve by a fresh one")
	}
}

// TestRecall: a holder whose disk was put back takes its later lease from others.
func TestRecall(t *testing.T) {
	b := newTable(t, 2)
	b.run(time.Minute)
	older := *b.holder.Lease()
	b.electors[host(3)], b.stay[host(3)] = NewElector(host(3), b.now), true
	b.run(5 * time.Minute)
	later := *b.holder.Lease()
	b.holder = NewHolder(&older, 1<<30)
	b.holder.Recall(later)
	b.holder.Recall(older)
	b.run(3 * time.Second)
	if !b.holder.Serving(b.now) || b.holder.Lease().Serial != later.Serial {
		t.Fatal("did not go on from what others have")
	}
}

func TestForget(t *testing.T) {
	b := newTable(t, 1)
	b.run(time.Minute)
	e := b.electors[host(1)]
	if !e.Forget(b.id) || e.Forget(b.id) {
		t.Fatal("want: wrote of it, once")
	}
	if len(e.leases)+len(e.votes)+len(e.heard)+len(e.settled) != 0 {
		t.Fatal("something is left")
	}
}
