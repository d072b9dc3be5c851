package bus

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"
)

// TestBackPressure: a subscription that blocks and is not read, in the publisher's process or another, makes Send wait, refuse or
// drop; then all that was taken is there, numbered without a gap, and Send goes on.
func TestBackPressure(t *testing.T) {
	for _, where := range []string{"own process", "another"} {
		t.Run(where, func(t *testing.T) {
			w := newWorld(t, false)
			ctx := within(t)
			a := w.join()
			reader := a
			if where == "another" {
				reader = w.join()
			}
			for name, full := range map[string]WhenFull{"block": Block, "would_block": WouldBlock, "drop": Drop} {
				p := must(a.Publisher(name, WithFull(full), WithWindow(256<<10)))(t)
				s := must(reader.Subscribe(name, WithSlow(SlowBlock), WithLimit(64<<10)))(t)
				if reader != a {
					check(t, p.Ready(ctx, 1))
				}
				taken, refused, next := 0, false, uint64(0)
				for i := 0; !refused; i++ {
					if i == 100_000 {
						t.Fatalf("%s: never full", name)
					}
					block := make([][]byte, 1+i%3)
					for j := range block {
						block[j] = binary.BigEndian.AppendUint64(make([]byte, 0, 1000), next)[:1000]
						next++
					}
					short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
					n, err := p.SendBlock(short, block)
					cancel()
					switch {
					case full == Block && errors.Is(err, context.DeadlineExceeded), full == WouldBlock && errors.Is(err, ErrWouldBlock):
						refused = true
						next -= uint64(len(block) - n)
					case err != nil || n != len(block):
						t.Fatalf("%s: %d of %d, %v", name, n, len(block), err)
					case full == Drop && p.Dropped() > 0:
						refused = true
						n -= int(p.Dropped())
						next -= p.Dropped()
					}
					taken += n
				}
				// A block is a packet where nobody else has work, and each costs the queue something beside what is in it. One of three
				// messages may not fit where two would.
				if least := (64<<10)/(1000+64+itemCost) - 2; taken < least || taken > 2000 {
					t.Errorf("%s: %d messages of 1,000 bytes with a queue of 64 KiB and a window of 256", name, taken)
				}
				got := 0
				for m, err := range s.Messages(ctx) {
					check(t, err)
					if n := binary.BigEndian.Uint64(m.Payload); n != uint64(got) || m.Number != n+1 {
						t.Fatalf("%s: %d is message %d, expected %d", name, n, m.Number, got)
					}
					if got++; got == taken {
						break
					}
				}
				for ; ; check(t, ctx.Err()) { // there is room again, or will be when the reader's word of it has come
					err := p.Send(ctx, binary.BigEndian.AppendUint64(nil, next))
					if err == nil && p.Stats().Messages > uint64(taken) {
						break
					}
					if err != nil && !errors.Is(err, ErrWouldBlock) {
						t.Fatalf("%s: %v", name, err)
					}
				}
				for m, err := range s.Messages(ctx) {
					check(t, err)
					if m.Number != uint64(taken)+1 {
						t.Errorf("%s: then message %d, not %d", name, m.Number, taken+1)
					}
					break
				}
				s.Close()
			}
		})
	}
}

// TestOptions: choices that are none are refused.
func TestOptions(t *testing.T) {
	b := newWorld(t, false).join()
	for _, err := range []error{
		second(b.Publisher("x", WithFull(-1))), second(b.Publisher("x", WithFull(3))), second(b.Publisher("x", WithWindow(1000))),
		second(b.Subscribe("x", WithSlow(-1))), second(b.Subscribe("x", WithSlow(3))), second(b.Subscribe("x", WithLimit(1000))),
		second(b.Respond("x", echo, WithWorkers(-1))), second(b.Respond("x", echo, WithWorkers(MaxWorkers+1))),
	} {
		if !errors.Is(err, ErrConfig) {
			t.Errorf("taken: %v", err)
		}
	}
}
