package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestBestEffort: a subscription that is not read misses messages, is told of no Lost, counts them, and slows nobody, in the
// publisher's own process either; one that is read has them in order.
func TestBestEffort(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := within(t)
		const messages = 20_000
		a, b := w.join(), w.join()
		p := must(a.Publisher("x", WithClass(BestEffort), WithFull(WouldBlock)))(t)
		subs := map[string]*Subscription{
			"own": must(a.Subscribe("x", WithLimit(64<<10), WithSlow(SlowBlock)))(t), "other": must(b.Subscribe("x", WithLimit(64<<10)))(t),
			"ends": must(b.Subscribe("x", WithLimit(64<<10), WithSlow(SlowDisconnect)))(t),
		}
		check(t, p.Ready(ctx, 1))
		for i := range uint64(messages) {
			check(t, p.Send(ctx, binary.BigEndian.AppendUint64(make([]byte, 0, 100), i+1)[:100]))
		}
		if err := p.Wait(ctx, All); !errors.Is(err, ErrConfig) {
			t.Errorf("wait: %v", err)
		}
		check(t, p.Close(ctx))
		for name, s := range subs {
			s.Close()
			last, got := uint64(0), uint64(0)
			for m, err := range s.Messages(ctx) {
				check(t, err)
				if n := binary.BigEndian.Uint64(m.Payload); n != m.Number || n <= last {
					t.Fatalf("%s: %d is message %d, after %d", name, n, m.Number, last)
				}
				last = m.Number
				got++
			}
			if got == 0 || got == messages || s.Dropped() == 0 || s.Missed()+got != last {
				t.Errorf("%s: %d messages up to %d, %d missed, %d packets dropped", name, got, last, s.Missed(), s.Dropped())
			}
		}
		if n := p.Stats().Repairs; n != 0 {
			t.Errorf("%d repairs", n)
		}
	})
}

// TestClassConfig: what is no class is refused.
func TestClassConfig(t *testing.T) {
	b := newWorld(t, false).join()
	for _, c := range []Class{-1, 7} {
		if _, err := b.Publisher("x", WithClass(c)); !errors.Is(err, ErrConfig) {
			t.Errorf("%d: %v", c, err)
		}
	}
}

// TestLastValue: a subscription has the last message of each subject first, whenever and wherever it is made, then what is new; headers
// go with them. One that is not read until the end has each subject once.
func TestLastValue(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := within(t)
		a, b := w.join(), w.join(func(c *Config) { c.History = 1 })
		p := must(a.Publisher("px.*", WithClass(LastValue), WithWindow(256<<10)))(t)
		slow := must(b.Subscribe("px.*", WithLimit(64<<10), WithSlow(SlowDisconnect)))(t)
		check(t, p.Ready(ctx, 1))
		const keys, rounds = 20, 1000
		send := func(i, k int) {
			t.Helper()
			check(t, p.SendMessage(ctx, Outgoing{
				Subject: fmt.Sprint("px.", k), Header: Header{"Round": {fmt.Sprint(i)}}, Payload: fmt.Append(make([]byte, 0, 100), i, k)[:100],
			}))
		}
		for i := range rounds {
			for k := range keys {
				if k < 5 || i == k { // most change once and no more: the window has forgotten them
					send(i, k)
				}
			}
		}
		check(t, p.Wait(ctx, All))
		first := func(s *Subscription) {
			t.Helper()
			last, seen := uint64(0), map[string]bool{}
			for m, err := range s.Messages(ctx) {
				check(t, err)
				k, round := 0, 0
				_, err := fmt.Sscanf(m.Subject, "px.%d", &k)
				check(t, err)
				_, err = fmt.Sscan(m.Header().Get("Round"), &round)
				check(t, err)
				if k < 5 && round != rounds-1 || k >= 5 && round != k || m.Number <= last || seen[m.Subject] || !strings.HasPrefix(string(m.Payload), fmt.Sprint(round, k)) {
					t.Errorf("%s of round %d is message %d after %d", m.Subject, round, m.Number, last)
				}
				last, seen[m.Subject] = m.Number, true
				if len(seen) == keys {
					return
				}
			}
		}
		next := func(s *Subscription, want string) {
			t.Helper()
			for m, err := range s.Messages(ctx) {
				check(t, err)
				if m.Header().Get("Round") != want {
					t.Errorf("then round %s, not %s", m.Header().Get("Round"), want)
				}
				return
			}
		}
		late := w.join()
		subs := map[string]*Subscription{
			"slow": slow, "its process": must(b.Subscribe("px.>", FromLast(3)))(t), "another process": must(late.Subscribe("*.*"))(t),
			"the publisher's": must(a.Subscribe("px.*", WithQueue("q")))(t),
		}
		for name, s := range subs {
			t.Log(name)
			first(s)
		}
		one := must(late.Subscribe("px.7"))(t)
		next(one, "7")
		send(5000, 3)
		send(5001, 7)
		for _, s := range subs {
			next(s, "5000")
			next(s, "5001")
		}
		next(one, "5001")
		var err error
		for i := 0; err == nil && i < 1000; i++ {
			err = p.SendTo(ctx, fmt.Sprint("px.more", i), make([]byte, 1000))
		}
		if !errors.Is(err, ErrValues) {
			t.Errorf("%v", err)
		}
		send(6000, 1)
		if err := p.SendTo(ctx, "px.1", make([]byte, 100<<10)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v", err)
		}
	})
}
