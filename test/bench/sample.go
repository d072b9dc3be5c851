package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/weft-net/weft/internal/measure"
)

// sample is the values of one measurement, one per round.
type sample []float64

// median returns the middle value, or the mean of the two in the middle; NaN of nothing.
func (s sample) median() float64 { return measure.Median(s) }

// quantile returns the smallest value that at least the share q of all values does not exceed.
func (s sample) quantile(q float64) float64 { return measure.Quantile(s, q) }

// String is the median and, when there is more than one value, the spread.
func (s sample) String() string {
	switch len(s) {
	case 0:
		return "-"
	case 1:
		return number(s[0])
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median()), number(slices.Min(s)), number(slices.Max(s)))
}

// number shows three digits, which is more than the spread deserves.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.1 || a == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.4f", v)
}
