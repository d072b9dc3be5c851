package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/sealedtcp"
)

// Serve accepts connections until ln fails or the set is closed, which returns nil. It closes ln.
func (s *Set) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.listener = ln
	s.mu.Unlock()
	for {
		c, err := ln.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			if sealedtcp.Passes(err) {
				s.inc(DropAccept)
				select {
				case <-time.After(pause):
					continue
				case <-s.ctx.Done():
					return nil
				}
			}
			return fmt.Errorf("edge: accept: %w", err)
		}
		if !s.spawn(func() { s.serveConn(c) }) {
			c.Close()
			return nil
		}
	}
}

// Dial begins to make an edge to who listens at an address; epoch is 0, or who should be there. Changed or Failed follow.
func (s *Set) Dial(epoch uint64, to netip.AddrPort) {
	s.mu.Lock()
	busy := len(s.dialling) >= MaxDials || s.count >= MaxEdges
	if s.closed || s.dialling[to] {
		s.mu.Unlock()
		return
	}
	if !busy {
		s.dialling[to] = true
	}
	s.wg.Go(func() {
		err := ErrBusy
		if busy {
			s.inc(DropDials)
		} else {
			err = s.dial(to)
		}
		if err != nil && s.ctx.Err() == nil {
			s.cfg.Handler.Failed(epoch, to, err)
		}
	})
	s.mu.Unlock()
}

// dial makes an edge and serves it on a goroutine of its own.
func (s *Set) dial(to netip.AddrPort) error {
	defer func() {
		s.mu.Lock()
		delete(s.dialling, to)
		s.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(s.ctx, dialTime+HandshakeTime)
	defer cancel()
	nc, err := s.cfg.Dial(ctx, "tcp", to.String())
	if err != nil {
		s.inc(DropDial)
		return fmt.Errorf("dial: %w", err)
	}
	stop := context.AfterFunc(s.ctx, func() { nc.Close() })
	c, err := s.greet(nc)
	stop()
	if err != nil {
		s.inc(DropHandshake)
		nc.Close()
		return err
	}
	c.peer.Listens, c.peer.Dialled = to, true
	if !s.spawn(func() { s.serve(c) }) {
		nc.Close()
	}
	return nil
}

// serveConn makes an edge of an accepted connection, or closes it.
func (s *Set) serveConn(nc net.Conn) {
	from := addrOf(nc)
	if !s.strangers.Enter(from.Addr().String()) {
		s.inc(DropStrangers)
		nc.Close()
		return
	}
	stop := context.AfterFunc(s.ctx, func() { nc.Close() })
	c, err := s.welcome(nc, from)
	stop()
	s.strangers.Leave(from.Addr().String())
	if err != nil {
		var ne net.Error
		switch {
		case errors.Is(err, errMagic):
			s.inc(DropMagic)
		case errors.As(err, &ne) && ne.Timeout():
			s.inc(DropSilent)
		default:
			s.inc(DropHandshake)
		}
		nc.Close() // once it is counted: who sees the end sees the count
		return
	}
	s.serve(c)
}

func addrOf(nc net.Conn) netip.AddrPort {
	ap, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// serve runs an edge until it ends.
func (s *Set) serve(c *conn) {
	if !s.add(c) {
		s.inc(DropEdges)
		c.close()
		return
	}
	stop := context.AfterFunc(s.ctx, c.close)
	s.cfg.Handler.Changed(c.peer.Epoch)
	s.wg.Go(c.write)
	err := c.read(s.cfg.Handler)
	stop()
	c.close()
	s.mu.Lock()
	id := c.peer.Epoch
	s.edges[id] = slices.DeleteFunc(s.edges[id], func(o *conn) bool { return o == c })
	if len(s.edges[id]) == 0 {
		delete(s.edges, id)
	}
	s.count--
	s.mu.Unlock()
	s.inc(CountEnded)
	if errors.Is(err, errFrame) {
		s.inc(DropMalformed)
	}
	s.cfg.Handler.Changed(id)
}

// add takes an edge into the table, where it is used if it is better than those that are there. False: there is no room.
func (s *Set) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.edges[c.peer.Epoch]
	if s.closed || s.count >= MaxEdges || len(l) >= MaxPerMember {
		return false
	}
	l = append(l, c)
	slices.SortStableFunc(l, func(a, b *conn) int {
		if a == b {
			return 0
		}
		if a.better(b) {
			return -1
		}
		return 1
	})
	s.edges[c.peer.Epoch] = l
	s.count++
	if c.peer.Dialled {
		s.inc(CountDialled)
	} else {
		s.inc(CountAccepted)
	}
	return true
}
