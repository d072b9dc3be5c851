// Package measure judges what was sent and what came: numbered datagrams, limits found by trial, quantiles, processor time.
package measure

import (
	"math"
	"slices"
)

// Median returns the middle value, or the mean of the two in the middle; NaN of nothing.
func Median(s []float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	o := slices.Sorted(slices.Values(s))
	m := len(o) / 2
	if len(o)%2 == 1 {
		return o[m]
	}
	return (o[m-1] + o[m]) / 2
}

// Quantile returns the smallest value that at least the share q (0 to 1) of all values does not exceed; NaN of nothing.
func Quantile(s []float64, q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	o := slices.Sorted(slices.Values(s))
	i := int(math.Ceil(q*float64(len(o)))) - 1
	return o[min(max(i, 0), len(o)-1)]
}

// Line is the straight line closest to a set of points, by least squares.
type Line struct {
	Slope     float64 // of y per x
	Mean      float64 // of all y
	Deviation float64 // standard error of the slope; 0 when there are fewer than three points
}

// Fit returns the line through points; of fewer than two different x it is flat.
func Fit(x, y []float64) Line {
	n := float64(min(len(x), len(y)))
	if n == 0 {
		return Line{}
	}
	var mx, my float64
	for i := range int(n) {
		mx += x[i] / n
		my += y[i] / n
	}
	var xx, xy float64
	for i := range int(n) {
		xx += (x[i] - mx) * (x[i] - mx)
		xy += (x[i] - mx) * (y[i] - my)
	}
	l := Line{Mean: my}
	if xx == 0 {
		return l
	}
	l.Slope = xy / xx
	if n > 2 {
		var rest float64
		for i := range int(n) {
			d := y[i] - my - l.Slope*(x[i]-mx)
			rest += d * d
		}
		l.Deviation = math.Sqrt(rest / (n - 2) / xx)
	}
	return l
}
