package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config is what a Service needs; all of it.
type Config struct {
	Sources []string // as people write them
	Environment
	// Make makes a source; nil: New.
	Make func(text string, e Environment) (Source, error)
	// Self tells what to register. Looking is the one part of it that is asked for once a second.
	Self    func() Self
	Looking func() bool
	// Found takes the addresses that all sources together have now, when they changed: at most MaxFound times MaxSources, each once.
	Found func([]netip.AddrPort)
	Log   *slog.Logger
}

// Service asks sources again and again, and registers this host with them.
type Service struct {
	cfg     Config
	asks    []*ask
	foundMu sync.Mutex // held while Found is called: in order

	mu  sync.Mutex // guards what asks say it does
	all []netip.AddrPort
}

// ask is a source and how it fared.
type ask struct {
	text   string
	source Source
	pace   Pace

	// Guarded by the service's mutex.
	tries      tries
	found      Found
	answered   time.Time // last time that it answered
	registered bool
	readOnly   bool
	err        error
	refused    uint64 // addresses, in all
}

// Status is how a source fares.
type Status struct {
	Source string
	// Answered is when it last did; zero: never.
	Answered time.Time
	// Addresses are those it has now, or had when it last answered.
	Addresses []netip.AddrPort
	Refused   int    // addresses that it has and that are none
	Why       string // of the first of them
	// Registered says that this host's own addresses are there; ReadOnly that none can be.
	Registered, ReadOnly bool
	Err, Hint            string    // why it failed last; empty: it did not
	Failures             int       // since it last answered
	Next                 time.Time // when it is asked again; zero: now
}

// askTime bounds one round with a source: finding and registering.
const askTime = 20 * time.Second

// Check refuses what is no list of sources, without talking to any. Of an error the text names the source.
func Check(sources []string) error {
	if len(sources) > MaxSources {
		return fmt.Errorf("%d sources to discover hosts by, at most %d", len(sources), MaxSources)
	}
	for i, text := range sources {
		if slices.Contains(sources[:i], text) {
			return fmt.Errorf("--discover %s: given twice", named(text))
		}
		s, err := New(text, Environment{Port: 1})
		if err != nil {
			return fmt.Errorf("--discover %s: %w", named(text), err)
		}
		_ = s.Close()
	}
	return nil
}

// named is what an error calls a source: without a password, which does not belong there.
func named(text string) string {
	scheme, rest, _ := strings.Cut(text, "://")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		return scheme + "://…" + rest[i:]
	}
	return text
}

// unmade is a source that cannot be made now: a file that it needs is missing, say. It is tried again whenever it is asked, for the sources that
// a host remembers must not keep it from starting.
type unmade struct {
	make func() (Source, error)
	Source
}

func (u *unmade) Find(ctx context.Context) (Found, error) {
	if u.Source == nil {
		src, err := u.make()
		if err != nil {
			return Found{}, fault("mend that, or give --discover anew", "%v", err)
		}
		u.Source = src
	}
	return u.Source.Find(ctx)
}

// Register is called after Find has succeeded.
func (u *unmade) Register(ctx context.Context, self Self) error { return u.Source.Register(ctx, self) }

func (u *unmade) Withdraw(ctx context.Context) error {
	if u.Source == nil {
		return nil
	}
	return u.Source.Withdraw(ctx)
}

func (u *unmade) Close() error {
	if u.Source == nil {
		return nil
	}
	return u.Source.Close()
}

// NewService makes a service that does nothing before Run.
func NewService(cfg Config) *Service {
	s := &Service{cfg: cfg}
	build := cfg.Make
	if build == nil {
		build = New
	}
	for _, text := range cfg.Sources {
		src, err := build(text, cfg.Environment)
		if err != nil {
			src = &unmade{make: func() (Source, error) { return build(text, cfg.Environment) }}
		}
		a := &ask{text: text, source: src, pace: stores, tries: tries{jitter: 2*rand.Float64() - 1}}
		if text == "lan" {
			a.pace = local
		}
		s.asks = append(s.asks, a)
	}
	return s
}

// Close lets go of the sources; Run has ended, or was never called.
func (s *Service) Close() error {
	var err error
	for _, a := range s.asks {
		err = errors.Join(err, a.source.Close())
	}
	return err
}

// tick is how often it is looked whether a source is due: whether this host is alone may change at any time.
const tick = time.Second

// Run asks until ctx ends.
func (s *Service) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, a := range s.asks {
		all.Go(func() { s.run(ctx, a) })
	}
	all.Wait()
}

