// Package ipam gives out addresses: each host from its own share, so that no two ever give the same.
//
// The cluster's range is a ring in scope 0, counted in subnets; a host carves the subnets of the
// networks it creates from its share. Each network's subnet is a ring in the network's scope,
// counted in addresses. What a host owns and uses is in its state tables before it is answered.
//
// Locking: plan is held from the making of a plan over its persisting to its commit, mu for
// memory only and never across a call out. Order: plan, then mu. OnChange and HandleAsk take mu
// alone and do nothing but take note; Run does the work.
package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// Bounds and times.
const (
	maxSpaces     = 4096                   // rings, of all networks
	maxPerScope   = 8                      // subnets of one network
	maxHolders    = 1 << 17                // addresses of other hosts known in one network
	maxAsks       = 1024                   // asks waiting to be answered
	tickEvery     = 250 * time.Millisecond // while a space is short of addresses
	tickQuiet     = 2 * time.Second
	gatherTime    = 10 * time.Millisecond
	askEvery      = 500 * time.Millisecond // the next owner is asked when the last has not given
	topUpEvery    = 5 * time.Second        // asks of a host that has some left
	conflictAfter = 30 * time.Second       // a claim of another host must stand so long to be shown
	heirAfter     = 10 * time.Second       // time for an heir's book to arrive before this host becomes one
	maxRemoved    = 1 << 16                // hosts gone for good that are remembered
	allocateWait  = 10 * time.Second       // when the caller sets no deadline
)

// Board is this host's own state table.
type Board interface {
	// Publish puts and deletes keys in this host's table of a scope, as one write, and spreads
	// it. It returns when the write is on disk. After an error nothing is on disk nor spread.
	Publish(scope uint32, puts map[string][]byte, dels []string) error
}

// Config is what the service needs from others.
type Config struct {
	Self  ident.HostID
	Board Board
	// Ask sends a link message of kind wire.KindShare, at best effort.
	Ask func(to ident.HostID, body []byte) error
	// Alive returns the hosts that live now; whether this host is among them doesn't matter.
	Alive func() []ident.HostID
	// Borrows: this host comes and goes. It owns nothing, and borrows each address from an owner.
	Borrows bool
	// Stays says of a host that it does not; nil: all stay.
	Stays func(ident.HostID) bool
	Log   *slog.Logger
}

// Counts counts what was dropped or refused, by reason.
type Counts struct {
	ring.Counts
	BadValues  uint64 // state values that could not be read, or are over a bound
	BadAsks    uint64 // asks that could not be read, or of hosts removed
	AsksFull   uint64 // asks dropped because too many waited
	AsksUnmet  uint64 // asks for which this host has nothing to give
	AsksMet    uint64
	AsksSent   uint64
	BooksTold  uint64 // hosts that were told of a later book of theirs than they showed
	Persisting uint64 // writes that failed
}

// Errors that callers branch on.
var (
	ErrNoNetwork = errors.New("this host does not have the network")
	ErrInUse     = errors.New("address in use")
	ErrExhausted = errors.New("no free address")
	ErrRemoved   = errors.New("this host was removed from the cluster")
	ErrBorrows   = errors.New("this host comes and goes (--ephemeral) and owns no addresses; create the network on a host that stays, then it is here too")
	ErrHeld      = errors.New("no address now")
)

// Service is the allocator of one host.
type Service struct {
	cfg  Config
	wake chan struct{}
	plan sync.Mutex

	mu      sync.Mutex
	running bool                       // the replay of the state tables is over
	removed map[ident.HostID]time.Time // since when
	heirs   map[ident.HostID]heirs     // of hosts removed: who takes what they had
	barred  bool                       // this host itself was removed
	ula     [6]byte
	cluster *space // nil until founded or heard of
	scopes  map[uint32]*scope
	spaces  int
	nets    map[uint32]map[ident.HostID]uint32 // index of the cluster's range: who has it for which VNI
	asks    []waiting
	strays  map[stray]bool    // own entries that came back from before a loss of the disk
	lending []lending         // to be answered
	held    string            // why this host must not take an address now
	freed   chan struct{}     // closed and replaced when held changes
	awaited map[stray]awaited // keys of this host that wait for a loan
	counts  Counts
}

