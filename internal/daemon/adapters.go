package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/weft-net/weft/internal/cast"
	"github.com/weft-net/weft/internal/guard"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/netmon"
	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/udp"
	"github.com/weft-net/weft/internal/vnet"
	"github.com/weft-net/weft/internal/wire"
)

// persister keeps blocks of the state tables in files.
type persister struct{ dir store.Dir }

func (p persister) SaveOwn(b []byte) error    { return p.dir.Save(fileOwn, b) }
func (p persister) SaveOthers(b []byte) error { return p.dir.Save(fileOthers, b) }

// packetWriter lets the datapath write to the mesh's socket.
type packetWriter struct {
	w  udp.Writer
	ms []udp.Message
}

func (p *packetWriter) WriteBatch(ps []cast.Packet) (int, error) {
	p.ms = p.ms[:0]
	for i := range ps {
		p.ms = append(p.ms, udp.Message{Buf: ps[i].Data, Addr: ps[i].To, Segment: ps[i].Segment})
	}
	return p.w.WriteBatch(p.ms)
}

func (s *System) newCast(self ident.HostID) (*cast.Engine, error) {
	return cast.New(cast.Config{
		Self: self, Log: s.log,
		NewWriter:    func() cast.PacketWriter { return &packetWriter{w: s.conn.NewWriter(udp.MaxBatch)} },
		Send:         func(to ident.HostID, plain []byte) error { return s.mesh.Send(to, plain) },
		NextFragment: func() uint32 { return s.mesh.NextFragment() },
		Peer:         func(id ident.HostID) *link.Peer { return s.mesh.Peer(id) },
		Branches:     func(b tree.Branches) { s.mesh.SetBranches(b) },
		Hearing:      s.onHearing,
		Fanout:       s.cfg.Fanout,
	})
}

func (s *System) newVNet() (*vnet.VNet, error) {
	host, err := netns.OS().Current()
	if err != nil {
		return nil, err
	}
	return vnet.New(vnet.Config{
		Host: host, NL: nl.OS(), Netns: netns.OS(), Guard: s.guard, Store: s.twice(fileAttach), Log: s.log,
		OpenTAP: s.openTAP, Keep: s.kept(), OnMembers: s.onMembers, OnGone: s.onGone,
		Super: cast.SuperFrame,
	})
}

// guardian keeps what the packet filter has to hold for, and tells it.
type guardian struct {
	filter guard.Filter
	log    *slog.Logger

	mu      sync.Mutex // guards all below
	desired guard.Desired
	removed bool // for good: this host goes down
}

func newGuardian(port int, log *slog.Logger) (*guardian, error) {
	f, err := guard.Open(guard.Options{})
	if err != nil {
		return nil, err
	}
	return &guardian{filter: f, log: log, desired: guard.Desired{ControlPort: uint16(port), VXLANPort: vnet.VXLANPort}}, nil
}

// apply makes the kernel hold what is desired.
func (g *guardian) apply() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.applyLocked()
}

func (g *guardian) applyLocked() error {
	if g.removed {
		return nil
	}
	if err := g.filter.Apply(g.desired); err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	return nil
}

// start is apply, and keeps it so until ctx ends, in a goroutine that run starts.
func (g *guardian) start(ctx context.Context, run func(func())) error {
	if err := g.apply(); err != nil {
		return err
	}
	run(func() {
		err := g.filter.Keep(ctx, func(reason string) { g.log.Warn("packet filter restored", "reason", reason) })
		if err != nil && ctx.Err() == nil {
			g.log.Error("packet filter is not watched any more", "err", err)
		}
	})
	return nil
}

// remove takes the rules away; nothing puts them back in this run.
func (g *guardian) remove() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removed = true
	return g.filter.Remove()
}

// network returns the entry of a bridge. Called with mu held.
func (g *guardian) networkLocked(bridge string) *guard.Network {
	for i := range g.desired.Networks {
		if g.desired.Networks[i].Bridge == bridge {
			return &g.desired.Networks[i]
		}
	}
	g.desired.Networks = append(g.desired.Networks, guard.Network{Bridge: bridge})
	return &g.desired.Networks[len(g.desired.Networks)-1]
}

func (g *guardian) policy(bridge string, rate int, allow, deny []netip.Prefix) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.networkLocked(bridge)
	n.Rate, n.AllowGroups, n.DenyGroups = uint32(rate), allow, deny
	return g.applyLocked()
}

// plain says from which addresses packets of a plain network are taken.
func (g *guardian) plain(bridge string, vni uint32, vteps []netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.networkLocked(bridge)
	n.VNI, n.VTEPs = vni, vteps
	return g.applyLocked()
}

// foresee notes a network that is about to come up, for the next change to carry.
func (g *guardian) foresee(d *definition, bridge string, vteps []netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.networkLocked(bridge)
	n.Rate, n.AllowGroups, n.DenyGroups = uint32(d.rec.Rate), d.rec.Allow, d.rec.Deny
	n.Uplink = vnet.UplinkName(d.rec.VNI)
	if d.rec.Plain {
		n.Uplink, n.VNI, n.VTEPs = vnet.VXLANName(d.rec.VNI), d.rec.VNI, vteps
	}
}

