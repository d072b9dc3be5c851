package main

import (
	"strings"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	s, err := settingsFrom(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	r := newResults(s, machine{CPU: "Z80", Cores: 2, Kernel: "Linux 6.1"})
	for _, v := range []float64{2, 4, 3} {
		r.add(key{"weft", carried, "tcp1"}, v)
		r.add(key{"wireguard", carried, "tcp1"}, v/2)
		r.add(key{"weft", carried, "rtt10"}, 100*v)
		r.add(key{"wireguard", carried, "rtt10"}, 200*v)
	}
	r.add(key{"weft", wire1500, "mcast1200/3"}, 55)
	r.capped[key{"weft", wire1500, "mcast1200/3"}] = true
	r.refused["tinc"] = "tincd is\nnot | installed"
	r.note("OpenVPN, round 2: it fell over")
	text := report(r, 90*time.Minute)
	for _, want := range []string{
		"2 cores of Z80", "in 1h30m0s",
		"| weft, sealed | 3.00 (2.00–4.00) | 300 (200–400) |\n",
		"| tinc, switch mode |  | **could not be run**: tincd is not / installed |",
		"| TCP, 1 stream | wireguard-go | 2.00 | - |",
		"| ping every 10 ms | wireguard-go | 2.00 | - |",
		"| weft, sealed | 55.0 ° |",
		"- OpenVPN, round 2: it fell over",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "| n2n | -") {
		t.Error("a row for a system of which nothing was measured")
	}
}
