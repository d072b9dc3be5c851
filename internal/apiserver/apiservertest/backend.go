// Package apiservertest has a Backend in memory, for tests of the API's server and its callers.
package apiservertest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver"
)

// Backend is a cluster of two hosts, one and two, that keeps what it is told. Set Fail to make
// every call fail, OnAttach and OnDown to do more than remember.
type Backend struct {
	mu          sync.Mutex
	status      api.Status
	hosts       []api.Host
	networks    []api.Network
	attachments []api.Attachment
	names       []api.Name
	nodes       []api.SwarmNode
	services    []api.Service
	calls       []string
	fail        error
	probes      int

	// OnAttach, if set, is called with every attachment wanted, and may change what is answered.
	OnAttach func(a api.Attach, out *api.Attachment) error
	// OnDown, if set, is called after Down was remembered.
	OnDown func(api.Down)
}

var _ apiserver.Backend = (*Backend)(nil)

// Token is the fake cluster's token; RotatedToken the one after RotateToken, BusToken its bus's.
const (
	Token        = "weft1exampletoken"
	RotatedToken = "weft1rotatedtoken"
	BusToken     = "weft1bustoken"
)

// New returns a backend whose host is connected to another one.
func New() *Backend {
	return &Backend{
		status: api.Status{
			Version: "v0.0.0-test", Host: "one", HostID: "0123456789abcdef0123456789abcdef", Cluster: "0011223344556677",
			State: api.StateConnected, UptimeS: 3723, PID: 4711, Port: 6783, Endpoints: []string{"10.1.0.1:6783"},
			Range: "10.32.0.0/12", Range6: "fd00:7:7::/48", HostsAlive: 2, HostsKnown: 3,
			Paths: map[string]int{api.PathRelayed: 1, api.PathNone: 1},
			Detours: []api.Link{
				{Host: "two", Path: api.PathRelayed, Via: "three", Reason: "no answer at 10.1.0.2:6783", Endpoint: "10.1.0.3:6783", RTTMS: 1.25, MTU: 1500},
			},
			Drops:    []api.Drop{{Reason: "replayed", Count: 3}},
			Warnings: []api.Warning{{Code: "bad_secret", Text: "192.0.2.7 tried to join with a wrong secret", Fix: "rotate the token if it may have leaked: weft token rotate", Count: 2, Since: time.Unix(1_700_000_000, 0).UTC()}},
			Limits:   []api.Limit{{Name: "peers", Used: 2, Max: 1024}, {Name: "groups", Used: 3900, Max: 4096}},
		},
		hosts: []api.Host{
			{ID: "0123456789abcdef0123456789abcdef", Name: "one", State: api.HostAlive, Endpoints: []string{"10.1.0.1:6783"}, Version: "v0.0.0-test", Self: true},
			{ID: "fedcba9876543210fedcba9876543210", Name: "two", State: api.HostSuspect, Endpoints: []string{"10.1.0.2:6783", "192.0.2.2:6783"}, Version: "v0.0.0-test"},
		},
		networks: []api.Network{{Name: "weft", VNI: 4242, Engine: api.EngineSealed, Subnets: []string{"10.32.0.0/20", "fd00:7:7::/64"}, MTU: 1400, Hosts: []string{"one", "two"}, Attachments: 1}},
		attachments: []api.Attachment{
			{Name: "chat", Network: "weft", Host: "two", MAC: "02:57:0a:20:00:02", IPs: []string{"10.32.0.2/20", "fd00:7:7::a20:2/64"}, Kind: api.KindProcess},
		},
		names: []api.Name{
			{Name: "chat", Network: "weft", Host: "two", FQDN: "chat.weft.weft.internal", Addresses: []string{"10.32.0.2", "fd00:7:7::a20:2"}, Kind: api.NameAttachment, Attachment: "chat"},
		},
		services: []api.Service{
			{Service: "_irc._tcp", Name: "chat", Network: "weft", Host: "two", FQDN: "chat._irc._tcp.weft.weft.internal", Port: 6667, Priority: 1, Weight: 5, Texts: []string{"room=main"}},
		},
	}
}

