package main

import (
	"math"
	"testing"
)

func TestSample(t *testing.T) {
	for _, c := range []struct {
		s           sample
		median, p99 float64
		text        string
	}{
		{sample{3}, 3, 3, "3.00"},
		{sample{5, 1, 3}, 3, 5, "3.00 (1.00–5.00)"},
		{sample{4, 1, 3, 2}, 2.5, 4, "2.50 (1.00–4.00)"},
		{sample{0.001, 100, 12.34}, 12.34, 100, "12.3 (0.0010–100)"},
	} {
		if m, q, text := c.s.median(), c.s.quantile(0.99), c.s.String(); m != c.median || q != c.p99 || text != c.text {
			t.Errorf("%v: median %v, p99 %v, %q; want %v, %v, %q", []float64(c.s), m, q, text, c.median, c.p99, c.text)
		}
	}
	var none sample
	if !math.IsNaN(none.median()) || !math.IsNaN(none.quantile(0.5)) || none.String() != "-" {
		t.Errorf("of nothing: %v, %v, %q", none.median(), none.quantile(0.5), none.String())
	}
}
