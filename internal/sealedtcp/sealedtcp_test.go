package sealedtcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/sealedtcp/sealedtcptest"
)

func testRecords(tb testing.TB, c net.Conn) *Conn {
	tb.Helper()
	r, err := New(c, &handshake.Result{Suite: seal.SuiteAES, SendKey: [32]byte{1}, RecvKey: [32]byte{1}})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// written returns the stream of bytes that writes in pieces make, with the headers of yamux among them.
func written(tb testing.TB, data []byte, pieces []int) []byte {
	tb.Helper()
	w := &sealedtcptest.Tape{}
	r := testRecords(tb, w)
	for _, n := range pieces {
		n = min(n, len(data))
		if m, err := r.Write(data[:n]); err != nil || m != n {
			tb.Fatal(m, err)
		}
		data = data[n:]
	}
	if _, err := r.Write(data); err != nil {
		tb.Fatal(err)
	}
	return w.Out.Bytes()
}

func TestRecordsKeepBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		data := make([]byte, 1+rng.IntN(100_000))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		var pieces []int
		for range rng.IntN(20) {
			if rng.IntN(3) == 0 {
				pieces = append(pieces, 12) // what might be a header
			} else {
				pieces = append(pieces, rng.IntN(70_000))
			}
		}
		at := 0
		for _, n := range pieces {
			if n == 12 && at+12 < len(data) { // and is one
				copy(data[at:], []byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9})
			}
			at += n
		}
		got, err := io.ReadAll(testRecords(t, &sealedtcptest.Tape{In: bytes.NewReader(written(t, data, pieces))}))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d of %d bytes, %v; pieces %v", len(got), len(data), err, pieces)
		}
	}
}

func TestFrameIsOneRecord(t *testing.T) {
	w := &sealedtcptest.Tape{}
	r := testRecords(t, w)
	_, _ = r.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5})
	if w.Out.Len() != 0 {
		t.Error("the header went alone")
	}
	_, _ = r.Write([]byte("hello"))
	if n := w.Out.Len(); n != 2+12+5+recordTag {
		t.Errorf("%d bytes", n)
	}
}

func TestRecordsRefuseChange(t *testing.T) {
	whole := written(t, bytes.Repeat([]byte("weft"), 20), []int{30, 20, 30})
	n := 2 + int(binary.BigEndian.Uint16(whole))
	first, rest := whole[:n], whole[n:]
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1
		if got, err := io.ReadAll(testRecords(t, &sealedtcptest.Tape{In: bytes.NewReader(b)})); err == nil || len(got) >= 80 {
			t.Fatalf("byte %d changed: %d bytes, %v", i, len(got), err)
		}
	}
	for name, b := range map[string][]byte{
		"left out": rest, "repeated": append(bytes.Clone(first), whole...), "moved": append(bytes.Clone(rest), first...),
		"too long": {0xff, 0xff, 0}, "too short": {0, 15}, "cut": whole[:len(whole)-1],
	} {
		if _, err := io.ReadAll(testRecords(t, &sealedtcptest.Tape{In: bytes.NewReader(b)})); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	r := testRecords(t, &sealedtcptest.Tape{In: bytes.NewReader(nil)})
	r.sent, r.taken = maxRecords, maxRecords
	if _, err := r.Write([]byte("x")); !errors.Is(err, errSpent) {
		t.Errorf("%v", err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, errSpent) {
		t.Errorf("%v", err)
	}
}

func TestRecordsDoNotAllocate(t *testing.T) {
	w := &sealedtcptest.Tape{}
	r := testRecords(t, w)
	p := make([]byte, 40_000)
	_, _ = r.Write(p)
	if n := testing.AllocsPerRun(50, func() {
		w.Out.Reset()
		_, _ = r.Write(p)
	}); n != 0 {
		t.Errorf("%v allocations a write", n)
	}
}

func FuzzRecords(f *testing.F) {
	f.Add(written(f, bytes.Repeat([]byte("weft"), 20), []int{30, 20, 30}))
	f.Add([]byte{0, 16})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := io.ReadAll(testRecords(t, &sealedtcptest.Tape{In: bytes.NewReader(b)}))
		if len(got) > len(b) {
			t.Errorf("%d bytes of %d", len(got), len(b))
		}
	})
}
