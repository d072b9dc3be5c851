package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/containers"
	"github.com/weft-net/weft/internal/docker"
	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/snapshot"
	"github.com/weft-net/weft/internal/unixsock"
	"github.com/weft-net/weft/internal/vnet"
)

// dockerRetry is the pause before the plugin's socket is tried again.
const dockerRetry = 5 * time.Second

// dockerFirst is how long a network's first subnet is asked for an address before the others are; less than Docker's call may take.
const dockerFirst = 10 * time.Second

// dockerHost is this host as the plugin sees it.
type dockerHost struct{ s *System }

var _ docker.Weft = dockerHost{}

func (d dockerHost) Ready() error {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if d.s.cluster == nil {
		return api.Errorf(api.CodeUnavailable, "weft on this host is not yet part of a cluster").WithHint("weft status says which hosts are tried")
	}
	return nil
}

func (d dockerHost) Network(ctx context.Context, name string, w docker.Wish) (docker.Network, bool, error) {
	s := d.s
	s.mu.Lock()
	def := s.defs[name]
	made := name != defaultNetwork && (def == nil || !slices.Contains(def.hosts, s.mesh.Self()))
	s.mu.Unlock()
	if made {
		r := api.NetworkCreate{Name: name, Plain: w.Plain}
		if all := texts(w.Subnets); len(all) > 0 {
			r.Subnet, r.Subnets = all[0], all[1:]
		}
		if err := s.create(ctx, r); err != nil {
			return docker.Network{}, false, err
		}
	}
	n, err := s.takeUp(ctx, name)
	if err != nil {
		return docker.Network{}, false, err
	}
	return d.shown(name, n.def, s.subnetsOf(n)), made, nil
}

func (d dockerHost) Look(name string, w docker.Wish) (docker.Network, error) {
	s := d.s
	for _, n := range s.localNetworks() {
		if n.name == name {
			return d.shown(name, n.def, s.subnetsOf(n)), nil
		}
	}
	s.mu.Lock()
	def := s.defs[name]
	s.mu.Unlock()
	if def != nil {
		return d.shown(name, def.rec, def.pairs()), nil
	}
	if len(w.Subnets) == 0 {
		return docker.Network{}, api.Errorf(api.CodeNotFound, "no network %q", name).WithHint("weft network create %s", name)
	}
	all, err := s.pairs(texts(w.Subnets))
	if err != nil {
		return docker.Network{}, err
	}
	return d.shown(name, networkRecord{Plain: w.Plain}, all), nil
}

// shown is a network as the plugin sees it.
func (d dockerHost) shown(name string, rec networkRecord, subnets []subnetPair) docker.Network {
	out := docker.Network{Name: name, Plain: rec.Plain, MTU: d.s.clusterMTU()}
	for _, p := range subnets {
		out.Subnets = append(out.Subnets, docker.Subnet{IP4: p.IP4, IP6: p.IP6})
	}
	return out
}

func (d dockerHost) GiveUp(name string) error { return d.s.remove(name) }

func (d dockerHost) Allocate(ctx context.Context, name string, subnet netip.Prefix, key string, want netip.Addr) (docker.Address, error) {
	n, err := d.s.takeUp(ctx, name)
	if err != nil {
		return docker.Address{}, err
	}
	first := ctx
	several := !n.def.Explicit || len(d.s.subnetsOf(n)) > 1
	if several {
		var cancel context.CancelFunc
		first, cancel = context.WithTimeout(ctx, dockerFirst)
		defer cancel()
	}
	a, err := d.s.ipam.AllocateIn(first, n.vni, subnet, key, want)
	if several && errors.Is(err, ipam.ErrExhausted) {
		// Docker itself asks for an address of its next pool only when it knows the error, as it does that of its own IPAM.
		a, err = d.s.allocate(ctx, n, key, want)
	}
	if err != nil {
		return docker.Address{}, err
	}
	return docker.Address{IP4: a.IP4, IP6: d.s.address6(n, a.IP4)}, nil
}

func (d dockerHost) Free(name, key string) error {
	return d.s.ipam.Release(vniOf(d.s.id.Cluster, name), key)
}

func (d dockerHost) Plug(ctx context.Context, p docker.Port) (string, error) {
	s := d.s
	n, err := s.takeUp(ctx, p.Network)
	if err != nil {
		return "", err
	}
	unlock := s.attaching.lock(p.Network + "/" + p.Name)
	defer unlock()
	a, err := s.vnet.Attach(ctx, vnet.AttachSpec{
		Network: p.Network, Name: p.Name, Kind: vnet.KindDocker, MAC: nl.MAC(p.MAC), IPs: p.IPs, MTU: p.MTU,
	})
	if err != nil {
		return "", err
	}
	rec := attachRecord{MAC: p.MAC, IPs: p.IPs, Kind: api.KindContainer}
	if err := s.mesh.Publish(n.vni, map[string][]byte{keyAttach + p.Name: encode(rec)}, nil); err != nil {
		return "", errors.Join(err, s.vnet.Detach(p.Network, p.Name))
	}
	return a.Interface, nil
}

