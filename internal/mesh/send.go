package mesh

import (
	"fmt"
	"net/netip"

	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/udp"
	"github.com/weft-net/weft/internal/wire"
)

// fragsPerMessage bounds the packets of one control message: wire.MaxPlain over the smallest path.
const fragsPerMessage = wire.MaxPlain/(wire.MinPath-wire.RelayTotal-wire.LinkHeader-wire.Tag-frag.Header) + 1

// route is how one control message goes: a session, and the hop to send it by.
type route struct {
	session *seal.Sealer
	ap      netip.AddrPort
	hop     *seal.Sealer // non-nil: in an envelope
	dst     ident.HostID
	payload int
}

// Send seals a plaintext (kind and body) of up to wire.MaxPlain bytes for a host and sends it on
// the path of the moment, in fragments when it must be. It is best effort, as UDP is. Any goroutine may call it.
func (m *Mesh) Send(to ident.HostID, plain []byte) error {
	path := pathOf(m.Peer(to))
	if path == nil {
		m.drops.add(dropNoPath)
		return fmt.Errorf("no path to host %s", to.Short())
	}
	r := route{session: path.Session, ap: path.Endpoint, dst: to, payload: path.Payload}
	if path.Relay != nil {
		r.hop = path.Relay.Hop
	}
	return m.transmit(r, plain)
}

// transmit seals and sends plain by a route.
func (m *Mesh) transmit(r route, plain []byte) error {
	if len(plain) == 0 || len(plain) > wire.MaxPlain {
		return fmt.Errorf("control message of %d bytes", len(plain))
	}
	m.writer.Lock()
	defer m.writer.Unlock()
	room := r.payload - wire.LinkHeader - wire.Tag
	var msgs []udp.Message
	if len(plain) <= room {
		pkt, err := m.sealInto(m.writer.buf[:bufSize], r, plain, nil)
		if err != nil {
			return err
		}
		msgs = append(msgs, udp.Message{Buf: pkt, Addr: r.ap})
	} else {
		count, each, err := frag.Plan(len(plain), room)
		if err != nil {
			return err
		}
		id := m.NextFragment()
		for i := range count {
			var hdr [frag.Header]byte
			frag.PutHeader(hdr[:], id, i, count)
			part := plain[i*each : min((i+1)*each, len(plain))]
			pkt, err := m.sealInto(m.writer.buf[i*bufSize:(i+1)*bufSize], r, hdr[:], part)
			if err != nil {
				return err
			}
			msgs = append(msgs, udp.Message{Buf: pkt, Addr: r.ap})
		}
	}
	if _, err := m.writer.w.WriteBatch(msgs); err != nil {
		m.drops.add(dropSend)
		return fmt.Errorf("send to %s: %w", r.ap, err)
	}
	return nil
}

// sealInto builds one packet in buf from the two pieces of its plaintext.
func (m *Mesh) sealInto(buf []byte, r route, a, b []byte) ([]byte, error) {
	pkt := buf[wire.RelayTotal:]
	n := copy(pkt[wire.LinkHeader:], a)
	n += copy(pkt[wire.LinkHeader+n:], b)
	out, err := r.session.SealLink(pkt, n)
	if err != nil {
		m.drops.add(dropSpent)
		return nil, err
	}
	if r.hop == nil {
		return out, nil
	}
	if err := r.hop.PutEnvelope(buf, m.self, r.dst, wire.MaxHops-1); err != nil {
		m.drops.add(dropSpent)
		return nil, err
	}
	return buf[:wire.RelayTotal+len(out)], nil
}

// routeVia returns how to reach a host by an address that is not its path of the moment: to probe it.
func (m *Mesh) routeVia(h *host, a link.Addr) (route, bool) {
	s := (*m.sessions.Load())[h.link.Use()]
	if s == nil {
		return route{}, false
	}
	r := route{session: s.sealer, ap: a.AP, dst: h.id, payload: wire.MinPath - wire.RelayTotal}
	return r, m.throughRelay(&r.ap, &r.hop, a)
}

// throughRelay fills in the hop to a relay; false when the address cannot be used now.
func (m *Mesh) throughRelay(ap *netip.AddrPort, hop **seal.Sealer, a link.Addr) bool {
	if !a.IsRelay() {
		return a.AP.IsValid()
	}
	path := pathOf(m.Peer(a.Relay))
	if path == nil || path.Relay != nil {
		return false
	}
	*ap, *hop = path.Endpoint, path.Session
	return true
}

// sendRaw sends a handshake message to an address; for a host behind a relay it goes in an envelope.
func (m *Mesh) sendRaw(a link.Addr, to ident.HostID, pkt []byte) {
	var ap netip.AddrPort
	var hop *seal.Sealer
	ap = a.AP
	if !m.throughRelay(&ap, &hop, a) || len(pkt) > bufSize-wire.RelayTotal {
		m.drops.add(dropNoPath)
		return
	}
	m.writer.Lock()
	defer m.writer.Unlock()
	if hop != nil {
		buf := m.writer.buf[:wire.RelayTotal+len(pkt)]
		copy(buf[wire.RelayTotal:], pkt)
		if err := hop.PutEnvelope(buf, m.self, to, wire.MaxHops-1); err != nil {
			m.drops.add(dropSpent)
			return
		}
		pkt = buf
	}
	if _, err := m.writer.w.WriteBatch([]udp.Message{{Buf: pkt, Addr: ap}}); err != nil {
		m.drops.add(dropSend)
	}
}
