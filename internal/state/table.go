package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/weft-net/weft/internal/ident"
)

// table is the log of one (writer, scope) and what it amounts to.
type table struct {
	writer ident.HostID
	scope  Scope

	version uint64    // last version applied
	head    blockHash // of the last block applied; unknown (zero) after a start at a floor
	chained bool      // head is known, or there is no block before version+1

	base   uint64  // blocks hold the versions (base, version]
	floor  uint64  // highest floor that an applied block states
	blocks []Block // in order, without holes

	entries map[string]entry
	stale   bool // started at a floor that is not applied yet: some entries may be dead
	held    int  // bytes of blocks
	live    int  // bytes of entries, as they are encoded

	term uint64 // this table's part of its scope's sum

	// Of the own table only.
	seen    uint64 // highest version known to be signed with our key
	rewrite bool   // two histories were seen: put all again, above both
}

type entry struct {
	value   []byte
	version uint64
}

func newTable(writer ident.HostID, scope Scope) *table {
	return &table{writer: writer, scope: scope, chained: true, entries: map[string]entry{}}
}

// find returns the held block with version v, nil when none is held.
func (t *table) find(v uint64) *Block {
	i, _ := slices.BinarySearchFunc(t.blocks, v, func(b Block, v uint64) int {
		if b.To < v {
			return -1
		}
		return 1
	})
	if i == len(t.blocks) || t.blocks[i].From > v {
		return nil
	}
	return &t.blocks[i]
}

// startAt forgets the log up to floor, a version above the last one applied. The entries stay until a block states the floor.
func (t *table) startAt(floor uint64) {
	t.blocks, t.held = nil, 0
	t.version, t.base = floor, floor
	t.head, t.chained = blockHash{}, false
	t.stale = t.stale || len(t.entries) > 0
}

// extend applies a block whose From is version+1 and appends what it changes to changes.
func (t *table) extend(b Block, changes []Change) []Change {
	for e := range b.Entries() {
		old, had := t.entries[e.Key]
		if had {
			t.live -= entrySize(e.Key, old.value)
		}
		if e.Gone {
			delete(t.entries, e.Key)
			if had {
				changes = append(changes, t.gone(e.Key))
			}
			continue
		}
		t.entries[e.Key] = entry{value: e.Value, version: e.Version}
		t.live += entrySize(e.Key, e.Value)
		if !had || !bytes.Equal(old.value, e.Value) {
			changes = append(changes, Change{Writer: t.writer, Scope: t.scope, Key: e.Key, Value: e.Value})
		}
	}
	t.blocks = append(t.blocks, b)
	t.held += len(b.raw)
	t.version, t.head, t.chained = b.To, b.hash(), true
	if b.Floor > t.floor {
		changes = t.raise(b.Floor, changes)
	}
	return changes
}

// raise drops blocks and entries up to floor. An honest writer has put again what lives, so no entry goes, except
// where the deletion itself was cleaned away before we saw it.
func (t *table) raise(floor uint64, changes []Change) []Change {
	t.floor = floor
	n := 0
	for n < len(t.blocks)-1 && t.blocks[n].To <= floor {
		b := &t.blocks[n]
		for e := range b.Entries() {
			if cur, ok := t.entries[e.Key]; ok && cur.version <= floor {
				changes = t.drop(e.Key, cur, changes)
			}
		}
		t.held -= len(b.raw)
		t.base = b.To
		t.blocks[n] = Block{} // the rest of the array may live on
		n++
	}
	t.blocks = t.blocks[n:]
	if t.stale {
		var dead []string
		for k, cur := range t.entries {
			if cur.version <= floor {
				dead = append(dead, k)
			}
		}
		slices.Sort(dead)
		for _, k := range dead {
			changes = t.drop(k, t.entries[k], changes)
		}
		t.stale = false
	}
	return changes
}

func (t *table) drop(key string, e entry, changes []Change) []Change {
	t.live -= entrySize(key, e.value)
	delete(t.entries, key)
	return append(changes, t.gone(key))
}

func (t *table) gone(key string) Change {
	return Change{Writer: t.writer, Scope: t.scope, Key: key, Gone: true}
}

// missing returns the blocks that a holder of the versions up to after lacks, the proof of the floor first when it
// must start at it; nothing when we cannot help.
func (t *table) missing(after uint64) (proof *Block, rest []Block) {
	if after >= t.version {
		return nil, nil
	}
	if after < t.base {
		if t.floor < t.base {
			return nil, nil // we are catching up ourselves and have no block to show for the floor
		}
		i := slices.IndexFunc(t.blocks, func(b Block) bool { return b.Floor >= t.base })
		if i < 0 {
			return nil, nil
		}
		if i > 0 {
			proof = &t.blocks[i]
		}
		return proof, t.blocks
	}
	i, _ := slices.BinarySearchFunc(t.blocks, after, func(b Block, v uint64) int {
		if b.To <= v {
			return -1
		}
		return 1
	})
	return nil, t.blocks[i:]
}

// digest is this table's part of its scope's sum: equal tables give equal parts.
func (t *table) digest() uint64 {
	if t.version == 0 {
		return 0
	}
	var b [40]byte
	copy(b[:], t.writer[:])
	binary.BigEndian.PutUint64(b[16:], t.version)
	copy(b[24:], t.head[:])
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:])
}
