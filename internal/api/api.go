// Package api holds the requests, the responses and the errors of weft's HTTP API.
//
// Every list is one object with one array under its noun; names are snake_case and carry their
// unit. Fields are only ever added. The struct tags beside json are read by the server, which
// checks requests against them and writes /openapi.json from them.
package api

import "time"

// Limits of what one request may hold.
const (
	// MaxBody is the largest request body, in bytes.
	MaxBody = 1 << 20
	// MaxProbe is the largest probe, in bytes of payload: what fits an IPv4 UDP datagram.
	MaxProbe = 65507
)

// Host is one host of the cluster as the answering host sees it.
type Host struct {
	ID        string   `json:"id" doc:"HostID: 32 hexadecimal digits"`
	Name      string   `json:"name"`
	State     string   `json:"state" enum:"alive,suspect,dead,left"`
	Endpoints []string `json:"endpoints" doc:"Underlay addresses, ADDRESS:PORT"`
	Version   string   `json:"version"`
	Self      bool     `json:"self,omitempty" doc:"True for the host that answers"`
	Ephemeral bool     `json:"ephemeral,omitempty" doc:"It comes and goes: its addresses are borrowed, and come back by themselves"`
	Warning   string   `json:"warning,omitempty" doc:"What is wrong with this host, such as its clock"`
}

// States of a host, in the words of SWIM.
const (
	HostAlive   = "alive"
	HostSuspect = "suspect"
	HostDead    = "dead"
	HostLeft    = "left"
)

// Stranger is a source of first messages under a wrong secret.
type Stranger struct {
	Source    string    `json:"source" doc:"Underlay address"`
	BadSecret uint64    `json:"bad_secret" doc:"First messages under a wrong secret"`
	LastSeen  time.Time `json:"last_seen"`
}

// Hosts answers GET /v1/hosts.
type Hosts struct {
	Hosts     []Host     `json:"hosts"`
	Strangers []Stranger `json:"strangers,omitempty" doc:"Who tried to join with a wrong secret"`
}

// HostRemoved answers DELETE /v1/hosts/{name}.
type HostRemoved struct {
	Name    string   `json:"name"`
	ID      string   `json:"id"`
	Ranges  []string `json:"ranges" doc:"Address ranges taken over"`
	Heir    string   `json:"heir" doc:"The host that took the ranges"`
	InUse   []string `json:"in_use" doc:"Addresses that the host was known to use, and by what"`
	NotSeen []string `json:"not_seen,omitempty" doc:"Networks of the host that this host does not have: what it used there is not known"`
}

// Link is the way to another host.
type Link struct {
	Host        string  `json:"host"`
	Path        string  `json:"path" enum:"direct,relayed,multicast,kernel,none" doc:"How packets go now; none: the host cannot be reached"`
	Via         string  `json:"via" doc:"The relay of a relayed path"`
	Reason      string  `json:"reason" doc:"Why the path is not a better one"`
	Endpoint    string  `json:"endpoint" doc:"Underlay address of the next hop"`
	RTTMS       float64 `json:"rtt_ms" doc:"Smoothed round-trip time, in milliseconds"`
	MTU         int     `json:"mtu" doc:"Largest underlay packet known to pass, in bytes"`
	LossPercent float64 `json:"loss_percent" doc:"Part of the last pings on the path that were not answered"`
	Stream      string  `json:"stream" doc:"How streams (TCP) go: direct, relayed, or none open"`
	StreamVia   string  `json:"stream_via" doc:"The relay of relayed streams"`
	Multicast   string  `json:"multicast" enum:"both,from,to,none" doc:"Native multicast on the underlay: from: this host hears the other; to: the other hears this one"`
}

// Native multicast between two hosts.
const (
	MulticastBoth = "both"
	MulticastFrom = "from"
	MulticastTo   = "to"
	MulticastNone = "none"
)

// Paths of a link.
const (
	PathDirect    = "direct"
	PathRelayed   = "relayed"
	PathMulticast = "multicast"
	PathKernel    = "kernel"
	PathNone      = "none"
)

// Links answers GET /v1/links.
type Links struct {
	Links []Link `json:"links"`
}

