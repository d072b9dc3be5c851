package udp

import (
	"testing"

	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

// train is the packets of one super-frame: as many of 1400 bytes as one call takes.
const train = 44

// BenchmarkSealAndSend is what a packet of 1400 bytes costs on its way out: sealed, and sent with others in one call. That
// nobody reads makes the kernel's part shorter than it is elsewhere.
func BenchmarkSealAndSend(b *testing.B) {
	c, port := open(b, Options{})
	w := c.NewWriter(1)
	s := sealer(b)
	plain, out := make([]byte, 1400-wire.LinkHeader-wire.Tag), make([]byte, train*1400)
	m := []Message{{Buf: out, Segment: 1400, Addr: to("127.0.0.1", port)}}
	b.SetBytes(train * 1400)
	b.ReportAllocs()
	for b.Loop() {
		for i := range train {
			if _, err := s.SealLinkFrom(out[1400*i:], plain); err != nil {
				b.Fatal(err)
			}
		}
		if n, err := w.WriteBatch(m); n != 1 || err != nil {
			b.Fatal(n, err)
		}
	}
	perPacket(b)
}

// BenchmarkReceiveAndOpen is what it costs on its way in; what it takes to send it is not counted.
func BenchmarkReceiveAndOpen(b *testing.B) {
	c, port := open(b, Options{Coalesce: true})
	w := c.NewWriter(1)
	s := sealer(b)
	o, err := seal.NewOpener(seal.SuiteAES, make([]byte, seal.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	plain, out := make([]byte, 1400-wire.LinkHeader-wire.Tag), make([]byte, train*1400)
	m := []Message{{Buf: out, Segment: 1400, Addr: to("127.0.0.1", port)}}
	in := space(8, 64<<10)
	b.SetBytes(train * 1400)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for i := range train {
			if _, err := s.SealLinkFrom(out[1400*i:], plain); err != nil {
				b.Fatal(err)
			}
		}
		if n, err := w.WriteBatch(m); n != 1 || err != nil {
			b.Fatal(n, err)
		}
		b.StartTimer()
		for got := 0; got < train; {
			n, err := c.ReadBatch(in)
			if err != nil {
				b.Fatal(err)
			}
			for i := range in[:n] {
				step := in[i].N
				if in[i].Segment > 0 {
					step = in[i].Segment
				}
				for at := 0; at < in[i].N; at += step {
					if _, err := o.OpenLink(in[i].Buf[at:min(at+step, in[i].N)]); err != nil {
						b.Fatal(err)
					}
					got++
				}
			}
		}
	}
	perPacket(b)
}

func sealer(b *testing.B) *seal.Sealer {
	b.Helper()
	s, err := seal.NewLinkSealer(seal.SuiteAES, make([]byte, seal.KeySize), 1, 1<<40)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func perPacket(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*train), "ns/packet")
}
