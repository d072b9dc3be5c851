package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/load"
)

// party is a host that takes part: the conductor's end of its session.
type party struct {
	peer    Peer
	conn    net.Conn
	answers chan answer   // closed when the session has ended
	parting atomic.Bool   // its end is no surprise
	closed  chan struct{} // closed by close
	opened  opened
	mute    error // it does not answer in the network
}

// join opens a session. lost is called when it ends unasked, which is seen at once, whatever is being waited for.
func join(ctx context.Context, p Peer, o open, lost func(error)) (*party, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime+plugTime)
	defer cancel()
	conn, err := p.Dial(ctx)
	if err != nil {
		return nil, err
	}
	t := &party{peer: p, conn: conn, answers: make(chan answer), closed: make(chan struct{})}
	t.parting.Store(true) // until it has joined, what ends is not missed
	defer func() {
		if t.parting.Load() {
			t.close()
		}
	}()
	go t.listen(lost)
	a, err := t.ask(ctx, ask{Open: &o}, openTime+plugTime)
	switch {
	case err != nil:
	case a.Opened == nil || !o.Bus && (!a.Opened.Address.Addr().Is4() || a.Opened.MTU < 1280):
		err = t.odd()
	default:
		t.opened = *a.Opened
		t.parting.Store(false)
		return t, nil
	}
	return nil, err
}

// listen reads answers until the session ends.
func (t *party) listen(lost func(error)) {
	defer close(t.answers)
	for lines := load.NewLines(t.conn); ; {
		var a answer
		err := lines.Next(&a)
		if err == nil {
			select {
			case t.answers <- a:
				continue
			case <-t.closed:
				return
			}
		}
		if !t.parting.Load() {
			lost(t.left(err))
		}
		return
	}
}

func (t *party) close() {
	t.parting.Store(true)
	close(t.closed)
	_ = t.conn.Close()
}

func (t *party) addr() netip.Addr { return t.opened.Address.Addr() }

func (t *party) odd() error {
	return api.Errorf(api.CodeUnavailable, "host %s (weft %s) gave an answer that this version does not understand", t.peer.Name, t.peer.Version)
}

// ask asks for one thing, which may take d.
func (t *party) ask(ctx context.Context, q ask, d time.Duration) (answer, error) {
	_ = t.conn.SetWriteDeadline(time.Now().Add(writeTime))
	if err := load.WriteLine(t.conn, q); err != nil {
		return answer{}, t.left(err)
	}
	timer := time.NewTimer(d + writeTime)
	defer timer.Stop()
	select {
	case a, ok := <-t.answers:
		switch {
		case !ok:
			return a, t.left(io.EOF)
		case a.Refused != nil:
			return a, a.Refused.of(t.peer.Name)
		}
		return a, nil
	case <-timer.C:
		return answer{}, &gone{api.Errorf(api.CodeUnavailable, "host %s does not answer", t.peer.Name)}
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	}
}

// gone says that a host no longer takes part: nothing more can be measured.
type gone struct{ error }

func (g *gone) Unwrap() error { return g.error }

func (t *party) left(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return &gone{api.Errorf(api.CodeUnavailable, "host %s has left the measurement", t.peer.Name)}
	}
	return &gone{api.Errorf(api.CodeUnavailable, "host %s has left the measurement: %w", t.peer.Name, err)}
}

func (t *party) do(ctx context.Context, r load.Request) (load.Reply, error) {
	a, err := t.ask(ctx, ask{Do: &r}, r.Takes())
	if err == nil && a.Did == nil {
		err = t.odd()
	}
	if err != nil {
		return load.Reply{}, err
	}
	return *a.Did, nil
}
