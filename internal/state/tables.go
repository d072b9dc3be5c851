package state

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ident"
)

// Config is what Tables need to know.
type Config struct {
	Keys    ident.Keys
	Cluster ident.ClusterID
	// Allowed says whether a host may write here at all; nil allows everyone whose blocks reach us.
	// When it turns false for a host, call Forget.
	Allowed func(ident.HostID) bool
	// MaxTotal bounds the bytes of all blocks together; 0 means MaxTotal.
	MaxTotal int
}

// Tables are all tables a host holds: its own and those of the others. They have one owner; no method may run beside another.
type Tables struct {
	cfg     Config
	self    ident.HostID
	scopes  map[Scope]*scope
	total   int // bytes of blocks
	refused counters
	holds   uint64 // counts Hold and Release, so that Sync sees that they happened
}

// scope is what is held of one scope. A scope that is not held may still have our own table, withdrawn or left
// over from an earlier run: its version must never be used again.
type scope struct {
	held   bool
	tables map[ident.HostID]*table
	sum    uint64 // of the terms of all tables

	staged      map[string]Entry
	stagedBytes int
	withdraw    bool // the next commit drops what is not staged
}

// New returns empty tables that hold the scope Cluster.
func New(cfg Config) *Tables {
	if cfg.Allowed == nil {
		cfg.Allowed = func(ident.HostID) bool { return true }
	}
	if cfg.MaxTotal == 0 {
		cfg.MaxTotal = MaxTotal
	}
	t := &Tables{cfg: cfg, self: cfg.Keys.ID(), scopes: map[Scope]*scope{}}
	_ = t.Hold(Cluster) // the first is within the limit
	return t
}

// Self returns the host whose own tables these are.
func (t *Tables) Self() ident.HostID { return t.self }

// Hold begins to hold a scope; ErrFull when there are MaxScopes already.
func (t *Tables) Hold(s Scope) error {
	sc := t.scopes[s]
	if sc != nil && sc.held {
		return nil
	}
	n := 0
	for _, o := range t.scopes {
		if o.held {
			n++
		}
	}
	if n >= MaxScopes {
		return fmt.Errorf("hold scope %d: %d scopes are held: %w", s, n, ErrFull)
	}
	t.scope(s).held = true
	t.holds++
	return nil
}

// Release stops holding a scope: the other hosts' tables of it are dropped, without changes, and the next Commit
// withdraws our own. The scope need not be held: an own table left over from an earlier run is withdrawn too.
// Cluster cannot be released.
func (t *Tables) Release(s Scope) {
	sc := t.scopes[s]
	if sc == nil || s == Cluster {
		return
	}
	for id, tb := range sc.tables {
		if id != t.self {
			t.total -= tb.held
			delete(sc.tables, id)
		}
	}
	sc.staged, sc.stagedBytes = nil, 0
	own := sc.tables[t.self]
	sc.withdraw = own != nil && (len(own.entries) > 0 || own.rewrite)
	sc.held = false
	sc.sum = 0
	if own == nil {
		delete(t.scopes, s)
	} else {
		sc.sum = own.term
	}
	t.holds++
}

// Holds reports whether a scope is held.
func (t *Tables) Holds(s Scope) bool { sc := t.scopes[s]; return sc != nil && sc.held }

// Scopes returns the scopes held, sorted.
func (t *Tables) Scopes() []Scope {
	return t.scopesWhere(func(sc *scope) bool { return sc.held })
}

// OwnScopes returns the scopes in which our own table has entries, held or not, sorted. After Import, and after a
// peer has shown what we lost, it names scopes of an earlier run: Hold them, or Release them.
func (t *Tables) OwnScopes() []Scope {
	return t.scopesWhere(func(sc *scope) bool {
		own := sc.tables[t.self]
		return own != nil && len(own.entries) > 0
	})
}

// left returns the scopes not held in which we have a table nonetheless.
func (t *Tables) left() []Scope {
	return t.scopesWhere(func(sc *scope) bool { return !sc.held && sc.tables[t.self] != nil })
}

