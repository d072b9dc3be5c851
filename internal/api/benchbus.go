package api

// Tests of a measurement of the bus, in the order they run.
const (
	BenchBusRTT = "rtt"   // a message to a host and its echo, at a pace
	BenchMsg64  = "msg64" // messages of 64 bytes to all, as fast as they go
	BenchMsg1K  = "msg1k" // the same with 1024 bytes
)

// BenchBusTests are all tests.
var BenchBusTests = []string{BenchBusRTT, BenchMsg64, BenchMsg1K}

const (
	// DefaultBenchBusRate is the pace of test rtt in messages per second when nothing is said.
	DefaultBenchBusRate = 1000
	// MaxBenchBusRate is its highest.
	MaxBenchBusRate = 100_000
)

// BenchBusRequest is the body of POST /v1/bench/bus.
type BenchBusRequest struct {
	Hosts      []string `json:"hosts,omitempty" maxItems:"16" doc:"Other hosts, by name or HostID; default: all that answer"`
	Tests      []string `json:"tests,omitempty" maxItems:"16" enum:"rtt,msg64,msg1k" doc:"Default: all"`
	DurationMS int      `json:"duration_ms,omitempty" minimum:"0" maximum:"60000" doc:"Of each test; 0: three seconds, 200 at least"`
	Rate       int      `json:"rate,omitempty" minimum:"0" maximum:"100000" doc:"Test rtt: messages per second; 0: 1000"`
}

// BenchBus is what a measurement of the bus found.
type BenchBus struct {
	Bench   []BenchBusRow `json:"bench"`
	Bus     string        `json:"bus"`
	Hosts   []BenchHost   `json:"hosts" doc:"Who took part, the publisher first; without addresses"`
	Skipped []BenchSkip   `json:"skipped" doc:"Hosts that were not named and did not take part, and why"`
}

// BenchBusRow is one measurement.
type BenchBusRow struct {
	Test  string   `json:"test"`
	From  string   `json:"from"`
	To    []string `json:"to"`
	Error string   `json:"error,omitempty" doc:"Why there are no figures"`

	Seconds      float64 `json:"seconds" doc:"For which messages were published"`
	PayloadBytes int     `json:"payload_bytes" doc:"Of each message"`
	Sent         uint64  `json:"sent"`
	MessagesPerS float64 `json:"messages_per_s" doc:"At the slowest receiver; of rtt: sent"`
	LossPercent  float64 `json:"loss_percent" doc:"At the receiver that lacks most"`
	Duplicates   uint64  `json:"duplicates" doc:"All receivers together"`
	Misplaced    uint64  `json:"misplaced" doc:"Messages that came after a later one, all receivers together"`
	RTTMinMS     float64 `json:"rtt_min_ms,omitempty"`
	RTTP50MS     float64 `json:"rtt_p50_ms,omitempty"`
	RTTP99MS     float64 `json:"rtt_p99_ms,omitempty"`
	RTTMaxMS     float64 `json:"rtt_max_ms,omitempty"`
	Delivered    uint64  `json:"delivered" doc:"Messages at all receivers together"`

	// Processor time for each 10^6 messages delivered; 0 where too little was to tell.
	DaemonsSPerMillion  float64 `json:"cpu_daemons_s_per_million" doc:"Processor seconds of weft on all hosts that take part"`
	MachinesSPerMillion float64 `json:"cpu_machines_s_per_million" doc:"Processor seconds of everything on their machines, programs that have nothing to do with it included"`

	Receivers []BenchBusReceiver `json:"receivers" doc:"Host by host"`
	CPU       []BenchCPU         `json:"cpu" doc:"Processor time over the whole test, host by host"`
}

// BenchBusReceiver is what came at one host.
type BenchBusReceiver struct {
	Host         string  `json:"host"`
	Received     uint64  `json:"received" doc:"Different messages"`
	MessagesPerS float64 `json:"messages_per_s"`
	LossPercent  float64 `json:"loss_percent"`
	Duplicates   uint64  `json:"duplicates"`
	Misplaced    uint64  `json:"misplaced"`
}
