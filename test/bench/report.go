package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/measure"
)

// column is one of a table.
type column struct{ head, metric string }

var unicastColumns = []column{
	{"TCP, 1 stream, Gbit/s", "tcp1"},
	{"TCP, 4 streams, Gbit/s", "tcp4"},
	{"CPU s per GB, machine", "cpu"},
	{"CPU s per GB, daemons", "cpudaemons"},
	{"UDP 1200 B, Mbit/s", "udp1200"},
	{"UDP 64 B, thousand/s", "udp64"},
	{"ping every 10 ms, median µs", "rtt10"},
	{"its 99th percentile", "rtt10p99"},
	{"ping every 2 ms, median µs", "rtt2"},
	{"idle, % of a core per host", "idle"},
}

// ratio is what weft is judged by: in what, whether less is better, and against which systems.
type ratio struct {
	what, metric string
	less         bool
	against      []string
}

var sealedRatios = []ratio{
	{"TCP, 1 stream", "tcp1", false, []string{"wireguard", "vxlan", "vxlan-bridge", "openvpn", "tinc"}},
	{"TCP, 4 streams", "tcp4", false, []string{"wireguard", "vxlan", "vxlan-bridge", "openvpn", "tinc"}},
	{"UDP 64 B", "udp64", false, []string{"wireguard"}},
	{"UDP 1200 B", "udp1200", false, []string{"wireguard"}},
	{"ping every 10 ms", "rtt10", true, []string{"wireguard", "vxlan", "openvpn", "tinc"}},
	{"ping every 2 ms", "rtt2", true, []string{"wireguard", "vxlan", "openvpn", "tinc"}},
	{"CPU per GB, machine", "cpu", true, []string{"wireguard"}},
	{"multicast 1200 B to 3", "mcast1200/3", false, []string{"vxlan", "openvpn", "tinc"}},
	{"multicast 1200 B to 16", "mcast1200/16", false, []string{"vxlan", "openvpn", "tinc"}},
	{"multicast 1200 B to 3 of 16", "mcast1200" + fewOfMany, false, []string{"vxlan", "openvpn", "tinc"}},
	{"multicast 64 B to 3", "mcast64/3", false, []string{"vxlan", "openvpn", "tinc"}},
	{"multicast 64 B to 16", "mcast64/16", false, []string{"vxlan", "openvpn", "tinc"}},
}

// plainRatios are those of plain networks, which serve containers: what one makes by hand for these has a bridge, too.
var plainRatios = []ratio{
	{"TCP, 1 stream", "tcp1", false, []string{"vxlan-bridge", "vxlan"}},
	{"TCP, 4 streams", "tcp4", false, []string{"vxlan-bridge", "vxlan"}},
	{"UDP 1200 B", "udp1200", false, []string{"vxlan-bridge", "vxlan"}},
	{"UDP 64 B", "udp64", false, []string{"vxlan-bridge", "vxlan"}},
	{"ping every 10 ms", "rtt10", true, []string{"vxlan-bridge", "vxlan"}},
	{"multicast 1200 B to 3", "mcast1200/3", false, []string{"vxlan-bridge", "vxlan"}},
	{"multicast 1200 B to 16", "mcast1200/16", false, []string{"vxlan-bridge", "vxlan"}},
	{"multicast 1200 B to 3 of 16", "mcast1200" + fewOfMany, false, []string{"vxlan-bridge", "vxlan"}},
}