// foreseePort notes an attachment of an earlier run, for the next change to carry.
func (g *guardian) foreseePort(bridge string, a vnet.Attachment) {
	p := guard.Port{Bridge: bridge, Name: a.Port, MAC: a.MAC}
	for _, ip := range a.IPs {
		p.IPs = append(p.IPs, ip.Addr())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.desired.Ports = append(g.desired.Ports, p)
}

func (g *guardian) SetUplink(bridge, uplink string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.networkLocked(bridge).Uplink = uplink
	return g.applyLocked()
}

func (g *guardian) DelBridge(bridge string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.desired.Networks {
		if g.desired.Networks[i].Bridge == bridge {
			g.desired.Networks = append(g.desired.Networks[:i:i], g.desired.Networks[i+1:]...)
			return g.applyLocked()
		}
	}
	return nil
}

func (g *guardian) SetPort(bridge, port string, _ uint32, mac nl.MAC, ips []netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := guard.Port{Bridge: bridge, Name: port, MAC: mac, IPs: ips}
	for i := range g.desired.Ports {
		if g.desired.Ports[i].Name == port {
			g.desired.Ports[i] = p
			return g.filter.AddPort(p)
		}
	}
	g.desired.Ports = append(g.desired.Ports, p)
	return g.filter.AddPort(p)
}

func (g *guardian) DelPort(port string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.desired.Ports {
		if g.desired.Ports[i].Name == port {
			g.desired.Ports = append(g.desired.Ports[:i:i], g.desired.Ports[i+1:]...)
			break
		}
	}
	return g.filter.RemovePort(port)
}

// keyedLocks are locks by name.
type keyedLocks struct {
	mu   sync.Mutex
	held map[string]*keyedLock
}

type keyedLock struct {
	sync.Mutex
	users int
}

// lock waits for a name's lock and returns what releases it.
func (k *keyedLocks) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyedLock{}
	}
	l := k.held[name]
	if l == nil {
		l = &keyedLock{}
		k.held[name] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		if l.users--; l.users == 0 {
			delete(k.held, name)
		}
		k.mu.Unlock()
	}
}

// underlay caches this host's own addresses; the kernel tells when they change.
type underlay struct {
	mon netmon.Monitor
	log *slog.Logger

	mu    sync.Mutex // guards all down to the line
	list  []netmon.Addr
	addrs []netip.Addr       // of list
	own   map[netip.Addr]int // MTU of the interface of each
	mtus  map[netip.Addr]int // of the way to others
	// ---
}

// maxMTUs bounds the cache of path MTUs.
const maxMTUs = 4096

func newUnderlay(ctx context.Context, log *slog.Logger) (*underlay, error) {
	u := &underlay{mon: netmon.System(), log: log}
	changed, err := u.mon.Watch(ctx)
	if err != nil {
		return nil, err
	}
	if err := u.read(); err != nil {
		return nil, err
	}
	go func() {
		for range changed {
			if err := u.read(); err != nil {
				log.Error("own addresses not read", "err", err)
			}
		}
	}()
	return u, nil
}

func (u *underlay) read() error {
	list, err := u.mon.Addrs()
	if err != nil {
		return err
	}
	var addrs []netip.Addr
	own := map[netip.Addr]int{}
	for _, a := range list {
		addrs = append(addrs, a.IP)
		own[a.IP] = a.MTU
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list, u.addrs, u.own, u.mtus = list, addrs, own, map[netip.Addr]int{}
	return nil
}

// Addrs returns the addresses with their interfaces; it is not to be changed.
func (u *underlay) Addrs() []netmon.Addr {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.list
}

func (u *underlay) Endpoints() []netip.Addr {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.addrs
}

// InterfaceMTU returns the MTU of the interface that has one of this host's addresses, 0 when none has.
func (u *underlay) InterfaceMTU(own netip.Addr) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.own[own]
}

func (u *underlay) MTU(to netip.Addr) int {
	u.mu.Lock()
	v, ok := u.own[to] // the route there is that of the loopback interface, which takes anything
	if !ok {
		v, ok = u.mtus[to]
	}
	u.mu.Unlock()
	if ok || !to.IsValid() {
		return v
	}
	v, err := u.mon.PathMTU(to)
	if err != nil {
		return 0
	}
	u.mu.Lock()
	if len(u.mtus) < maxMTUs {
		u.mtus[to] = v
	}
	u.mu.Unlock()
	return v
}

func (s *System) routes() ([]netip.Prefix, error) {
	list, err := netmon.System().Routes()
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, r := range list {
		out = append(out, r.Prefix)
	}
	return out, nil
}

// advertised reads --advertise.
func (s *System) advertised() ([]netip.AddrPort, error) {
	if s.cfg.Advertise == "" {
		return nil, nil
	}
	if a, err := netip.ParseAddr(s.cfg.Advertise); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), uint16(s.cfg.Port))}, nil
	}
	ap, err := netip.ParseAddrPort(s.cfg.Advertise)
	if err != nil {
		return nil, usage{fmt.Errorf("--advertise %q: want IP or IP:PORT", s.cfg.Advertise)}
	}
	return []netip.AddrPort{netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}, nil
}

// board is this host's own state table, as ipam writes it.
type board struct{ s *System }

func (b board) Publish(scope uint32, puts map[string][]byte, dels []string) error {
	return b.s.mesh.Publish(scope, puts, dels)
}

func (s *System) newIPAM(self ident.HostID) *ipam.Service {
	return ipam.New(ipam.Config{
		Self: self, Board: board{s}, Log: s.log, Borrows: s.id.Ephemeral, Stays: s.leases.stays,
		Ask: func(to ident.HostID, body []byte) error {
			return s.mesh.Send(to, append([]byte{wire.KindShare}, body...))
		},
		Alive: func() []ident.HostID { return s.mesh.Reachable() },
	})
}
