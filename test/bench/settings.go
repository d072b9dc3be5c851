package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The tests, in the order they run.
const (
	testIdle  = "idle"
	testRTT   = "rtt"
	testTCP   = "tcp"
	testUDP   = "udp"
	testMcast = "mcast"
)

// The wirings of the underlay. In carried, a veth passes a super-frame of 64 KB as one packet, which no wire does; in
// wire1500 every packet is cut to 1500 bytes before it leaves the host, as on a network card without offloads.
const (
	carried  = "carried"
	wire1500 = "wire1500"
)

var (
	allTests   = []string{testIdle, testRTT, testTCP, testUDP, testMcast}
	allWirings = []string{carried, wire1500}
)

// settings is what a run does.
type settings struct {
	Rounds     int
	RampRounds int // ramps take longest and are coarse by nature: a few rounds do
	Only       []string
	Tests      []string
	Wirings    []string
	Receivers  []int  // of a group
	Out        string // empty: docs/benchmarks.md
	JSON       string

	TCP   time.Duration // of one measurement
	Step  time.Duration // of one rate of a ramp
	Near  float64       // factor between the rates where a ramp ends
	Idle  time.Duration
	Pings int
}

// settingsFrom reads the environment.
func settingsFrom(env func(string) string) (settings, error) {
	s := settings{
		Out: env("OUT"), JSON: env("JSON"),
		TCP: 3 * time.Second, Step: 400 * time.Millisecond, Near: 1.2, Idle: 5 * time.Second, Pings: 250,
	}
	var err error
	if s.Rounds, err = rounds(env); err != nil {
		return s, err
	}
	s.RampRounds = min(s.Rounds, 2)
	if s.Rounds == 1 { // a look, in under 20 minutes
		s.TCP, s.Idle, s.Pings = 2*time.Second, 3*time.Second, 150
	}
	for _, l := range []struct {
		name string
		to   *[]string
		all  []string
	}{{"ONLY", &s.Only, names(catalogue)}, {"TESTS", &s.Tests, allTests}, {"WIRINGS", &s.Wirings, allWirings}} {
		if *l.to, err = choose(l.name, env(l.name), l.all); err != nil {
			return s, err
		}
	}
	s.Receivers, err = chooseNumbers("RECEIVERS", env("RECEIVERS"), receivers)
	return s, err
}

// rounds is how many to do, 5 by default.
func rounds(env func(string) string) (int, error) {
	v := env("ROUNDS")
	if v == "" {
		return 5, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 100 {
		return 0, fmt.Errorf("ROUNDS=%s: want 1 to 100", v)
	}
	return n, nil
}

func names(es []entry) []string {
	ns := make([]string, len(es))
	for i, e := range es {
		ns[i] = e.name
	}
	return ns
}

// chooseNumbers is choose for numbers.
func chooseNumbers(name, list string, all []int) (some []int, err error) {
	texts := make([]string, len(all))
	for i, n := range all {
		texts[i] = strconv.Itoa(n)
	}
	want, err := choose(name, list, texts)
	for _, n := range want {
		some = append(some, all[slices.Index(texts, n)])
	}
	return some, err
}

// choose returns those of all that a list separated by commas names, in the order of all; an empty list names every one.
func choose(name, list string, all []string) ([]string, error) {
	if list == "" {
		return all, nil
	}
	want := strings.Split(list, ",")
	for _, w := range want {
		if !slices.Contains(all, w) {
			return nil, fmt.Errorf("%s=%s: there is no %q; want some of %s", name, list, w, strings.Join(all, ","))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(a string) bool { return !slices.Contains(want, a) }), nil
}

func (s settings) tests(name string) bool { return slices.Contains(s.Tests, name) }
