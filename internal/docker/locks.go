package docker

import (
	"context"
	"sync"
)

// locks are locks by name, for what takes a call or two to Weft.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	sync.Mutex
	users int
}

// lock waits for a name's lock and returns what releases it.
func (l *locks) lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[name]
	if k == nil {
		k = &lock{}
		l.held[name] = k
	}
	k.users++
	l.mu.Unlock()
	k.Lock()
	return func() {
		k.Unlock()
		l.mu.Lock()
		if k.users--; k.users == 0 {
			delete(l.held, name)
		}
		l.mu.Unlock()
	}
}

// inFlight counts calls, so that one can wait for their end and keep new ones out.
type inFlight struct {
	mu    sync.Mutex // guards all below
	n     int
	quiet bool
	idle  chan struct{} // closed when n gets 0; nil when nobody waits
}

// begin reports whether a call may go on; end must follow if so.
func (f *inFlight) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.quiet {
		return false
	}
	f.n++
	return true
}

func (f *inFlight) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.n == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// Quiet refuses calls until Loud, and waits until those under way are done or ctx ends.
func (p *Plugin) Quiet(ctx context.Context) {
	f := &p.calls
	f.mu.Lock()
	f.quiet = true
	idle := make(chan struct{})
	if f.n == 0 {
		close(idle)
	} else {
		f.idle = idle
	}
	f.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// Loud takes calls again.
func (p *Plugin) Loud() {
	p.calls.mu.Lock()
	defer p.calls.mu.Unlock()
	p.calls.quiet, p.calls.idle = false, nil
}