// Network is a virtual Ethernet.
type Network struct {
	Name        string   `json:"name"`
	VNI         uint32   `json:"vni"`
	Engine      string   `json:"engine" enum:"sealed,plain"`
	Subnets     []string `json:"subnets" doc:"IPv4 and IPv6, CIDR"`
	MTU         int      `json:"mtu" doc:"Largest IP packet of an attachment, in bytes"`
	Bridge      string   `json:"bridge,omitempty" doc:"The network's bridge on this host; empty when the host does not have the network"`
	Hosts       []string `json:"hosts,omitempty" doc:"Hosts that have the network"`
	Attachments int      `json:"attachments" doc:"Attachments on all hosts"`
	AllowGroups []string `json:"allow_groups,omitempty" doc:"If not empty, only these groups pass"`
	DenyGroups  []string `json:"deny_groups,omitempty"`
	Rate        int      `json:"rate,omitempty" doc:"Broadcast and unregistered groups per attachment, in frames per second"`
	DNS         string   `json:"dns,omitempty" doc:"The DNS service's address, the same on every host"`
	Domain      string   `json:"domain,omitempty" doc:"What its names end in"`
	Conflict    string   `json:"conflict,omitempty" doc:"Two definitions that differ met; which one stands, and what to do"`
	// Problems are of plain networks: they have no relays and cross no NAT.
	Problems []HostProblem `json:"problems,omitempty" doc:"Hosts that this host cannot send to in a plain network, or not everything, and why"`
}

// HostProblem is a host that a network does not reach, or not with everything.
type HostProblem struct {
	Host   string `json:"host"`
	Reason string `json:"reason"`
}

// Engines of a network.
const (
	EngineSealed = "sealed"
	EnginePlain  = "plain"
)

// Networks answers GET /v1/networks.
type Networks struct {
	Networks []Network `json:"networks"`
}

// NetworkCreate is the body of POST /v1/networks.
type NetworkCreate struct {
	Name        string   `json:"name" minLength:"1" maxLength:"63"`
	Plain       bool     `json:"plain,omitempty" doc:"Unencrypted kernel VXLAN, for underlays one trusts"`
	Subnet      string   `json:"subnet,omitempty" maxLength:"64" doc:"IPv4 CIDR; default: carved from this host's own range"`
	Subnets     []string `json:"subnets,omitempty" maxItems:"7" doc:"Further IPv4 subnets, CIDR; with subnet only"`
	Subnet6     string   `json:"subnet6,omitempty" maxLength:"64" doc:"IPv6 CIDR; with one IPv4 subnet only"`
	AllowGroups []string `json:"allow_groups,omitempty" maxItems:"256"`
	DenyGroups  []string `json:"deny_groups,omitempty" maxItems:"256"`
	Rate        int      `json:"rate,omitempty" minimum:"0" maximum:"100000000" doc:"Frames per second; 0: the default"`
}

// Attachment is a process, namespace or container plugged into a network.
type Attachment struct {
	Name      string   `json:"name"`
	Network   string   `json:"network"`
	Host      string   `json:"host"`
	MAC       string   `json:"mac"`
	IPs       []string `json:"ips" doc:"Addresses with their prefix length, CIDR"`
	Kind      string   `json:"kind" enum:"process,netns,container,host"`
	Local     bool     `json:"local" doc:"True when it is on the host that answers"`
	PID       int      `json:"pid,omitempty"`
	Netns     string   `json:"netns,omitempty"`
	Container string   `json:"container,omitempty"`
	Interface string   `json:"interface,omitempty" doc:"The device inside: weft0"`
	MTU       int      `json:"mtu,omitempty"`
	DNS       []string `json:"dns,omitempty" doc:"Name servers for resolv.conf"`
	Search    []string `json:"search,omitempty" doc:"Search domains for resolv.conf"`
	FQDN      string   `json:"fqdn,omitempty" doc:"NAME.NETWORK.DOMAIN"`
}

// Kinds of attachment.
const (
	KindProcess   = "process"   // ends with its process
	KindNetns     = "netns"     // ends with its namespace
	KindContainer = "container" // ends with its container
	KindHost      = "host"      // the host itself (weft expose)
)

// Attachments answers GET /v1/attachments.
type Attachments struct {
	Attachments []Attachment `json:"attachments"`
}

// Attach is the body of POST /v1/attachments.
//
// KindProcess needs PID and StartTime, and TID when another thread than the first has entered the
// namespace; KindNetns needs Netns or PID; KindContainer needs Container; KindHost nothing.
type Attach struct {
	Network   string   `json:"network,omitempty" maxLength:"63" doc:"Default: weft"`
	Name      string   `json:"name,omitempty" maxLength:"63" doc:"Default: made up"`
	Kind      string   `json:"kind" enum:"process,netns,container,host"`
	PID       int      `json:"pid,omitempty" minimum:"0" maximum:"2147483647"`
	TID       int      `json:"tid,omitempty" minimum:"0" maximum:"2147483647" doc:"The namespace is /proc/PID/task/TID/ns/net; default: PID"`
	StartTime uint64   `json:"start_time,omitempty" doc:"Field 22 of /proc/PID/stat in clock ticks: says that the PID is still the same process"`
	Netns     string   `json:"netns,omitempty" maxLength:"4096" doc:"Path of the namespace as the daemon sees it"`
	Container string   `json:"container,omitempty" maxLength:"128"`
	IPs       []string `json:"ips,omitempty" maxItems:"8" doc:"Addresses wanted; default: the next free ones"`

	MulticastRoute bool `json:"multicast_route,omitempty" doc:"KindHost: route 224.0.0.0/4 into the network"`

	Interface string `json:"interface,omitempty" pattern:"^[A-Za-z0-9_][A-Za-z0-9_.-]*$" maxLength:"15" doc:"KindNetns: what the device inside is called; default: the next free one of weft0, weft1, ..."`
	Renew     bool   `json:"renew,omitempty" doc:"For callers whose names say whose the attachment is: one of that name in the same namespace is the answer, one in another namespace makes way for this"`
}

