package storetest

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/store"
)

// TestSameAsDisk runs one script over the fake and over the disk.
func TestSameAsDisk(t *testing.T) {
	disk, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = disk.Close() }()
	for name, d := range map[string]store.Dir{"memory": &Dir{}, "disk": disk} {
		t.Run(name, func(t *testing.T) {
			if err := d.Save("own", nil); err == nil {
				t.Error("saved without an owner")
			}
			d.SetOwner(ident.HostID{1})
			if err := d.Save("own", []byte("x")); err != nil {
				t.Fatal(err)
			}
			if b, err := d.Load("own"); err != nil || string(b) != "x" {
				t.Errorf("%q, %v", b, err)
			}
			d.SetOwner(ident.HostID{2})
			if _, err := d.Load("own"); !errors.Is(err, store.ErrOwner) {
				t.Errorf("other owner: %v", err)
			}
			if err := d.Save("own", nil); !errors.Is(err, store.ErrOwner) {
				t.Errorf("save over another owner's: %v", err)
			}
			d.SetOwner(ident.HostID{1})
			if _, err := d.Quarantine("own"); err != nil {
				t.Error(err)
			}
			if _, err := d.Load("own"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after quarantine: %v", err)
			}
			if err := d.Remove("own"); err != nil {
				t.Error(err)
			}
			if n, err := d.Names(); err != nil || len(n) != 0 {
				t.Errorf("%v, %v", n, err)
			}
			if err := d.Save("../x", nil); err == nil {
				t.Error("a path is no name")
			}
		})
	}
}

func TestFaults(t *testing.T) {
	full := false
	d := &Dir{Fail: func(op, _ string) error {
		if full && op == "save" {
			return syscall.ENOSPC
		}
		return nil
	}}
	d.SetOwner(ident.HostID{1})
	if err := d.Save("own", []byte("old")); err != nil {
		t.Fatal(err)
	}
	before := d.Clone()
	full = true
	if err := d.Save("own", []byte("new")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("save: %v", err)
	}
	if b, err := d.Load("own"); err != nil || string(b) != "old" {
		t.Errorf("%q, %v", b, err)
	}
	full = false
	if err := d.Save("own", []byte("new")); err != nil || d.Saves() != 2 {
		t.Errorf("%d saves, %v", d.Saves(), err)
	}
	if b, err := before.Load("own"); err != nil || string(b) != "old" {
		t.Errorf("the copy: %q, %v", b, err)
	}
	if !d.Damage("own", func(b []byte) []byte { return b[:len(b)-1] }) {
		t.Error("no file to damage")
	}
	if _, err := d.Load("own"); !errors.Is(err, store.ErrShort) {
		t.Errorf("damaged: %v", err)
	}
}
