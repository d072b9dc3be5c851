package stream

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// relay splices a stream of one host to another one. It sees sealed records only.
func (s *Service) relay(x *session, c *Conn, dst ident.HostID) {
	defer c.Close()
	_, known := s.cfg.Known(dst)
	if !x.direct() || !known || dst == x.peer || dst == s.id { // relays are not chained
		s.inc(DropOperation)
		_ = answer(c, statusRefused)
		return
	}
	s.mu.Lock()
	full := s.spliced >= MaxSplices || s.splices[x.peer] >= MaxSplicesPerHost
	if full {
		s.counters[DropSplices]++
	} else {
		s.spliced++
		s.splices[x.peer]++
	}
	s.mu.Unlock()
	if full {
		_ = answer(c, statusBusy)
		return
	}
	defer func() {
		s.mu.Lock()
		s.spliced--
		if s.splices[x.peer]--; s.splices[x.peer] == 0 {
			delete(s.splices, x.peer)
		}
		s.mu.Unlock()
	}()

	ctx, cancel := context.WithTimeout(s.ctx, spliceTime)
	defer cancel()
	far, err := s.reach(ctx, dst, x.peer)
	if err != nil {
		status := byte(statusUnreachable)
		if errors.Is(err, ErrBusy) {
			status = statusBusy
		}
		_ = answer(c, status)
		return
	}
	defer far.Close()
	if answer(c, statusOK) != nil {
		return
	}
	s.inc(CountSpliced)
	_ = c.SetDeadline(time.Time{})
	s.splice(c, far)
}

func (s *Service) reach(ctx context.Context, dst, src ident.HostID) (*Conn, error) {
	hop, err := s.connect(ctx, dst, true)
	if err != nil {
		return nil, err
	}
	return hop.open(ctx, opRelayed, src)
}

// splice copies both ways until both are done, one fails, or nothing moved for SpliceIdle.
func (s *Service) splice(a, b *Conn) {
	var moved atomic.Uint64
	shut := func() {
		a.Close()
		b.Close()
	}
	defer context.AfterFunc(s.ctx, shut)()
	last := uint64(0)
	idle := time.NewTimer(SpliceIdle)
	defer idle.Stop()
	done := make(chan error, 2)
	pump := func(dst, src *Conn) {
		err := pass(dst, src, &moved)
		if err == nil {
			err = dst.CloseWrite()
		}
		done <- err
	}
	go pump(a, b)
	go pump(b, a)
	for left := 2; left > 0; {
		select {
		case err := <-done:
			if left--; err != nil {
				shut()
			}
		case <-idle.C:
			if n := moved.Load(); n != last {
				last = n
				idle.Reset(SpliceIdle)
				continue
			}
			s.inc(DropSpliceIdle)
			shut()
		}
	}
	s.mu.Lock()
	s.counters[CountSplicedBytes] += moved.Load()
	s.mu.Unlock()
}

// Buffers of a splice: most are idle most of the time, a few move much.
const (
	spliceBufFirst = 1 << 10
	spliceBufMax   = 32 << 10
)

// pass copies until the end of src. The buffer grows while reads fill it.
func pass(dst io.Writer, src io.Reader, moved *atomic.Uint64) error {
	buf := make([]byte, spliceBufFirst)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
			moved.Add(uint64(n))
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case n == len(buf) && n < spliceBufMax:
			buf = make([]byte, 2*n)
		}
	}
}
