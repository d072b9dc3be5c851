// Package cast delivers frames between hosts: the sealed engine, one seal per frame whatever the number of receivers.
//
// Each network has a goroutine that reads the uplink TAP, asks the network's fdb.Table who gets a frame, seals it
// and writes the packets. A frame for one host is sealed under the session of the link; a frame for many is
// sealed once under this host's sender key of the network, and every receiver gets the same bytes (behind a
// relay: in an envelope). The other direction has no goroutine of its own: the reader of the underlay socket
// calls HandleFrame and HandleGroup, then Flush.
//
// # Who owns what
//
//   - the goroutine of a network (uplink): its buffers, its rate limit
//   - the reader of the underlay (downlink): openers, held packets, frames to write; HandleFrame, HandleGroup, Flush
//   - the planner: by which ways frames for many go (packages tree and island), beacons, beats
//   - Engine.mu: networks, sender keys; taken by everything else, never for a frame, never while sending
//
// What one side changes and another reads for every frame is an atomic pointer to something immutable.
// A frame from the underlay is never sent to the underlay: the two directions share no queue.
package cast

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/island"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/tree"
)

// Limits.
const (
	// MaxNetworks bounds the networks of one host.
	MaxNetworks = 1024
	// MinMTU and MaxMTU bound a network's MTU in bytes.
	MinMTU = 1280
	MaxMTU = 9000
	// DefaultRate is how many frames a second a network sends to all hosts: broadcast, 224.0.0.0/24, ff02::1.
	DefaultRate = 1000
	// etherOverhead is what a frame is longer than its packet.
	etherOverhead = 14
)

// Errors a caller may tell apart.
var (
	ErrClosed  = errors.New("cast: engine closed")
	ErrNetwork = errors.New("cast: no such network")
)

// Device is the uplink of a network: a TAP interface.
type Device interface {
	// Read waits for a frame, takes what else is there, and returns how many; an error ends the uplink. Frames are put
	// into space, each behind a virtio-net header of gso.HeaderLen bytes.
	Read(space []byte, frames [][]byte) (int, error)
	// Halt ends a blocked Read, and each one to come until Resume, with an error that Is os.ErrDeadlineExceeded.
	Halt()
	Resume()
	// SegmentsUDP reports whether Write takes super-frames of UDP datagrams.
	SegmentsUDP() bool
	// Write hands one frame with its header, in parts, to the kernel. taken is false when it was refused; an error says that
	// the device is of no use.
	Write(parts [][]byte) (taken bool, err error)
	Close() error
}

// Packet is a datagram to send or, with Segment set, several of that many bytes, of which the last may be
// shorter. Data is valid until WriteBatch returns.
type Packet struct {
	Data    []byte
	To      netip.AddrPort
	Segment int
}

// PacketWriter sends datagrams for one goroutine. It returns how many the kernel took; refused ones
// don't stop the rest. An error says that the socket is of no use.
type PacketWriter interface {
	WriteBatch(ps []Packet) (int, error)
}

// Config of an Engine. Self, Send and NewWriter are needed.
type Config struct {
	Self ident.HostID
	// NewWriter makes a writer for one goroutine.
	NewWriter func() PacketWriter
	// Send hands a plaintext (kind and body) to the link with a host. It may be called from any goroutine,
	// also from within HandleGroup and HandleSenderKey, and must neither block nor call back. plain is the link's to keep.
	Send func(to ident.HostID, plain []byte) error
	// Counters is the registry that tables are built with; nil: a new one, see Engine.Counters.
	Counters *fdb.Registry
	// NextFragment numbers fragmented plaintexts for links; it must be the one the mesh uses, since a receiver
	// joins what comes from a host by number. nil: a counter of the engine.
	NextFragment func() uint32
	Suite        seal.Suite    // of sender keys; 0: seal.Preferred
	Rotation     time.Duration // of sender keys; 0: DefaultRotation
	Budget       uint64        // of one sender key in packets, rotated at half; 0: seal.DefaultBudget
	// Peer names the link with a host, Branches takes the trees in which this host passes packets on, and Hearing takes
	// whom it hears by native multicast. They are called by a goroutine of the engine's and must not call back. Without
	// Peer every receiver of a frame for many gets a copy.
	Peer     func(ident.HostID) *link.Peer
	Branches func(tree.Branches)
	Hearing  func([]island.Heard)
	Fanout   int              // packets that leave this host for one frame, at most; 0: tree.DefaultFanout
	Rand     io.Reader        // nil: crypto/rand
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: none
}