func (s *Service) run(ctx context.Context, a *ask) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		looking := s.cfg.Looking()
		s.mu.Lock()
		due := !time.Now().Before(a.tries.next(a.pace, looking))
		s.mu.Unlock()
		if due {
			s.round(ctx, a, s.cfg.Self())
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// round asks a source once, and registers.
func (s *Service) round(ctx context.Context, a *ask, self Self) {
	limited, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	found, err := a.source.Find(limited)
	registering := err
	if err == nil {
		registering = a.source.Register(limited, self)
	}
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	s.mu.Lock()
	old := a.err
	a.tries.last, a.tries.jitter = now, 2*rand.Float64()-1
	a.readOnly = errors.Is(registering, ErrReadOnly)
	if a.readOnly {
		registering = nil
	}
	a.registered = registering == nil && !a.readOnly && len(self.Addrs) > 0
	if err == nil {
		a.found, a.answered = found, now
	}
	a.refused += uint64(found.Refused)
	a.err = registering
	if registering == nil {
		a.tries.failures = 0
	} else {
		a.tries.failures++
	}
	s.mu.Unlock()
	switch {
	case registering != nil && (old == nil || old.Error() != registering.Error()):
		s.cfg.Log.Warn("a source of hosts fails, trying on", "source", a.text, "err", registering, "hint", hintOf(registering))
	case registering == nil && old != nil:
		s.cfg.Log.Info("a source of hosts answers again", "source", a.text, "addresses", len(found.Addrs))
	}
	if err == nil {
		s.tell()
	}
}

// tell passes on what all sources have, if that changed. What a source had when it was lost stays: losing it changes nothing.
func (s *Service) tell() {
	s.foundMu.Lock()
	defer s.foundMu.Unlock()
	s.mu.Lock()
	var all []netip.AddrPort
	for _, a := range s.asks {
		all = append(all, a.found.Addrs...)
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	all = slices.Compact(all)
	same := slices.Equal(all, s.all)
	s.all = all
	s.mu.Unlock()
	if !same {
		s.cfg.Found(slices.Clone(all))
	}
}

func hintOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// Status tells how each source fares, in the order in which they were given.
func (s *Service) Status() []Status {
	looking := s.cfg.Looking()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, 0, len(s.asks))
	for _, a := range s.asks {
		st := Status{
			Source: a.text, Answered: a.answered, Addresses: slices.Clone(a.found.Addrs), Refused: a.found.Refused, Why: a.found.Why,
			Registered: a.registered, ReadOnly: a.readOnly, Failures: a.tries.failures, Next: a.tries.next(a.pace, looking),
		}
		if a.err != nil {
			st.Err, st.Hint = a.err.Error(), hintOf(a.err)
		}
		out = append(out, st)
	}
	return out
}

// Drops counts what was refused, by reason.
func (s *Service) Drops() map[string]uint64 {
	out := map[string]uint64{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asks {
		out["discover_address"] += a.refused
		if l, ok := a.source.(*lan); ok {
			for name, n := range l.drops() {
				out["discover_"+name] += n
			}
		}
	}
	return out
}

// withdrawTime is how long a host that stops waits for its sources.
const withdrawTime = 2 * time.Second

// Withdraw takes back what was registered, where the source answered last time it was asked. Run has ended.
func (s *Service) Withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, withdrawTime)
	defer cancel()
	var all sync.WaitGroup
	for _, a := range s.asks {
		if a.err != nil || !a.registered {
			continue // it ends by itself
		}
		all.Go(func() {
			if err := a.source.Withdraw(ctx); err != nil {
				s.cfg.Log.Info("this host stays registered for a while", "source", a.text, "err", err)
			}
		})
	}
	all.Wait()
}

const (
	// soleTime is how long a host listens on the segment before it takes itself for the first: longer than two calm beacons are apart.
	soleTime = 7 * time.Second
	// knockTime is how long an address has to take a connection.
	knockTime = 2 * time.Second
	maxKnocks = 64
)

// First tells whether this host may found a cluster: nobody is at any of the sources. An error says who is, or which source cannot tell, with
// what to do about it. own are this host's addresses, of which an earlier run may have registered some. Lists that were made by hand or by
// others name machines on which weft need not run: there it counts who takes a TCP connection. It must not run beside Run.
func (s *Service) First(ctx context.Context, own []netip.Addr) error {
	results := make(chan error, len(s.asks))
	for _, a := range s.asks {
		go func() { results <- s.first(ctx, a, own) }()
	}
	var failed error
	for range s.asks {
		failed = cmp.Or(failed, <-results)
	}
	return failed
}

func (s *Service) first(ctx context.Context, a *ask, own []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	found, err := a.source.Find(ctx)
	if a.text == "lan" && err == nil {
		found, err = s.listen(ctx, a)
	}
	if errors.Is(err, errNeighbours) {
		return fault(hintOf(err), "%s: %v", a.text, err)
	}
	if err != nil {
		return fault("mend that, or found the cluster without it and add it later", "%s cannot tell whether there is a cluster already: %v", a.text, err)
	}
	if found.Refused > 0 && found.Alive {
		return fault("remove what is not weft's there, or choose another name", "%s has something that is no host's address: %s", a.text, found.Why)
	}
	others := slices.DeleteFunc(found.Addrs, func(ap netip.AddrPort) bool { return slices.Contains(own, ap.Addr()) })
	if !found.Alive {
		others = knock(ctx, others[:min(len(others), maxKnocks)])
	}
	if len(others) == 0 {
		return nil
	}
	return fault("to join it give its token (weft token, on a host there): --token-file FILE or WEFT_TOKEN; for another cluster use another name there",
		"%s has a host already: %s", a.text, others[0])
}

// listen hears the segment for a while.
func (s *Service) listen(ctx context.Context, a *ask) (Found, error) {
	s.cfg.Log.Info("listening for other hosts on the segment before a cluster is founded", "seconds", soleTime.Seconds())
	end := time.NewTimer(soleTime)
	defer end.Stop()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		found, err := a.source.Find(ctx)
		if err != nil || len(found.Addrs) > 0 {
			return found, err
		}
		select {
		case <-ctx.Done():
			return found, ctx.Err()
		case <-end.C:
			return found, nil
		case <-t.C:
		}
	}
}

// knock returns those of the addresses that take a TCP connection.
func knock(ctx context.Context, at []netip.AddrPort) []netip.AddrPort {
	open := make([]bool, len(at))
	var all sync.WaitGroup
	for i, ap := range at {
		all.Go(func() {
			d := net.Dialer{Timeout: knockTime}
			if c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(ap.Addr().String(), strconv.Itoa(int(ap.Port())))); err == nil {
				open[i] = true
				_ = c.Close()
			}
		})
	}
	all.Wait()
	var out []netip.AddrPort
	for i, ap := range at {
		if open[i] {
			out = append(out, ap)
		}
	}
	return out
}
