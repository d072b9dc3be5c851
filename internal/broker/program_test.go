package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/envelope"
	"github.com/weft-net/weft/internal/rmcast"
)

// A program of package bus is served like a host, knows what hosts want, and is told from one.
func TestPrograms(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l := &lane{}
		a, b := New(), New()
		var eb ear
		ma := l.join(t.Context(), a, 1)
		l.join(t.Context(), b, 2)
		p := l.join(t.Context(), nil, 3)
		if r := publish(t, a, "svc", ""); !r.Wanted {
			t.Error("a member of which nothing is known wants everything")
		}
		p.Want([]rmcast.Interest{{ID: 7, Pattern: "svc"}, {ID: 8, Pattern: "job.*", Queue: "w"}, {ID: 9, Pattern: "job.*", Queue: "w"}})
		time.Sleep(time.Second) // fake time
		p.take()
		if got := a.Programs(); !slices.Equal(got, []uint64{3}) {
			t.Errorf("programs: %v", got)
		}
		if known, unknown := a.Known(); !slices.Equal(known, []string{"h2"}) || unknown != nil {
			t.Errorf("%v %v", known, unknown)
		}
		before := l.sent
		if r := publish(t, a, "nobody", ""); r.Wanted || l.sent != before {
			t.Error("sent, and nobody wants it")
		}
		if _, err := a.Router().Publish(t.Context(), []byte("svc"), &Message{Payload: []byte("1"), Reply: []byte("r"), Header: []byte("H")}, Options{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		got := p.take()
		if len(got) != 1 || string(got[0].payload) != "1" {
			t.Fatalf("%+v", got)
		}
		if e, err := envelope.Decode(got[0].envelope); err != nil || string(e.Reply) != "r" || string(e.Header) != "H" {
			t.Errorf("%+v %v", e, err)
		}

		// A queue group with two subscriptions in the program, one on the other host.
		subscribe(t, b, "job.x", "w", &eb)
		synctest.Wait()
		seats := map[uint32]int{}
		const n = 600
		r := a.Router()
		for range n {
			if _, err := r.Publish(t.Context(), []byte("job.x"), &Message{}, Options{}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		for _, g := range p.take() {
			for _, d := range g.deals {
				if d.Group != rmcast.GroupHash("w") {
					t.Fatalf("%+v", d)
				}
				if d.Member == 3 {
					seats[d.Sub]++
				}
			}
		}
		if at := len(eb.take()); at+seats[8]+seats[9] != n || at < n/5 || seats[8] < n/5 || seats[9] < n/5 {
			t.Errorf("%d on the host, %v in the program", at, seats)
		}

		// What the program sends to a group is for the host that it names.
		in := Incoming{Epoch: 3, Subject: []byte("job.x"), Payload: []byte("2"), Groups: []uint32{rmcast.GroupHash("w")}}
		l.members[1].link.Receive(&in)
		in.Groups = nil
		l.members[1].link.Receive(&in)
		in.All = true
		l.members[1].link.Receive(&in)
		if got := eb.take(); len(got) != 2 {
			t.Errorf("%q", got)
		}

		// It wants less, comes back, and goes.
		p.Want([]rmcast.Interest{{ID: 8, Pattern: "job.*", Queue: "w"}})
		if r := publish(t, a, "svc", ""); r.Wanted {
			t.Error("still wanted")
		}
		ma.link.Joined(3, "h3")
		if r := publish(t, a, "svc", ""); r.Wanted {
			t.Error("who comes back wants what it wanted")
		}
		ma.link.Left(3)
		if got := a.Programs(); got != nil {
			t.Errorf("programs: %v", got)
		}
	})
}

// What a broker declares to programs: each want with a number that stays, groups with their weight, inboxes from the oldest.
func TestDeclared(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		l := &lane{}
		b := New()
		var e ear
		m := l.join(t.Context(), b, 1)
		declared := func() map[string]rmcast.Interest {
			t.Helper()
			time.Sleep(time.Second) // fake time
			out := map[string]rmcast.Interest{}
			all := m.declared()
			for _, i := range all {
				out[i.Pattern+" "+i.Queue] = i
			}
			if len(out) != len(all) {
				t.Errorf("%d interests, %d of them different", len(all), len(out))
			}
			return out
		}
		if got := declared(); len(got) != 1 || got[subjectNews+" "].ID != newsID {
			t.Errorf("%v", got)
		}
		subscribe(t, b, "a.>", "", &e)
		first := subscribe(t, b, "j", "w", &e)
		subscribe(t, b, "j", "w", &e)
		subscribe(t, b, "_INBOX.x.*", "", &e)
		got := declared()
		if len(got) != 4 || got["j w"].N != 2 || got["a.> "].Mode != rmcast.FromNow || got["_INBOX.x.* "].Mode != rmcast.FromOldest {
			t.Errorf("%v", got)
		}
		b.Unsubscribe(first)
		if again := declared(); again["j w"].N != 1 || again["j w"].ID != got["j w"].ID || again["a.> "].ID != got["a.> "].ID {
			t.Errorf("%v", again)
		}
		// Too many: everything, and who asks for nothing is told.
		var many []*Subscription
		for i := range maxDeclared {
			many = append(many, subscribe(t, b, fmt.Sprint("m.", i), "", &e))
		}
		if got := declared(); len(got) != 3 || got["> "].ID == 0 || got["j w"].ID == 0 {
			t.Errorf("%v", got)
		}
		p := l.join(t.Context(), nil, 3)
		p.Want([]rmcast.Interest{{ID: 1, Pattern: "_INBOX.0000000000000003.*"}})
		ask := Incoming{Epoch: 3, Subject: []byte("nobody"), Envelope: envelope.Append(nil, envelope.Envelope{Reply: []byte("_INBOX.0000000000000003.1")})}
		m.link.Receive(&ask)
		ask.Subject = []byte("m.5")
		m.link.Receive(&ask)
		synctest.Wait()
		if got := p.take(); len(got) != 1 || got[0].subject != "_INBOX.0000000000000003.1" || !strings.Contains(string(got[0].envelope), " 503") {
			t.Errorf("%+v", got)
		}
		for _, s := range many {
			b.Unsubscribe(s)
		}
		if got := declared(); len(got) != 4 {
			t.Errorf("%v", got)
		}
		// Who wants it may have gone just now; of a queue group another may have it, and other replies mean other things.
		ask.Subject = []byte("gone")
		m.link.Receive(&ask)
		ask.Subject = []byte("j")
		m.link.Receive(&ask)
		ask = Incoming{Epoch: 3, Subject: []byte("gone"), Envelope: envelope.Append(nil, envelope.Envelope{Reply: []byte("_INBOX.0000000000000004.1")})}
		m.link.Receive(&ask)
		synctest.Wait()
		if got := p.take(); len(got) != 1 || got[0].subject != "_INBOX.0000000000000003.1" {
			t.Errorf("%+v", got)
		}
		// By bytes, too: what is told has room in so many parts.
		for i := range 600 {
			subscribe(t, b, strings.Repeat("long.", 30)+fmt.Sprint(i), strings.Repeat("q", 200), &e)
		}
		size := 0
		declared()
		for _, i := range m.declared() {
			size += i.Size()
		}
		if size > maxDeclaredBytes+1024 || b.Drops()["interest_full"] == 0 {
			t.Errorf("%d bytes declared, %d left out", size, b.Drops()["interest_full"])
		}
	})
}

