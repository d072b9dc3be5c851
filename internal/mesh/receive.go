package mesh

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/udp"
	"github.com/weft-net/weft/internal/wire"
)

const (
	readBatch = 64                    // packets answered in one call
	readCalls = 32                    // messages of one read; the kernel joins packets of one flow to one
	readSize  = 64 << 10              // of a message
	bufSize   = wire.MaxDatagram + 64 // of a packet
)

// reader is the receiving side: it belongs to one goroutine.
type reader struct {
	m    *Mesh
	w    udp.Writer
	out  []udp.Message // pongs and relayed packets of this batch
	pong [readBatch][wire.RelayTotal + wire.LinkHeader + pongSize + wire.Tag]byte
	n    int // pongs used
	fwd  forwarder

	// The session of the last link packet, found once for those that follow each other: true as long as all is the current map.
	all   *map[uint32]*session
	index uint32
	last  *session
}

const (
	pingSize = 1 + 8
	pongSize = 1 + 8 + 18
)

// read is the reader goroutine.
func (m *Mesh) read() {
	ms := make([]udp.Message, readCalls)
	for i := range ms {
		ms[i].Buf = make([]byte, readSize)
	}
	r := &reader{m: m, w: m.cfg.Conn.NewWriter(readBatch), out: make([]udp.Message, 0, readBatch)}
	for r.turn(ms) {
	}
}

// turn reads a batch and handles it; false at the end.
func (r *reader) turn(ms []udp.Message) bool {
	r.m.turn.Lock()
	defer r.m.turn.Unlock()
	n, err := r.m.cfg.Conn.ReadBatch(ms)
	switch {
	case errors.Is(err, net.ErrClosed):
		return false
	case errors.Is(err, os.ErrDeadlineExceeded): // halted: the next turn comes after it
		return true
	case err != nil:
		r.m.drops.add(dropRead)
		return true
	}
	for i := range ms[:n] {
		r.packets(&ms[i])
	}
	r.m.cfg.Datapath.Flush()
	r.flush()
	return true
}

// send queues a packet of this batch. pkt stays in use until flush.
func (r *reader) send(msg udp.Message) {
	r.out = append(r.out, msg)
	if len(r.out) == readBatch {
		r.flush()
	}
}

func (r *reader) flush() {
	if len(r.out) > 0 {
		if _, err := r.w.WriteBatch(r.out); err != nil {
			r.m.drops.add(dropSend)
		}
	}
	r.out, r.n, r.fwd.used = r.out[:0], 0, 0
}

// packets takes what one message holds: a packet, or several of one flow.
func (r *reader) packets(m *udp.Message) {
	from, b := link.Direct(m.Addr), m.Buf[:m.N]
	if m.Segment > 0 {
		for len(b) > m.Segment {
			r.packet(b[:m.Segment:m.Segment], from, ident.HostID{})
			b = b[m.Segment:]
		}
	}
	r.packet(b, from, ident.HostID{})
	r.forward()
}

// packet takes one packet that came from addr. src is the host that a relay names, else zero.
func (r *reader) packet(pkt []byte, addr link.Addr, src ident.HostID) {
	if len(pkt) == 0 {
		r.m.drops.add(dropShort)
		return
	}
	switch pkt[0] {
	case wire.TypeLink:
		r.link(pkt, addr)
	case wire.TypeGroup:
		if src.IsZero() {
			src = (*r.m.atEndpoint.Load())[addr.AP]
		}
		r.m.cfg.Datapath.HandleGroup(pkt, src)
	case wire.TypeRelay:
		if addr.IsRelay() { // an envelope in an envelope
			r.m.drops.add(dropNested)
			return
		}
		r.relay(pkt)
	case wire.TypeHello, wire.TypeReply, wire.TypeFinish, wire.TypeCookie, wire.TypeRefuse:
		select {
		case r.m.hello <- datagram{from: addr, src: src, pkt: slices.Clone(pkt), at: time.Now()}:
		default:
			r.m.drops.add(dropHandshakeQueue)
		}
	default:
		r.m.drops.add(dropType)
	}
}

func (r *reader) link(pkt []byte, addr link.Addr) {
	index, _, ok := wire.Link(pkt)
	if !ok {
		r.m.drops.add(dropShort)
		return
	}
	if all := r.m.sessions.Load(); r.all != all || r.index != index {
		s := (*all)[index]
		if s == nil {
			r.m.drops.add(dropSession)
			return
		}
		r.all, r.index, r.last = all, index, s
	}
	s := r.last
	plain, err := s.opener.OpenLink(pkt)
	if err != nil {
		r.m.drops.add(dropOpen(err))
		return
	}
	if s.seen != addr {
		r.tellAddr(s, addr)
	}
	r.plain(s, plain, addr)
}

