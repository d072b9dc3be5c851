package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// exportFormat opens what ExportOwn and ExportOthers return; blocks follow, each with its length in 4 bytes.
const exportFormat = 1

// ExportOwn returns our own tables. It must be on disk before the blocks of a Commit are published.
func (t *Tables) ExportOwn() []byte {
	return t.export(func(tb *table) bool { return tb.writer == t.self })
}

// ExportOthers returns the other hosts' tables: a cache that spares a restarted host the transfer.
func (t *Tables) ExportOthers() []byte {
	return t.export(func(tb *table) bool { return tb.writer != t.self })
}

func (t *Tables) export(keep func(*table) bool) []byte {
	out := []byte{exportFormat}
	for _, s := range t.scopesWhere(func(*scope) bool { return true }) {
		sc := t.scopes[s]
		for _, id := range slices.SortedFunc(maps.Keys(sc.tables), byID) {
			tb := sc.tables[id]
			if !keep(tb) {
				continue
			}
			proof, blocks := tb.missing(0)
			if proof != nil {
				out = appendExport(out, proof)
			}
			for i := range blocks {
				out = appendExport(out, &blocks[i])
			}
		}
	}
	return out
}

func appendExport(out []byte, b *Block) []byte {
	out = binary.BigEndian.AppendUint32(out, uint32(len(b.raw)))
	return append(out, b.raw...)
}

// Import applies what an Export function returned. Blocks of scopes not held are left out, so Hold comes first,
// except for our own. It keeps b. The error joins what was refused; the rest is applied.
func (t *Tables) Import(b []byte) error {
	if len(b) == 0 || b[0] != exportFormat {
		return fmt.Errorf("import state: %w", ErrMalformed)
	}
	b = b[1:]
	var errs []error
	for len(b) > 0 {
		if len(b) < 4 {
			return errors.Join(append(errs, fmt.Errorf("import state: cut short: %w", ErrMalformed))...)
		}
		n := int(binary.BigEndian.Uint32(b))
		if n > MaxBlock || len(b)-4 < n {
			return errors.Join(append(errs, fmt.Errorf("import state: cut short: %w", ErrMalformed))...)
		}
		block, err := ParseBlock(b[4 : 4+n : 4+n])
		b = b[4+n:]
		if err == nil {
			_, err = t.Apply(block)
		}
		if err != nil && !errors.Is(err, ErrGap) && !errors.Is(err, ErrScope) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
