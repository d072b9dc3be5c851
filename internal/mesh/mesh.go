// Package mesh finds the hosts of a cluster, holds a link to each and keeps their state tables equal.
//
// Two goroutines do the work. The reader owns the UDP socket's receiving side: it opens sealed
// packets, answers pings, forwards relayed packets and hands frames to the datapath. The loop owns
// everything else (handshakes, path choice, tables, membership); others reach it by do.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/stream"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/udp"
)

// Datapath takes what the mesh's reader receives for networks. All methods are called by the one reader goroutine.
type Datapath interface {
	// HandleFrame takes the plaintext of a KindFrame packet; plain is valid during the call.
	HandleFrame(from ident.HostID, plain []byte)
	// HandleGroup takes a whole TypeGroup packet; from is zero when the sender is not known by address.
	HandleGroup(pkt []byte, from ident.HostID)
	// HandleSenderKey takes the plaintext of a KindSenderKey packet; plain is valid during the call.
	HandleSenderKey(from ident.HostID, plain []byte)
	// HandleTree takes the plaintext of a KindTree packet; plain is valid during the call.
	HandleTree(from ident.HostID, plain []byte)
	// Flush ends a batch.
	Flush()
}

// Underlay tells about this host's own addresses.
type Underlay interface {
	// Endpoints returns the addresses under which others may reach this host, best first.
	Endpoints() []netip.Addr
	// MTU returns the MTU of the interface that leads to an address, 0 when unknown.
	MTU(to netip.Addr) int
}

// Persister keeps blocks of the state tables: own ones before they are published.
type Persister interface {
	SaveOwn(blocks []byte) error
	SaveOthers(blocks []byte) error
}

// Config is what a mesh needs to run. All but Advertise and Seeds is required.
type Config struct {
	Keys      ident.Keys
	Cluster   ident.ClusterID
	Token     ident.Secret // as given or founded; the tables may hold a newer one
	Founder   bool
	Name      string
	Build     string
	Port      uint16
	Advertise []netip.AddrPort
	Seeds     []string

	Conn     udp.Conn
	Listener net.Listener
	Underlay Underlay
	Tables   *state.Tables
	Persist  Persister
	Datapath Datapath
	Log      *slog.Logger

	// Services take streams of operations that are not the mesh's own (stream.Config).
	Services map[byte]func(from ident.HostID, conn net.Conn)
	// Handle takes control messages of kinds that are not the mesh's own; called by the loop.
	Handle func(from ident.HostID, kind byte, body []byte)
	// Changed takes changes of the tables, own ones included; called by the loop.
	Changed func([]state.Change)
	// Hosts is called by the loop when a host's liveness or reachability changed.
	HostChanged func(ident.HostID)
	// Rejected is called by the loop when a member refuses this host for a reason that waiting does not
	// cure: it should stop, and a person be told.
	Rejected func(error)
	// Removed is called by the loop when a member says that this host was removed from the cluster, and no host is in reach
	// that says otherwise; again with "" when one is.
	Removed func(text string)
}

// Mesh is this host's part in its cluster.
type Mesh struct {
	cfg   Config
	self  ident.HostID
	log   *slog.Logger
	drops dropCounters

	// Read by the reader and by senders, written by the loop (copy on write).
	sessions atomic.Pointer[map[uint32]*session]
	peers    atomic.Pointer[map[ident.HostID]*link.Peer]

	writer struct { // control packets of any goroutine
		sync.Mutex
		w   udp.Writer
		buf []byte
	}
	dir      atomic.Pointer[directory]
	fragID   atomic.Uint32
	branches atomic.Pointer[tree.Branches]
	// atEndpoint names the hosts with a direct path by its endpoint.
	atEndpoint atomic.Pointer[map[netip.AddrPort]ident.HostID]

	turn   sync.Mutex                    // held by the reader while it reads and handles a batch, and while it is halted
	held   atomic.Bool                   // turn is held because the reader is halted
	frozen atomic.Pointer[chan struct{}] // closed when own tables may be written again; nil: they may

	do_     chan func()
	hello   chan datagram
	events  chan event
	ctx     context.Context
	cancel  context.CancelFunc
	done    sync.WaitGroup
	streams *stream.Service
	members *memberlist.Memberlist
	packets chan *memberlist.Packet
	conns   chan net.Conn

	loopState // owned by the loop
}

