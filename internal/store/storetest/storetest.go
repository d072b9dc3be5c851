// Package storetest is a store.Dir in memory, with faults on request.
package storetest

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/store"
)

// Dir is a store.Dir in memory: it keeps the bytes of files, so a test can damage them. The zero value is ready.
type Dir struct {
	// Fail, when set, is asked before each operation ("load", "save", "remove", "names", "quarantine"); what it
	// returns is the operation's error, and nothing is done. Set it before the Dir is shared.
	Fail func(op, name string) error

	mu    sync.Mutex // guards all below
	owner ident.HostID
	files map[string][]byte
	bad   map[string][]byte
	saves int
}

var _ store.Dir = (*Dir)(nil)

func (d *Dir) begin(op, name string) error {
	if op != "names" {
		if err := store.CheckName(name); err != nil {
			return err
		}
	}
	if d.Fail != nil {
		if err := d.Fail(op, name); err != nil {
			return fmt.Errorf("%s %s: %w", op, name, err)
		}
	}
	return nil
}

// Load is store.Dir.Load.
func (d *Dir) Load(name string) ([]byte, error) {
	if err := d.begin("load", name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	owner, _, payload, err := store.Decode(bytes.Clone(b))
	if err == nil && !d.owner.IsZero() && owner != d.owner {
		err = &store.FormatError{Err: store.ErrOwner, Detail: fmt.Sprintf("of host %s, this host is %s", owner, d.owner)}
	}
	if err != nil {
		return nil, fmt.Errorf("state file %s: %w", name, err)
	}
	return payload, nil
}

// Save is store.Dir.Save.
func (d *Dir) Save(name string, b []byte) error {
	if err := d.begin("save", name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owner.IsZero() {
		return fmt.Errorf("save %s: the owner is not set", name)
	}
	if owner, _, _, err := store.Decode(d.files[name]); err == nil && owner != d.owner {
		return fmt.Errorf("save %s: %w", name, &store.FormatError{Err: store.ErrOwner, Detail: fmt.Sprintf("of host %s, this host is %s", owner, d.owner)})
	}
	if d.files == nil {
		d.files = map[string][]byte{}
	}
	d.files[name] = store.Encode(d.owner, name, b)
	d.saves++
	return nil
}

// Remove is store.Dir.Remove.
func (d *Dir) Remove(name string) error {
	if err := d.begin("remove", name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.files, name)
	return nil
}

// Names is store.Dir.Names.
func (d *Dir) Names() ([]string, error) {
	if err := d.begin("names", ""); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.files)), nil
}

// Quarantine is store.Dir.Quarantine.
func (d *Dir) Quarantine(name string) (string, error) {
	if err := d.begin("quarantine", name); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.files[name]
	if !ok {
		return "", &fs.PathError{Op: "rename", Path: name, Err: fs.ErrNotExist}
	}
	if d.bad == nil {
		d.bad = map[string][]byte{}
	}
	to := fmt.Sprintf("bad-%s.%d", name, len(d.bad)+1)
	d.bad[to] = b
	delete(d.files, name)
	return to, nil
}

// SetOwner is store.Dir.SetOwner.
func (d *Dir) SetOwner(id ident.HostID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.owner = id
}

// Saves returns how often Save has succeeded.
func (d *Dir) Saves() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.saves
}

// Damage changes the bytes of a saved file in place, header included; it reports whether there is such a file.
func (d *Dir) Damage(name string, change func(b []byte) []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.files[name]
	if ok {
		d.files[name] = change(bytes.Clone(b))
	}
	return ok
}

// Clone returns a copy of the directory as it is now: what a disk holds when a host is restored from an old copy.
func (d *Dir) Clone() *Dir {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Dir{Fail: d.Fail, owner: d.owner, files: maps.Clone(d.files), bad: maps.Clone(d.bad), saves: d.saves}
}
