package state

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// filler is the key of the tombstone in a block that must exist only to state a floor.
const filler = "."

// Put stages an entry of our own table for the next Commit. It fails when the scope is not held, when key or value
// are out of bounds, and with ErrFull when the table would exceed MaxEntries or MaxLive. The value is copied.
func (t *Tables) Put(s Scope, key string, value []byte) error {
	if len(key) == 0 || len(key) > MaxKey || !utf8.ValidString(key) {
		return fmt.Errorf("put %.40q: a key has 1 to %d bytes of UTF-8", key, MaxKey)
	}
	if len(value) > MaxValue {
		return fmt.Errorf("put %q: value of %d bytes, at most %d", key, len(value), MaxValue)
	}
	e := Entry{Key: key, Value: bytes.Clone(value)}
	return t.stage(s, e)
}

// Delete stages the deletion of an entry of our own table; of an unknown key it is no change.
func (t *Tables) Delete(s Scope, key string) error {
	return t.stage(s, Entry{Key: key, Gone: true})
}

func (t *Tables) stage(s Scope, e Entry) error {
	sc := t.scopes[s]
	if sc == nil || !sc.held {
		return fmt.Errorf("put %q in scope %d: %w", e.Key, s, ErrScope)
	}
	if sc.staged == nil {
		sc.staged = map[string]Entry{}
	}
	old, had := sc.staged[e.Key]
	sc.staged[e.Key] = e
	sc.stagedBytes += entrySize(e.Key, e.Value)
	if had {
		sc.stagedBytes -= entrySize(old.Key, old.Value)
	}
	if e.Gone || t.fits(sc) {
		return nil
	}
	delete(sc.staged, e.Key)
	sc.stagedBytes -= entrySize(e.Key, e.Value)
	if had {
		sc.staged[e.Key] = old
		sc.stagedBytes += entrySize(old.Key, old.Value)
	}
	return fmt.Errorf("put %q in scope %d: more than %d entries or %d bytes of one host: %w", e.Key, s, MaxEntries, MaxLive, ErrFull)
}

// fits reports whether our table of a scope stays in its limits when what is staged is committed.
func (t *Tables) fits(sc *scope) bool {
	own := sc.tables[t.self]
	entries, live := 0, 0
	if own != nil && !sc.withdraw {
		entries, live = len(own.entries), own.live
	}
	// An upper bound first: the exact sum costs a walk over all that is staged.
	if entries+len(sc.staged) <= MaxEntries && live+sc.stagedBytes <= MaxLive {
		return true
	}
	for k, e := range sc.staged {
		if own != nil && !sc.withdraw {
			if cur, ok := own.entries[k]; ok {
				entries--
				live -= entrySize(k, cur.value)
			}
		}
		if !e.Gone {
			entries++
			live += entrySize(k, e.Value)
		}
	}
	return entries <= MaxEntries && live <= MaxLive
}

// Pending reports whether a Commit would make blocks (or, rarely, only find that what is staged is no change).
func (t *Tables) Pending() bool {
	return len(t.scopesWhere(t.pending)) > 0
}

func (t *Tables) pending(sc *scope) bool {
	own := sc.tables[t.self]
	return len(sc.staged) > 0 || sc.withdraw || own != nil && own.rewrite
}

// Commit signs what is staged, applies it to our own tables and has them put on disk: save gets what ExportOwn
// returns. When save fails nothing has happened, except that what was staged by Put and Delete is forgotten. The blocks
// are published only after that: a version that was seen by anyone is never used again. What a restarted host was
// known to have said before is the caller's to fetch first, see Sync.Behind; what comes to light later is put right by
// putting all our entries again, above every version seen.
func (t *Tables) Commit(save func(own []byte) error) ([]Block, error) {
	var out []Block
	var before []snapshot
	for _, s := range t.scopesWhere(t.pending) {
		before = append(before, t.snapshot(s))
		out = append(out, t.commit(s)...)
	}
	if len(out) == 0 {
		return nil, nil
	}
	if err := save(t.ExportOwn()); err != nil {
		for _, b := range before {
			t.restore(b)
		}
		return nil, err
	}
	return out, nil
}

// Discard forgets what is staged by Put and Delete.
func (t *Tables) Discard() {
	for _, sc := range t.scopes {
		sc.staged, sc.stagedBytes = nil, 0
	}
}

// snapshot is our own table of a scope before a commit.
type snapshot struct {
	scope    Scope
	own      *table // nil: there was none
	withdraw bool
}

