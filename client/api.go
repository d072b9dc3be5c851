package client

import (
	"github.com/weft-net/weft/internal/api"
)

// What requests and answers hold; the fields are described in /openapi.json, too.
type (
	// Status answers GET /v1/status: one page that says what is wrong, if anything is.
	Status = api.Status
	// Drop is a reason for which packets or frames were thrown away.
	Drop = api.Drop
	// Discovery is a source by which a host finds others.
	Discovery = api.Discovery
	// Warning is something a person should look at: a wrong clock, strangers with a wrong secret, snooping that was switched off and is on again.
	Warning = api.Warning
	// Limit is the bound of a table and how much of it is used.
	Limit = api.Limit
	// Host is one host of the cluster as the answering host sees it.
	Host = api.Host
	// Hosts answers GET /v1/hosts.
	Hosts = api.Hosts
	// Stranger is a source of first messages under a wrong secret.
	Stranger = api.Stranger
	// HostRemoved answers DELETE /v1/hosts/{name}.
	HostRemoved = api.HostRemoved
	// Link is the way to another host.
	Link = api.Link
	// Network is a virtual Ethernet.
	Network = api.Network
	// HostProblem is a host that a plain network does not reach, or not with everything.
	HostProblem = api.HostProblem
	// NetworkCreate is the body of POST /v1/networks.
	NetworkCreate = api.NetworkCreate
	// Attachment is a process, namespace or container plugged into a network.
	Attachment = api.Attachment
	// Attach is the body of POST /v1/attachments.
	Attach = api.Attach
	// Name is a name in a network.
	Name = api.Name
	// SwarmNetwork is the body of PUT /v1/docker/networks/{name}.
	SwarmNetwork = api.SwarmNetwork
	// SwarmNode is a host whose Docker follows the cluster.
	SwarmNode = api.SwarmNode
	// SwarmNodes answers GET /v1/docker/networks/{name}.
	SwarmNodes = api.SwarmNodes
	// NameAdd is the body of POST /v1/names.
	NameAdd = api.NameAdd
	// Lookup answers GET /v1/lookup.
	Lookup = api.Lookup
	// Service is where a service is.
	Service = api.Service
	// ServiceAdd is the body of POST /v1/services.
	ServiceAdd = api.ServiceAdd
	// Group is a multicast group that has members.
	Group = api.Group
	// Member is an attachment that joined a group.
	Member = api.Member
	// AddressRange is a part of an address space that one host owns.
	AddressRange = api.AddressRange
	// Probe is the body of POST /v1/hosts/{name}/probe.
	Probe = api.Probe
	// ProbeResult is one round trip to a host over the mesh.
	ProbeResult = api.ProbeResult
	// BenchRequest is the body of POST /v1/bench/net.
	BenchRequest = api.BenchRequest
	// BenchBusRequest is the body of POST /v1/bench/bus.
	BenchBusRequest = api.BenchBusRequest
	// BenchBus is what a measurement of the bus found.
	BenchBus = api.BenchBus
	// BenchBusRow is one measurement of it.
	BenchBusRow = api.BenchBusRow
	// BenchBusReceiver is what came at one host.
	BenchBusReceiver = api.BenchBusReceiver
	// BenchEvent is one line of the answer.
	BenchEvent = api.BenchEvent
	// BenchProgress says what begins now.
	BenchProgress = api.BenchProgress
	// Bench is what a measurement found.
	Bench = api.Bench
	// BenchHost is a host that took part.
	BenchHost = api.BenchHost
	// BenchSkip is a host that could have taken part.
	BenchSkip = api.BenchSkip
	// BenchRow is one measurement.
	BenchRow = api.BenchRow
	// BenchReceiver is what came at one host.
	BenchReceiver = api.BenchReceiver
	// BenchCPU is what one host used.
	BenchCPU = api.BenchCPU
	// Bus is a bus as the daemon's host sees it.
	Bus = api.Bus
	// BusToken admits programs to a bus.
	BusToken = api.BusToken
	// BusCreate is a bus to be made.
	BusCreate = api.BusCreate
	// BareCreate says what a bare bus passes.
	BareCreate = api.BareCreate
	// Bare is a bus of plain UDP datagrams.
	Bare = api.Bare
	// BusMember is another host on a bus, or a program.
	BusMember = api.BusMember
	// NATS is the listener for NATS clients.
	NATS = api.NATS
	// BusMessage is a message on a bus.
	BusMessage = api.BusMessage
	// BusPublished says what became of messages.
	BusPublished = api.BusPublished
	// BusRequest is a message that wants an answer.
	BusRequest = api.BusRequest
	// BusEvent is what a subscription is told.
	BusEvent = api.BusEvent
	// Down is the body of POST /v1/down.
	Down = api.Down
)

// Errors.
type (
	// Error is what the daemon refuses a request with.
	Error = api.Error
	// Code is the class of an Error.
	Code = api.Code
)

// Classes of errors.
const (
	CodeInvalid     = api.CodeInvalid
	CodeRefused     = api.CodeRefused
	CodeNotFound    = api.CodeNotFound
	CodeConflict    = api.CodeConflict
	CodeTooLarge    = api.CodeTooLarge
	CodeInternal    = api.CodeInternal
	CodeUnavailable = api.CodeUnavailable
	CodeTimeout     = api.CodeTimeout
)

// IsCode reports whether err is an Error with this code.
func IsCode(err error, code Code) bool { return api.Is(err, code) }

// ClusterBus is the name of the bus that every cluster has.
const ClusterBus = api.ClusterBus

// Kinds of attachment.
const (
	KindProcess   = api.KindProcess
	KindNetns     = api.KindNetns
	KindContainer = api.KindContainer
	KindHost      = api.KindHost
)
