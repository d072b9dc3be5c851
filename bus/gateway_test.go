package bus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/weft-net/weft/internal/envelope"
	"github.com/weft-net/weft/internal/rmcast"
)

// notes is what a gateway's watcher heard.
type notes struct {
	mu    sync.Mutex
	wants map[uint64][]rmcast.Interest
	there map[uint64]string
	moved news
}

func (n *notes) Joined(epoch uint64, name string) { n.note(func() { n.there[epoch] = name }) }
func (n *notes) Left(epoch uint64)                { n.note(func() { delete(n.there, epoch) }) }

func (n *notes) Wants(epoch uint64, name string, all []rmcast.Interest) {
	n.note(func() { n.there[epoch], n.wants[epoch] = name, all })
}

func (n *notes) note(f func()) {
	n.mu.Lock()
	f()
	n.mu.Unlock()
	n.moved.tell()
}

func (n *notes) await(ctx context.Context, t *testing.T, what string, ok func() bool) {
	t.Helper()
	for {
		moved := n.moved.wait()
		n.mu.Lock()
		done := ok()
		n.mu.Unlock()
		if done {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, ctx.Err())
		}
	}
}

// TestGateway: a gateway gets what it declared, from programs as any member, knows what they want before they hear that it does, and chooses who of
// their queue groups has what it sends.
func TestGateway(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	gb, a, b := w.join(), w.join(), w.join()
	g := must(gb.Gateway())(t)
	ns := &notes{wants: map[uint64][]rmcast.Interest{}, there: map[uint64]string{}}
	g.Watch(ns)
	g.Want([]rmcast.Interest{{ID: 1, Pattern: "$WEFT.interest"}, {ID: 2, Pattern: "jobs", Queue: "w", N: 2}, {ID: 3, Pattern: "news.>"}})

	for _, m := range []*Bus{gb, a, b} {
		await(t, m, "all members", func() bool { return len(m.Members()) == 2 })
	}
	// What the programs want is known when they are told so.
	plain := must(a.Subscribe(">"))(t)
	seat := must(b.Subscribe("from.*", WithQueue("q")))(t)
	other := must(b.Subscribe("from.*", WithQueue("q")))(t)
	check(t, plain.Ready(ctx))
	check(t, other.Ready(ctx))
	ns.mu.Lock()
	if n := len(ns.wants[b.Epoch()]); n != 2 || ns.there[a.Epoch()] != "m2" {
		t.Errorf("%+v, %v", ns.wants, ns.there)
	}
	ns.mu.Unlock()

	env := envelope.Append(nil, envelope.Envelope{Reply: []byte("r"), Header: []byte("NATS/1.0\r\nA: b\r\n\r\n")})
	for i := range 100 {
		d := rmcast.Deal{Group: rmcast.GroupHash("q"), Member: b.self, Sub: seat.want.ID}
		if i%4 == 3 {
			d.Sub = other.want.ID
		}
		check(t, g.Send(ctx, "$WEFT.interest", nil, nil, nil)) // nobody else hears of it
		check(t, g.Send(ctx, "from.x", env, []rmcast.Deal{d}, fmt.Append(nil, i)))
	}
	for s, want := range map[*Subscription]int{plain: 100, seat: 75, other: 25} {
		n := 0
		for m, err := range s.Messages(ctx) {
			check(t, err)
			if m.Subject != "from.x" || m.Reply() != "r" || m.Header().Get("A") != "b" {
				t.Fatalf("%+v", m)
			}
			if n++; n == want {
				break
			}
		}
	}

	// What it does not want does not come, the rest does in order, and its share of the group.
	silent := must(a.Publisher("other"))(t)
	all, jobs := must(a.Publisher("news.>"))(t), must(a.Publisher("jobs"))(t)
	values := must(a.Publisher("news.state", WithClass(LastValue)))(t)
	must(b.Subscribe("jobs", WithQueue("w")))(t)
	for _, p := range []*Publisher{all, values} {
		check(t, p.Ready(ctx, 1))
	}
	check(t, jobs.Ready(ctx, 2))
	check(t, silent.Send(ctx, nil))
	const n = 300
	for i := range n {
		check(t, all.SendMessage(ctx, Outgoing{Subject: "news.x", Header: Header{"N": {fmt.Sprint(i)}}}))
		check(t, jobs.Send(ctx, nil))
	}
	check(t, values.Send(ctx, []byte("v")))
	if got := silent.Receivers(); slices.Contains(got, "m1") {
		t.Errorf("%v get what is not wanted", got)
	}
	brief, cancel := context.WithCancel(ctx)
	news, mine, state := 0, 0, 0
	err := g.Messages(brief, func(m *Passed) {
		switch string(m.Subject) {
		case "news.x":
			if e, err := envelope.Decode(m.Envelope); err != nil || string(e.Header) != fmt.Sprintf("NATS/1.0\r\nN: %d\r\n\r\n", news) {
				t.Errorf("%d: %q, %v", news, e.Header, err)
			}
			news++
		case "jobs":
			if slices.Contains(m.Groups, rmcast.GroupHash("w")) {
				mine++
			}
		case "news.state":
			if !m.All || string(m.Payload) != "v" {
				t.Errorf("%+v", m)
			}
			state++
		default:
			t.Errorf("%s", m.Subject)
		}
		if news == n && mine >= 2*n/3-5 && state == 1 {
			cancel()
		}
	}, func(l *Lost) { t.Error(l) })
	if err == nil || ctx.Err() != nil || mine > 2*n/3+5 {
		t.Errorf("%d, %d, %d: %v", news, mine, state, err)
	}
	check(t, b.Close(ctx))
	ns.await(ctx, t, "left", func() bool { return ns.there[b.Epoch()] == "" })

	for _, err := range []error{
		second(a.Subscribe("$WEFT.>")), second(a.Publisher("$WEFT.interest")), all.SendTo(ctx, "$WEFT.interest", nil),
	} {
		if err == nil {
			t.Error("a subject of weft's own is taken")
		}
	}
}