func (d dockerHost) Unplug(network, name string) error {
	s := d.s
	unlock := s.attaching.lock(network + "/" + name)
	defer unlock()
	err := s.vnet.Detach(network, name)
	switch {
	case errors.Is(err, vnet.ErrNotFound):
		return nil // withdrawn when it ended
	case err != nil:
		return err
	}
	return s.mesh.Publish(vniOf(s.id.Cluster, network), nil, []string{keyAttach + name})
}

func (d dockerHost) Ports() ([]docker.Plugged, error) {
	home, err := d.s.vnet.AtHome()
	if err != nil {
		return nil, err
	}
	var out []docker.Plugged
	for _, a := range d.s.vnet.Attachments() {
		if a.Kind == vnet.KindDocker {
			out = append(out, docker.Plugged{Network: a.Network, Name: a.Name, Home: home[a.Port]})
		}
	}
	return out, nil
}

// startDocker looks after containers from now on, and answers Docker if it is to.
func (s *System) startDocker() {
	if err := s.docker.Adopt(); err != nil {
		s.log.Error("containers of an earlier run not all put in order", "err", err)
	}
	s.go_(func() { s.docker.Run(s.ctx) })
	path := s.cfg.PluginSocket()
	if s.from != nil {
		s.forsakeDocker(path)
	}
	if path != "" {
		s.go_(func() { s.serveDocker(path) })
	}
	if s.containers != nil {
		s.go_(func() { s.containers.Run(s.ctx) })
	}
}

// named is this host as the watcher of containers' names sees it.
type named struct{ s *System }

func (n named) Attachment(endpoint string) (network, name string, ok bool) {
	return n.s.docker.Attachment(endpoint)
}

func (n named) SetNames(network, attachment string, names []string) error {
	return n.s.setAliases(network, attachment, names)
}

// newContainers makes the watcher of containers' names; nil when none is wanted.
func (s *System) newContainers() *containers.Watcher {
	if s.cfg.DockerNames == "" {
		return nil
	}
	return containers.New(dockerapi.New(s.cfg.DockerNames), named{s}, func(text string) { s.trouble("docker names", text) })
}

// serveDocker answers Docker until this run ends. What keeps it from listening is a warning, for the host does all else.
func (s *System) serveDocker(path string) {
	for s.ctx.Err() == nil {
		ln := s.plugin.Load()
		var err error
		if ln == nil {
			if ln, err = listenDocker(path); err == nil {
				s.plugin.Store(ln)
			}
		}
		if err == nil {
			s.trouble("docker", "")
			s.log.Info("docker may call", "socket", path)
			err = s.docker.Serve(s.ctx, ln)
			_ = ln.Close()
			s.plugin.CompareAndSwap(ln, nil)
		}
		if err == nil {
			return
		}
		s.trouble("docker", fmt.Sprintf("docker cannot call weft: %v; or weft up --docker-plugin off", err))
		t := time.NewTimer(dockerRetry)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
		}
	}
}

// listenDocker opens the socket where Docker looks for the plugin, for nobody but root.
func listenDocker(path string) (*apiserver.Listener, error) {
	if !unixsock.Fits(path) {
		return nil, fmt.Errorf("the path %s is too long for a socket", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if unixsock.Answered(path) {
		return nil, fmt.Errorf("another program answers at %s", path)
	}
	l, err := unixsock.Listen(path, "")
	if err != nil {
		return nil, err
	}
	return &apiserver.Listener{Listener: l}, nil
}

// haltDocker keeps Docker's calls waiting, and waits until those under way are done or ctx ends.
func (s *System) haltDocker(ctx context.Context) {
	if ln := s.plugin.Load(); ln != nil {
		ln.Halt()
	}
	s.docker.Quiet(ctx)
}

// resumeDocker takes Docker's calls again.
func (s *System) resumeDocker() {
	s.docker.Loud()
	if ln := s.plugin.Load(); ln != nil {
		ln.Resume()
	}
}

// inheritDocker takes over the plugin's listener, so that calls that wait there are answered. It is the other daemon's until Keep.
func (s *System) inheritDocker() {
	f, path := s.from.files[snapshot.UseDocker], s.cfg.PluginSocket()
	if f == nil || path == "" || path != s.from.plan.Name(snapshot.UseDocker) {
		return
	}
	l, err := unixsock.Adopt(path, f)
	if err != nil {
		s.log.Warn("the docker plugin's socket is opened anew", "err", err)
		return
	}
	ln := &apiserver.Listener{Listener: l}
	ln.Give()
	s.plugin.Store(ln)
}

// forsakeDocker removes the socket of the daemon before, when this one listens elsewhere or nowhere.
func (s *System) forsakeDocker(path string) {
	if ln := s.plugin.Load(); ln != nil {
		ln.Keep()
		return
	}
	if old := s.from.plan.Name(snapshot.UseDocker); old != "" && cmp.Or(path, "off") != old {
		_ = os.Remove(old) // it may be gone
	}
}
