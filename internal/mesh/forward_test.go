package mesh

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/udp"
	"github.com/weft-net/weft/internal/udp/udptest"
	"github.com/weft-net/weft/internal/wire"
)

// kept records the packets of groups that a host takes in.
type kept struct {
	noFrames
	pkts [][]byte
	from []ident.HostID
}

func (k *kept) HandleGroup(pkt []byte, from ident.HostID) {
	k.pkts = append(k.pkts, bytes.Clone(pkt))
	k.from = append(k.from, from)
	clear(pkt) // opened in place: what is passed on must have been copied before
}

// branchLab is the reader of one host in the middle of a tree: origin, parent, this host, two children and an island.
type branchLab struct {
	t        *testing.T
	r        *reader
	kept     *kept
	parent   *seal.Sealer // seals for this host
	other    *seal.Sealer // of a host that is not the parent
	children []*seal.Opener
	conns    []udp.Conn
	island   udp.Conn
	id       tree.ID
	origin   ident.HostID
}

var labGroup = netip.MustParseAddrPort("239.192.0.1:6783")

func newBranchLab(t *testing.T) *branchLab {
	l := &branchLab{t: t, kept: &kept{}, id: tree.ID{9, 9}, origin: ident.HostID{1}}
	net := &udptest.Network{}
	listen := func(n byte) udp.Conn {
		c, err := net.Listen(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 6783))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	pair := func(n byte) (*seal.Sealer, *seal.Opener) {
		key := bytes.Repeat([]byte{n}, seal.KeySize)
		s, err := seal.NewLinkSealer(seal.SuiteAES, key, uint32(n), 0)
		if err != nil {
			t.Fatal(err)
		}
		o, err := seal.NewOpener(seal.SuiteAES, key)
		if err != nil {
			t.Fatal(err)
		}
		return s, o
	}
	m := &Mesh{cfg: Config{Conn: listen(5), Datapath: l.kept}, self: ident.HostID{5}}
	sessions := map[uint32]*session{}
	for n, s := range map[byte]**seal.Sealer{2: &l.parent, 3: &l.other} {
		sealer, opener := pair(n)
		*s = sealer
		sessions[uint32(n)] = &session{host: ident.HostID{n}, opener: opener}
	}
	m.sessions.Store(&sessions)
	m.peers.Store(&map[ident.HostID]*link.Peer{})
	branch := &tree.Branch{Origin: l.origin, Parent: ident.HostID{2}, Group: labGroup}
	for _, n := range []byte{11, 12} {
		sealer, opener := pair(n)
		p := &link.Peer{ID: ident.HostID{n}}
		c := listen(n)
		p.SetPath(&link.Path{Endpoint: c.LocalAddr(), Session: sealer, Payload: 1472})
		branch.Children = append(branch.Children, p)
		l.children, l.conns = append(l.children, opener), append(l.conns, c)
	}
	l.island = listen(13)
	if err := l.island.Join(labGroup.Addr(), 0); err != nil {
		t.Fatal(err)
	}
	m.SetBranches(tree.Branches{l.id: branch})
	l.r = &reader{m: m, w: m.cfg.Conn.NewWriter(readBatch), out: make([]udp.Message, 0, readBatch)}
	return l
}

// envelope is a packet in the name of the lab's tree.
func (l *branchLab) envelope(hop *seal.Sealer, src ident.HostID, id tree.ID, hops byte, inner []byte) []byte {
	b := append(make([]byte, wire.RelayTotal), inner...)
	if err := hop.PutEnvelope(b, src, id, hops); err != nil {
		l.t.Fatal(err)
	}
	return b
}

// come lets a message arrive, as one read of the socket.
func (l *branchLab) come(b []byte, segment int) {
	l.r.packets(&udp.Message{Buf: b, N: len(b), Segment: segment})
	l.r.flush()
}

// sent returns what a socket got.
func sent(c udp.Conn, n int) (out [][]byte) {
	ms := make([]udp.Message, 256)
	for i := range ms {
		ms[i].Buf = make([]byte, 2000)
	}
	for len(out) < n {
		k, err := c.ReadBatch(ms)
		if err != nil {
			return out
		}
		for _, m := range ms[:k] {
			out = append(out, bytes.Clone(m.Buf[:m.N]))
		}
	}
	return out
}