// loopState is owned by the loop goroutine.
type loopState struct {
	machine   *handshake.Machine
	sync      *state.Sync
	hosts     map[ident.HostID]*host
	seeds     map[string]*seed
	found     map[netip.AddrPort]*found
	foundAt   time.Time          // when they were last gone through
	attempts  map[uint32]attempt // handshakes we began, by index
	observed  map[ident.HostID]netip.AddrPort
	early     map[ident.HostID]liveness // of hosts that memberlist heard of before the tables
	natted    bool
	published hostRecord
	secret    ident.Secret
	secretVer uint64
	dirty     bool // others' blocks changed since they were saved
	warnings  warnings
	refusal   refusal // last "no" to us
	removal   string  // what a member said of this host's removal, while nobody is in reach; "": nothing
	lastJoin  time.Time
	lastMove  time.Time // when this host was last seen at another endpoint
	boot      uint64    // names this run
	started   time.Time
	leaving   bool // no new links
	quitting  bool // for good: others are told
	gone      bool // said goodbye: nobody is answered any more
	dirStale  bool
	listed    time.Time // when the directory was made
	greetings float64   // handshakes that may be begun now
	lastTick  time.Time
	probes    map[uint64]probe // of `weft ping`, by id
	halted    bool             // nothing but do_ is served
}

// refusal is a member's "no" to this host.
type refusal struct {
	text string
	at   time.Time
}

// ErrClosed says that the mesh was closed.
var ErrClosed = errors.New("mesh: closed")

