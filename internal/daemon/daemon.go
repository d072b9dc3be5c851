// Package daemon builds a host of weft from its parts and runs it: the only place where services meet.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/bench"
	"github.com/weft-net/weft/internal/cast"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/handover"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/island"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/snapshot"
	"github.com/weft-net/weft/internal/state"
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
	ipam     *ipam.Service
	guard    *guardian
	underlay *underlay
	endpoint *bench.Endpoint // of measurements
	bus      *clusterBus
	agent    []string // see Options

	from *inheritance // nil unless this daemon took over from another
	taps sync.Map     // of the uplinks handed over, by name: tap.Device

	probePlain func() error // why this kernel cannot have plain networks

	taking    sync.Mutex // networks are taken up and removed one at a time
	cleaned   bool       // guarded by taking: no network is taken up any more
	foreseen  bool       // guarded by taking: the guard knows what an earlier run left
	attaching keyedLocks

	mu       sync.Mutex // guards all down to the line
	cluster  *clusterRecord
	defs     map[string]*definition
	networks map[uint32]*network
	troubles map[string]string
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
	if err := errors.Join(unbuilt(cfg), checkNATS(cfg)); err != nil {
		return err
	}
	s := &System{
		cfg: cfg, version: o.Version, agent: o.Agent, log: o.Log, started: time.Now(), wake: make(chan struct{}, 1), digested: make(chan struct{}), rejected: make(chan error, 1),
		defs: map[string]*definition{}, networks: map[uint32]*network{}, troubles: map[string]string{}, met: map[ident.HostID]*seal.Sealer{},
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
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
	token, err := s.token()
	if err != nil {
		return err
	}
	id, keys, fresh, err := settle(s.dir, cfg.Name, cfg.Seeds, token)
	if err != nil {
		return err
	}
	s.id, s.cfg.Name = id, id.Name
	s.dir.SetOwner(keys.ID())
	founding := id.Founding
	if founding {
		if err := s.checkRange(cfg.Range, "choose another with --range"); err != nil {
			return err
		}
	}
	if err := s.build(keys); err != nil {
		return err
	}
	if s.from != nil {
		if err := s.takeOver(); err != nil {
			s.stop()
			return err
		}
		ln.Keep()
		if err := s.dir.Claim(); err != nil {
			s.stop()
			return err
		}
	}
	if fresh {
		if err := s.dir.Save(fileIdentity, encode(id)); err != nil {
			s.stop()
			return err
		}
	}
	if err := s.start(founding); err != nil {
		s.stop()
		return err
	}
	select {
	case err := <-s.rejected:
		s.stop()
		return err
	default:
	}
	if founding {
		// Until now nobody could know the token: a start that ended on its way is taken up by the next one.
		id.Founding = false
		if err := s.dir.Save(fileIdentity, encode(id)); err != nil {
			s.stop()
			return err
		}
		s.id.Founding = false // no more of it: others read the rest by now
	}
	s.log.Info("weft is up", "host", id.Name, "id", keys.ID().Short(), "cluster", id.Cluster, "port", cfg.Port, "version", o.Version)
	s.log.Info("other hosts must reach this host", "udp_port", cfg.Port, "tcp_port", cfg.Port)
	if founding && o.Founded != nil {
		o.Founded(ident.Token{Cluster: id.Cluster, Secret: id.Secret}.Encode())
	}
	server := apiserver.New(backend{s}, apiserver.Options{Version: o.Version})
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.ctx, ln) }()
	handed := make(chan *handover.Conn, 1)
	heirs, err := handover.Listen(cfg.RunDir)
	if err != nil {
		s.log.Warn("an upgrade will pause traffic", "err", err)
	} else {
		defer func() { _ = heirs.Close() }()
		go func() {
			if c := (&predecessor{s, ln, server}).serve(heirs); c != nil {
				handed <- c
			}
		}()
		err = nil
	}
	if o.Ready != nil {
		o.Ready()
	}
	select {
	case c := <-handed: // nothing of this host is ours any more but copies of its descriptors
		ln.Give()
		_ = heirs.Close()
		if o.HandedOver != nil {
			o.HandedOver(c.PID())
		}
		s.stop()
		_ = c.Close() // now the other may change the kernel's state
		s.log.Info("handed over", "to_pid", c.PID())
		return <-served
	case <-s.ctx.Done():
	case err = <-s.rejected:
		s.cancel()
	case err = <-served:
		s.cancel()
		served <- nil
	}
	s.stop()
	return errors.Join(err, <-served)
}

