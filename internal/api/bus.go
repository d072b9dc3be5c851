package api

// ClusterBus is the name of the bus that every cluster has.
const ClusterBus = "weft"

// Bounds of requests about messages.
const (
	// MaxBusBody is the largest body of a request that carries messages, in bytes: one message of MaxBusPayload fits, however it is written.
	MaxBusBody = 8 << 20
	// MaxBusPayload is the longest message in bytes, headers included.
	MaxBusPayload = 1 << 20
	// MaxBusBatch is how many messages one request publishes at most.
	MaxBusBatch = 4096
	// MaxRequestMS is the longest time to wait for an answer.
	MaxRequestMS = 60_000
	// DefaultRequestMS is how long an answer is waited for when nothing is said.
	DefaultRequestMS = 5_000
)

// BusMessage is a message on a bus. Its payload is in one of two fields: as text if it is UTF-8.
type BusMessage struct {
	Subject       string              `json:"subject" maxLength:"255"`
	Reply         string              `json:"reply,omitempty" maxLength:"255" doc:"Where an answer is wanted"`
	Status        string              `json:"status,omitempty" doc:"Of the first line of the headers"`
	Headers       map[string][]string `json:"headers,omitempty"`
	Payload       string              `json:"payload"`
	PayloadBase64 []byte              `json:"payload_base64,omitempty" doc:"In place of payload, if it is not UTF-8"`
}

// BusToken answers GET /v1/buses/{bus}/token: what a program needs to join a bus as a member (package bus). It admits to the bus and to
// nothing else: a secret.
type BusToken struct {
	Bus   string   `json:"bus" doc:"The bus's name"`
	Token string   `json:"token"`
	Seeds []string `json:"seeds" doc:"Where hosts listen that are on the bus: address and UDP port, this host's first"`
}

// String hides the token from logs.
func (BusToken) String() string { return "(token of a bus)" }

// BusPublish is the body of POST /v1/buses/{bus}/messages.
type BusPublish struct {
	Messages []BusMessage `json:"messages" minItems:"1" maxItems:"4096"`
}

// BusPublished answers it.
type BusPublished struct {
	Published int `json:"published"`
	Wanted    int `json:"wanted" doc:"Of these, messages that somebody subscribes to, as far as is known"`
}

// BusRequest is the body of POST /v1/buses/{bus}/request. The answer is a BusMessage; CodeUnavailable when nobody is there to answer.
type BusRequest struct {
	BusMessage
	TimeoutMS int `json:"timeout_ms,omitempty" minimum:"0" maximum:"60000" doc:"0: five seconds"`
}

// BusEvent is one line of the answer to GET /v1/buses/{bus}/messages: ready first, then messages as they come.
type BusEvent struct {
	Ready   bool        `json:"ready,omitempty" doc:"What is published from now on comes"`
	Message *BusMessage `json:"message,omitempty"`
	Dropped uint64      `json:"dropped,omitempty" doc:"Messages dropped here, because the caller reads too slowly"`
	Error   *Error      `json:"error,omitempty" doc:"The last line"`
}

// BusSubscribe says which messages are wanted.
type BusSubscribe struct {
	Subject string
	Queue   string
}

// Buses answers GET /v1/buses.
type Buses struct {
	Buses []Bus `json:"buses"`
}

// Bus is a bus as this host sees it.
type Bus struct {
	Name          string      `json:"name"`
	Joined        bool        `json:"joined" doc:"This host is a member now; if not, it is one as soon as it is needed"`
	Port          int         `json:"port,omitempty" doc:"UDP, and TCP for members that UDP does not reach: must be open to the other members, and UDP 6784 for multicast"`
	Members       []BusMember `json:"members" doc:"The other hosts on it"`
	Subscriptions int         `json:"subscriptions" doc:"Of programs on this host"`
	Published     uint64      `json:"published" doc:"Messages of programs on this host"`
	Delivered     uint64      `json:"delivered" doc:"Messages to programs on this host"`
	Sent          uint64      `json:"sent" doc:"Messages of this host that went to others"`
	Received      uint64      `json:"received" doc:"Messages of other hosts"`
	NATS          *NATS       `json:"nats,omitempty"`
	Bare          *Bare       `json:"bare,omitempty" doc:"A group of plain UDP datagrams, NOT encrypted, whose messages are on the cluster's own bus"`
}

