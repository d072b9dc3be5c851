package api

import "time"

// Status answers GET /v1/status: one page that says what is wrong, if anything is.
type Status struct {
	Version string `json:"version"`
	Host    string `json:"host"`
	HostID  string `json:"host_id"`
	Cluster string `json:"cluster" doc:"ClusterID: 16 hexadecimal digits"`
	// State is one of the State constants; Reason says why it is not connected.
	State   string  `json:"state" enum:"founded,joining,connected,alone,removed,stopping"`
	Reason  string  `json:"reason,omitempty"`
	UptimeS float64 `json:"uptime_s"`
	PID     int     `json:"pid"`
	// HandedOver is set when this daemon took over from one that ran.
	HandedOver *HandedOver `json:"handed_over,omitempty"`

	Port      int      `json:"port" doc:"UDP and TCP: must be open to the other hosts"`
	Endpoints []string `json:"endpoints" doc:"Where other hosts reach this one"`
	Range     string   `json:"range" doc:"The cluster's IPv4 range, CIDR"`
	Range6    string   `json:"range6" doc:"The cluster's IPv6 range, CIDR"`
	// Groups of the underlay, of native multicast.
	UnderlayGroups []string `json:"underlay_groups" doc:"Groups of the cluster's native multicast on the underlay; empty: it uses none"`
	Heard          int      `json:"multicast_heard" doc:"Hosts whose native multicast this host hears"`
	HeardBy        int      `json:"multicast_heard_by" doc:"Hosts that hear this host's native multicast"`
	HostsAlive     int      `json:"hosts_alive" doc:"This host included"`
	HostsKnown     int      `json:"hosts_known"`

	Seeds []Seed `json:"seeds,omitempty" doc:"Addresses by which this host looks for others, as given to up and connect"`
	// Discovery are the sources by which this host finds others; none unless some were given.
	Discovery []Discovery `json:"discovery,omitempty" doc:"Sources by which this host finds others"`

	Networks []Network      `json:"networks"`
	Bus      *Bus           `json:"bus,omitempty" doc:"The cluster's own bus, when this host is a member of it"`
	Paths    map[string]int `json:"paths" doc:"Links by path"`
	Detours  []Link         `json:"detours" doc:"Links whose path could be better, with the reason"`
	Drops    []Drop         `json:"drops" doc:"Counted drops by reason; only those above zero"`
	Warnings []Warning      `json:"warnings"`
	Limits   []Limit        `json:"limits" doc:"Bounded tables, how full they are"`
}

// Seed is an address by which a host looks for others.
type Seed struct {
	Name    string `json:"name"`
	Reached bool   `json:"reached" doc:"There is a link to the host that answered there"`
	Error   string `json:"error,omitempty"`
}

// HandedOver says from whom a daemon took over its sockets, keys and TAPs.
type HandedOver struct {
	Version string  `json:"version" doc:"Of the daemon before"`
	PauseMS float64 `json:"pause_ms" doc:"How long frames waited, in milliseconds"`
}

// Discovery is a source of hosts, such as a store or the local segment, and how it fares.
type Discovery struct {
	Source string `json:"source" doc:"As it was given to weft up"`
	// State is one of the Discovery constants.
	State       string     `json:"state" enum:"asking,ok,failing"`
	LastSuccess *time.Time `json:"last_success,omitempty" doc:"When it last answered"`
	Addresses   int        `json:"addresses" doc:"Found when it last answered, this host's own included"`
	Unanswered  []string   `json:"unanswered" doc:"Of these, where no host of the cluster has answered so far"`
	Silent      []string   `json:"silent" doc:"Of the unanswered, those where nobody has answered for 15 s or more: not up, not reached, or of another cluster"`
	Registered  bool       `json:"registered" doc:"This host's own addresses are there"`
	ReadOnly    bool       `json:"read_only" doc:"Nothing can be registered there"`
	Refused     int        `json:"refused" doc:"Entries that are no address of a host"`
	RefusedWhy  string     `json:"refused_why,omitempty" doc:"Of the first one refused"`
	Failures    int        `json:"failures" doc:"Tries that failed since it last answered"`
	RetryS      float64    `json:"retry_s,omitempty" doc:"Seconds until it is tried again"`
	Error       string     `json:"error,omitempty" doc:"Why it failed last"`
	Hint        string     `json:"hint,omitempty" doc:"One line to do"`
}

// States of a source of hosts.
const (
	DiscoveryAsking  = "asking" // it has not answered yet
	DiscoveryOK      = "ok"
	DiscoveryFailing = "failing" // it is tried again; what it said before stays
)

// States of a host's own daemon. Degraded reports which of them exit with 3.
const (
	StateFounded   = "founded"   // first host of its cluster, nobody has joined yet
	StateJoining   = "joining"   // has a token, has reached nobody yet
	StateConnected = "connected" // at least one link is up
	StateAlone     = "alone"     // knows others, reaches none of them now
	StateRemoved   = "removed"   // a member says that this host was removed from the cluster, and it reaches none
	StateStopping  = "stopping"
)

// Degraded reports whether the host works, but not with the others it should work with.
func (s Status) Degraded() bool {
	return s.State == StateJoining || s.State == StateAlone || s.State == StateRemoved
}

// LinksUp returns the number of hosts that can be reached now.
func (s Status) LinksUp() int {
	n := 0
	for path, count := range s.Paths {
		if path != PathNone {
			n += count
		}
	}
	return n
}

// Drop is a reason for which packets or frames were thrown away.
type Drop struct {
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Warning is something a person should look at: a wrong clock, strangers with a wrong secret,
// snooping that was switched off and is on again.
type Warning struct {
	Code  string    `json:"code" doc:"Stable, snake_case: bad_secret, clock, snooping"`
	Text  string    `json:"text"`
	Fix   string    `json:"fix,omitempty" doc:"One line to do"`
	Since time.Time `json:"since"`
	Count uint64    `json:"count,omitempty"`
}

// Limit is the bound of a table and how much of it is used.
type Limit struct {
	Name string `json:"name"`
	Used uint64 `json:"used"`
	Max  uint64 `json:"max"`
}