// report is the page.
func report(r *results, took time.Duration) string {
	var b strings.Builder
	s, m := r.settings, r.machine
	fmt.Fprintf(&b, `# Benchmarks

Made by `+"`make bench`"+` on %s, in %s: %d cores of %s, %s of memory, %s, %s,
Go %s, load %s as it began. Rounds: %d, ramps %d; tests: %s.
%s

All hosts are network namespaces of this one machine, joined by a bridge, so sender, daemons at both ends and receivers
share its cores: compare rows, don't take them for what two machines would do. Each system is set up anew in each round,
one after the other. Cells are medians, with the lowest and highest round in parentheses where there were several.

- **carried**: the underlay's veths pass super-frames of up to 64 KB whole, as no wire does.
- **wire1500**: segmentation offloads are off on the underlay (GSO, TSO, UDP; receivers still coalesce), so that packets
  of at most 1500 bytes cross it, as with a network card that has none.
- **UDP and multicast**: the highest rate of numbered datagrams, found by doubling and halving down to steps of %.0f %% at most,
  at which every receiver got %.1f %% of them and the sender kept %.0f %% of the rate, for %v each; a rate has failed when it
  failed twice. °: nothing was lost, but one sender could send no faster (of systems in the kernel, its own system calls
  do the work). Mbit/s are of payload, and per receiver.
- **packets per datagram**: what all hosts sent on the underlay at that rate, whatever for, for each datagram delivered to
  a receiver. A cluster has exactly one host more than receivers, which spares those who flood; but for
  "to 3 of 16", where 13 hosts more belong to it and listen to nothing. In carried, a super-frame
  counts once.
- **CPU s per GB**: processor time for 10⁹ bytes of one TCP stream: of the whole machine (iperf3, kernel, and whatever else
  ran), and of the overlay's daemons at both ends.

`, m.Date, round(took), m.Cores, m.CPU, m.Memory, m.System, m.Kernel, m.Go, m.Load,
		s.Rounds, s.RampRounds, strings.Join(s.Tests, ", "), isPart(s),
		(s.Near-1)*100, measure.Whole*100, measure.Offered*100, s.Step)
	systems(&b, r)
	for _, wiring := range s.Wirings {
		fmt.Fprintf(&b, "## %s\n\n", wiring)
		if s.tests(testTCP) || s.tests(testUDP) || s.tests(testRTT) || s.tests(testIdle) {
			table(&b, r, wiring, unicastColumns)
		}
		if s.tests(testMcast) {
			fmt.Fprintf(&b, "Multicast of 1200-byte datagrams, Mbit/s to each of N receivers:\n\n")
			table(&b, r, wiring, append(sized("to %d", "mcast1200", receivers), column{"to 3 of 16", "mcast1200" + fewOfMany}))
			fmt.Fprintf(&b, "Packets on the underlay per datagram delivered:\n\n")
			table(&b, r, wiring, append(sized("to %d", "packets1200", receivers), column{"to 3 of 16", "packets1200" + fewOfMany}))
			fmt.Fprintf(&b, "Multicast of 64-byte datagrams, thousand/s to each of N receivers:\n\n")
			table(&b, r, wiring, append(sized("to %d", "mcast64", smallReceivers), sized("packets per datagram, to %d", "packets64", smallReceivers)...))
		}
	}
	ratioTable(&b, r, "weft", sealedRatios)
	ratioTable(&b, r, "weft-plain", plainRatios)
	if len(r.notes) > 0 {
		b.WriteString("## What failed\n\n")
		for _, n := range r.notes {
			fmt.Fprintf(&b, "- %s\n", oneLine(n))
		}
		b.WriteString("\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// isPart warns of a table that is not the whole.
func isPart(s settings) string {
	if s.Rounds > 1 && len(s.Only) == len(catalogue) && len(s.Tests) == len(allTests) && len(s.Wirings) == len(allWirings) && len(s.Receivers) == len(receivers) {
		return ""
	}
	return "**This was a short or partial run: single values, to be taken as a first look.**"
}

func systems(b *strings.Builder, r *results) {
	b.WriteString("| system | version | how |\n|---|---|---|\n")
	for _, e := range chosen(r) {
		how := e.how
		if e.noMulticast != "" {
			how += "; no multicast: " + e.noMulticast
		}
		if why := r.refused[e.name]; why != "" {
			how = "**could not be run**: " + oneLine(why)
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", e.title, r.versions[e.name], how)
	}
	b.WriteString("\n")
}

func chosen(r *results) []entry {
	return slices.DeleteFunc(slices.Clone(r.systems), func(e entry) bool { return !slices.Contains(r.settings.Only, e.name) })
}

func sized(head, metric string, sizes []int) []column {
	cs := make([]column, len(sizes))
	for i, n := range sizes {
		cs[i] = column{fmt.Sprintf(head, n), fmt.Sprintf("%s/%d", metric, n)}
	}
	return cs
}

// table writes a row per system, without columns and rows in which nothing was measured.
func table(b *strings.Builder, r *results, wiring string, columns []column) {
	has := func(e entry, c column) bool { return len(r.values[key{e.name, wiring, c.metric}]) > 0 }
	rows := slices.DeleteFunc(chosen(r), func(e entry) bool {
		return !slices.ContainsFunc(columns, func(c column) bool { return has(e, c) })
	})
	columns = slices.DeleteFunc(slices.Clone(columns), func(c column) bool {
		return !slices.ContainsFunc(rows, func(e entry) bool { return has(e, c) })
	})
	if len(rows) == 0 {
		b.WriteString("Nothing was measured.\n\n")
		return
	}
	b.WriteString("| system |")
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c.head)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, e := range rows {
		fmt.Fprintf(b, "| %s |", e.title)
		for _, c := range columns {
			fmt.Fprintf(b, " %s |", r.cell(e.name, wiring, c.metric))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// ratioTable compares the medians of one kind of weft with those of others, so that more is better in every row.
func ratioTable(b *strings.Builder, r *results, name string, ratios []ratio) {
	var rows []string
	for _, q := range ratios {
		for _, other := range q.against {
			cells, found := "", false
			for _, wiring := range r.settings.Wirings {
				ours, theirs := r.values[key{name, wiring, q.metric}].median(), r.values[key{other, wiring, q.metric}].median()
				v := ours / theirs
				if q.less {
					v = theirs / ours
				}
				if math.IsInf(v, 0) {
					v = math.NaN()
				}
				found = found || !math.IsNaN(v)
				cells += " " + number(v) + " |"
			}
			if found {
				rows = append(rows, fmt.Sprintf("| %s | %s |%s\n", q.what, titleOf(other), cells))
			}
		}
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "## %s, against others\n\nRatios of medians; above 1, weft is better (for ping and CPU: lower).\n\n", titleOf(name))
	fmt.Fprintf(b, "| in | against | %s |\n|---|---|%s\n", strings.Join(r.settings.Wirings, " | "), strings.Repeat("---|", len(r.settings.Wirings)))
	b.WriteString(strings.Join(rows, "") + "\n")
}

func titleOf(name string) string {
	for _, e := range catalogue {
		if e.name == name {
			return e.title
		}
	}
	return name
}

// oneLine makes a message fit a table.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.ReplaceAll(s, "|", "/")
}

func round(d time.Duration) time.Duration { return d.Round(time.Second) }