// open takes the socket of the API and the state directory: as they lie there, or from the daemon that runs.
func (s *System) open() (*apiserver.Listener, error) {
	ln, err := apiserver.Listen(s.cfg.RunDir)
	if errors.Is(err, apiserver.ErrRunning) {
		if s.from, err = s.inherit(err); err == nil && s.from == nil {
			ln, err = listen(s.ctx, s.cfg.RunDir, stopTime)
		}
	}
	if err != nil {
		return nil, err
	}
	if s.from == nil {
		if s.dir, err = store.Open(s.cfg.StateDir); err != nil {
			return nil, errors.Join(err, ln.Close())
		}
		return ln, nil
	}
	if ln, err = apiserver.Adopt(s.cfg.RunDir, s.from.files[snapshot.UseAPI]); err != nil {
		s.from.abort(err)
		return nil, err
	}
	ln.Give() // until the other has said Go
	lock := s.from.files[snapshot.UseLock]
	delete(s.from.files, snapshot.UseLock)
	if s.dir, err = store.Adopt(s.cfg.StateDir, lock); err != nil {
		s.from.abort(err)
		return nil, errors.Join(err, ln.Close(), lock.Close())
	}
	return ln, nil
}

// udpOptions are those of the underlay's socket.
var udpOptions = udp.Options{Coalesce: true}

// sockets opens the underlay's socket and the listener of streams.
func (s *System) sockets() (udp.Conn, *net.TCPListener, error) {
	if s.from != nil {
		return s.from.sockets()
	}
	conn, err := udp.Listen(s.cfg.Port, udpOptions)
	if err != nil {
		return nil, nil, fmt.Errorf("UDP port %d: %w (another weft, or --port)", s.cfg.Port, err)
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{Port: s.cfg.Port})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("TCP port %d: %w", s.cfg.Port, err), conn.Close())
	}
	return conn, tcp, nil
}

func (s *System) token() (*ident.Token, error) {
	text := s.cfg.Token
	if text == "" && s.cfg.TokenFile != "" {
		b, err := os.ReadFile(s.cfg.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("token file: %w", err)
		}
		text = string(b)
	}
	if text == "" {
		return nil, nil
	}
	t, err := ident.ParseToken(text)
	if err != nil {
		return nil, usage{err}
	}
	return &t, nil
}

// build makes all parts; nothing talks yet.
func (s *System) build(keys ident.Keys) (err error) {
	tables, err := s.recallTables(keys)
	if err != nil {
		return err
	}
	s.joining = true
	for range tables.All(state.Cluster, keyCluster) {
		s.joining = false
	}
	if s.underlay, err = newUnderlay(s.ctx, s.log); err != nil {
		return err
	}
	if s.conn, s.tcp, err = s.sockets(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = s.conn.Close()
			_ = s.tcp.Close()
		}
	}()
	if s.guard, err = newGuardian(s.cfg.Port, s.log); err != nil {
		return err
	}
	if s.vnet, err = s.newVNet(); err != nil {
		return err
	}
	s.probePlain = patient(s.vnet.ProbePlain)
	s.ipam = s.newIPAM(keys.ID())
	if s.cast, err = s.newCast(keys.ID()); err != nil {
		return err
	}
	s.endpoint = s.newEndpoint()
	s.bus = s.newClusterBus()
	advertise, err := s.advertised()
	if err != nil {
		return err
	}
	s.mesh, err = mesh.New(mesh.Config{
		Keys: keys, Cluster: s.id.Cluster, Token: s.id.Secret, Founder: s.id.Founder, Name: s.id.Name, Build: s.version,
		Port: uint16(s.cfg.Port), Advertise: advertise, Seeds: s.id.Seeds,
		Conn: s.conn, Listener: s.tcp, Underlay: s.underlay, Tables: tables, Persist: persister{s.dir}, Datapath: s.cast, Log: s.log,
		Services: s.streamServices(), Handle: s.control, Changed: s.onChanged, HostChanged: s.onHost,
		Rejected: s.reject,
	})
	if err != nil {
		return err
	}
	allowed := s.mesh.Allowed
	s.allowed.Store(&allowed)
	return nil
}

