package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// busReport is the page.
func busReport(r *results, took time.Duration) string {
	var b strings.Builder
	s, m := r.settings, r.machine
	part := "**This was a short or partial run: single values, to be taken as a first look.**"
	if s.Rounds > 1 && len(s.Only) >= len(busCatalogue) && len(s.Tests) == len(busTests) && len(s.Wirings) == len(allWirings) && len(s.Receivers) == len(subscribers) {
		part = ""
	}
	fmt.Fprintf(&b, `# Benchmarks of the bus

Made by `+"`make bench-bus`"+` on %s, in %s: %d cores of %s, %s of memory, %s, %s,
Go %s, load %s as it began. Rounds: %d.
%s

One publisher sends messages of 64 bytes to 1, 4 and 16 subscribers, each a process in a network namespace of its own, all on a bridge of this
one machine and on its cores: compare rows, don't take them for what several machines would do. Each system is started anew
for each number of subscribers, one after the other in every round. Cells are medians, with the lowest and highest round in parentheses where
there were several; of subscribers, the worst counts.

- **carried**: the underlay's veths pass super-frames of up to 64 KB whole, as no wire does. **wire1500**: packets of at most
  1500 bytes cross it, as with a network card without offloads.
- **rate**: the publisher sends as fast as it goes for %v; messages a second at each subscriber, from the first to the last.
- **lost**: of what was sent. **CPU s per million**: processor time of the whole machine, and of the system's own processes (broker,
  publisher, subscribers), for a million deliveries.
- **p50, p99**: from before a message is handed over to its receipt, at 10,000 messages a second, each sent by itself.
- **busy**: of all cores, by whatever runs on the machine, at a million messages a second to 4 subscribers, sent in bursts every 0.5 ms.

`, m.Date, round(took), m.Cores, m.CPU, m.Memory, m.System, m.Kernel, m.Go, m.Load, s.Rounds, part, s.Step)
	systems(&b, r)
	for _, wiring := range s.Wirings {
		fmt.Fprintf(&b, "## %s\n\nMillions of messages a second at each subscriber, and per cent lost:\n\n", wiring)
		table(&b, r, wiring, slices.Concat(sized("to %d", "rate", subscribers), sized("lost, to %d", "lost", subscribers), sized("sent, to %d", "sent", subscribers)))
		fmt.Fprintf(&b, "CPU seconds per million deliveries:\n\n")
		table(&b, r, wiring, slices.Concat(sized("machine, to %d", "cpu", subscribers), sized("processes, to %d", "cpuown", subscribers)))
		fmt.Fprintf(&b, "Latency in µs at 10,000 messages a second; the machine at a million to 4:\n\n")
		table(&b, r, wiring, []column{
			{"p50, to 1", "p50/1"},
			{"p99, to 1", "p99/1"},
			{"p50, to 4", "p50/4"},
			{"p99, to 4", "p99/4"},
			{"busy, %", "busy/4"},
			{"its processes, %", "busyown/4"},
			{"kept, million/s", "kept/4"},
		})
	}
	busAsked(&b, r)
	if len(r.notes) > 0 {
		b.WriteString("## What failed\n\n")
		for _, n := range r.notes {
			fmt.Fprintf(&b, "- %s\n", oneLine(n))
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// asked is one line of what the bus is held to.
type asked struct {
	what string
	// want is the bound, by wiring; most says that it is an upper one.
	want map[string]float64
	most bool
	of   func(v func(system, metric string) float64) float64
}

func both(v float64) map[string]float64 { return map[string]float64{carried: v, wire1500: v} }

func quotient(a, b, metric string) func(func(string, string) float64) float64 {
	return func(v func(string, string) float64) float64 { return v(a, metric) / v(b, metric) }
}

func busAsks() (as []asked) {
	for _, n := range []string{"/1", "/4"} {
		as = append(as, asked{"of the raw ceiling, to " + n[1:], map[string]float64{carried: 0.4, wire1500: 0.75}, false, quotient(busWeft, busCeiling, "rate"+n)})
	}
	for _, n := range subscribers {
		of := fmt.Sprintf("rate/%d", n)
		as = append(as,
			asked{fmt.Sprintf("multicast dropped, by ZeroMQ, to %d", n), both(1), false, quotient(busDropped, busZeroMQ, of)},
			asked{fmt.Sprintf("multicast passing, by ZeroMQ, to %d", n), map[string]float64{carried: 3}, false, quotient(busWeft, busZeroMQ, of)},
			asked{fmt.Sprintf("multicast passing, by NATS, to %d", n), map[string]float64{carried: 7}, false, quotient(busWeft, busNATS, of)},
			asked{fmt.Sprintf("multicast passing, by Redis, to %d", n), nil, false, quotient(busWeft, busRedis, of)})
	}
	as = append(as, asked{"deliveries per CPU second, to 16 by to 4", both(0.8), false, func(v func(string, string) float64) float64 {
		return v(busWeft, "cpu/4") / v(busWeft, "cpu/16")
	}})
	for _, m := range []string{"p50/1", "p99/1", "p50/4", "p99/4"} {
		as = append(as, asked{fmt.Sprintf("%s at 10,000/s, to %s, by NATS", m[:3], m[4:]), both(0.6), true, quotient(busWeft, busNATS, m)})
	}
	value := func(system, metric string) func(func(string, string) float64) float64 {
		return func(v func(string, string) float64) float64 { return v(system, metric) }
	}
	as = append(as,
		asked{"busy at a million to 4, %", both(50), true, value(busWeft, "busy/4")},
		asked{"the same, by its processes alone, %", nil, true, value(busWeft, "busyown/4")})
	for _, n := range subscribers {
		as = append(as, asked{fmt.Sprintf("lost, to %d, %%", n), both(0), true, value(busWeft, fmt.Sprintf("lost/%d", n))})
	}
	return as
}

// busAsked sets medians beside what was asked for.
func busAsked(b *strings.Builder, r *results) {
	var rows []string
	for _, a := range busAsks() {
		cells, found := "", false
		for _, wiring := range r.settings.Wirings {
			v := a.of(func(system, metric string) float64 { return r.values[key{system, wiring, metric}].median() })
			want, bound := a.want[wiring]
			cell := number(v)
			switch {
			case math.IsNaN(v) || math.IsInf(v, 0):
				cell = "-"
			case bound && (a.most && v > want || !a.most && v < want):
				cell = "**" + cell + "**"
				fallthrough
			default:
				found = true
			}
			if bound {
				sign := "≥"
				if a.most {
					sign = "≤"
				}
				cell += fmt.Sprintf(" (%s %g)", sign, want)
			}
			cells += " " + cell + " |"
		}
		if found {
			rows = append(rows, fmt.Sprintf("| %s |%s\n", a.what, cells))
		}
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "## weft beside what was asked\n\nRatios of medians, and what was asked in parentheses; bold: not reached.\n\n")
	fmt.Fprintf(b, "| | %s |\n|---|%s\n%s\n", strings.Join(r.settings.Wirings, " | "), strings.Repeat("---|", len(r.settings.Wirings)), strings.Join(rows, ""))
}