// tellAddr tells the loop that a session is in use, or from where now.
func (r *reader) tellAddr(s *session, addr link.Addr) {
	select {
	case r.m.events <- event{from: s.host, addr: addr, local: s.local, at: time.Now()}:
		s.seen = addr
	default: // told with the next packet
	}
}

func (r *reader) plain(s *session, plain []byte, addr link.Addr) {
	if len(plain) == 0 {
		r.m.drops.add(dropShort)
		return
	}
	switch plain[0] {
	case wire.KindFrame:
		r.m.cfg.Datapath.HandleFrame(s.host, plain)
	case wire.KindTree:
		r.m.cfg.Datapath.HandleTree(s.host, plain)
	case wire.KindSenderKey: // here, so that frames held for the key go out with this batch
		r.m.cfg.Datapath.HandleSenderKey(s.host, plain)
	case wire.KindFragment:
		whole, ok := s.parts.Add(time.Now(), plain)
		if ok && len(whole) > 0 && whole[0] != wire.KindFragment {
			r.plain(s, whole, addr)
			r.m.cfg.Datapath.Flush() // the next fragment comes into the same space
		}
	case wire.KindPing:
		r.answer(s, plain, addr)
	default:
		select {
		case r.m.events <- event{from: s.host, addr: addr, kind: plain[0], body: slices.Clone(plain[1:]), at: time.Now()}:
		default:
			r.m.drops.add(dropControlQueue)
		}
	}
}

// answer sends a pong on the path the ping came by. The receiver learns how we see it.
func (r *reader) answer(s *session, ping []byte, addr link.Addr) {
	if len(ping) < pingSize {
		r.m.drops.add(dropPing)
		return
	}
	room := r.pong[r.n][:]
	buf := room[wire.RelayTotal:]
	body := buf[wire.LinkHeader : wire.LinkHeader+pongSize]
	body[0] = wire.KindPong
	copy(body[1:9], ping[1:9])
	ap := addr.AP
	if addr.IsRelay() {
		clear(body[9:])
	} else {
		a := ap.Addr().As16()
		copy(body[9:25], a[:])
		binary.BigEndian.PutUint16(body[25:], ap.Port())
	}
	pkt, err := s.sealer.SealLink(buf, pongSize)
	if err != nil {
		r.m.drops.add(dropSpent)
		return
	}
	if addr.IsRelay() {
		hop := (*r.m.peers.Load())[addr.Relay]
		path := pathOf(hop)
		if path == nil || path.Relay != nil {
			r.m.drops.add(dropNoPath)
			return
		}
		if path.Session.PutEnvelope(room, r.m.self, s.host, wire.MaxHops-1) != nil {
			r.m.drops.add(dropSpent)
			return
		}
		pkt, ap = room[:wire.RelayTotal+len(pkt)], path.Endpoint
	}
	r.n++ // flush, at the latest when the batch is full, frees the room again
	r.send(udp.Message{Buf: pkt, Addr: ap})
}

func pathOf(p *link.Peer) *link.Path {
	if p == nil {
		return nil
	}
	return p.Path()
}

// relay takes an envelope: for us it is opened, for another host sent on, still sealed.
func (r *reader) relay(pkt []byte) {
	info, ok := wire.Relay(pkt)
	if !ok {
		r.m.drops.add(dropShort)
		return
	}
	s := (*r.m.sessions.Load())[info.Index]
	if s == nil {
		r.m.drops.add(dropSession)
		return
	}
	info, inner, err := s.opener.OpenEnvelope(pkt)
	if err != nil {
		r.m.drops.add(dropOpen(err))
		return
	}
	dst, src := ident.HostID(info.Dst), ident.HostID(info.Src)
	if dst == r.m.self {
		r.packet(inner, link.Via(s.host), src)
		return
	}
	peer := (*r.m.peers.Load())[dst]
	if peer == nil {
		r.branch(s.host, &info, inner)
		return
	}
	// The first relay checks that the envelope speaks for its sender; the hop limit ends loops.
	if src != s.host || info.Hops == 0 {
		r.m.drops.add(dropRelayed)
		return
	}
	path := pathOf(peer)
	if path == nil || path.Relay != nil {
		r.m.drops.add(dropNoPath)
		return
	}
	if err := path.Session.PutEnvelope(pkt, info.Src, info.Dst, info.Hops-1); err != nil {
		r.m.drops.add(dropSpent)
		return
	}
	r.m.drops.relayed.Add(1)
	r.send(udp.Message{Buf: pkt, Addr: path.Endpoint})
}

func dropOpen(err error) drop {
	switch {
	case errors.Is(err, seal.ErrReplay):
		return dropReplay
	case errors.Is(err, seal.ErrShort):
		return dropShort
	}
	return dropForged
}
