package cast

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/island"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/wire"
)

const testVNI = 0x00abcd

// fakeTAP is an uplink made of two channels.
type fakeTAP struct {
	in   chan []byte
	out  chan []byte
	done chan struct{}
	once sync.Once
	halt atomic.Pointer[chan struct{}] // closed while halted
}

func newTAP() *fakeTAP {
	d := &fakeTAP{in: make(chan []byte, 1024), out: make(chan []byte, 4096), done: make(chan struct{})}
	d.Resume()
	return d
}

func (d *fakeTAP) Halt() { close(*d.halt.Load()) }

func (d *fakeTAP) Resume() {
	c := make(chan struct{})
	d.halt.Store(&c)
}

// Read gives frames one at a time, so that each has packets of its own.
func (d *fakeTAP) Read(space []byte, frames [][]byte) (int, error) {
	halted := *d.halt.Load()
	select {
	case <-d.done:
		return 0, net.ErrClosed
	default:
	}
	select {
	case <-halted:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	select {
	case <-halted:
		return 0, os.ErrDeadlineExceeded
	case f := <-d.in:
		clear(space[:gso.HeaderLen])
		n := gso.HeaderLen + copy(space[gso.HeaderLen:], f)
		frames[0] = space[:n:n]
		return 1, nil
	case <-d.done:
		return 0, net.ErrClosed
	}
}

func (d *fakeTAP) SegmentsUDP() bool { return true }

func (d *fakeTAP) Write(parts [][]byte) (bool, error) {
	d.out <- bytes.Join(parts, nil)[gso.HeaderLen:]
	return true, nil
}

func (d *fakeTAP) Close() error {
	d.once.Do(func() { close(d.done) })
	return nil
}

// got returns the frames written so far.
func (d *fakeTAP) got() (out [][]byte) {
	for {
		select {
		case f := <-d.out:
			out = append(out, f)
		default:
			return out
		}
	}
}

// rig is an underlay in memory and the mesh's part of each host: sessions, relaying, joining of link fragments.
type rig struct {
	t     *testing.T
	hosts []*rigHost
	mu    sync.Mutex
	wire  []wirePacket // everything that was sent
	// hears, if not nil, says who hears whose native multicast; nil: nobody.
	hears func(by, whom int) bool
	// lose, if not nil, says which packets vanish; kind is the type byte, for link packets 100 + the kind inside.
	lose func(from, to int, kind byte) bool
}

type wirePacket struct {
	from, to int
	data     []byte
}

type datagram struct {
	from netip.AddrPort
	data []byte
}

type rigHost struct {
	*rig
	n       int
	id      ident.HostID
	eng     *Engine
	tap     *fakeTAP
	peers   map[ident.HostID]*link.Peer
	openers map[uint32]*seal.Opener // by index: the other host's number
	direct  map[int]*seal.Sealer
	parts   map[ident.HostID]*frag.Assembler
	in      chan datagram
	done    chan struct{}

	branches atomic.Pointer[tree.Branches]
	heard    []island.Heard // under rig.mu: what the engine reported
}

// testGroup is the underlay group.
var testGroup = netip.MustParseAddrPort("239.192.0.1:6783")

func endpoint(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 6783)
}

func idOf(n int) ident.HostID { return ident.HostID{byte(n)} }

// newRig makes n hosts, 1 to n, linked directly, all with testVNI, each with one attachment.
// index, if given, is filled before the engines start.
func newRig(t *testing.T, n, mtu int, change func(*Config), index ...map[ident.HostID]*rigHost) *rig {
	r := &rig{t: t}
	for i := 1; i <= n; i++ {
		h := &rigHost{
			rig: r, n: i, id: idOf(i), tap: newTAP(), peers: map[ident.HostID]*link.Peer{}, openers: map[uint32]*seal.Opener{},
			direct: map[int]*seal.Sealer{}, parts: map[ident.HostID]*frag.Assembler{}, in: make(chan datagram, 4096), done: make(chan struct{}),
		}
		r.hosts = append(r.hosts, h)
		for _, m := range index {
			m[h.id] = h
		}
	}
	for _, a := range r.hosts {
		for _, b := range r.hosts {
			if a == b {
				continue
			}
			key := bytes.Repeat([]byte{byte(a.n), byte(b.n)}, 16)
			s, err := seal.NewLinkSealer(seal.SuiteAES, key, uint32(a.n), 0)
			check(t, err)
			o, err := seal.NewOpener(seal.SuiteAES, key)
			check(t, err)
			a.direct[b.n], b.openers[uint32(a.n)] = s, o
			p := &link.Peer{ID: b.id}
			p.SetPath(&link.Path{Endpoint: endpoint(b.n), Session: s, Payload: 1472})
			a.peers[b.id] = p
			a.parts[b.id] = &frag.Assembler{}
		}
	}
	for _, h := range r.hosts {
		cfg := Config{Self: h.id, NewWriter: func() PacketWriter { return h }, Send: h.send}
		h.branches.Store(&tree.Branches{})
		if change != nil {
			change(&cfg)
		}
		eng, err := New(cfg)
		check(t, err)
		h.eng = eng
		check(t, eng.AddNetwork(testVNI, h.tap, mtu))
	}
	for _, h := range r.hosts {
		check(t, h.eng.SetHosts(testVNI, r.ids()))
		h.members()
	}
	for _, h := range r.hosts {
		go h.read()
	}
	return r
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) ids() (out []ident.HostID) {
	for _, h := range r.hosts {
		out = append(out, h.id)
	}
	return out
}