// scope is what is known of one network, or with number 0 of the cluster.
type scope struct {
	spaces  []*space
	own     map[string]uint32   // addresses of this host by key, as persisted
	holders map[uint32][]holder // addresses of other hosts; two have one after a claim, or a removal by force
	loans   map[uint32][]loan   // addresses lent, by this host and others
}

// dropHolders forgets what hosts are said to use, of those that gone reports.
func (sc *scope) dropHolders(gone func(holder) bool) {
	for a, hs := range sc.holders {
		if rest := slices.DeleteFunc(hs, gone); len(rest) == 0 {
			delete(sc.holders, a)
		} else {
			sc.holders[a] = rest
		}
	}
}

type holder struct {
	host ident.HostID
	key  string
}

// heldElsewhere reports whether another host says that it uses an address. Where it is this host's to give, the other's
// disk was put back, or it was given by force: what is in use is not given a second time, whoever may. Nor is what was lent.
func (sc *scope) heldElsewhere(a uint32) bool { return len(sc.holders[a])+len(sc.loans[a]) > 0 }

// space is one ring with the pool of this host's part.
type space struct {
	scope   uint32
	prefix  netip.Prefix
	ring    *ring.Ring
	pool    *ring.Pool
	joined  bool
	left    bool // what still comes goes back
	leavers map[ident.HostID]bool
	net6    netip.Prefix
	changed chan struct{} // closed and replaced when the ring or the holders change
	dirty   bool
	rewrite bool // this host's table may hold an older book than it goes by
	claims  claims
	tries   int                         // asks sent, to go round the owners
	asked   time.Time                   // last ask
	behind  map[ident.HostID]time.Time  // hosts that showed an older book than is known of them; when they were told
	seen    map[ring.Conflict]time.Time // since when
	shown   map[ring.Conflict]bool      // long enough
}

type waiting struct {
	sp   *space
	from ident.HostID
	want uint32 // 0: a share
	old  uint64 // serial of the asker's book when it asked
	need bool   // an attachment waits for it
}

// New returns a service that knows nothing. Feed the persisted state tables, this host's own
// included, to OnChange, then start Run.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		removed: map[ident.HostID]time.Time{},
		scopes:  map[uint32]*scope{0: newScope()},
		nets:    map[uint32]map[ident.HostID]uint32{},
		strays:  map[stray]bool{},
		heirs:   map[ident.HostID]heirs{},
		freed:   make(chan struct{}),
		awaited: map[stray]awaited{},
	}
}

func newScope() *scope {
	return &scope{own: map[string]uint32{}, holders: map[uint32][]holder{}, loans: map[uint32][]loan{}}
}

// Counts returns the counters.
func (s *Service) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.counts
	for _, sc := range s.scopes {
		for _, sp := range sc.spaces {
			c := sp.ring.Counts()
			out.RefusedBooks += c.RefusedBooks
			out.OldBooks += c.OldBooks
			out.HeldGives += c.HeldGives
			out.Yielded += c.Yielded
			out.Lapses += c.Lapses
		}
	}
	return out
}

// Run settles books, answers asks and asks for shares until ctx ends. From its start on this
// host's own table changes through this service only.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	t := time.NewTimer(tickEvery)
	defer t.Stop()
	for {
		if short := s.tick(time.Now()); short {
			t.Reset(tickEvery)
		} else {
			t.Reset(tickQuiet)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			continue
		case <-s.wake:
		}
		// Changes that come together are looked at together: a burst of joining hosts is many.
		gather := time.NewTimer(gatherTime)
		select {
		case <-ctx.Done():
			gather.Stop()
			return ctx.Err()
		case <-gather.C:
		}
	}
}

