//go:build soak

package soak

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// report writes what was found, and fails the test when it is not good.
func (s *soaking) report(sent uint64, took time.Duration) {
	s.t.Helper()
	rotations := 0.0
	for _, h := range s.all[:4] {
		v, err := look(h)
		if err != nil {
			s.t.Fatal(err)
		}
		rotations += v.rotations
	}
	wrong := Judge(s.found)
	verdict := "Nothing grows and nothing stays behind."
	if len(s.found[0].Samples) < Enough {
		verdict = "**A look, not the whole run:** nothing stays behind; it is too short to judge growth."
	}
	if len(wrong) > 0 {
		verdict = "**Not good:** " + strings.Join(wrong, "; ") + "."
	}
	var table bytes.Buffer
	if err := Table(&table, s.found); err != nil {
		s.t.Fatal(err)
	}
	text := fmt.Sprintf(`# Soak

Written by `+"`make soak`"+` on %s: %s, %s, %d cores, Linux %s.

%.1f million packets on the underlay (counted by its kernel, one by one) in %v, %.1f million datagrams delivered, between five hosts in
network namespaces around a router that drops multicast. A sealed network; all hosts send at once: to a group with members on three
hosts, super-frames and single datagrams to one host, TCP. Meanwhile %d times a link was cut, UDP refused, a host cut off or 3 %% of
all packets lost, for a few seconds; %d times a host gave the network up and took it up again, so that the others changed their sender
keys (%.0f changes); in every round of %v a member came with its attachment and was killed.

%s

%s
%d samples of each daemon, taken between bursts of traffic once all links were direct again: resident memory, and the heap after two garbage
collections. Growth is the least-squares slope of the second half projected on the whole run, with its standard error. Of all hosts together that of the
heap must stay below %.0f %%; resident memory, which depends on when the collector runs, must not surely be above that (by two standard
errors). Descriptors and goroutines: before and after, at rest and with a stream session between any two hosts; none may be left over.
`, time.Now().UTC().Format(time.DateOnly), strings.Join(strings.Fields(s.all[0].MustWeft("version")), " "), runtime.Version(), runtime.NumCPU(), kernel(),
		float64(sent)/1e6, took.Round(time.Second), float64(s.delivered)/1e6, s.faults, s.guests, rotations, burst, verdict, table.String(),
		len(s.found[0].Samples), 100*MaxGrowth)
	out := os.Getenv("OUT")
	if out == "" && sent >= 1e8 {
		out = "../../docs/soak.md"
	}
	if out == "" || out == "-" {
		fmt.Println(text)
	} else if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
		s.t.Error(err)
	}
	s.t.Log("\n" + table.String())
	for _, w := range wrong {
		s.t.Error(w)
	}
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
