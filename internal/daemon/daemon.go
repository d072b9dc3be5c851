// Package daemon builds a host of weft from its parts and runs it: the only place where services meet.
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/bench"
	"github.com/weft-net/weft/internal/cast"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/containers"
	"github.com/weft-net/weft/internal/docker"
	"github.com/weft-net/weft/internal/ethersock"
	"github.com/weft-net/weft/internal/handover"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/island"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/internal/udp"
	"github.com/weft-net/weft/internal/vnet"
	"github.com/weft-net/weft/internal/wire"
)

// Options are what Run needs beyond the configuration.
type Options struct {
	Version string
	Log     *slog.Logger
	// Agent are the arguments with which this program becomes a load agent (load.Serve).
	Agent []string
	// Founded gets the token of a new cluster, before the socket answers.
	Founded func(token string)
	// Ready is called once the socket answers.
	Ready func()
	// HandedOver is called when another process has taken this one's place, before Run returns nil.
	HandedOver func(pid int)
}

// System is a running host.
type System struct {
	cfg     config.Up
	version string
	log     *slog.Logger
	id      identity
	started time.Time
	joining bool // nothing of the cluster was known when this run began

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup

	dir      *store.FS
	conn     udp.Conn
	tcp      *net.TCPListener
	mesh     *mesh.Mesh
	cast     *cast.Engine
	vnet     *vnet.VNet
	frames   *ethersock.Sender // announcements to programs here
	ipam     *ipam.Service
	guard    *guardian
	underlay *underlay
	endpoint *bench.Endpoint // of measurements
	bus      *clusterBus
	bares    *bares
	swarm    *swarmNets
	names    *nameService
	leases   *leases
	docker   *docker.Plugin
	// containers is nil when Docker is not to be asked for names.
	containers *containers.Watcher
	finder     *discovery
	plugin     atomic.Pointer[apiserver.Listener] // where Docker calls; nil while nowhere
	agent      []string                           // see Options

	from *inheritance // nil unless this daemon took over from another
	taps sync.Map     // of the uplinks handed over, by name: tap.Device

	probePlain func() error // why this kernel cannot have plain networks

	taking    sync.Mutex           // networks are taken up and removed one at a time
	cleaned   bool                 // guarded by taking: no network is taken up any more
	foreseen  bool                 // guarded by taking: the guard knows what an earlier run left
	claims    map[string]time.Time // guarded by taking: networks of which this host claims addresses, since when
	attaching keyedLocks

	mu       sync.Mutex // guards all down to the line
	cluster  *clusterRecord
	defs     map[string]*definition
	networks map[uint32]*network
	troubles map[string]string
	expelled string         // who says that this host was removed from the cluster, and what to do
	wipe     bool           // leave: the state directory goes, too
	awaited  *handover.Conn // whoever asked this run to end waits for this to close
	// ---

	ears sync.Map // of plain networks that are up: VNI → *ears

	met     map[ident.HostID]*seal.Sealer  // owned by spread: the session in which a host was last greeted
	islands islands                        // owned by spread
	audible atomic.Pointer[[]island.Heard] // whom this host hears by native multicast, to be published

	inboxMu  sync.Mutex // guards all down to the line
	inbox    inbox
	told     uint64        // batches of changes that came
	followed uint64        // of these, all that kernel and datapath follow
	digested chan struct{} // closed and replaced when followed grows
	// ---

	wake    chan struct{}
	allowed atomic.Pointer[func(ident.HostID) bool]

	rejected chan error // why a member refused this host for good
}

// Run runs this host until ctx ends, `weft down` is asked for, or another process takes its place. Where a daemon of
// another version runs it takes that one's place, or, should that one die of it, starts anew.
func Run(ctx context.Context, cfg config.Up, o Options) error {
	err := run(ctx, cfg, o)
	if errors.Is(err, errWidowed) {
		o.Log.Warn("this host is started anew", "err", err)
		cfg.Replace = false
		err = run(ctx, cfg, o)
	}
	return err
}

