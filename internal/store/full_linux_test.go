package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFullDisk fills a file system of 128 KiB: what was saved stays, and nothing half written is left.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=128k,mode=0700"); err != nil {
		t.Fatalf("mount a tmpfs: %v (this test needs root)", err)
	}
	defer func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	d := open(t, path)
	defer func() { _ = d.Close() }()
	old := bytes.Repeat([]byte("o"), 40<<10)
	if err := d.Save("own", old); err != nil {
		t.Fatal(err)
	}
	if err := d.Save("own", bytes.Repeat([]byte("n"), 200<<10)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("save on a full disk: %v", err)
	}
	if got, err := d.Load("own"); err != nil || !bytes.Equal(got, old) {
		t.Errorf("the old file is gone: %v", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	if err := d.Save("own", []byte("small")); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}