// Serve answers for the backend on a socket in a new run directory, which it returns, until the
// test ends. The directory's path is short: a socket's must be.
func Serve(t testing.TB, b *Backend) (runDir string) {
	t.Helper()
	runDir, err := os.MkdirTemp("", "weft") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	l, err := apiserver.Listen(runDir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- apiserver.New(b, apiserver.Options{Version: "v0.0.0-test"}).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		_ = os.RemoveAll(runDir)
	})
	return runDir
}

// Edit changes the status under the lock.
func (b *Backend) Edit(f func(*api.Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.status)
}

// Fail makes every later call fail with err; nil makes them work again.
func (b *Backend) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

// Calls returns what was called, in order, with the arguments.
func (b *Backend) Calls() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.calls)
}

// called remembers a call and takes the lock, which the caller releases.
func (b *Backend) called(format string, args ...any) error {
	b.mu.Lock()
	b.calls = append(b.calls, fmt.Sprintf(format, args...))
	return b.fail
}

// Status returns the status of the moment.
func (b *Backend) Status(context.Context) (api.Status, error) {
	defer b.mu.Unlock()
	err := b.called("status")
	s := b.status
	s.Networks = slices.Clone(b.networks)
	return s, err
}

// Hosts returns both hosts and one stranger.
func (b *Backend) Hosts(context.Context) (api.Hosts, error) {
	defer b.mu.Unlock()
	err := b.called("hosts")
	return api.Hosts{Hosts: slices.Clone(b.hosts), Strangers: []api.Stranger{{Source: "192.0.2.7", BadSecret: 2, LastSeen: time.Unix(1_700_000_000, 0).UTC()}}}, err
}

// RemoveHost removes a host; without force only a host that is not alive.
func (b *Backend) RemoveHost(_ context.Context, name string, force bool) (api.HostRemoved, error) {
	defer b.mu.Unlock()
	if err := b.called("rm host %s force=%v", name, force); err != nil {
		return api.HostRemoved{}, err
	}
	i := slices.IndexFunc(b.hosts, func(h api.Host) bool { return h.Name == name })
	if i < 0 {
		return api.HostRemoved{}, api.Errorf(api.CodeNotFound, "no host %s", name).WithHint("weft hosts lists them")
	}
	if !force {
		return api.HostRemoved{}, api.Errorf(api.CodeRefused, "remove host %s: 1 of 3 last known hosts is no majority", name).WithHint("--force goes on; two halves of a partition may then both take its addresses")
	}
	h := b.hosts[i]
	b.hosts = slices.Delete(b.hosts, i, i+1)
	return api.HostRemoved{Name: h.Name, ID: h.ID, Ranges: []string{"10.40.0.0/13"}, Heir: "one", InUse: []string{"10.40.0.2"}}, nil
}

// Probe answers for the hosts it knows; every third probe is lost.
func (b *Backend) Probe(_ context.Context, name string, p api.Probe) (api.ProbeResult, error) {
	defer b.mu.Unlock()
	if err := b.called("probe %s %d", name, p.SizeBytes); err != nil {
		return api.ProbeResult{}, err
	}
	if !slices.ContainsFunc(b.hosts, func(h api.Host) bool { return h.Name == name }) {
		return api.ProbeResult{}, api.Errorf(api.CodeNotFound, "no host %s", name).WithHint("weft hosts lists them")
	}
	b.probes++
	if b.probes%3 == 0 {
		return api.ProbeResult{}, api.Errorf(api.CodeTimeout, "no answer of host %s in %d ms", name, p.TimeoutMS)
	}
	return api.ProbeResult{Host: name, Path: api.PathDirect, Endpoint: "10.1.0.2:6783", SizeBytes: max(p.SizeBytes, 8), RTTMS: 0.5}, nil
}

// Links returns the one link.
func (b *Backend) Links(context.Context) (api.Links, error) {
	defer b.mu.Unlock()
	err := b.called("links")
	return api.Links{Links: slices.Clone(b.status.Detours)}, err
}

// Connect remembers the call.
func (b *Backend) Connect(_ context.Context, e api.Endpoints) error {
	defer b.mu.Unlock()
	return b.called("connect %v", e.Endpoints)
}

