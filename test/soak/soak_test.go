package soak

import (
	"math"
	"strings"
	"testing"
	"time"
)

// hostOf makes a host whose memory is f at each of n minutes.
func hostOf(n int, f func(minute float64) float64) Host {
	h := Host{Name: "h1"}
	for i := range n {
		v := uint64(f(float64(i)))
		h.Samples = append(h.Samples, Sample{At: time.Duration(i) * time.Minute, RSS: v, Heap: v / 4})
	}
	h.Before, h.After = Sample{Descriptors: 20, Goroutines: 30}, Sample{Descriptors: 20, Goroutines: 30}
	return h
}

// rssOnly is hostOf with a heap that stays.
func rssOnly(f func(float64) float64) Host {
	h := hostOf(31, f)
	for i := range h.Samples {
		h.Samples[i].Heap = 8e6
	}
	return h
}

func TestJudge(t *testing.T) {
	const mb = 1e6
	for name, c := range map[string]struct {
		host Host
		want string // in what is wrong; empty: nothing is
	}{
		"flat":              {hostOf(31, func(float64) float64 { return 30 * mb }), ""},
		"warms up":          {hostOf(31, func(m float64) float64 { return 20*mb + min(m, 12)*mb }), ""},
		"shrinks":           {hostOf(31, func(m float64) float64 { return 40*mb - m*mb/2 }), ""},
		"wobbles":           {hostOf(31, func(m float64) float64 { return 30*mb + mb/10*math.Sin(m*2) }), ""},
		"leaks slowly":      {hostOf(31, func(m float64) float64 { return 30*mb + m*mb/60 }), "resident memory"},
		"RSS is noisy":      {rssOnly(func(m float64) float64 { return 30*mb + mb*math.Sin(m*2) }), ""},
		"RSS leaks":         {rssOnly(func(m float64) float64 { return 30*mb + m*mb/20 + mb/10*math.Sin(m*2) }), "resident memory"},
		"leaks from half":   {hostOf(31, func(m float64) float64 { return 30*mb + max(m-15, 0)*mb/60 }), "heap"},
		"nothing to go by":  {hostOf(3, func(m float64) float64 { return mb * m }), ""},
		"keeps descriptors": {func() Host { h := hostOf(9, func(float64) float64 { return mb }); h.After.Descriptors++; return h }(), "20 descriptors at the start and 21 at the end"},
		"keeps goroutines": {func() Host {
			h := hostOf(9, func(float64) float64 { return mb })
			h.After.Goroutines += 5
			return h
		}(), "30 goroutines at the start and 35 at the end"},
		"had some for once": {func() Host {
			h := hostOf(9, func(float64) float64 { return mb })
			h.Samples[4].Goroutines += 50
			return h
		}(), ""},
		"has fewer": {func() Host { h := hostOf(9, func(float64) float64 { return mb }); h.After.Descriptors--; return h }(), ""},
	} {
		got := strings.Join(Judge([]Host{c.host}), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	grows := hostOf(31, func(m float64) float64 { return 30*mb + m*mb/60 })
	if g := grows.RSS(); math.Abs(g.Share-0.5/30.375) > 1e-4 {
		t.Errorf("half a MB of 30 in half an hour: %v", g)
	}
}

func TestTable(t *testing.T) {
	h := hostOf(31, func(m float64) float64 { return 30e6 + m*1e6 })
	var b strings.Builder
	if err := Table(&b, []Host{h, h}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| h1", "| 30.0 → 60.0", "| all", "| 60.0 → 120.0", "| 40 → 40", "%"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
