package api

// Bounds of a measurement of a network.
const (
	// MaxBenchHosts is how many other hosts take part at most.
	MaxBenchHosts = 16
	// MaxBenchMS is the longest that one test may last, in milliseconds.
	MaxBenchMS = 60_000
	// DefaultBenchMS is how long a test lasts when nothing is said.
	DefaultBenchMS = 3_000
	// MaxBenchRate is in datagrams per second, to one address or group.
	MaxBenchRate = 1_000_000
)

// Tests of a measurement, in the order they run.
const (
	BenchRTT     = "rtt"     // round trips of small datagrams, one every 10 ms
	BenchTCP     = "tcp"     // one connection, as fast as it goes
	BenchUDP     = "udp"     // datagrams in super-frames (UDP GSO): highest rate with less than 0.1 % lost
	BenchPPS64   = "pps64"   // packets of 64 bytes one by one, the same
	BenchPPS1400 = "pps1400" // packets of 1400 bytes, or the network's MTU when that is less, the same
	BenchMcast   = "mcast"   // the same to a group that all other hosts join
)

// BenchTests are all tests.
var BenchTests = []string{BenchRTT, BenchTCP, BenchUDP, BenchPPS64, BenchPPS1400, BenchMcast}

// BenchRequest is the body of POST /v1/bench/net.
type BenchRequest struct {
	Network    string   `json:"network,omitempty" maxLength:"63" doc:"Default: weft"`
	Hosts      []string `json:"hosts,omitempty" maxItems:"16" doc:"Other hosts, by name or HostID; default: all that have the network and answer"`
	Tests      []string `json:"tests,omitempty" maxItems:"16" enum:"rtt,tcp,udp,pps64,pps1400,mcast" doc:"Default: all"`
	DurationMS int      `json:"duration_ms,omitempty" minimum:"0" maximum:"60000" doc:"Of each test; 0: three seconds, 200 at least"`
	Rate       int      `json:"rate,omitempty" minimum:"0" maximum:"1000000" doc:"Test mcast: datagrams per second; 0: the highest with less than 0.1 % lost is looked for"`
	MaxMbit    int      `json:"max_mbit,omitempty" minimum:"0" maximum:"1000000" doc:"What no test may exceed, in Mbit/s of payload; 0: nothing"`
}

// BenchEvent is one line of the answer to POST /v1/bench/net or /v1/bench/bus: progress until the result or an error ends it.
type BenchEvent struct {
	Progress *BenchProgress `json:"progress,omitempty"`
	Result   *Bench         `json:"result,omitempty" doc:"Of /v1/bench/net"`
	Bus      *BenchBus      `json:"bus,omitempty" doc:"Of /v1/bench/bus"`
	Error    *Error         `json:"error,omitempty"`
}

// BenchProgress says what begins now.
type BenchProgress struct {
	Test     string   `json:"test" doc:"Or prepare, before the first"`
	To       []string `json:"to" doc:"Hosts"`
	Number   int      `json:"number" doc:"Of the measurement, from 1"`
	Of       int      `json:"of" doc:"Measurements in all"`
	ElapsedS float64  `json:"elapsed_s" doc:"Since the request"`
}

// Bench is what a measurement found. All bytes are payload.
type Bench struct {
	Bench   []BenchRow  `json:"bench"`
	Network string      `json:"network"`
	Engine  string      `json:"engine" enum:"sealed,plain"`
	Group   string      `json:"group" doc:"Of test mcast; empty without it"`
	Hosts   []BenchHost `json:"hosts" doc:"Who took part, the sender first"`
	Skipped []BenchSkip `json:"skipped" doc:"Hosts that were not named and did not take part, and why"`
}

// BenchHost is a host that takes part.
type BenchHost struct {
	Host    string `json:"host"`
	Address string `json:"address" doc:"Of its attachment, while it lasted"`
	Version string `json:"version"`
}

// BenchSkip is a host that could have taken part.
type BenchSkip struct {
	Host   string `json:"host"`
	Reason string `json:"reason"`
}

// What ended the search for the highest rate.
const (
	LimitLoss   = "loss"   // faster, datagrams are lost
	LimitSender = "sender" // the sender, or what takes its datagrams, goes no faster
	LimitTime   = "time"   // the test was over: more may be possible
	LimitRate   = "rate"   // the highest rate allowed passed
)

// BenchRow is one measurement.
type BenchRow struct {
	Test  string   `json:"test"`
	From  string   `json:"from"`
	To    []string `json:"to"`
	Error string   `json:"error,omitempty" doc:"Why there are no figures"`

	Seconds        float64 `json:"seconds" doc:"For which the figures were taken"`
	PacketBytes    int     `json:"packet_bytes,omitempty" doc:"IP packets, headers included"`
	PayloadBytes   int     `json:"payload_bytes,omitempty" doc:"Of each datagram"`
	Sent           uint64  `json:"sent,omitempty" doc:"Datagrams at the rate found"`
	PacketsPerS    float64 `json:"packets_per_s,omitempty" doc:"That the sender sent"`
	MbitPerS       float64 `json:"mbit_per_s,omitempty" doc:"Payload, at each receiver, 10^6 bits"`
	LossPercent    float64 `json:"loss_percent" doc:"At the receiver that lacks most"`
	Duplicates     uint64  `json:"duplicates" doc:"All receivers together"`
	LimitedBy      string  `json:"limited_by,omitempty" doc:"loss, sender, time or rate: what ended the search for the highest rate"`
	RTTMinMS       float64 `json:"rtt_min_ms,omitempty"`
	RTTP50MS       float64 `json:"rtt_p50_ms,omitempty"`
	RTTP99MS       float64 `json:"rtt_p99_ms,omitempty"`
	RTTMaxMS       float64 `json:"rtt_max_ms,omitempty"`
	DeliveredBytes uint64  `json:"delivered_bytes" doc:"Payload at all receivers together, over the whole test"`

	// The time of processors over the whole test, for each 10^9 bytes delivered; 0 where too little was to tell.
	DaemonsSPerGB  float64 `json:"cpu_daemons_s_per_gb" doc:"Processor seconds of weft on all hosts that take part"`
	MachinesSPerGB float64 `json:"cpu_machines_s_per_gb" doc:"Processor seconds of everything on their machines, programs that have nothing to do with it included"`

	Receivers []BenchReceiver `json:"receivers" doc:"Datagrams, host by host"`
	CPU       []BenchCPU      `json:"cpu" doc:"Processor time over the whole test, host by host"`
}

// BenchReceiver is what came at one host.
type BenchReceiver struct {
	Host        string  `json:"host"`
	Received    uint64  `json:"received" doc:"Different datagrams"`
	LossPercent float64 `json:"loss_percent"`
	Duplicates  uint64  `json:"duplicates"`
}

// BenchCPU is what one host used.
type BenchCPU struct {
	Host     string  `json:"host"`
	DaemonS  float64 `json:"daemon_s"`
	MachineS float64 `json:"machine_s"`
	Shared   bool    `json:"shared,omitempty" doc:"On the machine of a host above, and counted there"`
}