// Forget remembers the call.
func (b *Backend) Forget(_ context.Context, e api.Endpoints) error {
	defer b.mu.Unlock()
	return b.called("forget %v", e.Endpoints)
}

// Token returns Token.
func (b *Backend) Token(context.Context) (api.Token, error) {
	defer b.mu.Unlock()
	err := b.called("token")
	return api.Token{Token: Token}, err
}

// RotateToken returns RotatedToken.
func (b *Backend) RotateToken(context.Context) (api.Token, error) {
	defer b.mu.Unlock()
	err := b.called("rotate")
	return api.Token{Token: RotatedToken}, err
}

// Networks returns the networks.
func (b *Backend) Networks(context.Context) (api.Networks, error) {
	defer b.mu.Unlock()
	err := b.called("networks")
	return api.Networks{Networks: slices.Clone(b.networks)}, err
}

// Network returns one network.
func (b *Backend) Network(_ context.Context, name string) (api.Network, error) {
	defer b.mu.Unlock()
	if err := b.called("network %s", name); err != nil {
		return api.Network{}, err
	}
	i, err := b.find(name)
	if err != nil {
		return api.Network{}, err
	}
	return b.networks[i], nil
}

func (b *Backend) find(name string) (int, error) {
	i := slices.IndexFunc(b.networks, func(n api.Network) bool { return n.Name == name })
	if i < 0 {
		return 0, api.Errorf(api.CodeNotFound, "no network %s", name).WithHint("weft network create %s", name)
	}
	return i, nil
}

// CreateNetwork adds a network.
func (b *Backend) CreateNetwork(_ context.Context, n api.NetworkCreate) (api.Network, error) {
	defer b.mu.Unlock()
	if err := b.called("create network %+v", n); err != nil {
		return api.Network{}, err
	}
	if _, err := b.find(n.Name); err == nil {
		return api.Network{}, api.Errorf(api.CodeConflict, "network %s is here already", n.Name)
	}
	out := api.Network{Name: n.Name, VNI: 4243, Engine: api.EngineSealed, Bridge: "wb1093", Subnets: []string{"10.32.16.0/20"}, MTU: 1400, AllowGroups: n.AllowGroups, DenyGroups: n.DenyGroups, Rate: n.Rate}
	if n.Plain {
		out.Engine = api.EnginePlain
	}
	if n.Subnet != "" {
		out.Subnets = append([]string{n.Subnet}, n.Subnets...)
	}
	b.networks = append(b.networks, out)
	return out, nil
}

// RemoveNetwork removes a network that has no local attachment.
func (b *Backend) RemoveNetwork(_ context.Context, name string) error {
	defer b.mu.Unlock()
	if err := b.called("rm network %s", name); err != nil {
		return err
	}
	i, err := b.find(name)
	if err != nil {
		return err
	}
	for _, a := range b.attachments {
		if a.Network == name && a.Local {
			return api.Errorf(api.CodeConflict, "network %s is in use here by %s", name, a.Name).WithHint("weft detach %s", a.Name)
		}
	}
	b.networks = slices.Delete(b.networks, i, i+1)
	return nil
}

// Attachments returns the attachments.
func (b *Backend) Attachments(context.Context) (api.Attachments, error) {
	defer b.mu.Unlock()
	err := b.called("attachments")
	return api.Attachments{Attachments: slices.Clone(b.attachments)}, err
}

// Attach adds an attachment and calls OnAttach.
func (b *Backend) Attach(_ context.Context, a api.Attach) (api.Attachment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// What differs between runs is left out.
	b.calls = append(b.calls, fmt.Sprintf("attach kind=%s network=%s ips=%v", a.Kind, a.Network, a.IPs))
	if b.fail != nil {
		return api.Attachment{}, b.fail
	}
	if a.Network == "" {
		a.Network = "weft"
	}
	if _, err := b.find(a.Network); err != nil {
		return api.Attachment{}, err
	}
	if a.Name == "" {
		a.Name = "one"
	}
	out := api.Attachment{
		Name: a.Name, Network: a.Network, Host: "one", MAC: "02:57:0a:20:00:03", IPs: a.IPs, Kind: a.Kind, Local: true,
		PID: a.PID, Netns: a.Netns, Container: a.Container, Interface: "weft0", MTU: 1400,
		DNS: []string{"10.32.0.1"}, Search: []string{a.Network + ".weft.internal"}, FQDN: a.Name + "." + a.Network + ".weft.internal",
	}
	if len(out.IPs) == 0 {
		out.IPs = []string{"10.32.0.3/20", "fd00:7:7::a20:3/64"}
	}
	if b.OnAttach != nil {
		if err := b.OnAttach(a, &out); err != nil {
			return api.Attachment{}, err
		}
	}
	b.attachments = append(b.attachments, out)
	return out, nil
}