func run(ctx context.Context, cfg config.Up, o Options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("weft up needs root: it makes bridges, TAP devices and packet filters; chat, send, recv and the status commands work without")
	}
	if err := errors.Join(unbuilt(cfg), checkNATS(cfg), checkDiscover(cfg)); err != nil {
		return err
	}
	s := newSystem(ctx, cfg, o)
	defer s.cancel()
	defer func() { // the last of all
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.awaited != nil {
			_ = s.awaited.Close()
		}
	}()
	ln, err := s.open() // first: it tells whether another daemon runs
	if s.from != nil {
		defer s.from.close()
	}
	if err != nil {
		return err
	}
	defer func() { _ = ln.Close() }()
	defer func() { err = errors.Join(err, s.closeDir()) }()
	keys, fresh, err := s.identify()
	if err != nil {
		return err
	}
	if err := s.build(keys); err != nil {
		return err
	}
	founding := s.id.Founding
	if err := s.begin(ln, fresh); err != nil {
		s.stop()
		return err
	}
	s.log.Info("weft is up", "host", s.id.Name, "id", keys.ID().Short(), "cluster", s.id.Cluster, "port", cfg.Port, "version", o.Version)
	s.log.Info("other hosts must reach this host", "udp_port", cfg.Port, "tcp_port", cfg.Port)
	if founding && o.Founded != nil {
		o.Founded(ident.Token{Cluster: s.id.Cluster, Secret: s.id.Secret}.Encode())
	}
	return s.serve(ln, o)
}

func newSystem(ctx context.Context, cfg config.Up, o Options) *System {
	s := &System{
		cfg: cfg, version: o.Version, agent: o.Agent, log: o.Log, started: time.Now(), wake: make(chan struct{}, 1), digested: make(chan struct{}), rejected: make(chan error, 1),
		defs: map[string]*definition{}, networks: map[uint32]*network{}, troubles: map[string]string{}, met: map[ident.HostID]*seal.Sealer{},
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// serve answers the API until this run ends, and hands everything over to the daemon that asks for it.
func (s *System) serve(ln *apiserver.Listener, o Options) (err error) {
	server := apiserver.New(backend{s}, apiserver.Options{Version: o.Version})
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.ctx, ln) }()
	handed := make(chan *handover.Conn, 1)
	heirs, err := handover.Listen(s.cfg.RunDir)
	if err != nil {
		s.log.Warn("an upgrade will pause traffic", "err", err)
	} else {
		defer func() { _ = heirs.Close() }()
		go func() {
			if c := (&predecessor{s, ln, server}).serve(heirs); c != nil {
				handed <- c
			}
		}()
	}
	if o.Ready != nil {
		o.Ready()
	}
	select {
	case c := <-handed: // nothing of this host is ours any more but copies of its descriptors
		ln.Give()
		if p := s.plugin.Load(); p != nil {
			p.Give()
		}
		_ = heirs.Close()
		if o.HandedOver != nil {
			o.HandedOver(c.PID())
		}
		s.stop()
		_ = c.Close() // now the other may change the kernel's state
		s.log.Info("handed over", "to_pid", c.PID())
		return <-served
	case <-s.ctx.Done():
		err = nil
	case err = <-s.rejected:
		s.cancel()
	case err = <-served:
		s.cancel()
		served <- nil
	}
	s.finder.withdraw(context.WithoutCancel(s.ctx))
	s.stop()
	return errors.Join(err, <-served)
}

// control takes messages of other hosts for services.
func (s *System) control(from ident.HostID, kind byte, body []byte) {
	switch kind {
	case wire.KindShare:
		if err := s.ipam.HandleAsk(from, body); err != nil {
			s.log.Debug("ask for addresses refused", "from", from.Short(), "err", err)
		}
	case wire.KindHeard:
		s.heard(from, body)
	case wire.KindLease:
		s.leases.handle(from, body)
	default:
		s.log.Debug("message of unknown kind", "from", from.Short(), "kind", kind)
	}
}

// reject ends this run: a member refused this host for good. Only the first reason is told.
func (s *System) reject(err error) {
	select {
	case s.rejected <- err:
	default:
	}
}

// onRemoved hears that this host was removed from the cluster; "": that it is taken for a member.
func (s *System) onRemoved(text string) {
	s.mu.Lock()
	s.expelled = text
	s.mu.Unlock()
	s.ipam.Barred(text != "")
}

func (s *System) go_(f func()) {
	s.done.Go(f)
}
