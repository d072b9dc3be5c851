package lease

import (
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// TestBothTerms: after a restart in the middle of a change the holder needs both majorities.
func TestBothTerms(t *testing.T) {
	b := newTable(t, 1)
	b.run(time.Minute)
	old := b.holder.Lease().Term
	next := Lease{Term: Term{Serial: 2, Electors: []ident.HostID{host(2), host(3)}}, Before: &old}
	h := NewHolder(&next, 7)
	_, msgs := h.Tick(b.now, b.stay)
	if len(msgs) != 3 {
		t.Fatalf("%d messages, want one to each elector of both terms", len(msgs))
	}
	for _, m := range msgs[1:] {
		h.Handle(m.To, Message{Op: Renewed, Serial: m.Serial, Counter: m.Counter})
	}
	if h.Serving(b.now) || h.Lease().Before == nil {
		t.Fatal("serves by the new electors alone")
	}
	h.Handle(msgs[0].To, Message{Op: Renewed, Serial: 2, Counter: msgs[0].Counter})
	if !h.Serving(b.now) || h.Lease().Before != nil {
		t.Fatal("the new term is not in force")
	}
}

// TestVoteCounts: in the term that its elector renewed last, and later ones.
func TestVoteCounts(t *testing.T) {
	e := NewElector(host(1), start)
	e.SetLease(start, host(9), Lease{Term: Term{Serial: 2, Electors: []ident.HostID{host(1), host(2)}}})
	e.SetVote(host(1), host(9), Vote{Serial: 3, Gone: true}) // it renewed a term of which this host has not read
	e.SetVote(host(2), host(9), Vote{Gone: true})            // it never renewed any
	if len(e.Gone()) != 0 {
		t.Fatal("a vote counts in an earlier term")
	}
	e.SetLease(start, host(9), Lease{Term: Term{Serial: 3, Electors: []ident.HostID{host(1), host(2)}}})
	if len(e.Gone()) != 1 {
		t.Fatal("votes do not count in later terms")
	}
	e.SetVote(host(2), host(9), Vote{Serial: 3})
	if len(e.Gone()) != 1 {
		t.Fatal("a vote was taken back")
	}
}

// TestRenewsWhatItKnows: an elector renews the term that it has read of, and none before one that it has renewed.
func TestRenewsWhatItKnows(t *testing.T) {
	e := NewElector(host(1), start)
	ask := func(serial uint64) bool {
		_, answer := e.Handle(start, host(9), Message{Op: Renew, Serial: serial, Counter: 5})
		return answer != nil && answer.Op == Renewed && answer.Counter == 5 && answer.To == host(9)
	}
	if ask(1) {
		t.Fatal("renews a lease that it cannot tell others of")
	}
	e.SetLease(start, host(9), Lease{Term: Term{Serial: 1, Electors: []ident.HostID{host(1)}}})
	if !ask(1) || ask(2) {
		t.Fatal("want the term that it knows, and no other")
	}
	e.SetVote(host(1), host(9), Vote{Serial: 2})
	if ask(1) {
		t.Fatal("renews a term before one that it has renewed")
	}
}

// TestAnotherRun: a late answer to an earlier run's round is none to this one's.
func TestAnotherRun(t *testing.T) {
	lease := Lease{Term: Term{Serial: 1, Electors: []ident.HostID{host(1)}}}
	h := NewHolder(&lease, 1<<50)
	_, msgs := h.Tick(start, nil)
	h = NewHolder(&lease, 1<<51)
	if _, again := h.Tick(start.Add(time.Hour), nil); len(again) != 1 || again[0].Counter == msgs[0].Counter {
		t.Fatalf("the same counter in two runs: %v %v", msgs, again)
	}
	h.Handle(host(1), Message{Op: Renewed, Serial: 1, Counter: msgs[0].Counter})
	if h.Serving(start.Add(time.Hour)) {
		t.Fatal("serves by an answer to an earlier run")
	}
}

// TestNewTerm: the holder serves on while new electors have not answered yet, and none of them, however long it runs, votes within
// 15 minutes of reading that it is one.
func TestNewTerm(t *testing.T) {
	b := newTable(t, 3)
	b.run(time.Hour)
	b.electors[host(10)], b.stay[host(10)] = NewElector(host(10), start), true
	if write, _ := b.holder.Tick(b.now, b.stay); !write || !b.holder.Serving(b.now) {
		t.Fatal("no new term, or it holds the holder up before anybody could answer")
	}
	b.cut[host(10)] = true // its own messages do not arrive; what the others know does
	for range 60 {
		b.run(time.Second)
		b.electors[host(10)].SetLease(b.now, b.id, *b.holder.Lease())
	}
	b.run(GoneAfter - 2*time.Minute)
	if v := b.electors[host(10)].votes[b.id][host(10)]; v.Gone {
		t.Fatal("voted within 15 minutes of reading of the lease")
	}
	b.run(3 * time.Minute)
	if v := b.electors[host(10)].votes[b.id][host(10)]; !v.Gone {
		t.Fatal("never votes")
	}
	if !b.holder.Serving(b.now) || b.gone() {
		t.Fatal("one vote of four ended it")
	}
}