// Detach removes an attachment.
func (b *Backend) Detach(_ context.Context, network, name string) error {
	defer b.mu.Unlock()
	if err := b.called("detach %s/%s", network, name); err != nil {
		return err
	}
	i := slices.IndexFunc(b.attachments, func(a api.Attachment) bool { return a.Network == network && a.Name == name })
	if i < 0 {
		return api.Errorf(api.CodeNotFound, "no attachment %s in network %s", name, network).WithHint("weft attachments lists them")
	}
	b.attachments = slices.Delete(b.attachments, i, i+1)
	return nil
}

// Groups returns one group in each form.
func (b *Backend) Groups(context.Context) (api.Groups, error) {
	defer b.mu.Unlock()
	err := b.called("groups")
	return api.Groups{Groups: []api.Group{
		{Network: "weft", Group: "239.1.2.3", Source: "*", Members: []api.Member{{Attachment: "chat", Host: "two"}}, PacketsIn: 10, PacketsOut: 20, BytesIn: 1000, BytesOut: 2000, CopiesSent: 20, CopiesSaved: 40},
		{Network: "weft", Group: "232.1.2.3", Source: "10.32.0.2"},
	}}, err
}

// IPAM returns two ranges.
func (b *Backend) IPAM(context.Context) (api.IPAM, error) {
	defer b.mu.Unlock()
	err := b.called("ipam")
	return api.IPAM{IPAM: []api.AddressRange{
		{Range: "10.32.0.0/13", Owner: "one", Used: 4096, Free: 520192},
		{Range: "10.32.0.0/21", Owner: "one", Network: "weft", Subnet: "10.32.0.0/20", Used: 1, Free: 2045},
	}}, err
}

// BenchNet tells of two tests and returns what they came to; a network called broken fails between them.
func (b *Backend) BenchNet(ctx context.Context, r api.BenchRequest, progress func(api.BenchProgress) error) (api.Bench, error) {
	err := b.called("bench net %s %v %v %d %d %d", r.Network, r.Hosts, r.Tests, r.DurationMS, r.Rate, r.MaxMbit)
	b.mu.Unlock()
	if err != nil {
		return api.Bench{}, err
	}
	for i, p := range []api.BenchProgress{{Test: "prepare"}, {Test: api.BenchRTT, To: []string{"two"}, Number: 1, Of: 2, ElapsedS: 0.5}, {Test: api.BenchMcast, To: []string{"two", "three"}, Number: 2, Of: 2, ElapsedS: 3.5}} {
		if err := progress(p); err != nil {
			return api.Bench{}, err
		}
		if i == 1 && r.Network == "broken" {
			return api.Bench{}, api.Errorf(api.CodeUnavailable, "host two has left the measurement").WithHint("weft hosts")
		}
	}
	if r.Network == "endless" {
		<-ctx.Done()
		return api.Bench{}, ctx.Err()
	}
	return api.Bench{
		Network: "weft", Engine: api.EngineSealed, Group: "239.192.1.2",
		Hosts: []api.BenchHost{
			{Host: "one", Address: "10.32.0.3", Version: "v0.0.0-test"},
			{Host: "two", Address: "10.32.8.2", Version: "v0.0.0-test"},
			{Host: "three", Address: "10.32.4.2", Version: "v0.0.0-test"},
		},
		Skipped: []api.BenchSkip{{Host: "four", Reason: "host four: it takes part in no measurement: bench is off in its settings"}},
		Bench: []api.BenchRow{
			{Test: api.BenchRTT, From: "one", To: []string{"two"}, Seconds: 3, Sent: 300, RTTMinMS: 0.2, RTTP50MS: 0.31, RTTP99MS: 0.9, RTTMaxMS: 2},
			{Test: api.BenchTCP, From: "one", To: []string{"two"}, Error: "send to 10.32.8.2:7781: connection refused"},
			{
				Test: api.BenchMcast, From: "one", To: []string{"two", "three"}, Seconds: 0.25, PacketBytes: 1400, PayloadBytes: 1372, Sent: 10000,
				PacketsPerS: 40000, MbitPerS: 438.84, LossPercent: 0.05, Duplicates: 1, LimitedBy: api.LimitSender, DeliveredBytes: 548800000, DaemonsSPerGB: 3.4, MachinesSPerGB: 9.87,
				Receivers: []api.BenchReceiver{{Host: "two", Received: 10000}, {Host: "three", Received: 9995, LossPercent: 0.05, Duplicates: 1}},
				CPU:       []api.BenchCPU{{Host: "one", DaemonS: 1, MachineS: 2}, {Host: "two", DaemonS: 0.5, MachineS: 2, Shared: true}},
			},
		},
	}, nil
}

