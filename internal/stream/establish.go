package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/sealedtcp"
	"github.com/weft-net/weft/internal/wire"
)

// maxHello bounds a hello of any version.
const maxHello = 2048

var (
	errMagic     = errors.New("no weft host")
	errHandshake = errors.New("handshake failed")
)

// greet is the initiator's handshake. The session begins with confirm, so a caller that dials several endpoints of
// a host can drop all but one before the host takes them for sessions.
func (s *Service) greet(ctx context.Context, c net.Conn, to ident.HostID) (*sealedtcp.Conn, error) {
	card, ok := s.cfg.Known(to)
	if !ok {
		return nil, ErrUnknown
	}
	defer closeWith(ctx, c)()
	if err := c.SetDeadline(time.Now().Add(HandshakeTime)); err != nil {
		return nil, err
	}
	s.hsMu.Lock()
	a, err := s.hs.Start(time.Now(), &card)
	s.hsMu.Unlock()
	if err != nil {
		return nil, err
	}
	defer func() {
		s.hsMu.Lock()
		s.hs.Cancel(a.Index)
		s.hs.Release(a.Index)
		s.hsMu.Unlock()
	}()
	b := append(make([]byte, 0, 3+len(a.Packet)), wire.StreamMagic)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(a.Packet))), a.Packet...)
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	reply, err := sealedtcp.ReadPacket(c, handshake.MaxReply)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: the other host hung up without a word: it is of another cluster, or has another key", errHandshake)
		}
		return nil, err
	}
	s.hsMu.Lock()
	out := s.hs.Input(time.Now(), "", reply)
	s.hsMu.Unlock()
	switch {
	case out.Refused != nil:
		return nil, out.Refused
	case out.Done == nil || out.Done.ID != to:
		return nil, fmt.Errorf("%w: %s", errHandshake, out.Drop)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return sealedtcp.New(c, out.Done)
}

// welcome is the responder's handshake. It writes nothing before the hello's MAC is right.
func (s *Service) welcome(c net.Conn, from string) (*sealedtcp.Conn, ident.HostID, error) {
	var nobody ident.HostID
	if err := c.SetDeadline(time.Now().Add(HandshakeTime)); err != nil {
		return nil, nobody, err
	}
	var magic [1]byte
	if _, err := io.ReadFull(c, magic[:]); err != nil {
		return nil, nobody, err
	}
	if magic[0] != wire.StreamMagic {
		return nil, nobody, errMagic
	}
	pkt, err := sealedtcp.ReadPacket(c, maxHello)
	if errors.Is(err, sealedtcp.ErrLength) {
		err = errMagic
	}
	if err != nil {
		return nil, nobody, err
	}
	if len(pkt) == 0 || pkt[0] != wire.TypeHello { // nothing else begins a connection, and replies are awaited elsewhere
		return nil, nobody, errMagic
	}
	s.hsMu.Lock()
	out := s.hs.Input(time.Now(), from, pkt)
	if out.Done != nil {
		s.hs.Release(out.Done.Local) // a connection needs no index
	}
	s.hsMu.Unlock()
	if len(out.Reply) > 0 {
		b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(out.Reply)), uint16(len(out.Reply)))
		if _, err := c.Write(append(b, out.Reply...)); err != nil {
			return nil, nobody, err
		}
	}
	if out.Done == nil {
		return nil, nobody, fmt.Errorf("%w: %s", errHandshake, out.Drop)
	}
	r, err := sealedtcp.New(c, out.Done)
	if err != nil {
		return nil, nobody, err
	}
	if err := r.Confirmed(); err != nil {
		return nil, nobody, err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return nil, nobody, err
	}
	return r, out.Done.ID, nil
}

// closeWith closes c when ctx ends; the function returned stops that.
func closeWith(ctx context.Context, c net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	return func() { stop() }
}

// serveConn makes a session of an accepted TCP connection, or closes it.
func (s *Service) serveConn(c net.Conn) {
	source := c.RemoteAddr().String()
	if ap, err := netip.ParseAddrPort(source); err == nil {
		source = ap.Addr().Unmap().String()
	}
	s.receive(c, source, ident.HostID{}, nil)
}

// receive makes a session of a connection that another side began. A relayed one must come from whom the relay named.
func (s *Service) receive(c net.Conn, source string, via ident.HostID, named *ident.HostID) {
	if !s.strangers.Enter(source) {
		s.inc(DropStrangers)
		c.Close()
		return
	}
	stop := closeWith(s.ctx, c)
	r, peer, err := s.welcome(c, source)
	stop()
	s.strangers.Leave(source)
	if err == nil && named != nil && *named != peer {
		err = errHandshake
	}
	if err != nil {
		var ne net.Error
		switch {
		case errors.Is(err, errMagic):
			s.inc(DropMagic)
		case errors.As(err, &ne) && ne.Timeout():
			s.inc(DropSilent)
		default:
			s.inc(DropHandshake)
			s.log.Debug("stream refused", "source", source, "err", err)
		}
		c.Close() // once it is counted: who sees the end sees the count
		return
	}
	if _, err := s.adopt(r, peer, via, false); err != nil {
		s.log.Debug("session not taken", "host", peer, "err", err)
	}
}
