package bus

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestHeaders: headers and reply subjects arrive as they were, with payloads of any length, in this process and another, between
// messages that have none.
func TestHeaders(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := within(t)
		a, b := w.join(), w.join()
		p := must(a.Publisher("h.>"))(t)
		subs := []*Subscription{must(a.Subscribe("h.*"))(t), must(b.Subscribe("h.*"))(t)}
		check(t, p.Ready(ctx, 1))
		long := Header{}
		for i := range 300 {
			long.Add(strings.Repeat("n", 1+i), strings.Repeat("v", 2000))
		}
		sent := []Outgoing{
			{Subject: "h.a", Payload: []byte("none")},
			{Subject: "h.a", Header: Header{"A": {"1", "2", "1"}, "a": {""}, "Tab": {"a\tb"}}, Payload: []byte("some")},
			{Subject: "h.b", Reply: "inbox.7"},
			{Subject: "h.b", Reply: "inbox.8", Header: long, Payload: bytes.Repeat([]byte("p"), 3<<20)},
			{Subject: "h.c", Payload: []byte("none again")},
		}
		go func() {
			for _, o := range sent {
				if err := p.SendMessage(ctx, o); err != nil {
					t.Error(err)
				}
			}
		}()
		for _, s := range subs {
			i := 0
			for m, err := range s.Messages(ctx) {
				check(t, err)
				o := sent[i]
				if m.Subject != o.Subject || m.Reply() != o.Reply || !bytes.Equal(m.Payload, o.Payload) || !maps.EqualFunc(m.Header(), o.Header, slices.Equal) {
					t.Errorf("message %d: %q %q %d bytes %.200v", i, m.Subject, m.Reply(), len(m.Payload), m.Header())
				}
				if i++; i == len(sent) {
					break
				}
			}
		}
	})
}

// TestTooLarge: subjects, headers and messages that are too large are refused by errors that say which it was.
func TestTooLarge(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	b := w.join()
	p := must(b.Publisher("x.>"))(t)
	most := Header{"N": {strings.Repeat("v", MaxHeader-12-1-4)}}
	check(t, p.SendMessage(ctx, Outgoing{Subject: "x.a", Reply: strings.Repeat("r", 255), Header: most}))
	subj := "x." + strings.Repeat("a", 254)
	for name, c := range map[string]struct {
		err         error
		also, never error
	}{
		"subject": {p.SendTo(ctx, subj, nil), ErrSubject, ErrHeader},
		"pattern": {second(b.Subscribe(subj)), ErrSubject, ErrHeader},
		"stream":  {second(b.Publisher(subj)), ErrSubject, ErrHeader},
		"reply":   {p.SendMessage(ctx, Outgoing{Subject: "x.a", Reply: subj}), ErrSubject, ErrHeader},
		"headers": {p.SendMessage(ctx, Outgoing{Subject: "x.a", Header: Header{"N": {most.Get("N") + "v"}}}), ErrHeader, ErrSubject},
		"message": {p.SendTo(ctx, "x.a", make([]byte, 4<<20)), ErrTooLarge, ErrSubject},
		"both":    {p.SendMessage(ctx, Outgoing{Subject: "x.a", Header: most, Payload: make([]byte, 7<<19)}), ErrTooLarge, ErrHeader},
		"longest": {p.SendTo(ctx, "x.a", make([]byte, MaxMessage+1)), ErrTooLarge, ErrHeader},
	} {
		if !errors.Is(c.err, ErrTooLarge) || !errors.Is(c.err, c.also) || errors.Is(c.err, c.never) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	for _, h := range []Header{{"": {"v"}}, {"a b": {"v"}}, {"a:": {"v"}}, {"ä": {"v"}}, {"a": {"v\r\nb: c"}}, {"a": {"\x00"}}} {
		if err := p.SendMessage(ctx, Outgoing{Subject: "x.a", Header: h}); !errors.Is(err, ErrHeader) || errors.Is(err, ErrTooLarge) {
			t.Errorf("%q: %v", h, err)
		}
	}
	if err := p.SendMessage(ctx, Outgoing{}); !errors.Is(err, ErrSubject) {
		t.Errorf("no subject of a pattern: %v", err)
	}
	if err := p.SendMessage(ctx, Outgoing{Subject: "x.a", Reply: "a.*"}); !errors.Is(err, ErrSubject) {
		t.Errorf("a pattern to reply to: %v", err)
	}
}
