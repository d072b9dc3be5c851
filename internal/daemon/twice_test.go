package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/store/storetest"
)

// TestTwice: what was saved is found when the state directory has lost it, by a host of the same cluster only, and not when it is
// damaged; what the state directory has is what counts.
func TestTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "attachments.copy")
	place := func(cluster byte) twice {
		dir := &storetest.Dir{}
		dir.SetOwner(ident.HostID{cluster, 1})
		return twice{dir: dir, name: fileAttach, path: path, cluster: ident.ClusterID{cluster}, log: slog.New(slog.DiscardHandler)}
	}
	load := func(x twice, want string) {
		t.Helper()
		if got, err := x.Load(); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	first := place(1)
	load(first, "")
	for _, text := range []string{"one", "two"} {
		if err := first.Save([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	load(place(1), "two")
	load(place(2), "")
	second := place(1)
	if err := second.dir.Save(fileAttach, []byte("own")); err != nil {
		t.Fatal(err)
	}
	load(second, "own")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		bad := append([]byte{}, whole...)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		load(place(1), "")
		if err := os.WriteFile(path, whole[:i], 0o600); err != nil {
			t.Fatal(err)
		}
		load(place(1), "")
	}
	// A run directory that takes no copy keeps nothing from working.
	first.path = filepath.Join(path, "nowhere")
	if err := first.Save([]byte("three")); err != nil {
		t.Error(err)
	}
	load(first, "three")
}