func group(n byte, size int) []byte {
	b := bytes.Repeat([]byte{n}, size)
	b[0] = wire.TypeGroup
	return b
}

// TestForwardTrain: a train of a tree's packets goes on to each child under its own session and to the island as it is,
// and is taken in.
func TestForwardTrain(t *testing.T) {
	l := newBranchLab(t)
	var inner [][]byte
	var msg []byte
	for i := range byte(5) {
		p := group(i, 300)
		if i == 4 {
			p = p[:120] // the last is shorter
		}
		inner = append(inner, p)
		msg = append(msg, l.envelope(l.parent, l.origin, l.id, wire.MaxHops, p)...)
	}
	l.come(msg, wire.RelayTotal+300)
	for i, c := range l.conns {
		for k, pkt := range sent(c, len(inner)) {
			info, got, err := l.children[i].OpenEnvelope(pkt)
			if err != nil || !bytes.Equal(got, inner[k]) || info.Src != l.origin || info.Dst != l.id || info.Hops != wire.MaxHops-1 {
				t.Errorf("child %d, packet %d: %+v, %v", i, k, info, err)
			}
		}
	}
	if got := sent(l.island, len(inner)); !slices.EqualFunc(got, inner, bytes.Equal) {
		t.Errorf("the island got %d packets, or others", len(got))
	}
	if !slices.EqualFunc(l.kept.pkts, inner, bytes.Equal) || l.kept.from[0] != l.origin {
		t.Errorf("took in %d packets of %v", len(l.kept.pkts), l.kept.from)
	}
	if l.r.m.Drops() != nil && len(l.r.m.Drops()) > 0 {
		t.Errorf("dropped %v", l.r.m.Drops())
	}
}

func TestForwardRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		pkt    func(l *branchLab) []byte
		reason string
	}{
		"a packet from another host than the parent": {func(l *branchLab) []byte {
			return l.envelope(l.other, l.origin, l.id, wire.MaxHops, group(1, 100))
		}, "relay_refused"},
		"another origin": {func(l *branchLab) []byte {
			return l.envelope(l.parent, ident.HostID{2}, l.id, wire.MaxHops, group(1, 100))
		}, "relay_refused"},
		"one without hops left": {func(l *branchLab) []byte {
			return l.envelope(l.parent, l.origin, l.id, 0, group(1, 100))
		}, "relay_refused"},
		"what is no group packet": {func(l *branchLab) []byte {
			return l.envelope(l.parent, l.origin, l.id, wire.MaxHops, bytes.Repeat([]byte{wire.TypeLink}, 100))
		}, "no_path"},
		"a forged envelope": {func(l *branchLab) []byte {
			b := l.envelope(l.parent, l.origin, l.id, wire.MaxHops, group(1, 100))
			b[20] ^= 1
			return b
		}, "forged"},
	} {
		l := newBranchLab(t)
		l.come(c.pkt(l), 0)
		if n := l.r.m.Drops()[c.reason]; n != 1 || len(l.kept.pkts) > 0 || l.r.m.Relayed() > 0 {
			t.Errorf("%s: dropped %v, took in %d", name, l.r.m.Drops(), len(l.kept.pkts))
		}
	}
}

// TestForwardOnce: a packet that comes twice is passed on once.
func TestForwardOnce(t *testing.T) {
	l := newBranchLab(t)
	pkt := l.envelope(l.parent, l.origin, l.id, wire.MaxHops, group(1, 100))
	again := bytes.Clone(pkt)
	l.come(pkt, 0)
	l.come(again, 0)
	if l.r.m.Drops()["replay"] != 1 || len(l.kept.pkts) != 1 {
		t.Errorf("dropped %v, took in %d", l.r.m.Drops(), len(l.kept.pkts))
	}
}

// TestLeafKeepsThePacket: who passes nothing on needs to know nothing of the tree.
func TestLeafKeepsThePacket(t *testing.T) {
	l := newBranchLab(t)
	l.come(l.envelope(l.parent, l.origin, tree.ID{7}, 1, group(1, 100)), 0)
	if len(l.kept.pkts) != 1 || l.kept.from[0] != l.origin || l.r.m.Relayed() > 0 {
		t.Errorf("took in %d, passed on %d", len(l.kept.pkts), l.r.m.Relayed())
	}
}
