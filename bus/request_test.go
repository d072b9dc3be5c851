package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// echo answers with what it was asked, headers included.
func echo(_ context.Context, m Message) (Outgoing, error) {
	if string(m.Payload) == "fail" {
		return Outgoing{}, errors.New("no such\nthing")
	}
	return Outgoing{Header: m.Header(), Payload: m.Payload}, nil
}

// TestRequest: requests of several goroutines and lengths are answered by a responder in another process or in the asker's own, headers
// come and go, and members that are no part of it get nothing.
func TestRequest(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := within(t)
		a, b, c := w.join(), w.join(), w.join()
		r := must(b.Respond("echo.>", echo, WithWorkers(4)))(t)
		must(a.Respond("own", echo))(t)
		check(t, r.Ready(ctx))
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for j := range 20 {
					subj := "echo." + fmt.Sprint(i%3)
					if i == 7 {
						subj = "own"
					}
					o := Outgoing{Subject: subj, Payload: bytes.Repeat([]byte{byte(i)}, i*j*100), Header: Header{"I": {fmt.Sprint(i, j)}}}
					m, err := a.RequestMessage(ctx, o)
					if err != nil || !bytes.Equal(m.Payload, o.Payload) || m.Header().Get("I") != fmt.Sprint(i, j) {
						t.Errorf("%d %d: %d bytes, %v, %v", i, j, len(m.Payload), m.Header(), err)
					}
				}
			})
		}
		wg.Wait()
		began := time.Now()
		for range 200 {
			must(a.Request(ctx, "echo.0", nil))(t)
		}
		t.Logf("%v a request", time.Since(began)/200)
		var refused *Refused
		if _, err := a.Request(ctx, "echo.0", []byte("fail")); !errors.As(err, &refused) || refused.Reason != "no such thing" || refused.Member != "m2" {
			t.Errorf("%v", err)
		}
		if st := r.Stats(); st != (ResponderStats{Requests: 581, Refused: 1}) {
			t.Errorf("%+v", st)
		}
		c.mu.Lock()
		data := c.node.Stats.Data
		c.mu.Unlock()
		if data != 0 {
			t.Errorf("%d packets came to who had no part in it", data)
		}
		check(t, r.Close(ctx))
	})
}

// TestNoResponders: who asks where nobody is, or where those that could answer go, is told so and does not wait; who does not answer is named.
func TestNoResponders(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	a, b := w.join(), w.join()
	began := time.Now()
	if _, err := a.Request(ctx, "x", nil); !errors.Is(err, ErrNoResponders) || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("%v", err)
	}
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("told after %v", d)
	}
	// One that comes within the first second is waited for.
	c := w.join()
	late := w.join()
	got := make(chan error, 1)
	go func() { got <- second(late.Request(ctx, "late", nil)) }()
	must(c.Respond("late", echo))(t)
	check(t, <-got)
	// A handler that takes its time, or a subscription that never answers.
	mute := must(b.Subscribe("mute"))(t)
	check(t, mute.Ready(ctx))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := a.Request(short, "mute", nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"mute"`) || !strings.Contains(err.Error(), "m2") {
		t.Errorf("%v", err)
	}
	go func() { got <- second(a.Request(ctx, "mute", nil)) }()
	for m, err := range mute.Messages(ctx) {
		check(t, err)
		if len(m.Reply()) > 0 && m.Number == 2 {
			break
		}
	}
	check(t, b.Close(ctx))
	if err := <-got; !errors.Is(err, ErrNoResponders) {
		t.Errorf("%v", err)
	}
	if err := a.Answer(ctx, Message{}, Outgoing{}); !errors.Is(err, ErrNoReply) {
		t.Errorf("%v", err)
	}
	if _, err := a.Request(ctx, "a.*", nil); !errors.Is(err, ErrSubject) {
		t.Errorf("%v", err)
	}
}

// TestResponderGroup: one of a queue group answers each request, and a responder that closes answers what it has taken.
func TestResponderGroup(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	a := w.join()
	var rs []*Responder
	for range 3 {
		r := must(w.join().Respond("job", echo, WithQueue("workers")))(t)
		check(t, r.Ready(ctx))
		rs = append(rs, r)
	}
	had := func() (each []uint64) {
		for _, r := range rs {
			each = append(each, r.Stats().Requests)
		}
		return each
	}
	// The first requests are for those that have answered the new stream's announcement so far.
	first := uint64(0)
	for slices.Min(had()) == 0 {
		must(a.Request(ctx, "job", nil))(t)
		first++
	}
	before := had()
	const n = 300
	for i := range n {
		m := must(a.Request(ctx, "job", fmt.Append(nil, i)))(t)
		if string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("%d: %s", i, m.Payload)
		}
	}
	for _, r := range rs {
		check(t, r.Close(ctx))
	}
	sum, after := uint64(0), had()
	for i, v := range after {
		if sum += v; v-before[i] < n/6 {
			t.Errorf("from %d to %d of %d requests", before, after, n)
		}
	}
	if sum != first+n {
		t.Errorf("%d requests of %d", sum, first+n)
	}
}

// TestStreams: streams for requests are bounded, and what was sent on one that is closed for another arrives.
func TestStreams(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	a, b := w.join(), w.join()
	r := must(b.Respond("s.*", echo))(t)
	check(t, r.Ready(ctx))
	for i := range 3 * maxStreams {
		must(a.Request(ctx, fmt.Sprintf("s.%d", i), nil))(t)
	}
	a.requests.mu.Lock()
	n := len(a.requests.by)
	a.requests.mu.Unlock()
	if n > maxStreams {
		t.Errorf("%d streams", n)
	}
	await(t, b, "streams forgotten", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.node.Streams()) <= maxStreams
	})
}
