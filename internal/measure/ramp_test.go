package measure

import (
	"math"
	"slices"
	"testing"
)

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		want, kept, sent float64
		got              []float64
		v                Verdict
	}{
		{1000, 1000, 1000, []float64{1000, 999}, Passed},
		{1000, 1000, 1000, []float64{1000, 998}, Lost},
		{1000, 960, 960, []float64{960}, Starved},
		{1000, 960, 960, []float64{900}, Lost}, // loss is the system's whatever the sender did
		{1000, 1000, 1000, nil, Lost},
		{1000, 0, 0, []float64{0}, Lost},
	} {
		if v := Judge(c.want, c.kept, c.sent, c.got); v != c.v {
			t.Errorf("Judge(%v, %v, %v, %v) = %v, want %v", c.want, c.kept, c.sent, c.got, v, c.v)
		}
	}
}

// walk runs a ramp against a system that passes up to a limit, and returns the rates tried.
func walk(t *testing.T, r *Ramp, v func(rate float64, step int) Verdict) []float64 {
	t.Helper()
	var tried []float64
	for {
		rate, more := r.Next()
		if !more {
			return tried
		}
		if tried = append(tried, rate); len(tried) > 60 {
			t.Fatalf("the ramp does not end: %v", tried)
		}
		r.Record(v(rate, len(tried)))
	}
}

func upTo(limit float64) func(float64, int) Verdict {
	return func(rate float64, _ int) Verdict {
		if rate <= limit {
			return Passed
		}
		return Lost
	}
}

func TestRampFindsTheLimit(t *testing.T) {
	for _, limit := range []float64{150, 3999, 4001, 77777, 1e6} {
		for _, from := range []float64{1, 4000, 500000} {
			r := NewRamp(from, 1.1, math.Inf(1))
			tried := walk(t, r, upTo(limit))
			if r.Good() > limit || r.Good()*1.1 < limit || r.Starved() || r.Capped() {
				t.Errorf("limit %v from %v: found %v by %v", limit, from, r.Good(), tried)
			}
		}
	}
}

func TestRampForgivesOneLoss(t *testing.T) {
	r := NewRamp(1000, 1.1, math.Inf(1))
	walk(t, r, func(rate float64, step int) Verdict {
		if rate > 5000 || step == 2 {
			return Lost
		}
		return Passed
	})
	if r.Good() < 5000/1.1 {
		t.Errorf("one loss at half the limit made it %v of 5000", r.Good())
	}
}

func TestRampOfAFailure(t *testing.T) {
	r := NewRamp(4000, 1.1, math.Inf(1))
	tried := walk(t, r, upTo(0))
	if r.Good() != 0 || slices.Min(tried) != LowestRate {
		t.Errorf("found %v by %v", r.Good(), tried)
	}
}

func TestRampKnowsTheSender(t *testing.T) {
	r := NewRamp(4000, 1.1, math.Inf(1))
	walk(t, r, func(rate float64, _ int) Verdict {
		if rate > 9000 {
			return Starved
		}
		return Passed
	})
	if !r.Starved() {
		t.Error("the sender was the limit, and the ramp does not say so")
	}
}

func TestRampStaysBelowTheMost(t *testing.T) {
	for _, c := range []struct{ from, limit float64 }{{4000, 1e9}, {70000, 1e9}, {10, 1e9}, {4000, 30000}} {
		r := NewRamp(c.from, 1.1, 50000)
		tried := walk(t, r, upTo(c.limit))
		if slices.Max(tried) > 50000 || r.Capped() != (c.limit > 50000) || r.Capped() && r.Good() != 50000 {
			t.Errorf("from %v to a limit of %v: found %v, capped %v, by %v", c.from, c.limit, r.Good(), r.Capped(), tried)
		}
	}
	if r := NewRamp(4000, 1.1, 1); len(walk(t, r, upTo(1e9))) != 1 || r.Good() != LowestRate {
		t.Errorf("the least there is: %v", r.Good())
	}
}
