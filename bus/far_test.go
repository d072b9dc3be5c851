package bus

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestGather: where datagrams wait for others, through a hub and confirmed lazily, everyone has everything in order with a fraction of the datagrams.
func TestGather(t *testing.T) {
	const members, messages, pause = 5, 40, 10 * time.Millisecond
	datagrams := map[bool]uint64{}
	for _, far := range []bool{false, true} {
		w := newWorld(t, false)
		ctx := within(t)
		var options []PublisherOption
		change := func(*Config) {}
		if far {
			options = []PublisherOption{WithHub(), WithConfirm(2 * time.Second)}
			change = func(c *Config) { c.Gather, c.GatherControl = 100*time.Millisecond, MaxGather }
		}
		var buses []*Bus
		var pubs []*Publisher
		var subs []*Subscription
		for range members {
			b := w.join(change)
			buses = append(buses, b)
			subs = append(subs, must(b.Subscribe("x"))(t))
			pubs = append(pubs, must(b.Publisher("x", options...))(t))
		}
		for _, p := range pubs {
			check(t, p.Ready(ctx, members-1))
		}
		sum := func() (n uint64) {
			for _, b := range buses {
				n += b.Stats().Packets
			}
			return n
		}
		before := sum()
		tick := time.NewTicker(pause)
		for i := range messages {
			<-tick.C
			for _, p := range pubs {
				check(t, p.Send(ctx, []byte{byte(i)}))
			}
		}
		tick.Stop()
		for i, s := range subs {
			next := map[uint64]byte{}
			n := 0
			for m, err := range s.Messages(ctx) {
				check(t, err)
				if m.Payload[0] != next[m.Epoch] {
					t.Fatalf("%d: message %d of %s, not %d", i, m.Payload[0], m.Publisher, next[m.Epoch])
				}
				next[m.Epoch]++
				if n++; n == messages*members {
					break
				}
			}
		}
		datagrams[far] = sum() - before
		for _, p := range pubs {
			check(t, p.Wait(ctx, All))
		}
		for _, b := range buses {
			check(t, b.Close(ctx))
		}
		if err := ctx.Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d datagrams, gathered %d", datagrams[false], datagrams[true])
	if datagrams[true] > datagrams[false]/2 {
		t.Errorf("%d datagrams, gathered %d", datagrams[false], datagrams[true])
	}
	w := newWorld(t, false)
	b := w.join()
	for _, err := range []error{
		second(b.Publisher("x", WithConfirm(-1))), second(b.Publisher("x", WithConfirm(time.Hour))),
		second(Join(t.Context(), Config{Name: "x", Token: w.token, Gather: time.Second})), second(Join(t.Context(), Config{Name: "x", Token: w.token, GatherControl: -1})),
	} {
		if !errors.Is(err, ErrConfig) {
			t.Error(fmt.Errorf("taken: %w", err))
		}
	}
}
