package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// key names a measurement: of a system, in a wiring, by a metric. Metrics of a cluster's size end in it: mcast1200/16.
type key struct{ system, wiring, metric string }

// results is what a run found.
type results struct {
	machine  machine
	settings settings
	systems  []entry           // in the order of the tables
	versions map[string]string // by system
	refused  map[string]string // system -> why it could not be run
	values   map[key]sample
	capped   map[key]bool // the sender was the limit, in some round
	notes    []string     // single measurements that failed, with their reason
}

func newResults(s settings, m machine) *results {
	return &results{
		machine: m, settings: s, systems: catalogue, versions: map[string]string{}, refused: map[string]string{},
		values: map[key]sample{}, capped: map[key]bool{},
	}
}

func (r *results) add(k key, v float64) { r.values[k] = append(r.values[k], v) }

func (r *results) note(s string) {
	if !slices.Contains(r.notes, s) {
		r.notes = append(r.notes, s)
	}
}

// senderBound marks a limit at which nothing was lost.
const senderBound = " °"

// cell is a value of a table.
func (r *results) cell(system, wiring, metric string) string {
	k := key{system, wiring, metric}
	s := r.values[k].String()
	if r.capped[k] {
		return s + senderBound
	}
	return s
}

// writeJSON saves every single value.
func (r *results) writeJSON(path string) error {
	type value struct {
		System string    `json:"system"`
		Wiring string    `json:"wiring"`
		Metric string    `json:"metric"`
		Values []float64 `json:"values"`
		Capped bool      `json:"sender_limited,omitempty"`
	}
	all := struct {
		Machine  machine           `json:"machine"`
		Versions map[string]string `json:"versions"`
		Refused  map[string]string `json:"not_run"`
		Notes    []string          `json:"notes"`
		Values   []value           `json:"values"`
	}{Machine: r.machine, Versions: r.versions, Refused: r.refused, Notes: r.notes}
	for k, v := range r.values {
		all.Values = append(all.Values, value{System: k.system, Wiring: k.wiring, Metric: k.metric, Values: v, Capped: r.capped[k]})
	}
	slices.SortFunc(all.Values, func(a, b value) int {
		return slices.Compare([]string{a.System, a.Wiring, a.Metric}, []string{b.System, b.Wiring, b.Metric})
	})
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
