package bus

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkMessages sends messages of 64 bytes, reliably and encrypted, to subscribers in this process's other members over the
// loopback interface, and waits until each has read them all.
func BenchmarkMessages(b *testing.B) {
	for _, multicast := range []bool{true, false} {
		for _, subscribers := range []int{1, 4} {
			for _, block := range []int{1, 64} {
				name := fmt.Sprintf("multicast=%v/subscribers=%d/block=%d", multicast, subscribers, block)
				b.Run(name, func(b *testing.B) { benchmark(b, multicast, subscribers, block) })
			}
		}
	}
}

// BenchmarkPaths is the same with copies by UDP, and by TCP where UDP does not pass.
func BenchmarkPaths(b *testing.B) {
	for _, subscribers := range []int{1, 4} {
		b.Run(fmt.Sprintf("udp/subscribers=%d", subscribers), func(b *testing.B) { benchmark(b, false, subscribers, 64) })
		b.Run(fmt.Sprintf("tcp/subscribers=%d", subscribers), func(b *testing.B) { benchmark(b, false, subscribers, 64, gated(shutGate())) })
	}
}

func benchmark(b *testing.B, multicast bool, subscribers, block int, change ...func(*Config)) {
	w := newWorld(b, multicast)
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	pub := must(w.join(change...).Publisher("bench"))(b)
	var wg sync.WaitGroup
	start := make(chan int)
	for range subscribers {
		s := must(w.join(change...).Subscribe("bench", WithSlow(SlowBlock)))(b)
		wg.Go(func() {
			left := <-start
			for _, err := range s.Messages(ctx) {
				if err != nil {
					b.Error(err)
					return
				}
				if left--; left == 0 {
					return
				}
			}
			b.Errorf("%d messages missing", left)
		})
	}
	check(b, pub.Ready(ctx, subscribers))
	if multicast && subscribers > 1 {
		await(b, pub.b, "multicast", func() bool {
			n := 0
			for _, m := range pub.b.Members() {
				if m.Hears {
					n++
				}
			}
			return n == subscribers
		})
	}
	payloads := make([][]byte, block)
	for i := range payloads {
		payloads[i] = make([]byte, 64)
	}
	b.SetBytes(64)
	b.ReportAllocs()
	b.ResetTimer()
	for range subscribers {
		start <- b.N
	}
	for n := b.N; n > 0; {
		k := min(n, block)
		var err error
		if k == 1 {
			err = pub.Send(ctx, payloads[0])
		} else {
			_, err = pub.SendBlock(ctx, payloads[:k])
		}
		if err != nil {
			b.Fatal(err)
		}
		n -= k
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mmsg/s")
	st := pub.Stats()
	b.ReportMetric(100*float64(st.RepairBytes)/float64(st.Bytes), "%repaired")
}
