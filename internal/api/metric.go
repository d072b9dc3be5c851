package api

// Metric is one sample for /metrics. Samples of one name have one help text, one kind and the same
// label names.
type Metric struct {
	Name   string // with unit and, for counters, _total: weft_link_bytes_out_total
	Help   string
	Kind   MetricKind
	Labels map[string]string
	Value  float64
}

// MetricKind says how a sample behaves over time.
type MetricKind int

const (
	// Counter only grows while the daemon runs.
	Counter MetricKind = iota
	// Gauge goes up and down.
	Gauge
)