// recallTables reads the state of earlier runs. What is on our disk was allowed when it came.
func (s *System) recallTables(keys ident.Keys) (*state.Tables, error) {
	t := state.New(state.Config{Keys: keys, Cluster: s.id.Cluster, Allowed: func(id ident.HostID) bool {
		f := s.allowed.Load()
		return f == nil || (*f)(id)
	}})
	own, err := s.dir.Load(fileOwn)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := t.Import(own); err != nil {
			return nil, fmt.Errorf("state file %s: %w", fileOwn, err)
		}
	}
	for _, scope := range t.OwnScopes() {
		if err := t.Hold(scope); err != nil {
			return nil, err
		}
	}
	others, err := s.dir.Load(fileOthers)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		// A copy of what others know: it comes again, provided that somebody is found.
		where, qerr := s.dir.Quarantine(fileOthers)
		s.log.Warn("copy of other hosts' state set aside", "err", err, "to", where, "quarantine_err", qerr)
	default:
		if err := t.Import(others); err != nil {
			s.log.Warn("copy of other hosts' state is partly refused", "err", err)
		}
	}
	return t, nil
}

// compareTime is how long a start waits for a host that confirms what this one said before.
const compareTime = 2 * time.Second

// start sets everything in motion, in an order in which each part finds what it needs.
func (s *System) start(founding bool) error {
	report, err := s.vnet.Reconcile(s.ctx)
	if err != nil {
		return err
	}
	if len(report.Adopted)+len(report.Lost)+len(report.Removed) > 0 {
		s.log.Info("found from an earlier run", "adopted", len(report.Adopted), "ended", len(report.Lost), "removed", report.Removed)
	}
	if len(report.Adopted) == 0 && s.from == nil {
		// Else the rules of the run before stay until networks are up again (foresee): empty ones would cut programs off.
		if err := s.guard.apply(); err != nil {
			return err
		}
	}
	if s.from == nil {
		if err := s.mesh.Start(); err != nil {
			return err
		}
	}
	s.go_(func() {
		if err := s.vnet.Run(s.ctx); err != nil && s.ctx.Err() == nil {
			s.trouble("vnet", "memberships are not watched any more: "+err.Error())
		}
	})
	if !founding && s.from == nil {
		wait, cancel := context.WithTimeout(s.ctx, compareTime)
		s.mesh.Compared(wait)
		cancel()
	}
	s.replay()
	if err := s.guard.start(s.ctx, s.go_); err != nil {
		return err
	}
	if founding {
		if err := s.found(); err != nil {
			return err
		}
	}
	s.go_(func() { _ = s.ipam.Run(s.ctx) })
	s.go_(s.spread)
	s.poke()
	s.go_(s.bus.run)
	if s.cfg.NATS != "" {
		return s.listenNATS()
	}
	return nil
}

// replay hands what the tables hold from an earlier run to those who act on it.
func (s *System) replay() {
	var all []state.Change
	var barred []string
	_ = s.mesh.View(func(t *state.Tables) {
		for _, scope := range t.Scopes() {
			for i := range t.All(scope, "") {
				switch {
				case ipam.Owns(i.Key): // in the mesh's loop, so that nothing newer comes before
					s.ipam.OnChange(uint32(scope), i.Writer, i.Key, i.Value, false)
				case scope == state.Cluster && strings.HasPrefix(i.Key, mesh.KeyBar):
					barred = append(barred, i.Key[len(mesh.KeyBar):])
				default:
					all = append(all, state.Change{Writer: i.Writer, Scope: scope, Key: i.Key, Value: i.Value})
				}
			}
		}
	})
	for _, key := range barred {
		s.removed(key, false) // who the heir is shows when links are up
	}
	s.digest(inbox{changes: all})
	var subnets []netip.Prefix
	s.mu.Lock()
	for _, d := range s.defs {
		if slices.Contains(d.hosts, s.mesh.Self()) {
			subnets = append(subnets, d.subnets...)
		}
	}
	s.mu.Unlock()
	if err := s.ipam.ReleaseUnused(subnets); err != nil {
		s.log.Error("unused subnets not given back", "err", err)
	}
}