func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// spaceLocked returns the ring of a range in a scope, making it when it is new; nil over a bound.
func (s *Service) spaceLocked(id uint32, p netip.Prefix) *space {
	sc := s.scopes[id]
	if sc == nil {
		if len(s.scopes) >= maxSpaces {
			return nil
		}
		sc = newScope()
		s.scopes[id] = sc
	}
	for _, sp := range sc.spaces {
		if sp.prefix == p {
			return sp
		}
	}
	if id == 0 && s.cluster != nil || len(sc.spaces) >= maxPerScope || s.spaces >= maxSpaces {
		return nil
	}
	removed := func(id ident.HostID) bool { _, ok := s.removed[id]; return ok } // under mu, like all of the ring
	sp := &space{scope: id, prefix: p, leavers: map[ident.HostID]bool{}, behind: map[ident.HostID]time.Time{}, changed: make(chan struct{}), dirty: true}
	if id == 0 {
		n := uint32(1) << (carveBits(p) - p.Bits())
		sp.ring, sp.pool = ring.New(s.cfg.Self, ring.Range{First: 0, Last: n - 1}, removed), ring.NewPool()
		sp.joined = true
		s.cluster = sp
		for index := range s.nets {
			sp.pool.Restore(netKey(index), index)
		}
	} else {
		first, last := first4(p), last4(p)
		sp.ring, sp.pool = ring.New(s.cfg.Self, ring.Range{First: first, Last: last}, removed), ring.NewPool(first, first+1, last)
		for key, a := range sc.own {
			if p.Contains(toAddr(a)) {
				sp.pool.Restore(key, a)
			}
		}
		sp.claims = claims{look: true, made: map[string]bool{}}
	}
	sc.spaces = append(sc.spaces, sp)
	s.spaces++
	return sp
}

func (sp *space) notifyLocked() {
	sp.dirty, sp.claims.look = true, true
	close(sp.changed)
	sp.changed = make(chan struct{})
}