// Messages to and from the bus cost no allocation.
func TestBusAllocatesNothing(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		b := New()
		link := b.Attach(t.Context(), sinkhole{}, 1)
		link.Joined(2, "p")
		link.Wants(2, "p", []rmcast.Interest{{ID: 3, Pattern: "a.>", Queue: "q"}, {ID: 4, Pattern: "b"}})
		if _, err := b.Subscribe(t.Context(), "c.>", "q", deaf{}, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r := b.Router()
		m := &Message{}
		in := Incoming{Epoch: 2, Subject: []byte("c.d"), Payload: []byte("hello"), Groups: []uint32{rmcast.GroupHash("q")}}
		for _, subj := range []string{"a.b", "b"} {
			s := []byte(subj)
			if n := testing.AllocsPerRun(1000, func() {
				*m = Message{Payload: in.Payload, Header: s}
				if res, err := r.Publish(t.Context(), s, m, Options{}); err != nil || !res.Wanted {
					t.Fatal(res, err)
				}
			}); n != 0 {
				t.Errorf("%s: %v allocations", subj, n)
			}
		}
		if n := testing.AllocsPerRun(1000, func() { link.Receive(&in) }); n != 0 {
			t.Errorf("received: %v allocations", n)
		}
	})
}

// sinkhole is a bus that keeps nothing.
type sinkhole struct{}

func (sinkhole) Send(context.Context, string, []byte, []rmcast.Deal, []byte) error { return nil }

func (sinkhole) Want([]rmcast.Interest) {}
