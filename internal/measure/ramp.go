package measure

import "math"

const (
	// LowestRate is in datagrams per second; a system that loses some of these has failed.
	LowestRate = 100
	// Whole is the share of what was sent that every receiver must have for a rate to pass.
	Whole = 0.999
	// Offered is the share of a rate that the sender must have kept: below that it is the sender who was measured.
	Offered = 0.97
)

// Verdict is what one step of a ramp showed.
type Verdict int

// The verdicts.
const (
	Passed  Verdict = iota
	Lost            // a receiver lacks datagrams
	Starved         // the sender, or the system by blocking it, did not keep the rate
)

// Judge decides a step by the rate wanted and kept, and by how many datagrams were sent and came to each receiver. A rate
// that was not kept has failed, lossless or not: it was not that rate.
func Judge(want, kept, sent float64, got []float64) Verdict {
	if sent == 0 || len(got) == 0 {
		return Lost
	}
	for _, g := range got {
		if g < Whole*sent {
			return Lost
		}
	}
	if kept < Offered*want {
		return Starved
	}
	return Passed
}

// Ramp looks for the highest rate that passes: doubling until one fails, then halving the gap. A rate has failed when it
// failed twice, since one hiccup of a busy machine is no limit of the system.
type Ramp struct {
	near    float64 // the search is over when bad is less than this much above good
	most    float64 // no rate is higher
	rate    float64
	good    float64 // highest that passed; 0: none
	bad     float64 // lowest that failed; +Inf: none
	tries   int     // at this rate
	over    bool
	starved bool // what failed at bad was the sender
	capped  bool // most itself passed
}

// NewRamp begins at a rate expected to pass and ends within the factor near of the limit. Rates are in datagrams per second,
// from LowestRate to most, which may be infinite.
func NewRamp(start, near, most float64) *Ramp {
	return &Ramp{near: near, most: max(most, LowestRate), rate: min(max(start, LowestRate), max(most, LowestRate)), bad: math.Inf(1)}
}

// Next returns the rate to try, or false when the search is over.
func (r *Ramp) Next() (float64, bool) { return r.rate, !r.over }

// Good returns the highest rate that passed so far; 0 when none did.
func (r *Ramp) Good() float64 { return r.good }

// Starved reports whether the lowest rate that failed did so for want of a sender: the system may do more.
func (r *Ramp) Starved() bool { return r.starved }

// Failed reports whether any rate failed; if none did, the system may do more.
func (r *Ramp) Failed() bool { return !math.IsInf(r.bad, 1) }

// Capped reports whether the highest rate allowed passed: the system may do more.
func (r *Ramp) Capped() bool { return r.capped }

// Record takes the verdict on the rate that Next gave.
func (r *Ramp) Record(v Verdict) {
	switch v {
	case Passed:
		r.good = r.rate
	case Lost, Starved:
		if r.tries++; r.tries < 2 {
			return
		}
		r.bad, r.starved = r.rate, v == Starved
	}
	r.tries = 0
	switch {
	case r.good >= r.most:
		r.over, r.capped = true, true
	case math.IsInf(r.bad, 1):
		r.rate = min(2*r.rate, r.most)
	case r.good == 0:
		r.over = r.rate <= LowestRate
		r.rate = max(r.rate/4, LowestRate)
	case r.bad/r.good < r.near:
		r.over = true
	default:
		r.rate = math.Sqrt(r.good * r.bad)
	}
}