func (r *rig) host(n int) *rigHost { return r.hosts[n-1] }

// close stops everything, so that a synctest bubble can end.
func (r *rig) close() {
	for _, h := range r.hosts {
		close(h.done)
	}
	synctest.Wait()
	for _, h := range r.hosts {
		check(r.t, h.eng.Close())
	}
}

// tick passes time, with Engine.Tick every 100 ms.
func (r *rig) tick(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
		for _, h := range r.hosts {
			h.eng.Tick(time.Now())
		}
		synctest.Wait()
	}
}

// table builds the table of a host: attachment 1 everywhere, and members.
func (h *rigHost) table(members ...fdb.Member) *fdb.Table {
	in := fdb.Input{VNI: testVNI, Self: h.id, Hosts: h.ids(), Members: members, Counters: h.eng.Counters(), Peer: func(id ident.HostID) *link.Peer { return h.peers[id] }}
	for _, o := range h.hosts {
		in.Remotes = append(in.Remotes, fdb.Remote{MAC: macOf(o.n), Host: o.id})
	}
	return fdb.Build(in)
}

func (h *rigHost) members(members ...fdb.Member) {
	check(h.t, h.eng.SetTable(testVNI, h.table(members...)))
}

// relay makes h reach another host through a third.
func (h *rigHost) relay(to, via int) {
	h.peers[idOf(to)].SetPath(&link.Path{
		Endpoint: endpoint(via), Session: h.direct[to], Payload: 1472 - wire.RelayTotal,
		Relay: &link.Relay{Host: idOf(via), Hop: h.direct[via]},
	})
}

// send is the mesh's: a plaintext over the link.
func (h *rigHost) send(to ident.HostID, plain []byte) error {
	path := h.peers[to].Path()
	if path == nil {
		return fmt.Errorf("no path")
	}
	buf := make([]byte, wire.LinkHeader+len(plain)+wire.Tag)
	copy(buf[wire.LinkHeader:], plain)
	pkt, err := path.Session.SealLink(buf, len(plain))
	if err != nil {
		return err
	}
	h.mu.Lock()
	lost := h.lose != nil && h.lose(h.n, int(to[0]), 100+plain[0])
	h.mu.Unlock()
	if lost {
		return nil
	}
	_, err = h.WriteBatch([]Packet{{Data: pkt, To: path.Endpoint}})
	return err
}

// WriteBatch is the underlay.
func (h *rigHost) WriteBatch(ps []Packet) (int, error) {
	for _, p := range ps {
		size := p.Segment
		if size == 0 {
			size = len(p.Data)
		}
		for data := range slices.Chunk(p.Data, size) {
			if p.To == testGroup {
				h.multicast(data)
				continue
			}
			h.carry(int(p.To.Addr().As4()[3]), data)
		}
	}
	return len(ps), nil
}

// multicast carries one packet to all that hear the host; on the wire it is one, to host 0.
func (h *rigHost) multicast(data []byte) {
	h.mu.Lock()
	h.wire = append(h.wire, wirePacket{h.n, 0, bytes.Clone(data)})
	hears := h.hears
	h.mu.Unlock()
	for _, o := range h.hosts {
		if o != h && hears != nil && hears(o.n, h.n) {
			o.in <- datagram{endpoint(h.n), bytes.Clone(data)}
		}
	}
}

func (h *rigHost) carry(to int, data []byte) {
	data = bytes.Clone(data)
	h.mu.Lock()
	h.wire = append(h.wire, wirePacket{h.n, to, data})
	lost := h.lose != nil && h.lose(h.n, to, data[0])
	h.mu.Unlock()
	if !lost {
		h.host(to).in <- datagram{endpoint(h.n), bytes.Clone(data)}
	}
}

// read is the mesh's reader.
func (h *rigHost) read() {
	for {
		select {
		case d := <-h.in:
			h.handle(d.data, idOf(int(d.from.Addr().As4()[3])))
		case <-h.done:
			return
		}
		h.eng.Flush()
	}
}

