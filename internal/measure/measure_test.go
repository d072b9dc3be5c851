package measure

import (
	"math"
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	for _, c := range []struct {
		s           []float64
		median, p99 float64
	}{
		{[]float64{3}, 3, 3},
		{[]float64{5, 1, 3}, 3, 5},
		{[]float64{4, 1, 3, 2}, 2.5, 4},
	} {
		if m, q := Median(c.s), Quantile(c.s, 0.99); m != c.median || q != c.p99 {
			t.Errorf("%v: median %v, p99 %v; want %v, %v", c.s, m, q, c.median, c.p99)
		}
	}
	if !math.IsNaN(Median(nil)) || !math.IsNaN(Quantile(nil, 0.5)) {
		t.Error("of nothing there is a quantile")
	}
	var s []float64
	for i := range 1000 {
		s = append(s, float64(1000-i))
	}
	if q := Quantile(s, 0.99); q != 990 {
		t.Errorf("99th percentile of 1..1000 is %v", q)
	}
}

func TestFit(t *testing.T) {
	x := []float64{0, 10, 20, 30, 40}
	if l := Fit(x, []float64{5, 7, 9, 11, 13}); math.Abs(l.Slope-0.2) > 1e-12 || l.Mean != 9 || l.Deviation > 1e-9 {
		t.Errorf("a straight line: %+v", l)
	}
	if l := Fit(x, []float64{1, -1, 1, -1, 1}); math.Abs(l.Slope) > 1e-12 || l.Deviation == 0 {
		t.Errorf("noise: %+v", l)
	}
	for _, l := range []Line{Fit(nil, nil), Fit([]float64{3, 3}, []float64{1, 2}), Fit([]float64{3}, []float64{1})} {
		if l.Slope != 0 || math.IsNaN(l.Mean) {
			t.Errorf("nothing to go by: %+v", l)
		}
	}
}

func TestCounter(t *testing.T) {
	var c Counter
	add := func(run uint32, n uint64) {
		b := make([]byte, HeaderSize+1)
		PutHeader(b, run, n)
		c.Add(b)
	}
	for _, n := range []uint64{0, 1, 1, 700, 64, 0, 0, maxSeen, math.MaxUint64} {
		add(1, n)
	}
	c.Add([]byte("short"))
	if got := c.Of(1); got != (Tally{Datagrams: 4, Duplicates: 3}) {
		t.Errorf("%+v, want 4 different ones and 3 copies", got)
	}
	add(2, 1)
	add(1, 9) // late
	if c.Of(2) != (Tally{Datagrams: 1}) || c.Of(1) != (Tally{}) {
		t.Errorf("after a new run: %+v of it, %+v of the old", c.Of(2), c.Of(1))
	}
	add(3, 1)
	if c.Of(3) != (Tally{Datagrams: 1}) {
		t.Errorf("the bitmap was not cleared: %+v", c.Of(3))
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte("123456789012345"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		run, n, ok := ParseHeader(b)
		if ok != (len(b) >= HeaderSize) {
			t.Fatalf("%d bytes: %v", len(b), ok)
		}
		if !ok {
			return
		}
		again := make([]byte, HeaderSize)
		PutHeader(again, run, n)
		if string(again) != string(b[:HeaderSize]) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func TestProcStat(t *testing.T) {
	busy, err := ParseBusy([]byte("cpu  100 1 50 9000 800 2 3 0 0 0\ncpu0 1 1 1 1 1 1 1\n"))
	if err != nil || busy != 1560*time.Millisecond {
		t.Errorf("busy %v, %v; want 1.56s", busy, err)
	}
	used, err := ParseProcess([]byte("7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 1 0 4711 20"))
	if err != nil || used != 3*time.Second {
		t.Errorf("used %v, %v; want 3s", used, err)
	}
	for _, bad := range []string{"", "cpu", "cpu a b c d e f g", "intr 1 2 3 4 5 6 7 8"} {
		if _, err := ParseBusy([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
		if _, err := ParseProcess([]byte(bad)); err == nil {
			t.Errorf("%q was taken for a process", bad)
		}
	}
}

func FuzzProcStat(f *testing.F) {
	f.Add([]byte("cpu  100 1 50 9000 800 2 3 0 0 0\n"))
	f.Add([]byte("7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 0 0 20"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = ParseBusy(b)
		_, _ = ParseProcess(b)
	})
}