// restore brings this host's addresses and records in a network in line with the attachments that
// survived an earlier run: what is in use stays in use, the rest is free again.
func (s *System) restore(n *network) error {
	living := map[string]vnet.Attachment{}
	for _, a := range s.vnet.Attachments() {
		if a.VNI == n.vni {
			living[a.Name] = a
		}
	}
	var dels []string
	_ = s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Scope(n.vni), keyAttach) {
			if name := i.Key[len(keyAttach):]; i.Writer == s.mesh.Self() && living[name].Name == "" {
				dels = append(dels, i.Key)
			}
		}
	})
	puts := map[string][]byte{}
	for name, a := range living {
		puts[keyAttach+name] = encode(attachRecord{MAC: a.MAC, IPs: a.IPs, Kind: kindNames[a.Kind]})
	}
	if err := s.mesh.Publish(n.vni, puts, dels); err != nil {
		return err
	}
	for name := range s.ipam.Allocations(n.vni) {
		if living[name].Name == "" {
			if err := s.ipam.Release(n.vni, name); err != nil {
				return err
			}
		}
	}
	var errs []error
	for name, a := range living {
		for _, p := range a.IPs {
			if p.Addr().Is4() {
				errs = append(errs, s.ipam.Restore(n.vni, name, p.Addr()))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		s.trouble("ipam "+n.name, fmt.Sprintf("addresses of network %s: %v", n.name, err))
	}
	return nil
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

func (s *System) go_(f func()) {
	s.done.Go(f)
}

// down stops the daemon: bridges and attachments stay, unless clean.
func (s *System) down(ctx context.Context, d api.Down) error {
	if d.Leave {
		for _, a := range s.vnet.Attachments() { // what is in use cannot be given back
			if err := s.detach(a.Network, a.Name); err != nil {
				return err
			}
		}
		if err := s.ipam.GiveBack(ctx); err != nil {
			return api.Errorf(api.CodeUnavailable, "%w", err).WithHint("or weft down --clean, and weft host rm %s on another host", s.cfg.Name)
		}
	}
	s.endpoint.Close() // a measurement is nothing to wait for, and its attachment nothing to keep
	var errs []error
	if d.Clean || d.Leave {
		s.leavePlain()
	}
	if d.Leave {
		errs = append(errs, s.quit())
	}
	lctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := s.mesh.Leave(lctx); err != nil {
		s.log.Debug("goodbye not heard by all", "err", err)
	}
	if d.Clean || d.Leave {
		errs = append(errs, s.clean())
	}
	time.AfterFunc(100*time.Millisecond, s.cancel) // after the answer
	return errors.Join(errs...)
}

// quit tells the cluster that this host left for good; the end of the run empties the state directory.
func (s *System) quit() error {
	s.mu.Lock()
	s.wipe = true
	s.mu.Unlock()
	return s.mesh.Quit()
}

// clean takes networks, attachments and packet filter off this host. Nothing comes up again in this run.
func (s *System) clean() error {
	s.taking.Lock()
	defer s.taking.Unlock()
	s.cleaned = true
	s.mu.Lock()
	clear(s.networks)
	s.mu.Unlock()
	err := s.cast.Close() // it would report every device that goes
	_, cleaned := s.vnet.Clean()
	return errors.Join(err, cleaned, s.guard.remove())
}

func (s *System) stop() {
	s.cancel()
	if s.endpoint != nil {
		s.endpoint.Close() // while its address can still be given back
	}
	if s.mesh != nil {
		_ = s.mesh.Close()
	}
	if s.cast != nil {
		_ = s.cast.Close()
	}
	if s.vnet != nil {
		_ = s.vnet.Down()
	}
	s.done.Wait()
}

func (s *System) closeDir() error {
	s.mu.Lock()
	wipe := s.wipe
	s.mu.Unlock()
	if wipe {
		names, err := s.dir.Names()
		for _, n := range names {
			err = errors.Join(err, s.dir.Remove(n))
		}
		return errors.Join(err, s.dir.Close())
	}
	return s.dir.Close()
}

// Clean removes from this network namespace what a daemon left that no longer runs: bridges,
// attachments and packet filter. The state directory stays.
func Clean(runDir, stateDir string) error {
	if os.Geteuid() != 0 {
		return errors.New("weft down --clean needs root")
	}
	ln, err := apiserver.Listen(runDir) // refuses while a daemon runs
	if err != nil {
		return err
	}
	defer func() { _ = ln.Close() }()
	dir, err := store.Open(stateDir)
	if err != nil {
		return err
	}
	s := &System{log: slog.New(slog.DiscardHandler), dir: dir, cfg: config.Up{StateDir: stateDir, RunDir: runDir}}
	if _, keys, err := loadIdentity(dir); err == nil {
		dir.SetOwner(keys.ID())
	}
	if s.guard, err = newGuardian(0, s.log); err != nil {
		return err
	}
	if s.vnet, err = s.newVNet(); err != nil {
		return err
	}
	_, err = s.vnet.Clean()
	return errors.Join(err, s.guard.remove(), dir.Close())
}

// trouble shows a text in status until it is cleared with "".
func (s *System) trouble(key, text string) {
	s.mu.Lock()
	old := s.troubles[key]
	if text == "" {
		delete(s.troubles, key)
	} else {
		s.troubles[key] = text
	}
	s.mu.Unlock()
	if text != "" && text != old {
		s.log.Error("trouble", "text", text)
	}
}

func (s *System) troubleTexts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, t := range s.troubles {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}
