package stream

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// Keep names the hosts to which a session is held open always, dialled again with a back-off when it ends. It
// replaces the names of the call before. Sessions with other hosts are closed after IdleTime without streams.
func (s *Service) Keep(ids []ident.HostID) {
	want := make(map[ident.HostID]bool, len(ids))
	for _, id := range ids {
		if id != s.id {
			want[id] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for id, cancel := range s.keepers {
		if !want[id] {
			cancel()
			delete(s.keepers, id)
		}
	}
	for id := range want {
		if s.keepers[id] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(s.ctx)
		s.keepers[id] = cancel
		s.wg.Go(func() { s.keep(ctx, id) })
	}
}

// keep holds the best session with a host until ctx ends.
func (s *Service) keep(ctx context.Context, id ident.HostID) {
	wait := backOffFirst
	for ctx.Err() == nil {
		x, err := s.connect(ctx, id, false)
		var hold *Conn
		if err == nil {
			hold, err = x.open(ctx, opHold, ident.HostID{})
		}
		if err != nil {
			s.log.Debug("host not reached", "host", id, "again_ms", wait.Milliseconds(), "err", err)
			// Some randomness, so that hosts cut off together do not call together.
			if !sleep(ctx, wait/2+rand.N(wait)) {
				return
			}
			wait = min(2*wait, backOffMax)
			continue
		}
		wait = backOffFirst
		s.hold(ctx, x)
		hold.Close()
	}
}

// hold returns when the session ends, there is a better one, or ctx ends.
func (s *Service) hold(ctx context.Context, x *session) {
	tick := time.NewTicker(janitorPeriod)
	defer tick.Stop()
	tried := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.mux.CloseChan():
			return
		case now := <-tick.C:
			if s.best(x.peer, false) != x {
				return
			}
			if !x.direct() && now.Sub(tried) >= upgradePeriod {
				tried = now
				_, _ = s.connect(ctx, x.peer, true) // its success shows as a better session
			}
		}
	}
}

// sleep waits; false when ctx ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
