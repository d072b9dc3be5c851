package nats

import (
	"io"
	"strings"
	"testing"
	"time"
)

// BenchmarkThrough sends 64 bytes from one connection to another: each operation is a message that arrived.
func BenchmarkThrough(b *testing.B) {
	for _, subscribers := range []int{1, 4} {
		b.Run(map[int]string{1: "1", 4: "4"}[subscribers], func(b *testing.B) {
			_, addr := serve(b, Config{MaxPending: 64 << 20})
			message := "PUB quotes.eu.sap 64\r\n" + strings.Repeat("x", 64) + "\r\n"
			size := len("MSG quotes.eu.sap 1 64\r\n") + 64 + 2
			done := make(chan error, subscribers)
			for range subscribers {
				r := dial(b, addr)
				_ = r.SetDeadline(time.Time{})
				r.send(hello + "SUB quotes.> 1\r\nPING\r\n")
				r.expect("PONG")
				go func() {
					_, err := io.CopyN(io.Discard, r.in, int64(b.N)*int64(size))
					done <- err
				}()
			}
			p := dial(b, addr)
			_ = p.SetDeadline(time.Time{})
			p.send(hello)
			batch := strings.Repeat(message, 500)
			b.SetBytes(64)
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; left -= 500 {
				p.send(batch[:min(left, 500)*len(message)])
			}
			for range subscribers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
