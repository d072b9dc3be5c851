package parity

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func block(r *rand.Rand, longest int) (b [Packets][]byte) {
	for i := range b {
		b[i] = make([]byte, 1+r.IntN(longest))
		for j := range b[i] {
			b[i][j] = byte(r.Uint32())
		}
	}
	return b
}

// TestRebuild: any rows, as many as packets are missing, give these back, whichever they are.
func TestRebuild(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		whole := block(r, 1400)
		lost := 1 + r.IntN(Packets)
		numbers := r.Perm(Rows)[:lost]
		rows := make([][]byte, lost)
		for i, n := range numbers {
			rows[i] = Row(nil, n, &whole)
		}
		got := whole
		for _, i := range r.Perm(Packets)[:lost] {
			got[i] = nil
		}
		if err := Rebuild(&got, numbers, rows); err != nil {
			t.Fatalf("%d lost: %v", lost, err)
		}
		for i := range got {
			if !bytes.Equal(got[i], whole[i]) {
				t.Fatalf("%d lost, rows %v: packet %d is another", lost, numbers, i)
			}
		}
	}
}

// FuzzRebuild: rows of whoever has the key are packets or an error.
func FuzzRebuild(f *testing.F) {
	f.Add([]byte{0, 1, 7, 8, 9, 0, 1, 3}, uint32(3), byte(4), byte(5))
	f.Fuzz(func(t *testing.T, row []byte, lost uint32, a, b byte) {
		var bl [Packets][]byte
		for i := range bl {
			if lost>>i&1 == 0 {
				bl[i] = row[:min(i, len(row))]
			}
			if bl[i] == nil && lost>>i&1 == 0 {
				bl[i] = []byte{}
			}
		}
		before := bl
		if Rebuild(&bl, []int{int(a), int(b)}, [][]byte{bytes.Clone(row), bytes.Clone(row)}) != nil {
			return
		}
		for i := range bl {
			if bl[i] == nil || before[i] != nil && !bytes.Equal(before[i], bl[i]) {
				t.Errorf("packet %d is %x, was %x", i, bl[i], before[i])
			}
		}
	})
}

func BenchmarkRow(b *testing.B) {
	bl := block(rand.New(rand.NewPCG(1, 1)), 1400)
	buf := make([]byte, 0, 1500)
	b.ReportAllocs()
	for i := range b.N {
		buf = Row(buf[:0], i%Rows, &bl)
	}
}

func BenchmarkRebuild5(b *testing.B) {
	whole := block(rand.New(rand.NewPCG(1, 1)), 1400)
	var rows, work [5][]byte
	for i := range rows {
		rows[i] = Row(nil, i, &whole)
		work[i] = make([]byte, len(rows[i]))
	}
	b.ReportAllocs()
	for range b.N {
		got := whole
		for i := range rows {
			got[3*i] = nil
			copy(work[i], rows[i])
		}
		if err := Rebuild(&got, []int{0, 1, 2, 3, 4}, work[:]); err != nil {
			b.Fatal(err)
		}
	}
}
