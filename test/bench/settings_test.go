package main

import (
	"slices"
	"testing"
)

func TestSettings(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	s, err := settingsFrom(env(nil))
	if err != nil || s.Rounds != 5 || s.RampRounds != 2 || len(s.Only) != len(catalogue) || !slices.Equal(s.Tests, allTests) || !slices.Equal(s.Receivers, receivers) {
		t.Errorf("by default: %+v, %v", s, err)
	}
	short, err := settingsFrom(env(map[string]string{"ROUNDS": "1", "ONLY": "weft,bare", "TESTS": "mcast", "WIRINGS": "wire1500", "RECEIVERS": "16,3"}))
	if err != nil || short.RampRounds != 1 || short.TCP >= s.TCP || !slices.Equal(short.Only, []string{"bare", "weft"}) ||
		!short.tests(testMcast) || short.tests(testTCP) || !slices.Equal(short.Wirings, []string{wire1500}) || !slices.Equal(short.Receivers, []int{3, 16}) {
		t.Errorf("short: %+v, %v", short, err)
	}
	for k, v := range map[string]string{"ROUNDS": "0", "ONLY": "weave", "TESTS": "sctp", "WIRINGS": "wifi", "RECEIVERS": "5"} {
		if _, err := settingsFrom(env(map[string]string{k: v})); err == nil {
			t.Errorf("%s=%s is taken", k, v)
		}
	}
}