// BusCreate is the body of POST /v1/buses. Bare is needed: the other buses are made by programs.
type BusCreate struct {
	Name string      `json:"name" maxLength:"63"`
	Bare *BareCreate `json:"bare"`
}

// BareCreate says what a bare bus passes, and where on this host.
type BareCreate struct {
	Group   string `json:"group" maxLength:"64" doc:"GROUP:PORT, IPv6 as [GROUP]:PORT"`
	Iface   string `json:"iface,omitempty" maxLength:"64" doc:"Interface, or an address it has; default: that of the route to the group"`
	TTL     int    `json:"ttl,omitempty" minimum:"0" maximum:"255" doc:"How many routers away what is sent is heard, plus one; 0: 1"`
	Subject string `json:"subject,omitempty" maxLength:"255" doc:"Default: bare. and the name"`
}

// Bare is a group of plain UDP datagrams and a subject of the cluster's own bus: what comes on one goes out on the other. NOT encrypted on the LAN.
type Bare struct {
	Group     string `json:"group"`
	Subject   string `json:"subject"`
	Here      bool   `json:"here" doc:"This host has it; what follows is about this host"`
	Iface     string `json:"iface,omitempty" doc:"As asked for"`
	Interface string `json:"interface,omitempty" doc:"In use"`
	TTL       int    `json:"ttl,omitempty"`
	// Bridging: of the hosts that share a LAN, one passes datagrams.
	Bridging     bool              `json:"bridging" doc:"This host passes datagrams between the LAN and the bus"`
	Bridge       string            `json:"bridge,omitempty" doc:"The host that does on this LAN"`
	OnLAN        []string          `json:"on_lan,omitempty" doc:"Other hosts of this bus that are heard on the LAN"`
	Hosts        []string          `json:"hosts" doc:"All hosts that have it"`
	DatagramsIn  uint64            `json:"datagrams_in" doc:"From the LAN to the bus"`
	DatagramsOut uint64            `json:"datagrams_out" doc:"From the bus to the LAN"`
	BytesIn      uint64            `json:"bytes_in"`
	BytesOut     uint64            `json:"bytes_out"`
	Passive      uint64            `json:"passive" doc:"Datagrams that another host of the LAN passed"`
	Bridged      uint64            `json:"bridged" doc:"Datagrams that the bridge of the LAN had sent"`
	Drops        map[string]uint64 `json:"drops,omitempty" doc:"By reason, those that are not 0"`
	Conflict     string            `json:"conflict,omitempty"`
	Problem      string            `json:"problem,omitempty"`
}

// BusMember is another host on a bus, or a program.
type BusMember struct {
	Host     string `json:"host"`
	State    string `json:"state" enum:"alive,suspected,unreachable"`
	Endpoint string `json:"endpoint"`
	Known    bool   `json:"known" doc:"What its programs want is known here"`
	Program  bool   `json:"program,omitempty" doc:"It is no host but a program of its own"`
	// Multicast is seen from this host, as in Link.
	Multicast string `json:"multicast" enum:"both,from,to,none"`
	Path      string `json:"path" enum:"udp,tcp,member" doc:"How what does not go by multicast goes: UDP; TCP, where UDP does not reach it; by way of another member, where neither can dial the other"`
	Via       string `json:"via,omitempty" doc:"That member"`
}

// NATS is the listener for NATS clients.
type NATS struct {
	Address          string `json:"address"`
	Clients          int    `json:"clients"`
	ClientsTotal     uint64 `json:"clients_total"`
	PendingBytes     int64  `json:"pending_bytes" doc:"Waiting for clients to read"`
	TLS              bool   `json:"tls"`
	Token            bool   `json:"token" doc:"Clients must show one"`
	SlowDisconnected uint64 `json:"slow_disconnected" doc:"Clients that did not keep up"`
}