// BenchBus tells of one test and returns what two came to.
func (b *Backend) BenchBus(_ context.Context, r api.BenchBusRequest, progress func(api.BenchProgress) error) (api.BenchBus, error) {
	err := b.called("bench bus %v %v %d %d", r.Hosts, r.Tests, r.DurationMS, r.Rate)
	b.mu.Unlock()
	if err != nil {
		return api.BenchBus{}, err
	}
	if err := progress(api.BenchProgress{Test: api.BenchMsg64, To: []string{"two", "three"}, Number: 2, Of: 2, ElapsedS: 3.5}); err != nil {
		return api.BenchBus{}, err
	}
	return api.BenchBus{
		Bus: api.ClusterBus,
		Hosts: []api.BenchHost{
			{Host: "one", Version: "v0.0.0-test"}, {Host: "two", Version: "v0.0.0-test"}, {Host: "three", Version: "v0.0.0-test"},
		},
		Bench: []api.BenchBusRow{
			{
				Test: api.BenchBusRTT, From: "one", To: []string{"two"}, Seconds: 3, PayloadBytes: 64, Sent: 3000, MessagesPerS: 1000,
				RTTMinMS: 0.1, RTTP50MS: 0.16, RTTP99MS: 0.52, RTTMaxMS: 3, Delivered: 6000,
			},
			{
				Test: api.BenchMsg64, From: "one", To: []string{"two", "three"}, Seconds: 3, PayloadBytes: 64, Sent: 6000000, MessagesPerS: 1950000,
				Delivered: 12000000, DaemonsSPerMillion: 0.31, MachinesSPerMillion: 0.4,
				Receivers: []api.BenchBusReceiver{{Host: "two", Received: 6000000, MessagesPerS: 2000000}, {Host: "three", Received: 6000000, MessagesPerS: 1950000}},
				CPU:       []api.BenchCPU{{Host: "one", DaemonS: 1, MachineS: 2}},
			},
			{Test: api.BenchMsg1K, From: "one", To: []string{"two", "three"}, PayloadBytes: 1024, Error: "host three does not hear what is published here (weft buses)"},
		},
	}, nil
}

// Down remembers the call and calls OnDown.
func (b *Backend) Down(_ context.Context, d api.Down) error {
	b.mu.Lock()
	err := b.fail
	b.calls = append(b.calls, fmt.Sprintf("down leave=%v clean=%v", d.Leave, d.Clean))
	b.mu.Unlock()
	if err == nil && b.OnDown != nil {
		b.OnDown(d)
	}
	return err
}

// Ready fails when everything fails.
func (b *Backend) Ready(context.Context) error {
	defer b.mu.Unlock()
	return b.called("ready")
}

// Metrics returns two samples.
func (b *Backend) Metrics() []api.Metric {
	return []api.Metric{
		{Name: "weft_link_bytes_out_total", Help: "Bytes sent over a link.", Kind: api.Counter, Labels: map[string]string{"host": "two", "path": api.PathDirect}, Value: 12},
		{Name: "weft_hosts", Help: "Hosts by state.", Kind: api.Gauge, Labels: map[string]string{"state": api.HostAlive}, Value: 2},
	}
}
