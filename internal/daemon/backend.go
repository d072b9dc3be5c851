package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/vnet"
)

// backend answers the API for a System.
type backend struct{ s *System }

var _ apiserver.Backend = backend{}

func (b backend) Hosts(context.Context) (api.Hosts, error) {
	out := api.Hosts{Hosts: []api.Host{}}
	for _, h := range b.s.mesh.Hosts() {
		a := api.Host{ID: h.ID.String(), Name: h.Name, State: h.State, Version: h.Build, Self: h.Self, Ephemeral: !b.s.leases.stays(h.ID), Endpoints: []string{}}
		for _, ep := range h.Endpoints {
			a.Endpoints = append(a.Endpoints, ep.String())
		}
		if h.Skew != 0 {
			a.Warning = fmt.Sprintf("its clock is %v off this host's", h.Skew)
		}
		out.Hosts = append(out.Hosts, a)
	}
	for _, x := range b.s.mesh.BadSecrets() {
		out.Strangers = append(out.Strangers, api.Stranger{Source: x.From, BadSecret: x.Count, LastSeen: x.Last})
	}
	return out, nil
}

func (b backend) find(name string) (mesh.HostStatus, error) {
	var found []mesh.HostStatus
	for _, h := range b.s.mesh.Hosts() {
		if h.Name == name || h.ID.String() == name || h.ID.Short() == name {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 0:
		return mesh.HostStatus{}, api.Errorf(api.CodeNotFound, "no host %q", name).WithHint("weft hosts lists them")
	case 1:
		return found[0], nil
	}
	return mesh.HostStatus{}, api.Errorf(api.CodeConflict, "%d hosts are called %q: give the id", len(found), name)
}

func (b backend) RemoveHost(ctx context.Context, name string, force bool) (api.HostRemoved, error) {
	h, err := b.find(name)
	if err != nil {
		return api.HostRemoved{}, err
	}
	if h.Self {
		return api.HostRemoved{}, api.Errorf(api.CodeRefused, "host %s is this one", name).WithHint("weft down --leave takes this host out")
	}
	out := api.HostRemoved{Name: h.Name, ID: h.ID.String(), Ranges: []string{}, InUse: []string{}}
	used := b.s.ipam.InUseBy(h.ID) // alive or not
	for _, a := range slices.SortedFunc(maps.Keys(used), netip.Addr.Compare) {
		out.InUse = append(out.InUse, a.String()+" "+used[a])
	}
	out.NotSeen = b.s.notSeen(h.ID)
	for _, r := range b.s.ipam.Status() {
		if r.Owner == h.ID {
			out.Ranges = append(out.Ranges, rangeText(r))
		}
	}
	heirs, err := b.s.ipam.Bequeath(h.ID, b.s.having(), b.s.mesh.Reachable())
	if err != nil {
		return api.HostRemoved{}, err
	}
	if err := b.s.mesh.Remove(h.ID, force, heirs); err != nil {
		return api.HostRemoved{}, api.Errorf(api.CodeRefused, "%w", err)
	}
	out.Heir = b.s.heir().Name
	return out, nil
}

func (b backend) Probe(ctx context.Context, name string, p api.Probe) (api.ProbeResult, error) {
	h, err := b.find(name)
	if err != nil {
		return api.ProbeResult{}, err
	}
	if h.Self {
		return api.ProbeResult{Host: h.Name, Path: api.PathDirect, SizeBytes: p.SizeBytes}, nil
	}
	timeout := time.Duration(cmp.Or(p.TimeoutMS, 1000)) * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if p.Stream {
		r, err := b.s.mesh.ProbeStream(ctx, h.ID)
		if err != nil {
			return api.ProbeResult{}, api.Errorf(api.CodeTimeout, "host %s: %w", h.Name, err)
		}
		out := api.ProbeResult{Host: h.Name, Path: api.PathDirect, Via: r.Via, Endpoint: r.Endpoint, RTTMS: ms(r.RTT)}
		if r.Via != "" {
			out.Path = api.PathRelayed
		}
		return out, nil
	}
	r, err := b.s.mesh.Probe(ctx, h.ID, p.SizeBytes)
	if errors.Is(err, context.DeadlineExceeded) {
		return api.ProbeResult{}, api.Errorf(api.CodeTimeout, "no answer from host %s within %v", h.Name, timeout)
	}
	if err != nil {
		return api.ProbeResult{}, api.Errorf(api.CodeTimeout, "host %s: %w", h.Name, err)
	}
	out := api.ProbeResult{Host: h.Name, Path: api.PathDirect, Via: r.Via, Endpoint: r.Path.AP.String(), SizeBytes: p.SizeBytes, RTTMS: ms(r.RTT)}
	if r.Path.IsRelay() {
		out.Path, out.Endpoint = api.PathRelayed, ""
	}
	return out, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (b backend) Links(context.Context) (api.Links, error) {
	out := api.Links{Links: []api.Link{}}
	hearing := b.s.hearing()
	for _, l := range b.s.mesh.Links() {
		a := api.Link{Host: l.Name, Path: cmp.Or(l.Path, api.PathNone), Via: l.Via, Reason: l.Reason, RTTMS: ms(l.RTT), LossPercent: 100 * l.Loss, Stream: l.Stream}
		a.Multicast = multicastBetween(hearing, b.s.mesh.Self(), l.Host)
		if l.Stream != "" && l.Stream != api.PathDirect {
			a.Stream, a.StreamVia = api.PathRelayed, l.Stream
		}
		if l.Endpoint.IsValid() {
			a.Endpoint = l.Endpoint.String()
			a.MTU = l.Payload + 28
			if l.Endpoint.Addr().Is6() {
				a.MTU += 20
			}
		}
		out.Links = append(out.Links, a)
	}
	return out, nil
}

func (b backend) Connect(_ context.Context, e api.Endpoints) error {
	return b.s.mesh.Connect(e.Endpoints)
}

func (b backend) Forget(_ context.Context, e api.Endpoints) error {
	if err := b.s.mesh.Forget(e.Endpoints); err != nil {
		return api.Errorf(api.CodeNotFound, "%w", err)
	}
	return nil
}

func (b backend) Token(context.Context) (api.Token, error) {
	return api.Token{Token: b.s.mesh.Token().Encode()}, nil
}

func (b backend) RotateToken(ctx context.Context) (api.Token, error) {
	if err := b.s.mesh.Rotate(); err != nil {
		return api.Token{}, err
	}
	return b.Token(ctx)
}

func (b backend) Networks(context.Context) (api.Networks, error) {
	out := api.Networks{Networks: b.s.networkList()}
	return out, nil
}

func (b backend) Network(_ context.Context, name string) (api.Network, error) {
	for _, n := range b.s.networkList() {
		if n.Name == name {
			return n, nil
		}
	}
	return api.Network{}, api.Errorf(api.CodeNotFound, "no network %q", name).WithHint("weft networks lists them")
}

func (b backend) CreateNetwork(ctx context.Context, r api.NetworkCreate) (api.Network, error) {
	if err := b.s.create(ctx, r); err != nil {
		return api.Network{}, err
	}
	b.s.inForce(ctx)
	return b.Network(ctx, r.Name)
}

func (b backend) RemoveNetwork(_ context.Context, name string) error { return b.s.remove(name) }

func (b backend) Attachments(ctx context.Context) (api.Attachments, error) {
	list := b.s.allAttachments()
	b.s.inForce(ctx)
	return api.Attachments{Attachments: list}, nil
}

func (b backend) Attach(ctx context.Context, r api.Attach) (api.Attachment, error) {
	return b.s.attach(ctx, r)
}

func (b backend) Detach(_ context.Context, network, name string) error {
	network = cmp.Or(network, defaultNetwork)
	for _, a := range b.s.vnet.Attachments() {
		if a.Network == network && a.Name == name && a.Kind == vnet.KindDocker {
			return api.Errorf(api.CodeRefused, "attachment %s is a container of Docker's", name).WithHint("docker network disconnect, or docker rm -f")
		}
	}
	return b.s.detach(network, name)
}

func (b backend) Groups(ctx context.Context) (api.Groups, error) {
	list := b.s.groupList()
	b.s.inForce(ctx)
	return api.Groups{Groups: list}, nil
}

func (b backend) IPAM(context.Context) (api.IPAM, error) {
	names := b.s.hostNames()
	states := map[string]string{}
	for _, h := range b.s.mesh.Hosts() {
		states[h.Name] = h.State
	}
	nets := map[uint32]string{}
	for _, n := range b.s.networkList() {
		nets[n.VNI] = n.Name
	}
	out := api.IPAM{IPAM: []api.AddressRange{}}
	for _, r := range b.s.ipam.Status() {
		row := api.AddressRange{
			Range: rangeText(r), Owner: names[r.Owner], Used: r.Used, Free: r.Free, Network: nets[r.VNI], State: states[names[r.Owner]],
		}
		if r.VNI != 0 {
			row.Subnet = r.Subnet.String()
		}
		out.IPAM = append(out.IPAM, row)
	}
	return out, nil
}

func rangeText(r ipam.Share) string { return r.First.String() + "-" + r.Last.String() }

func (b backend) Down(ctx context.Context, d api.Down) error { return b.s.down(ctx, d) }

func (b backend) Ready(context.Context) error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.s.cluster == nil {
		return api.Errorf(api.CodeUnavailable, "not yet part of a cluster")
	}
	if len(b.s.networks) == 0 {
		return api.Errorf(api.CodeUnavailable, "no network is up yet")
	}
	return nil
}

func (b backend) Status(ctx context.Context) (api.Status, error) { return b.s.status(ctx, b) }
