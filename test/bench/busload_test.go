package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// toTally is a publisher whose messages arrive at once, but for those that lose drops.
type toTally struct {
	t    *tally
	lose func(n int) bool
	n    int
}

func (p *toTally) publish(block [][]byte) error {
	for _, m := range block {
		if p.n++; p.lose == nil || !p.lose(p.n) {
			p.t.add(m)
		}
	}
	return nil
}

func (p *toTally) finish(last []byte) error { p.t.add(last); return nil }

func TestTally(t *testing.T) {
	var out bytes.Buffer
	p := &toTally{t: &tally{out: &out}}
	var said bytes.Buffer
	if err := publishRuns(p, 64, strings.NewReader("1 10000 50\n2 0 1\n"), &said); err != nil {
		t.Fatal(err)
	}
	p.lose = func(n int) bool { return n%10 == 0 }
	p.n = 0
	if err := publishRuns(p, 64, strings.NewReader("3 10000 10\n"), &said); err != nil {
		t.Fatal(err)
	}
	p.t.add(make([]byte, messageSize)) // of a run that is told already
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%q", lines)
	}
	var run, got, of, misplaced, ns, p50, p99 int
	for i, want := range []func() bool{
		func() bool { return got == 500 && of == 500 && p50 > 0 && p99 >= p50 && ns >= int(49*time.Millisecond) },
		func() bool { return got == of && got%64 == 0 && p50 == 0 },
		func() bool { return got == 90 && of == 100 },
	} {
		_, err := fmt.Sscanf(lines[i], "got %d %d %d %d %d %d %d", &run, &got, &of, &misplaced, &ns, &p50, &p99)
		if err != nil || run != i+1 || misplaced != 0 || !want() {
			t.Errorf("run %d: %q, %v", i+1, lines[i], err)
		}
	}
	if !strings.HasPrefix(said.String(), "sent 1 500 ") {
		t.Errorf("%q", said.String())
	}
	if err := publishRuns(p, 64, strings.NewReader("faster\n"), &said); err == nil {
		t.Error("a line that says nothing is taken")
	}
}

func TestTallyOfTwins(t *testing.T) {
	var out bytes.Buffer
	p := &toTally{t: &tally{out: &out}}
	first := slices.Repeat([]byte{1, 0, 0, 0}, 1)
	m := append(first, make([]byte, messageSize-4)...)
	last := slices.Clone(m)
	last[4], last[8] = flagLast, 1
	if err := p.publish([][]byte{m, m, last}); err != nil || !strings.HasPrefix(out.String(), "got 1 1 1 1 ") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestBusReport(t *testing.T) {
	s, err := busSettingsFrom(func(string) string { return "" })
	if err != nil || s.Rounds != 5 || !slices.Equal(s.Receivers, subscribers) || len(s.Only) != len(busCatalogue) {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := busSettingsFrom(func(k string) string { return map[string]string{"SUBSCRIBERS": "3"}[k] }); err == nil {
		t.Error("three subscribers are taken")
	}
	r := newResults(s, machine{CPU: "Z80", Cores: 2})
	r.systems = entriesOf(busCatalogue)
	for _, v := range []float64{9, 12, 10} {
		r.add(key{busWeft, carried, "rate/1"}, v)
		r.add(key{busCeiling, carried, "rate/1"}, 3*v)
		r.add(key{busWeft, wire1500, "rate/1"}, v)
		r.add(key{busCeiling, wire1500, "rate/1"}, v)
		r.add(key{busWeft, carried, "p50/1"}, 50)
		r.add(key{busNATS, carried, "p50/1"}, 100)
	}
	r.refused[busRedis] = "redis-server is not installed"
	text := busReport(r, time.Minute)
	for _, want := range []string{
		"| weft bus | 10.0 (9.00–12.0) |", "| of the raw ceiling, to 1 | **0.33** (≥ 0.4) | 1.00 (≥ 0.75) |",
		"| p50 at 10,000/s, to 1, by NATS | 0.50 (≤ 0.6) | - (≤ 0.6) |", "**could not be run**: redis-server is not installed",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}