// New prepares a mesh. Start runs it.
func New(cfg Config) (*Mesh, error) {
	m := &Mesh{
		cfg: cfg, self: cfg.Keys.ID(), log: cfg.Log,
		do_: make(chan func(), 64), hello: make(chan datagram, 1024), events: make(chan event, 4096),
		packets: make(chan *memberlist.Packet, 1024), conns: make(chan net.Conn, 64),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.sessions.Store(&map[uint32]*session{})
	m.peers.Store(&map[ident.HostID]*link.Peer{})
	m.dir.Store(&directory{})
	m.atEndpoint.Store(&map[netip.AddrPort]ident.HostID{})
	m.branches.Store(&tree.Branches{})
	m.writer.w = cfg.Conn.NewWriter(fragsPerMessage)
	m.writer.buf = make([]byte, fragsPerMessage*bufSize)
	m.loopState = loopState{
		hosts: map[ident.HostID]*host{}, seeds: map[string]*seed{}, attempts: map[uint32]attempt{},
		observed: map[ident.HostID]netip.AddrPort{}, secret: cfg.Token, boot: rand.Uint64(), started: time.Now(),
		early: map[ident.HostID]liveness{}, probes: map[uint64]probe{}, warnings: warnings{},
	}
	m.sync = newSync(cfg.Tables)
	m.machine = m.newMachine()
	m.streams = stream.New(m.streamConfig())
	for _, s := range cfg.Seeds {
		m.seeds[s] = &seed{name: s}
	}
	m.recall()
	m.list()
	return m, nil
}

// Start begins to listen and to talk.
func (m *Mesh) Start() error {
	if err := m.startMembers(); err != nil {
		return err
	}
	if err := m.publishSelf(time.Now(), true); err != nil {
		return err
	}
	for _, f := range []func(){m.read, m.loop, m.serveStreams, m.acceptStreams} {
		m.done.Go(f)
	}
	return nil
}

// Close stops the mesh without a word to others: they see a host that died. Leave says goodbye first.
func (m *Mesh) Close() error {
	m.cancel()
	err := m.cfg.Conn.Close()
	m.letRead() // a halted reader ends, too
	_ = m.cfg.Listener.Close()
	m.streams.Close()
	if m.members != nil {
		_ = m.members.Shutdown()
	}
	m.done.Wait()
	return err
}

// do runs f in the loop and waits for it.
func (m *Mesh) do(f func()) error {
	ran := make(chan struct{})
	select {
	case m.do_ <- func() { defer close(ran); f() }:
	case <-m.ctx.Done():
		return ErrClosed
	}
	select {
	case <-ran:
		return nil
	case <-m.ctx.Done():
		return ErrClosed
	}
}

// NextFragment numbers a fragmented plaintext; whoever sends fragments to hosts takes its numbers here.
func (m *Mesh) NextFragment() uint32 { return m.fragID.Add(1) }

// SetBranches says in which distribution trees this host passes packets on.
func (m *Mesh) SetBranches(b tree.Branches) { m.branches.Store(&b) }

// Self returns this host's id.
func (m *Mesh) Self() ident.HostID { return m.self }

// Streams returns the service for reliable streams between hosts.
func (m *Mesh) Streams() *stream.Service { return m.streams }

// Peer returns the datapath's view of a host; nil for one that is not known.
func (m *Mesh) Peer(id ident.HostID) *link.Peer { return (*m.peers.Load())[id] }

// Reachable returns this host and those there is a path to now. It asks nobody and is cheap.
func (m *Mesh) Reachable() []ident.HostID {
	out := []ident.HostID{m.self}
	for id, p := range *m.peers.Load() {
		if p.Path() != nil {
			out = append(out, id)
		}
	}
	return out
}

// Publish puts and deletes own entries of a scope: on disk first, then spread. It waits while a hand-over is under way. It
// must not be called from the loop.
func (m *Mesh) Publish(scope uint32, puts map[string][]byte, dels []string) error {
	for {
		var err error
		if e := m.do(func() { err = m.publish(state.Scope(scope), puts, dels) }); e != nil {
			return e
		}
		if !errors.Is(err, ErrHandingOver) {
			return err
		}
		if err := m.thawed(); err != nil {
			return err
		}
	}
}

// View runs f with the tables; f must not keep them and must be quick. It must not be called from the loop.
func (m *Mesh) View(f func(*state.Tables)) error { return m.do(func() { f(m.cfg.Tables) }) }

// Hold takes part in a scope (a network) from now on.
func (m *Mesh) Hold(scope uint32) error {
	var err error
	if e := m.do(func() {
		if err = m.cfg.Tables.Hold(state.Scope(scope)); err == nil {
			m.nudgeSync()
		}
	}); e != nil {
		return e
	}
	return err
}

// Release gives a scope up: own entries are withdrawn, others' forgotten.
func (m *Mesh) Release(scope uint32) error {
	var err error
	if e := m.do(func() { err = m.release(state.Scope(scope)) }); e != nil {
		return e
	}
	return err
}

// Connect adds hosts to find the cluster by.
func (m *Mesh) Connect(names []string) error {
	var err error
	e := m.do(func() {
		for _, n := range names {
			if len(m.seeds) >= maxSeeds {
				err = fmt.Errorf("connect %s: %d hosts to find the cluster by are the most", n, maxSeeds)
				return
			}
			m.seeds[n] = &seed{name: n}
		}
	})
	return errors.Join(e, err)
}

// Forget drops names given to Connect or `up`; an error names one that was not.
func (m *Mesh) Forget(names []string) error {
	var err error
	e := m.do(func() {
		for _, n := range names {
			if _, ok := m.seeds[n]; !ok {
				err = fmt.Errorf("forget %s: not among the hosts given to up or connect", n)
				continue
			}
			delete(m.seeds, n)
		}
	})
	return errors.Join(e, err)
}