func (h *rigHost) handle(pkt []byte, from ident.HostID) {
	switch pkt[0] {
	case wire.TypeGroup:
		h.eng.HandleGroup(pkt, from)
	case wire.TypeLink:
		index, _, _ := wire.Link(pkt)
		plain, err := h.openers[index].OpenLink(pkt)
		if err != nil {
			h.t.Errorf("host %d: link packet of %d: %v", h.n, index, err)
			return
		}
		from = idOf(int(index))
		if plain[0] == wire.KindFragment {
			whole, ok := h.parts[from].Add(time.Now(), plain)
			if !ok {
				return
			}
			plain = whole
		}
		switch plain[0] {
		case wire.KindFrame:
			h.eng.HandleFrame(from, plain)
		case wire.KindSenderKey:
			h.eng.HandleSenderKey(from, plain)
		case wire.KindTree:
			h.eng.HandleTree(from, plain)
		}
	case wire.TypeRelay:
		index := binary.BigEndian.Uint32(pkt[4:])
		info, inner, err := h.openers[index].OpenEnvelope(pkt)
		if err != nil {
			h.t.Errorf("host %d: envelope of %d: %v", h.n, index, err)
			return
		}
		if info.Dst == h.id {
			h.handle(inner, info.Src)
			return
		}
		if h.peers[info.Dst] == nil {
			h.branch(idOf(int(index)), info, inner)
			return
		}
		dst := int(info.Dst[0])
		b := make([]byte, wire.RelayTotal+len(inner))
		copy(b[wire.RelayTotal:], inner)
		check(h.t, h.direct[dst].PutEnvelope(b, info.Src, info.Dst, info.Hops-1))
		_, _ = h.WriteBatch([]Packet{{Data: b, To: endpoint(dst)}})
	}
}

// branch is the mesh's: it passes a packet of a tree on.
func (h *rigHost) branch(from ident.HostID, info wire.RelayInfo, inner []byte) {
	b := (*h.branches.Load())[tree.ID(info.Dst)]
	if b == nil { // a leaf
		h.eng.HandleGroup(inner, info.Src)
		return
	}
	if b.Parent != from || b.Origin != info.Src || info.Hops == 0 {
		h.t.Errorf("host %d: a packet of a tree that is not for it", h.n)
		return
	}
	for _, c := range b.Children {
		data := make([]byte, wire.RelayTotal+len(inner))
		copy(data[wire.RelayTotal:], inner)
		check(h.t, c.Path().Session.PutEnvelope(data, info.Src, info.Dst, info.Hops-1))
		_, _ = h.WriteBatch([]Packet{{Data: data, To: c.Path().Endpoint}})
	}
	if b.Group.IsValid() {
		_, _ = h.WriteBatch([]Packet{{Data: inner, To: b.Group}})
	}
	h.eng.HandleGroup(inner, info.Src)
}

// losing sets which packets vanish.
func (r *rig) losing(f func(from, to int, kind byte) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lose = f
}

// sent returns and forgets what went over the wire, of one type.
func (r *rig) sent(kind byte) (out []wirePacket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.wire {
		if p.data[0] == kind {
			out = append(out, p)
		}
	}
	r.wire = nil
	return out
}

// plaintext is a frame as it crosses: kind, VNI, one record.
func plaintext(frame []byte) []byte {
	r := gso.Record{Frame: frame}
	b := make([]byte, frameHeader+r.Overhead()+len(frame))
	copy(b, []byte{wire.KindFrame, 0, 0xab, 0xcd})
	r.Put(b[frameHeader:])
	return b
}

func macOf(n int) fdb.MAC { return fdb.MAC{2, 0, 0, 0, 0, byte(n)} }

// unicast makes a frame of size bytes from attachment to attachment.
func unicast(from, to, size int) []byte {
	return ipv4(macOf(to), from, netip.AddrFrom4([4]byte{10, 0, 0, byte(to)}), size)
}

// multicast makes a frame of size bytes from an attachment to a group.
func multicast(from int, group string, size int) []byte {
	g := netip.MustParseAddr(group)
	b := g.As4()
	return ipv4(fdb.MAC{1, 0, 0x5e, b[1] & 0x7f, b[2], b[3]}, from, g, size)
}

func ipv4(dst fdb.MAC, from int, to netip.Addr, size int) []byte {
	f := make([]byte, size)
	src, d := macOf(from), to.As4()
	copy(f, dst[:])
	copy(f[6:], src[:])
	f[12], f[14], f[22], f[23] = 8, 0x45, 1, 17
	copy(f[26:], []byte{10, 0, 0, byte(from)})
	copy(f[30:], d[:])
	for i := 34; i < size; i++ {
		f[i] = byte(i * 7)
	}
	return f
}

func join(n int, group string) fdb.Member {
	return fdb.Member{Host: idOf(n), Group: netip.MustParseAddr(group)}
}

// want checks which frames a host's TAP got since the last look.
func (h *rigHost) want(what string, frames ...[]byte) {
	h.t.Helper()
	got := h.tap.got()
	if !slices.EqualFunc(got, frames, bytes.Equal) {
		h.t.Errorf("%s: host %d got %d frames, want %d; drops %v", what, h.n, len(got), len(frames), h.eng.Drops())
	}
}

func (h *rigHost) wantDrop(reason string, n uint64) {
	h.t.Helper()
	if got := h.eng.Drops(); got[reason] != n {
		h.t.Errorf("host %d: %s = %d, want %d; all: %v", h.n, reason, got[reason], n, got)
	}
}
