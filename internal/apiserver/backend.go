// Package apiserver serves weft's HTTP API on a unix socket.
package apiserver

import (
	"context"

	"github.com/weft-net/weft/internal/api"
)

// Backend does what the API asks for; the daemon is one.
//
// Methods are called from many goroutines at once and end when ctx does. An *api.Error says which
// HTTP status the caller sees; any other error is an internal one (500) whose text is shown. Lists
// may be nil.
type Backend interface {
	Cluster
	Networks
	Names
	Measurements
	Buses
	Swarm
	Lifecycle
}

// Cluster is the part of a Backend that is about hosts and the links between them.
type Cluster interface {
	Status(ctx context.Context) (api.Status, error)
	Hosts(ctx context.Context) (api.Hosts, error)
	// RemoveHost bars a host for ever, takes its ranges and rotates the token. It needs a majority
	// of the last known hosts, unless forced: CodeRefused then.
	RemoveHost(ctx context.Context, name string, force bool) (api.HostRemoved, error)
	// Probe makes one round trip: CodeNotFound for an unknown host, CodeTimeout for a silent one.
	Probe(ctx context.Context, name string, p api.Probe) (api.ProbeResult, error)
	Links(ctx context.Context) (api.Links, error)
	Connect(ctx context.Context, e api.Endpoints) error
	Forget(ctx context.Context, e api.Endpoints) error
	Token(ctx context.Context) (api.Token, error)
	RotateToken(ctx context.Context) (api.Token, error)
}

// Networks is the part of a Backend that is about networks and what is plugged into them.
type Networks interface {
	Networks(ctx context.Context) (api.Networks, error)
	// Network is CodeNotFound when neither this host nor another one publishes the name.
	Network(ctx context.Context, name string) (api.Network, error)
	// CreateNetwork also takes up a network that another host made; CodeConflict when it is here
	// already with other properties.
	CreateNetwork(ctx context.Context, n api.NetworkCreate) (api.Network, error)
	// RemoveNetwork withdraws this host's copy: CodeConflict while attachments are in it.
	RemoveNetwork(ctx context.Context, name string) error
	Attachments(ctx context.Context) (api.Attachments, error)
	// Attach returns when the interface is up inside and has its addresses.
	Attach(ctx context.Context, a api.Attach) (api.Attachment, error)
	// Detach works on attachments of this host: CodeRefused, naming the host, for others.
	Detach(ctx context.Context, network, name string) error
	Groups(ctx context.Context) (api.Groups, error)
	IPAM(ctx context.Context) (api.IPAM, error)
}

// Names is the part of a Backend that is about names and services. An empty network is the default one.
type Names interface {
	// Names lists names of all living hosts in the networks that this host has, or in one.
	Names(ctx context.Context, network string) (api.Names, error)
	// AddName adds addresses to a name that this host gives.
	AddName(ctx context.Context, n api.NameAdd) (api.Name, error)
	// RemoveName takes addresses of a name back, all if none is named: CodeRefused, naming the host, when another one gave them.
	RemoveName(ctx context.Context, network, name string, addresses []string) error
	// Lookup tells the addresses of a name, or the names of an address, as attachments of the network see them: CodeNotFound when there are none.
	Lookup(ctx context.Context, network, name string) (api.Lookup, error)
	// SetAliases gives an attachment of this host further names in place of those it had.
	SetAliases(ctx context.Context, network, attachment string, a api.Aliases) error
	Services(ctx context.Context, network string) (api.Services, error)
	// AddService says where a service is, in place of what this host said of it before.
	AddService(ctx context.Context, s api.ServiceAdd) (api.Service, error)
	RemoveService(ctx context.Context, network, service, name string) error
}

// Measurements is the part of a Backend that measures.
type Measurements interface {
	// BenchNet measures a network between this host and others. It tells progress from time to time, and ends when that
	// returns an error. CodeConflict while one of the hosts takes part in another.
	BenchNet(ctx context.Context, r api.BenchRequest, progress func(api.BenchProgress) error) (api.Bench, error)
	// BenchBus measures the cluster's bus likewise.
	BenchBus(ctx context.Context, r api.BenchBusRequest, progress func(api.BenchProgress) error) (api.BenchBus, error)
}

// Buses is the part of a Backend that is about messages. CodeNotFound for a bus that is not there, CodeInvalid for a bad subject,
// CodeTooLarge for a message that is too long.
type Buses interface {
	Buses(ctx context.Context) (api.Buses, error)
	// Bus is one of Buses.
	Bus(ctx context.Context, name string) (api.Bus, error)
	// CreateBus makes a bare bus, or takes up one that another host made: CodeConflict when it is here already, or is another one there.
	CreateBus(ctx context.Context, b api.BusCreate) (api.Bus, error)
	// RemoveBus ends a bare bus on this host: CodeRefused for the cluster's own.
	RemoveBus(ctx context.Context, name string) error
	// BusToken returns what admits programs to a bus: CodeInvalid for a bare one.
	BusToken(ctx context.Context, bus string) (api.BusToken, error)
	Publish(ctx context.Context, bus string, p api.BusPublish) (api.BusPublished, error)
	// Request publishes and waits for one answer: CodeUnavailable when nobody is there to answer, CodeTimeout when nobody does.
	Request(ctx context.Context, bus string, r api.BusRequest) (api.BusMessage, error)
	// Subscribe tells what comes until ctx ends or that returns an error.
	Subscribe(ctx context.Context, bus string, s api.BusSubscribe, tell func(api.BusEvent) error) error
}

// Swarm is the part of a Backend that has Docker on all nodes of a Swarm follow the cluster.
type Swarm interface {
	// AllowSwarm lets weft make configurations in the Docker of this host.
	AllowSwarm(ctx context.Context, a api.SwarmAllow) error
	// PutSwarmNetwork asks for a network's configuration on all nodes that allow it, RemoveSwarmNetwork has it removed from them.
	PutSwarmNetwork(ctx context.Context, name string, n api.SwarmNetwork) error
	RemoveSwarmNetwork(ctx context.Context, name string) error
	// SwarmNodes tells how far the nodes are: CodeNotFound for a network that nobody asked for.
	SwarmNodes(ctx context.Context, name string) (api.SwarmNodes, error)
}

// Lifecycle is the part of a Backend that is about the daemon itself.
type Lifecycle interface {
	// Down begins to stop the daemon and returns once what it promises (ranges given back, devices
	// removed) is done; the socket closes after the answer.
	Down(ctx context.Context, d api.Down) error
	// Ready returns nil when attachments can be made and found, else what is missing.
	Ready(ctx context.Context) error
	// Metrics returns the samples of the moment.
	Metrics() []api.Metric
}