// Group is a multicast group that has members.
type Group struct {
	Network     string   `json:"network"`
	Group       string   `json:"group"`
	Source      string   `json:"source" doc:"* for (*,G), else S of (S,G)"`
	Members     []Member `json:"members"`
	PacketsIn   uint64   `json:"packets_in"`
	PacketsOut  uint64   `json:"packets_out"`
	BytesIn     uint64   `json:"bytes_in"`
	BytesOut    uint64   `json:"bytes_out"`
	CopiesSent  uint64   `json:"copies_sent" doc:"Copies that left this host"`
	CopiesSaved uint64   `json:"copies_saved" doc:"Frames read at the uplink x other hosts with attachments - copies sent"`
	ByMulticast int      `json:"by_multicast" doc:"Hosts with members that this host's native multicast serves at the moment"`
	ByTree      int      `json:"by_tree" doc:"Hosts with members that other hosts serve, which pass this host's packets on"`
	ByCopy      int      `json:"by_copy" doc:"Hosts with members that get a copy from this host"`
	Uncounted   bool     `json:"uncounted,omitempty" doc:"Plain network: the kernel carries it and does not count by group; the counters are 0 for lack of numbers"`
}

// Member is an attachment that joined a group.
type Member struct {
	Attachment string `json:"attachment"`
	Host       string `json:"host"`
}

// Groups answers GET /v1/groups.
type Groups struct {
	Groups []Group `json:"groups"`
}

// AddressRange is a part of an address space that one host owns.
type AddressRange struct {
	Range   string `json:"range" doc:"CIDR, or FIRST-LAST"`
	Owner   string `json:"owner" doc:"Name of the host that alone gives these addresses away"`
	Used    uint64 `json:"used"`
	Free    uint64 `json:"free"`
	Network string `json:"network,omitempty" doc:"Empty: the cluster's range"`
	State   string `json:"state,omitempty" doc:"State of the owner"`
	Subnet  string `json:"subnet,omitempty" doc:"CIDR of the network's subnet that it is a part of; empty: the cluster's range"`
}

// IPAM answers GET /v1/ipam.
type IPAM struct {
	IPAM []AddressRange `json:"ipam"`
}

// Token answers GET /v1/token and POST /v1/token/rotate. It admits new hosts: a secret.
type Token struct {
	Token string `json:"token"`
}

// String hides the token from logs.
func (Token) String() string { return "(token)" }

// Endpoints is the body of POST /v1/connect and POST /v1/forget.
type Endpoints struct {
	Endpoints []string `json:"endpoints" minItems:"1" maxItems:"256" doc:"ADDRESS, NAME, ADDRESS:PORT or NAME:PORT"`
}

// Probe is the body of POST /v1/hosts/{name}/probe.
type Probe struct {
	SizeBytes int  `json:"size_bytes,omitempty" minimum:"0" maximum:"65507" doc:"Payload; 0: a small one"`
	TimeoutMS int  `json:"timeout_ms,omitempty" minimum:"0" maximum:"60000" doc:"0: one second"`
	Stream    bool `json:"stream,omitempty" doc:"Open a stream (TCP) instead of sending a packet (UDP)"`
}

// ProbeResult is one round trip to a host over the mesh.
type ProbeResult struct {
	Host      string  `json:"host"`
	Path      string  `json:"path"`
	Via       string  `json:"via"`
	Endpoint  string  `json:"endpoint"`
	SizeBytes int     `json:"size_bytes"`
	RTTMS     float64 `json:"rtt_ms"`
}

// Down is the body of POST /v1/down.
type Down struct {
	Leave bool `json:"leave,omitempty" doc:"Give the address ranges back and leave the cluster for good"`
	Clean bool `json:"clean,omitempty" doc:"Remove bridges and attachments, too"`
}

// Done answers requests that have nothing else to say.
type Done struct {
	Done bool `json:"done"`
}