// Engine is the sealed engine of one host.
type Engine struct {
	cfg   Config
	log   *slog.Logger
	drops dropCounters // of packets that belong to no network
	down  downlink     // owned by the reader of the underlay

	planner *planner

	networks atomic.Pointer[map[uint32]*network] // replaced under mu

	mu     sync.Mutex
	closed bool
	ring   *keyRing
	swept  time.Time // when assemblers were last told to forget
	paused bool
	wg     sync.WaitGroup
}

// network is one network of this host.
type network struct {
	vni   uint32
	mtu   int
	dev   Device
	table atomic.Pointer[fdb.Table]
	hosts atomic.Pointer[hostSet]
	key   atomic.Pointer[seal.Sealer]
	rate  atomic.Int64 // frames a second, for floods
	drops dropCounters

	keys *sendKeys // under Engine.mu
	up   *uplink
	turn chan struct{} // full while the uplink reads and sends a batch, and while the engine is paused
}

// hostSet are the other hosts that have a network.
type hostSet map[ident.HostID]struct{}

// New makes an engine without networks.
func New(cfg Config) (*Engine, error) {
	if cfg.NewWriter == nil || cfg.Send == nil || cfg.Self.IsZero() {
		return nil, errors.New("cast: Self, NewWriter and Send are needed")
	}
	if cfg.Suite == 0 {
		cfg.Suite = seal.Preferred()
	}
	if cfg.Rotation <= 0 {
		cfg.Rotation = DefaultRotation
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Counters == nil {
		cfg.Counters = fdb.NewRegistry()
	}
	if cfg.NextFragment == nil {
		var n atomic.Uint32
		cfg.NextFragment = func() uint32 { return n.Add(1) }
	}
	e := &Engine{cfg: cfg, log: cfg.Log, ring: newKeyRing()}
	e.networks.Store(&map[uint32]*network{})
	e.down.init(e)
	if err := e.startPlanner(); err != nil {
		return nil, fmt.Errorf("cast: %w", err)
	}
	return e, nil
}

// Counters returns the registry that tables must be built with.
func (e *Engine) Counters() *fdb.Registry { return e.cfg.Counters }

// AddNetwork begins to carry a network over dev, whose frames are at most mtu + 14 bytes. The engine owns dev
// from here on and closes it in RemoveNetwork or Close; when AddNetwork fails the caller keeps it.
// Nothing is sent before SetTable; call SetHosts first, so that keys go ahead of frames.
func (e *Engine) AddNetwork(vni uint32, dev Device, mtu int) error {
	if vni == 0 || vni > maxVNI {
		return fmt.Errorf("cast: VNI %d is not of 24 bits", vni)
	}
	if mtu < MinMTU || mtu > MaxMTU {
		return fmt.Errorf("cast: MTU %d of VNI %d: want %d to %d", mtu, vni, MinMTU, MaxMTU)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := *e.networks.Load()
	switch {
	case e.closed:
		return ErrClosed
	case old[vni] != nil:
		return fmt.Errorf("cast: VNI %d is there already", vni)
	case len(old) >= MaxNetworks:
		return fmt.Errorf("cast: more than %d networks", MaxNetworks)
	}
	keys, err := newSendKeys(vni, e.cfg.Suite, e.cfg.Rotation, e.cfg.Budget, e.cfg.Rand, e.cfg.Now())
	if err != nil {
		return fmt.Errorf("cast: add VNI %d: %w", vni, err)
	}
	nw := &network{vni: vni, mtu: mtu, dev: dev, keys: keys, turn: make(chan struct{}, 1)}
	nw.hosts.Store(&hostSet{})
	nw.key.Store(keys.current.sealer)
	nw.rate.Store(DefaultRate)
	all := maps.Clone(old)
	all[vni] = nw
	e.networks.Store(&all)
	nw.up = newUplink(e, nw)
	if e.paused {
		nw.pause()
	}
	e.wg.Go(nw.up.run)
	return nil
}

// RemoveNetwork closes the network's device and forgets its keys and counters.
func (e *Engine) RemoveNetwork(vni uint32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	nw := (*e.networks.Load())[vni]
	if nw == nil {
		return fmt.Errorf("%w: VNI %d", ErrNetwork, vni)
	}
	return e.removeLocked(nw)
}

func (e *Engine) removeLocked(nw *network) error {
	all := maps.Clone(*e.networks.Load())
	delete(all, nw.vni)
	e.networks.Store(&all)
	e.down.tell(ringChange{remove: e.ring.forgetNetwork(nw.vni)})
	nw.drops.moveTo(&e.drops)
	e.cfg.Counters.Forget(nw.vni)
	e.planner.tell(planEvent{vni: nw.vni, forget: true})
	err := nw.dev.Close()
	if e.paused {
		<-nw.turn // its uplink ends
	}
	if err != nil {
		return fmt.Errorf("cast: remove VNI %d: %w", nw.vni, err)
	}
	return nil
}

// SetTable swaps in who gets a frame.
func (e *Engine) SetTable(vni uint32, t *fdb.Table) error {
	nw := (*e.networks.Load())[vni]
	if nw == nil {
		return fmt.Errorf("%w: VNI %d", ErrNetwork, vni)
	}
	nw.table.Store(t)
	e.planner.tell(planEvent{changed: true})
	return nil
}

// SetRate sets how many frames a second the network sends to all hosts; 0 means DefaultRate.
func (e *Engine) SetRate(vni uint32, rate int) error {
	nw := (*e.networks.Load())[vni]
	if nw == nil {
		return fmt.Errorf("%w: VNI %d", ErrNetwork, vni)
	}
	if rate <= 0 {
		rate = DefaultRate
	}
	nw.rate.Store(int64(rate))
	return nil
}

// SetHosts says which other hosts have the network, dead ones included: they get the sender key and may send.
// A host that is in the set no more was removed or gave the network up, and the key is changed.
// At most fdb.MaxHosts; Self is ignored.
func (e *Engine) SetHosts(vni uint32, hosts []ident.HostID) error {
	set := make(hostSet, len(hosts))
	for _, h := range hosts {
		if h != e.cfg.Self && len(set) < fdb.MaxHosts {
			set[h] = struct{}{}
		}
	}
	e.mu.Lock()
	nw := (*e.networks.Load())[vni]
	if nw == nil {
		e.mu.Unlock()
		return fmt.Errorf("%w: VNI %d", ErrNetwork, vni)
	}
	for h := range *nw.hosts.Load() {
		if _, ok := set[h]; !ok {
			e.down.tell(ringChange{remove: e.ring.forget(sender{h, vni})})
		}
	}
	for h := range set {
		if !nw.has(h) {
			e.planner.tell(planEvent{news: true})
			break
		}
	}
	nw.hosts.Store(&set)
	nw.keys.setHosts(e.cfg.Now(), slices.Collect(maps.Keys(set)))
	q := e.takeLocked(nw)
	e.mu.Unlock()
	e.send(q)
	return nil
}

// has reports whether another host has the network.
func (nw *network) has(h ident.HostID) bool {
	_, ok := (*nw.hosts.Load())[h]
	return ok
}

// Close removes all networks and waits for their goroutines. The reader of the underlay must have stopped, or not call any more.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	var errs []error
	for _, nw := range *e.networks.Load() {
		errs = append(errs, e.removeLocked(nw))
	}
	e.mu.Unlock()
	e.planner.stop()
	e.wg.Wait()
	return errors.Join(errs...)
}