func (t *Tables) snapshot(s Scope) snapshot {
	sc := t.scopes[s]
	out := snapshot{scope: s, withdraw: sc.withdraw}
	if own := sc.tables[t.self]; own != nil {
		c := *own
		c.entries, c.blocks = maps.Clone(own.entries), slices.Clone(own.blocks)
		out.own = &c
	}
	return out
}

func (t *Tables) restore(b snapshot) {
	sc := t.scopes[b.scope]
	sc.withdraw = b.withdraw
	now := sc.tables[t.self]
	switch {
	case now == nil:
	case b.own == nil:
		t.total -= now.held
		sc.sum -= now.term
		delete(sc.tables, t.self)
	default:
		t.total += b.own.held - now.held
		b.own.term = now.term // what the sum has of it
		sc.tables[t.self] = b.own
		t.refresh(b.own)
	}
}

func (t *Tables) commit(s Scope) []Block {
	sc := t.scopes[s]
	own := sc.tables[t.self]
	staged, withdraw := sc.staged, sc.withdraw
	sc.staged, sc.stagedBytes, sc.withdraw = nil, 0, false
	if own == nil {
		if len(staged) == 0 {
			return nil
		}
		own = newTable(t.self, s)
	}
	if len(staged) > 0 || withdraw || own.rewrite {
		// Versions above ours are out under our key, or were told twice: leave one out, so that no holder of
		// either history takes our next block for the continuation of its own.
		if own.seen > own.version || own.rewrite {
			own.rewrite = true
			t.total -= own.held
			own.startAt(max(own.seen, own.version) + 1)
		}
	}
	replace := withdraw || own.rewrite
	var floor uint64
	var ops []Entry
	for _, k := range slices.Sorted(maps.Keys(staged)) {
		e := staged[k]
		cur, had := own.entries[k]
		noChange := e.Gone && !had || !e.Gone && had && bytes.Equal(cur.value, e.Value)
		if noChange && (!replace || e.Gone) {
			delete(staged, k) // what is left in it is in ops
			continue
		}
		ops = append(ops, e)
	}
	switch {
	case replace:
		if !withdraw {
			ops = append(ops, own.untouched(staged)...)
		}
		floor = own.version
		if len(ops) == 0 {
			ops = append(ops, Entry{Key: filler, Gone: true})
		}
	case len(ops) == 0:
		return nil
	default:
		ops, floor = own.clean(ops, staged)
	}
	sc.tables[t.self] = own
	before := own.held
	blocks := t.write(own, ops, floor)
	own.rewrite = false
	t.total += own.held - before
	t.refresh(own)
	return blocks
}

// untouched returns the live entries that nothing staged replaces, by key.
func (t *table) untouched(staged map[string]Entry) []Entry {
	var out []Entry
	for _, k := range slices.Sorted(maps.Keys(t.entries)) {
		if _, ok := staged[k]; !ok {
			out = append(out, Entry{Key: k, Value: t.entries[k].value})
		}
	}
	return out
}

// clean adds to ops the live entries of the oldest blocks when the log holds too much, and returns the floor that
// may be stated when they are written.
func (t *table) clean(ops []Entry, staged map[string]Entry) ([]Entry, uint64) {
	floor, size := t.floor, t.held
	added := 0
	for _, e := range ops {
		added += entrySize(e.Key, e.Value)
	}
	limit := cleanFactor*t.live + cleanSlack
	budget := cleanStep*added + cleanLeast
	size += added
	for i := 0; i < len(t.blocks) && size > limit && budget > 0; i++ {
		b := &t.blocks[i]
		for e := range b.Entries() {
			if _, again := staged[e.Key]; again || e.Gone {
				continue
			}
			if cur, ok := t.entries[e.Key]; ok && cur.version == e.Version {
				ops = append(ops, Entry{Key: e.Key, Value: cur.value})
				size += entrySize(e.Key, cur.value)
			}
		}
		size -= len(b.raw)
		budget -= len(b.raw)
		floor = b.To
	}
	return ops, floor
}

// write signs ops in blocks at the next versions and appends them; only the last states the floor, when all that it
// cuts off has come again.
func (t *Tables) write(own *table, ops []Entry, floor uint64) []Block {
	var out []Block
	for len(ops) > 0 {
		n, size := 0, blockLeast-3
		for n < len(ops) {
			size += entrySize(ops[n].Key, ops[n].Value)
			if n > 0 && size > blockTarget {
				break
			}
			n++
		}
		states := own.floor
		if n == len(ops) {
			states = floor
		}
		b := sealBlock(t.cfg.Keys.Sign, t.cfg.Cluster, own.scope, own.version+1, states, own.head, ops[:n])
		own.extend(b, nil)
		own.seen = own.version
		out = append(out, b)
		ops = ops[n:]
	}
	return out
}