// write makes a plan, persists it and commits it. The caller holds plan. fn runs under mu and
// returns false when there is nothing to do.
func (s *Service) write(sp *space, fn func() (ring.Book, bool, error)) error {
	s.mu.Lock()
	b, ok, err := fn()
	e := entry{book: b, left: sp.left}
	if sp.scope == 0 {
		e.ula = slices.Clone(s.ula[:])
	}
	s.mu.Unlock()
	if err != nil || !ok {
		return err
	}
	v, err := encodeBook(&e)
	if err != nil {
		return err
	}
	if err := s.publish(sp.scope, map[string][]byte{keyRing + sp.prefix.String(): v}, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := sp.ring.Commit(b); err != nil {
		return fmt.Errorf("range %s: %w", sp.prefix, err)
	}
	sp.notifyLocked()
	s.poke()
	return nil
}

func (s *Service) publish(scope uint32, puts map[string][]byte, dels []string) error {
	s.mu.Lock()
	s.running = true // what comes back of this host's own is an echo
	s.mu.Unlock()
	err := s.cfg.Board.Publish(scope, puts, dels)
	if err != nil {
		s.mu.Lock()
		s.counts.Persisting++
		s.mu.Unlock()
		return fmt.Errorf("persist addresses: %w", err)
	}
	return nil
}

// OnChange takes note of a value in the state table of a writer: all that was persisted, before
// Run starts, and every change later. A book that is gone is kept: its host will be removed, or not.
func (s *Service) OnChange(scope uint32, writer ident.HostID, key string, value []byte, gone bool) {
	var err error
	s.mu.Lock()
	if writer == s.cfg.Self && s.running && !has(key, keyHeir) { // those the daemon writes
		s.mu.Unlock()
		return
	}
	switch {
	case has(key, keyLend):
		err = s.onLoanLocked(scope, writer, key, value, gone)
	case len(key) > maxKey+len(keyIP):
		err = fmt.Errorf("key of %d bytes: %w", len(key), errCodec)
	case has(key, keyRing) && !gone:
		err = s.onBookLocked(scope, writer, key, value)
	case has(key, keyIP):
		err = s.onHolderLocked(scope, writer, key[len(keyIP):], value, gone)
	case has(key, keyHeir) && scope == 0 && !gone: // one that is gone was said again by another, or holds all the same
		err = s.onHeirsLocked(writer, key, value)
	case has(key, keyNet) && scope == 0:
		err = s.onNetLocked(writer, key, value, gone)
	}
	if err != nil {
		s.counts.BadValues++
	}
	s.mu.Unlock()
	if err != nil {
		s.cfg.Log.Warn("address state not followed", "host", writer, "err", err)
	}
}

func has(key, prefix string) bool { return len(key) > len(prefix) && key[:len(prefix)] == prefix }

func (s *Service) onBookLocked(scope uint32, writer ident.HostID, key string, value []byte) error {
	p, err := parseRingKey(key)
	if err != nil {
		return err
	}
	if scope == 0 && p.Bits() > maxRangeBits {
		return fmt.Errorf("cluster range %s: %w", p, errCodec)
	}
	e, err := decodeBook(value)
	if err != nil {
		return err
	}
	if scope == 0 && (len(e.ula) != 6 || s.cluster != nil && s.ula != [6]byte(e.ula)) {
		return fmt.Errorf("ULA: %w: not the cluster's", errCodec)
	}
	sp := s.spaceLocked(scope, p)
	if sp == nil {
		return fmt.Errorf("range %s: too many, or not the cluster's", p)
	}
	if scope == 0 {
		s.ula = [6]byte(e.ula)
	}
	changed, err := sp.ring.Set(writer, e.book)
	if err == nil && writer != s.cfg.Self {
		s.noteBehindLocked(sp, writer, &e.book, changed)
	}
	if changed {
		delete(sp.leavers, writer)
		if e.left {
			sp.leavers[writer] = true
		}
		if writer == s.cfg.Self {
			sp.left = e.left
		}
		sp.notifyLocked()
		s.poke()
	}
	return err
}

// scopeLocked returns what is known of a network, which may be nothing yet.
func (s *Service) scopeLocked(id uint32) (*scope, error) {
	sc := s.scopes[id]
	if sc == nil {
		if len(s.scopes) >= maxSpaces {
			return nil, fmt.Errorf("scope %d: too many", id)
		}
		sc = newScope()
		s.scopes[id] = sc
	}
	return sc, nil
}

func (s *Service) onHolderLocked(id uint32, writer ident.HostID, key string, value []byte, gone bool) error {
	sc, err := s.scopeLocked(id)
	if err != nil {
		return err
	}
	if writer == s.cfg.Self {
		a, err := get32(value)
		if err != nil || gone || len(sc.own) >= ring.MaxUsed {
			return err
		}
		sc.own[key] = a
		for _, sp := range sc.spaces {
			if sp.prefix.Contains(toAddr(a)) {
				sp.pool.Restore(key, a)
			}
		}
		return nil
	}
	// A key has one address: the old one goes first.
	h := holder{writer, key}
	sc.dropHolders(func(o holder) bool { return o == h })
	defer func() {
		for _, sp := range sc.spaces {
			sp.notifyLocked()
		}
	}()
	if gone {
		return nil
	}
	a, err := get32(value)
	if err != nil {
		return err
	}
	if len(sc.holders) >= maxHolders {
		return fmt.Errorf("more than %d addresses in scope %d", maxHolders, id)
	}
	sc.holders[a] = append(sc.holders[a], h)
	return nil
}

func (s *Service) onNetLocked(writer ident.HostID, key string, value []byte, gone bool) error {
	index, err := parseNetKey(key)
	if err != nil {
		return err
	}
	if gone {
		s.dropNetLocked(writer, index)
		return nil
	}
	vni, err := get32(value)
	if err != nil {
		return err
	}
	s.setNetLocked(writer, index, vni)
	return nil
}

func (s *Service) setNetLocked(id ident.HostID, index, vni uint32) {
	if s.nets[index] == nil {
		s.nets[index] = map[ident.HostID]uint32{}
	}
	s.nets[index][id] = vni
	if s.cluster != nil {
		s.cluster.pool.Restore(netKey(index), index)
	}
}

// dropNetLocked notes that a host no longer has a network; its place is free when nobody has it.
func (s *Service) dropNetLocked(id ident.HostID, index uint32) {
	delete(s.nets[index], id)
	if len(s.nets[index]) == 0 {
		delete(s.nets, index)
		if s.cluster != nil {
			s.cluster.pool.Free(netKey(index))
		}
	}
}
