package main

import (
	"slices"
	"testing"
)

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		want, kept, sent float64
		got              []float64
		v                verdict
	}{
		{1000, 1000, 1000, []float64{1000, 999}, passed},
		{1000, 1000, 1000, []float64{1000, 998}, lost},
		{1000, 960, 960, []float64{960}, starved},
		{1000, 960, 960, []float64{900}, lost}, // loss is the system's whatever the sender did
		{1000, 1000, 1000, nil, lost},
		{1000, 0, 0, []float64{0}, lost},
	} {
		if v := judge(c.want, c.kept, c.sent, c.got); v != c.v {
			t.Errorf("judge(%v, %v, %v, %v) = %v, want %v", c.want, c.kept, c.sent, c.got, v, c.v)
		}
	}
}

// walk runs a ramp against a system that passes up to a limit, and returns the rates tried.
func walk(t *testing.T, r *ramp, v func(rate float64, step int) verdict) []float64 {
	t.Helper()
	var tried []float64
	for {
		rate, more := r.next()
		if !more {
			return tried
		}
		if tried = append(tried, rate); len(tried) > 60 {
			t.Fatalf("the ramp does not end: %v", tried)
		}
		r.record(v(rate, len(tried)))
	}
}

func TestRampFindsTheLimit(t *testing.T) {
	for _, limit := range []float64{150, 3999, 4001, 77777, 1e6} {
		for _, from := range []float64{1, 4000, 500000} {
			r := newRamp(from, 1.1)
			tried := walk(t, r, func(rate float64, _ int) verdict {
				if rate <= limit {
					return passed
				}
				return lost
			})
			if r.good > limit || r.good*1.1 < limit || r.starved {
				t.Errorf("limit %v from %v: found %v by %v", limit, from, r.good, tried)
			}
		}
	}
}

func TestRampForgivesOneLoss(t *testing.T) {
	r := newRamp(1000, 1.1)
	walk(t, r, func(rate float64, step int) verdict {
		if rate > 5000 || step == 2 {
			return lost
		}
		return passed
	})
	if r.good < 5000/1.1 {
		t.Errorf("one loss at half the limit made it %v of 5000", r.good)
	}
}

func TestRampOfAFailure(t *testing.T) {
	r := newRamp(4000, 1.1)
	tried := walk(t, r, func(float64, int) verdict { return lost })
	if r.good != 0 || slices.Min(tried) != lowestRate {
		t.Errorf("found %v by %v", r.good, tried)
	}
}

func TestRampKnowsTheSender(t *testing.T) {
	r := newRamp(4000, 1.1)
	walk(t, r, func(rate float64, _ int) verdict {
		if rate > 9000 {
			return starved
		}
		return passed
	})
	if !r.starved {
		t.Error("the sender was the limit, and the ramp does not say so")
	}
}
