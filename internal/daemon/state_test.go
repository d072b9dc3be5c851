package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/store"
)

// founder makes a state directory in which a host has founded a cluster.
func founder(t *testing.T) (path string, keys ident.Keys) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state")
	dir := open(t, path)
	id, keys, fresh, err := settle(dir, config.Up{Name: "mal"}, nil)
	if err != nil || !fresh || !id.Founding {
		t.Fatalf("found: %+v, fresh %v, %v", id, fresh, err)
	}
	dir.SetOwner(keys.ID())
	for name, b := range map[string][]byte{fileIdentity: encode(id), fileOwn: []byte("blocks")} {
		if err := dir.Save(name, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	return path, keys
}

func open(t *testing.T, path string) *store.FS {
	t.Helper()
	dir, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	return dir
}

// An identity that is cut at any byte is refused in one line with its path: it is never taken for a host that is new.
func TestCutIdentityIsRefused(t *testing.T) {
	path, _ := founder(t)
	file := filepath.Join(path, fileIdentity+".weft")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := open(t, path)
	for n := range whole {
		if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, _, err := settle(dir, config.Up{Name: "mal"}, nil)
		if err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("cut at byte %d: %v", n, err)
		}
	}
}

// A file that was copied from another host is refused with its path and both hosts.
func TestFileOfAnotherHostIsRefused(t *testing.T) {
	mine, keys := founder(t)
	theirs, _ := founder(t)
	file := filepath.Join(mine, fileOwn+".weft")
	b, err := os.ReadFile(filepath.Join(theirs, fileOwn+".weft"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &System{dir: open(t, mine)}
	s.dir.SetOwner(keys.ID())
	if _, err := s.recallTables(keys); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file of another host: %v", err)
	}
}

// A list waits for the changes that came before it, and for no later ones.
func TestInForce(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		s := &System{ctx: t.Context(), wake: make(chan struct{}, 1), digested: make(chan struct{})}
		s.inForce(t.Context()) // nothing came
		s.onChanged([]state.Change{{Scope: 7, Key: keyMember + "239.1.2.3"}})
		done := make(chan struct{})
		go func() { s.inForce(t.Context()); close(done) }()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("it did not wait")
		default:
		}
		s.onChanged(nil)
		s.inboxMu.Lock()
		s.followed = 1
		close(s.digested)
		s.digested = make(chan struct{})
		s.inboxMu.Unlock()
		<-done

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.inForce(ctx) // whoever no longer waits is let go
	})
}
