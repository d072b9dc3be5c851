package stream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/sealedtcp"
)

// dialKey names what is being established: one attempt at a time for each.
type dialKey struct {
	id         ident.HostID
	directOnly bool
}

type dialling struct {
	done chan struct{}
	x    *session // set before done is closed
	err  error
}

// connect returns a session with a host, the best there is or a new one. Callers for the same host share one attempt,
// which goes on when one of them gives up.
func (s *Service) connect(ctx context.Context, id ident.HostID, directOnly bool) (*session, error) {
	if x := s.best(id, directOnly); x != nil {
		return x, nil
	}
	key := dialKey{id, directOnly}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	d := s.dialling[key]
	if d == nil {
		d = &dialling{done: make(chan struct{})}
		s.dialling[key] = d
		s.wg.Go(func() {
			d.x, d.err = s.establish(id, directOnly)
			s.mu.Lock()
			delete(s.dialling, key)
			s.mu.Unlock()
			close(d.done)
		})
	}
	s.mu.Unlock()
	select {
	case <-d.done:
		return d.x, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, ErrClosed
	}
}

func (s *Service) establish(id ident.HostID, directOnly bool) (*session, error) {
	x, err := s.dialDirect(id)
	if err == nil || directOnly || s.ctx.Err() != nil {
		return x, err
	}
	errs := []error{err}
	var relays []ident.HostID
	if s.cfg.Relays != nil {
		relays = s.cfg.Relays(id)
	}
	for _, r := range relays[:min(len(relays), MaxRelays)] {
		if r == id || r == s.id {
			continue
		}
		if x := s.best(id, false); x != nil { // the host has called us meanwhile
			return x, nil
		}
		x, err := s.dialRelayed(id, r)
		if err == nil {
			return x, nil
		}
		errs = append(errs, fmt.Errorf("via %s: %w", r.Short(), err))
	}
	if x := s.best(id, false); x != nil {
		return x, nil
	}
	return nil, errors.Join(errs...)
}

// dialDirect tries all endpoints at once; the first that authenticates wins.
func (s *Service) dialDirect(id ident.HostID) (*session, error) {
	var eps []netip.AddrPort
	if s.cfg.Endpoints != nil {
		eps = s.cfg.Endpoints(id)
	}
	eps = eps[:min(len(eps), MaxEndpoints)]
	if len(eps) == 0 {
		return nil, fmt.Errorf("no endpoint is known: %w", ErrUnreachable)
	}
	ctx, cancel := context.WithTimeout(s.ctx, dialTime)
	defer cancel()
	type greeted struct {
		ep  netip.AddrPort
		r   *sealedtcp.Conn
		err error
	}
	results := make(chan greeted, len(eps))
	for _, ep := range eps {
		go func() {
			r, err := s.greetAt(ctx, ep, id)
			results <- greeted{ep, r, err}
		}()
	}
	var won *sealedtcp.Conn
	var errs []error
	for range eps {
		g := <-results
		switch {
		case g.err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", g.ep, g.err))
		case won != nil:
			g.r.Close() // never confirmed: the other host does not take it for a session
		default:
			won = g.r
			cancel()
		}
	}
	if won == nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, errors.Join(errs...))
	}
	if err := won.Confirm(); err != nil {
		won.Close()
		return nil, err
	}
	return s.adopt(won, id, ident.HostID{}, true)
}

func (s *Service) greetAt(ctx context.Context, ep netip.AddrPort, id ident.HostID) (*sealedtcp.Conn, error) {
	c, err := s.cfg.Dial(ctx, "tcp", ep.String())
	if err != nil {
		return nil, err
	}
	r, err := s.greet(ctx, c, id)
	if err != nil {
		c.Close()
	}
	return r, err
}

// dialRelayed asks a relay to splice a stream to the host, and makes a session inside it.
func (s *Service) dialRelayed(id, relay ident.HostID) (*session, error) {
	if _, ok := s.cfg.Known(relay); !ok {
		return nil, ErrUnknown
	}
	ctx, cancel := context.WithTimeout(s.ctx, relayTime)
	defer cancel()
	hop, err := s.connect(ctx, relay, true)
	if err != nil {
		return nil, err
	}
	c, err := hop.open(ctx, opRelay, id)
	if err != nil {
		return nil, err
	}
	r, err := s.greet(ctx, c, id)
	if err != nil {
		c.Close()
		return nil, err
	}
	if err := r.Confirm(); err != nil {
		c.Close()
		return nil, err
	}
	return s.adopt(r, id, relay, true)
}
