package apiserver

import (
	"maps"
	"net/http"
	"regexp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weft-net/weft/internal/api"
)

// metricsHandler serves the backend's samples and those of the Go runtime. One bad sample is left
// out and does not hide the others.
func metricsHandler(b Lifecycle) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		sampler{b},
		// Beside its usual ones: the heap as the last collection left it, which is what a leak shows in.
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: liveHeap})),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError,
		// One slow scrape must not become many.
		MaxRequestsInFlight: 4,
	})
}

// liveHeap is go_gc_heap_live_bytes in /metrics.
var liveHeap = regexp.MustCompile(`^/gc/heap/live:bytes$`)

// sampler is a prometheus.Collector over Backend.Metrics.
type sampler struct{ backend Lifecycle }

var _ prometheus.Collector = sampler{}

// Describe sends nothing: the names are known only when they are collected.
func (sampler) Describe(chan<- *prometheus.Desc) {}

// Collect sends the samples of the moment.
func (s sampler) Collect(out chan<- prometheus.Metric) {
	for _, m := range s.backend.Metrics() {
		names := slices.Sorted(maps.Keys(m.Labels))
		values := make([]string, len(names))
		for i, n := range names {
			values[i] = m.Labels[n]
		}
		kind := prometheus.GaugeValue
		if m.Kind == api.Counter {
			kind = prometheus.CounterValue
		}
		desc := prometheus.NewDesc(m.Name, m.Help, names, nil)
		sample, err := prometheus.NewConstMetric(desc, kind, m.Value, values...)
		if err != nil {
			sample = prometheus.NewInvalidMetric(desc, err)
		}
		out <- sample
	}
}