func (t *Tables) scopesWhere(keep func(*scope) bool) []Scope {
	var out []Scope
	for s, sc := range t.scopes {
		if keep(sc) {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

func (t *Tables) scope(s Scope) *scope {
	sc := t.scopes[s]
	if sc == nil {
		sc = &scope{tables: map[ident.HostID]*table{}}
		t.scopes[s] = sc
	}
	return sc
}

func (t *Tables) table(writer ident.HostID, s Scope) *table {
	if sc := t.scopes[s]; sc != nil {
		return sc.tables[writer]
	}
	return nil
}

// Get returns the value that a writer has put under a key, as far as we know; it is not to be written to. Staged
// puts do not show.
func (t *Tables) Get(writer ident.HostID, s Scope, key string) ([]byte, bool) {
	tb := t.table(writer, s)
	if tb == nil {
		return nil, false
	}
	e, ok := tb.entries[key]
	return e.value, ok
}

// Item is one live entry, as All yields it.
type Item struct {
	Writer ident.HostID
	Key    string
	Value  []byte // shared with the table: not to be written to
}

// All yields the live entries of a scope whose keys begin with prefix, by writer and key. It sorts: not for a hot
// path. The tables must not change meanwhile.
func (t *Tables) All(s Scope, prefix string) iter.Seq[Item] {
	return func(yield func(Item) bool) {
		sc := t.scopes[s]
		if sc == nil {
			return
		}
		for _, id := range slices.SortedFunc(maps.Keys(sc.tables), byID) {
			var keys []string
			entries := sc.tables[id].entries
			for k := range entries {
				if strings.HasPrefix(k, prefix) {
					keys = append(keys, k)
				}
			}
			slices.Sort(keys)
			for _, k := range keys {
				if !yield(Item{Writer: id, Key: k, Value: entries[k].value}) {
					return
				}
			}
		}
	}
}

func byID(a, b ident.HostID) int { return bytes.Compare(a[:], b[:]) }

// Position is how far a table is known.
type Position struct {
	Writer  ident.HostID
	Version uint64
	Head    [8]byte // of the hash of the last block; zero when unknown
}

// Vector returns how far every table of a scope is known, by writer.
func (t *Tables) Vector(s Scope) []Position {
	sc := t.scopes[s]
	if sc == nil {
		return nil
	}
	out := make([]Position, 0, len(sc.tables))
	for _, tb := range sc.tables {
		if tb.version > 0 {
			out = append(out, tb.position())
		}
	}
	slices.SortFunc(out, func(a, b Position) int { return byID(a.Writer, b.Writer) })
	return out
}

func (t *table) position() Position {
	return Position{Writer: t.writer, Version: t.version, Head: [8]byte(t.head[:8])}
}

// Version returns the last version known of a table, 0 when it is unknown.
func (t *Tables) Version(writer ident.HostID, s Scope) uint64 {
	if tb := t.table(writer, s); tb != nil {
		return tb.version
	}
	return 0
}

// Forget drops all tables of a host that was removed and returns what is gone with them. Our own are not forgotten.
func (t *Tables) Forget(writer ident.HostID) []Change {
	if writer == t.self {
		return nil
	}
	var changes []Change
	for _, s := range t.scopesWhere(func(sc *scope) bool { return sc.tables[writer] != nil }) {
		sc := t.scopes[s]
		tb := sc.tables[writer]
		for _, k := range slices.Sorted(maps.Keys(tb.entries)) {
			changes = append(changes, tb.gone(k))
		}
		sc.sum -= tb.term
		t.total -= tb.held
		delete(sc.tables, writer)
	}
	return changes
}

// Apply takes a block that a peer or the cache has shown. It returns what changed, nothing for a block known
// already. ErrGap: blocks before it are missing, and are to be asked for; the other errors are refusals, see the
// reasons. Blocks of our own that we have lost are applied too, and our versions go on after them; when they tell
// another history than ours, all our entries are put again above both by the next Commit.
func (t *Tables) Apply(b Block) ([]Change, error) {
	changes, err := t.apply(b)
	if err != nil {
		return changes, t.refused.count(fmt.Errorf("state of %s, scope %d, versions %d-%d: %w", b.Writer.Short(), b.Scope, b.From, b.To, err))
	}
	return changes, nil
}

func (t *Tables) apply(b Block) ([]Change, error) {
	own := b.Writer == t.self
	sc := t.scopes[b.Scope]
	switch {
	case !own && !t.cfg.Allowed(b.Writer):
		return nil, ErrNotAllowed
	case !own && (sc == nil || !sc.held):
		return nil, ErrScope
	}
	tb := t.table(b.Writer, b.Scope)
	if tb != nil && b.To <= tb.version {
		if known := tb.find(b.To); b.From <= tb.base || known != nil && known.same(&b) {
			return nil, nil // a repeat, or too old to matter
		}
	}
	if !b.verify(t.cfg.Cluster) {
		return nil, ErrForged
	}
	if tb == nil {
		var err error
		if tb, err = t.create(b.Writer, b.Scope); err != nil {
			return nil, err
		}
	}
	tb.seen = max(tb.seen, b.To)
	before := tb.held
	changes, err := t.place(tb, b)
	t.total += tb.held - before
	t.refresh(tb)
	if own {
		for i := range changes {
			changes[i].Recovered = true
		}
		if errors.Is(err, ErrEquivocation) && !tb.rewrite {
			tb.rewrite = true
			changes = append(changes, Change{Writer: t.self, Scope: b.Scope, Recovered: true})
		}
	}
	return changes, err
}

// create makes the table of a writer, within the limits.
func (t *Tables) create(writer ident.HostID, s Scope) (*table, error) {
	sc := t.scopes[s]
	switch {
	case sc == nil && len(t.left()) >= MaxScopes:
		return nil, ErrFull
	case sc != nil && len(sc.tables) >= MaxWriters && writer != t.self:
		return nil, ErrFull
	}
	tb := newTable(writer, s)
	t.scope(s).tables[writer] = tb
	return tb, nil
}

// place puts a verified block where it belongs in its table.
func (t *Tables) place(tb *table, b Block) ([]Change, error) {
	if b.From <= tb.version {
		return nil, ErrEquivocation // one of its versions was told otherwise
	}
	if b.Floor > tb.version {
		tb.startAt(b.Floor)
	}
	switch {
	case b.From > tb.version+1:
		return nil, ErrGap
	case tb.chained && b.prev != tb.head:
		return nil, ErrEquivocation
	case tb.held+len(b.raw) > maxTableBytes,
		uint64(len(tb.entries))+(b.To-b.From+1) > maxTableEntries,
		t.total+len(b.raw) > t.cfg.MaxTotal:
		return nil, ErrFull
	}
	return tb.extend(b, nil), nil
}

// refresh brings the sum of a table's scope up to date.
func (t *Tables) refresh(tb *table) {
	sc, term := t.scopes[tb.scope], tb.digest()
	sc.sum += term - tb.term
	tb.term = term
}

// Stats are sizes and counts for metrics.
type Stats struct {
	Scopes  int
	Tables  int
	Writers int
	Entries int
	Bytes   int // of blocks
	// Refused counts blocks and messages by reason; the keys are the texts of the errors.
	Refused map[string]uint64
}

// Stats returns sizes and counts.
func (t *Tables) Stats() Stats {
	s := Stats{Bytes: t.total, Refused: make(map[string]uint64, len(reasons))}
	writers := map[ident.HostID]struct{}{}
	for _, sc := range t.scopes {
		if sc.held {
			s.Scopes++
		}
		for id, tb := range sc.tables {
			writers[id] = struct{}{}
			s.Tables++
			s.Entries += len(tb.entries)
		}
	}
	s.Writers = len(writers)
	for i, r := range reasons {
		s.Refused[r.Error()] = t.refused[i]
	}
	return s
}
