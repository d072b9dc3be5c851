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
		Rounds: 5, Out: env("OUT"), JSON: env("JSON"),
		TCP: 3 * time.Second, Step: time.Second, Near: 1.1, Idle: 5 * time.Second, Pings: 250,
	}
	if v := env("ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 100 {
			return s, fmt.Errorf("ROUNDS=%s: want 1 to 100", v)
		}
		s.Rounds = n
	}
	s.RampRounds = min(s.Rounds, 2)
	if s.Rounds == 1 { // a look, in under 20 minutes
		s.TCP, s.Step, s.Near, s.Idle, s.Pings = 2*time.Second, 400*time.Millisecond, 1.2, 3*time.Second, 150
	}
	names := make([]string, len(catalogue))
	for i, e := range catalogue {
		names[i] = e.name
	}
	for _, l := range []struct {
		name string
		to   *[]string
		all  []string
	}{{"ONLY", &s.Only, names}, {"TESTS", &s.Tests, allTests}, {"WIRINGS", &s.Wirings, allWirings}} {
		var err error
		if *l.to, err = choose(l.name, env(l.name), l.all); err != nil {
			return s, err
		}
	}
	sizes := make([]string, len(receivers))
	for i, n := range receivers {
		sizes[i] = strconv.Itoa(n)
	}
	some, err := choose("RECEIVERS", env("RECEIVERS"), sizes)
	for _, n := range some {
		s.Receivers = append(s.Receivers, receivers[slices.Index(sizes, n)])
	}
	return s, err
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
