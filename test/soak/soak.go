// Package soak judges hosts that have carried traffic for long: does their memory grow, do descriptors or goroutines stay behind.
package soak

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/weft-net/weft/internal/measure"
)

// MaxGrowth is how much memory may grow over a whole run, as a share: what half of it shows, projected on all of it.
const MaxGrowth = 0.01

// Enough is how many samples a run must have for its growth to be judged: fewer show noise.
const Enough = 20

// Sample is what a host's daemon had at a quiet moment.
type Sample struct {
	At          time.Duration // since the run began
	RSS         uint64        // resident memory, in bytes
	Heap        uint64        // what the last garbage collection found in use, in bytes
	Descriptors int
	Goroutines  int
}

// Host is the samples of one host.
type Host struct {
	Name          string
	Before, After Sample   // at rest
	Samples       []Sample // between bursts of traffic
}

// Growth is how much something grew over a run, as a share of its mean: the slope of the second half's line, projected on
// the whole run, and the standard error of that.
type Growth struct{ Share, Deviation float64 }

// grow looks at one figure of samples.
func grow(s []Sample, figure func(Sample) float64) Growth {
	if len(s) < 2 {
		return Growth{}
	}
	began, ended := s[0].At, s[len(s)-1].At
	var x, y []float64
	for _, v := range s {
		if v.At-began >= (ended-began)/2 {
			x, y = append(x, v.At.Seconds()), append(y, figure(v))
		}
	}
	l := measure.Fit(x, y)
	if l.Mean == 0 {
		return Growth{}
	}
	whole := (ended - began).Seconds() / l.Mean
	return Growth{l.Slope * whole, l.Deviation * whole}
}

// RSS is the growth of a host's resident memory.
func (h Host) RSS() Growth { return grow(h.Samples, func(s Sample) float64 { return float64(s.RSS) }) }

// Heap is the growth of a host's heap.
func (h Host) Heap() Growth {
	return grow(h.Samples, func(s Sample) float64 { return float64(s.Heap) })
}

// All is all hosts as one: the sums of samples taken in the same round.
func All(hosts []Host) Host {
	all := Host{Name: "all"}
	for _, h := range hosts {
		all.Before, all.After = all.Before.plus(h.Before), all.After.plus(h.After)
		for i, v := range h.Samples {
			if i == len(all.Samples) {
				all.Samples = append(all.Samples, Sample{At: v.At})
			}
			all.Samples[i] = all.Samples[i].plus(v)
		}
	}
	return all
}

func (s Sample) plus(v Sample) Sample {
	s.RSS += v.RSS
	s.Heap += v.Heap
	s.Descriptors += v.Descriptors
	s.Goroutines += v.Goroutines
	return s
}

// Judge returns what is wrong; nothing when all is well. The heap after a collection is judged as it is. Resident memory
// depends on when the collector ran and what it gave back: it fails when it surely grows, by more than twice its standard error
// above what is allowed. Neither is judged by less than Enough samples.
func Judge(hosts []Host) []string {
	var wrong []string
	for _, h := range hosts {
		for _, c := range []struct {
			what  string
			a, b  int
			where string
		}{
			{"descriptors", h.Before.Descriptors, h.After.Descriptors, "/proc/PID/fd"},
			{"goroutines", h.Before.Goroutines, h.After.Goroutines, "go_goroutines of /metrics"},
		} {
			if c.b > c.a {
				wrong = append(wrong, fmt.Sprintf("%s: %d %s at the start and %d at the end (%s)", h.Name, c.a, c.what, c.b, c.where))
			}
		}
	}
	all := All(hosts)
	if len(all.Samples) < Enough {
		return wrong
	}
	if g := all.Heap(); g.Share > MaxGrowth {
		wrong = append(wrong, fmt.Sprintf("the heap of all hosts grows by %v over the run, want less than %.0f %%", g, 100*MaxGrowth))
	}
	if g := all.RSS(); g.Share-2*g.Deviation > MaxGrowth {
		wrong = append(wrong, fmt.Sprintf("the resident memory of all hosts grows by %v over the run, want less than %.0f %%", g, 100*MaxGrowth))
	}
	return wrong
}

// Table writes a Markdown table of hosts, and of all together.
func Table(w io.Writer, hosts []Host) error {
	t := tabwriter.NewWriter(w, 0, 8, 1, ' ', 0)
	row := func(cells ...any) {
		for _, c := range cells {
			fmt.Fprintf(t, "| %v\t", c)
		}
		fmt.Fprintln(t, "|")
	}
	row("host", "RSS, MB", "growth", "heap, MB", "growth", "descriptors", "goroutines")
	row("---", "---", "---", "---", "---", "---", "---")
	for _, h := range append(append([]Host(nil), hosts...), All(hosts)) {
		if len(h.Samples) == 0 {
			continue
		}
		a, b := h.Samples[0], h.Samples[len(h.Samples)-1]
		row(h.Name, span(a.RSS, b.RSS), h.RSS(), span(a.Heap, b.Heap), h.Heap(),
			fmt.Sprintf("%d → %d", h.Before.Descriptors, h.After.Descriptors), fmt.Sprintf("%d → %d", h.Before.Goroutines, h.After.Goroutines))
	}
	return t.Flush()
}

func span(a, b uint64) string { return fmt.Sprintf("%.1f → %.1f", float64(a)/1e6, float64(b)/1e6) }

// String shows percent.
func (g Growth) String() string {
	return fmt.Sprintf("%+.2f %% (± %.2f)", 100*g.Share, 100*g.Deviation)
}
