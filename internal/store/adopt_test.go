package store

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestAdoptedLock: a lock that was handed over keeps others out for as long as either process has it, and nothing of the
// directory is touched before Claim.
func TestAdoptedLock(t *testing.T) {
	path := t.TempDir()
	old, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(path, tempPrefix+"half")
	if err := os.WriteFile(half, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, lockName), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := dup(old.Lock())
	if err != nil {
		t.Fatal(err)
	}
	next, err := Adopt(path, lock)
	if err != nil {
		t.Fatal(err)
	}
	next.SetOwner(self)
	if _, err := os.Stat(half); err != nil {
		t.Errorf("what the other was writing is gone: %v", err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "pid 1:") {
		t.Errorf("the lock was lost, or the heir signed it early: %v", err)
	}
	if err := errors.Join(next.Claim(), next.Save("own", []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("an unfinished file stays")
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())+":") {
		t.Errorf("the heir is not named: %v", err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := Adopt(t.TempDir(), again.Lock()); err == nil {
		t.Error("the lock of another directory was taken")
	}
}
