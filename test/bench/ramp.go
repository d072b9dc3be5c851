package main

import "math"

const (
	// lowestRate is in datagrams per second; a system that loses some of these has failed.
	lowestRate = 100
	// whole is the share of what was sent that every receiver must have for a rate to pass.
	whole = 0.999
	// offered is the share of a rate that the sender must have kept: below that it is the sender who was measured.
	offered = 0.97
)

// verdict is what one step of a ramp showed.
type verdict int

const (
	passed  verdict = iota
	lost            // a receiver lacks datagrams
	starved         // the sender, or the system by blocking it, did not keep the rate
)

// judge decides a step by the rate wanted and kept, and by how many datagrams were sent and came to each receiver. A rate
// that was not kept has failed, lossless or not: it was not that rate.
func judge(want, kept, sent float64, got []float64) verdict {
	if sent == 0 || len(got) == 0 {
		return lost
	}
	for _, g := range got {
		if g < whole*sent {
			return lost
		}
	}
	if kept < offered*want {
		return starved
	}
	return passed
}

// ramp looks for the highest rate that passes: doubling until one fails, then halving the gap. A rate has failed when it
// failed twice, since one hiccup of a busy machine is no limit of the system.
type ramp struct {
	near    float64 // the search is over when bad is less than this much above good
	rate    float64
	good    float64 // highest that passed; 0: none
	bad     float64 // lowest that failed; +Inf: none
	tries   int     // at this rate
	over    bool
	starved bool // what failed at bad was the sender
}

// newRamp begins at a rate expected to pass.
func newRamp(start, near float64) *ramp {
	return &ramp{near: near, rate: max(start, lowestRate), bad: math.Inf(1)}
}

// next returns the rate to try, or false when the search is over.
func (r *ramp) next() (float64, bool) { return r.rate, !r.over }

// record takes the verdict on the rate that next gave.
func (r *ramp) record(v verdict) {
	switch v {
	case passed:
		r.good = r.rate
	case lost, starved:
		if r.tries++; r.tries < 2 {
			return
		}
		r.bad, r.starved = r.rate, v == starved
	}
	r.tries = 0
	switch {
	case math.IsInf(r.bad, 1):
		r.rate *= 2
	case r.good == 0:
		r.over = r.rate <= lowestRate
		r.rate = max(r.rate/4, lowestRate)
	case r.bad/r.good < r.near:
		r.over = true
	default:
		r.rate = math.Sqrt(r.good * r.bad)
	}
}
