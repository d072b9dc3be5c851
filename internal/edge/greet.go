package edge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/sealedtcp"
	"github.com/weft-net/weft/internal/wire"
)

var errMagic = errors.New("no member of a bus")

// greet is the initiator's handshake.
func (s *Set) greet(nc net.Conn) (*conn, error) {
	b := buffer(nc)
	if err := nc.SetDeadline(time.Now().Add(HandshakeTime)); err != nil {
		return nil, err
	}
	s.hsMu.Lock()
	hs := s.machines[0].hs
	a, err := hs.Start(time.Now(), nil)
	s.hsMu.Unlock()
	if err != nil {
		return nil, err
	}
	defer func() { // a connection needs no index
		s.hsMu.Lock()
		hs.Cancel(a.Index)
		hs.Release(a.Index)
		s.hsMu.Unlock()
	}()
	if _, err := nc.Write(packet([]byte{wire.StreamMagic}, a.Packet)); err != nil {
		return nil, err
	}
	reply, err := sealedtcp.ReadPacket(b, handshake.MaxReply)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	s.hsMu.Lock()
	out := hs.Input(time.Now(), "", reply)
	s.hsMu.Unlock()
	switch {
	case out.Refused != nil && out.Refused.Code == handshake.CodeSelf:
		return nil, ErrSelf
	case out.Refused != nil:
		return nil, out.Refused
	case out.Done == nil:
		return nil, fmt.Errorf("%w: %s", ErrHandshake, out.Drop)
	}
	if _, err := nc.Write(packet(nil, out.Reply)); err != nil {
		return nil, err
	}
	return s.agreed(b, out.Done)
}

// welcome is the responder's handshake. It writes nothing before the hello's MAC is right, under one of the keys.
func (s *Set) welcome(nc net.Conn, from netip.AddrPort) (*conn, error) {
	b := buffer(nc)
	if err := nc.SetDeadline(time.Now().Add(HandshakeTime)); err != nil {
		return nil, err
	}
	if magic, err := b.r.ReadByte(); err != nil {
		return nil, err
	} else if magic != wire.StreamMagic {
		return nil, errMagic
	}
	pkt, err := sealedtcp.ReadPacket(b, maxHello)
	if err != nil {
		if errors.Is(err, sealedtcp.ErrLength) {
			err = errMagic
		}
		return nil, err
	}
	if len(pkt) == 0 || pkt[0] != wire.TypeHello { // nothing else begins a connection
		return nil, errMagic
	}
	hs, reply, err := s.answer(from, pkt)
	if len(reply) > 0 {
		if _, err := nc.Write(packet(nil, reply)); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	fin, err := sealedtcp.ReadPacket(b, maxHello)
	if err != nil {
		return nil, err
	}
	if len(fin) == 0 || fin[0] != wire.TypeFinish {
		return nil, ErrHandshake
	}
	s.hsMu.Lock()
	out := hs.Input(time.Now(), from.Addr().String(), fin)
	if out.Done != nil {
		hs.Release(out.Done.Local)
	}
	s.hsMu.Unlock()
	if out.Done == nil {
		return nil, fmt.Errorf("%w: %s", ErrHandshake, out.Drop)
	}
	return s.agreed(b, out.Done)
}

// answer finds the key that a hello is under, and what to say to it. An error with a reply ends the handshake after it.
func (s *Set) answer(from netip.AddrPort, pkt []byte) (hs *handshake.Machine, reply []byte, err error) {
	s.hsMu.Lock()
	defer s.hsMu.Unlock()
	var out handshake.Output
	for _, m := range s.machines {
		if out = m.hs.Input(time.Now(), from.Addr().String(), pkt); out.Drop != handshake.DropBadSecret {
			hs = m.hs
			break
		}
	}
	if len(out.Reply) == 0 || out.Drop != "" {
		err = fmt.Errorf("%w: %s", ErrHandshake, out.Drop)
	}
	return hs, out.Reply, err
}

// agreed makes an edge of a connection whose ends know each other.
func (s *Set) agreed(b *buffered, r *handshake.Result) (*conn, error) {
	if r.Peer.Boot == 0 || r.Peer.Boot == s.cfg.Epoch {
		return nil, ErrSelf
	}
	if err := b.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	sealed, err := sealedtcp.New(b, r)
	if err != nil {
		return nil, err
	}
	holdLittle(b.Conn)
	addr := addrOf(b.Conn)
	return newConn(s, sealed, Peer{Epoch: r.Peer.Boot, Addr: addr, Listens: netip.AddrPortFrom(addr.Addr(), r.Peer.Port)}), nil
}

// packet appends [length 2][packet] to b.
func packet(b, pkt []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(pkt))), pkt...)
}
