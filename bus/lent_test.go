package bus

import (
	"encoding/binary"
	"runtime"
	"testing"
)

// numbered is the payload of a message: its number all over.
func numbered(b []byte, number uint64) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], number)
	}
}

func isNumbered(b []byte, number uint64) bool {
	for i := 0; i+8 <= len(b); i += 8 {
		if binary.BigEndian.Uint64(b[i:]) != number {
			return false
		}
	}
	return true
}

// TestLent: a reader that is lent its messages has each of them as it was sent until the next one, long ones too, while it hardly allocates; one
// that keeps them, beside, has all of them unchanged in the end, and so has one that comes later and gets what is kept here.
func TestLent(t *testing.T) {
	w, ctx := newWorld(t, false), within(t)
	p := must(w.join().Publisher("x"))(t)
	b := w.join()
	lent := must(b.Subscribe("x", WithSlow(SlowBlock), WithLent()))(t)
	check(t, p.Ready(ctx, 1))
	const many, long = 200_000, 1000 // each long-th message is one of many packets
	next := uint64(1)
	publish := func(n int) {
		t.Helper()
		buf, big := make([]byte, 256), make([]byte, 50_000)
		for range n {
			m := buf
			if next%long == 0 {
				m = big
			}
			numbered(m, next)
			if err := p.Send(ctx, m); err != nil {
				t.Error(err)
				return
			}
			next++
		}
	}
	read := func(s *Subscription, from, n uint64, each func(Message)) {
		for m, err := range s.Messages(ctx) {
			if err != nil || m.Number != from || !isNumbered(m.Payload, from) {
				t.Errorf("message %d: %v, number %d, %x", from, err, m.Number, m.Payload[:min(8, len(m.Payload))])
				return
			}
			if each != nil {
				each(m)
			}
			if from++; n == 1 {
				return
			}
			n--
		}
		t.Errorf("it ended before message %d", from)
	}
	both := func(n int, do func(from uint64)) {
		t.Helper()
		from := next
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			publish(n)
		}()
		do(from)
		<-sent
	}
	both(many, func(from uint64) { read(lent, from, many, nil) }) // what is to grow grows
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	both(many, func(from uint64) { read(lent, from, many, nil) })
	runtime.ReadMemStats(&after)
	const bytes = many * (256 + 50_000/long)
	t.Logf("%d kB allocated by publisher and reader for %d kB", (after.TotalAlloc-before.TotalAlloc)>>10, bytes>>10)
	if after.TotalAlloc-before.TotalAlloc > bytes/2 {
		t.Errorf("%d bytes allocated for %d bytes of messages that are lent", after.TotalAlloc-before.TotalAlloc, bytes)
	}

	keeps := must(b.Subscribe("x", WithSlow(SlowBlock), FromLast(100)))(t)
	var kept []Message
	keep := func(m Message) { kept = append(kept, m) }
	read(keeps, next-100, 100, keep)
	const some = 20_000
	both(some, func(from uint64) {
		got := make(chan struct{})
		go func() {
			defer close(got)
			read(lent, from, some, nil)
		}()
		read(keeps, from, some, keep)
		<-got
	})
	keeps.Close()
	both(many, func(from uint64) { read(lent, from, many, nil) })
	for _, m := range kept {
		if !isNumbered(m.Payload, m.Number) {
			t.Fatalf("message %d was kept, and has changed: %x", m.Number, m.Payload[:8])
		}
	}
}
