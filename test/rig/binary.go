package rig

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var build = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("WEFT_BIN"); bin != "" {
		return bin, nil
	}
	dir, err := os.MkdirTemp("", "weft-bin")
	if err != nil {
		return "", err
	}
	built = dir
	bin := filepath.Join(dir, "weft")
	return bin, compile(bin)
})

// moduleRoot returns the folder of go.mod.
func moduleRoot() (string, error) {
	root, err := command("", "go", "list", "-m", "-f", "{{.Dir}}")
	return strings.TrimSpace(root), err
}

func compile(bin string, flags ...string) error {
	if os.Getenv("WEFT_TEST_RACE") != "" { // the daemon under the race detector: slow, and finds what others don't
		return compileWith([]string{"CGO_ENABLED=1", "GORACE=halt_on_error=1"}, bin, append([]string{"-race"}, flags...)...)
	}
	return compileWith([]string{"CGO_ENABLED=0"}, bin, flags...)
}

func compileWith(env []string, bin string, flags ...string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	cmd := exec.Command("go", append(append([]string{"build", "-o", bin}, flags...), "./cmd/weft")...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build weft: %w\n%s", err, out)
	}
	return nil
}

// Altered makes this host run a weft with one text in one source file (from the module's root) replaced: another version
// of the protocol, say, or a wrong clock, without a hook for it in what is shipped.
func (h *Host) Altered(file, from, to string) {
	t := h.w.T
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, file)
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(source), from) != 1 {
		t.Fatalf("%q is not once in %s", from, file)
	}
	dir := t.TempDir()
	altered, overlay := filepath.Join(dir, "altered.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {path: altered}})
	if err == nil {
		err = os.WriteFile(altered, []byte(strings.Replace(string(source), from, to, 1)), 0o600)
	}
	if err == nil {
		err = os.WriteFile(overlay, replace, 0o600)
	}
	if err == nil {
		h.bin = filepath.Join(dir, "weft")
		err = compile(h.bin, "-overlay", overlay)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// versions are the binaries of Version, by version.
var versions sync.Map

// Version returns the path of a weft that calls itself by a version; one is built for each, once per test process.
func Version(t testing.TB, version string) string {
	t.Helper()
	base := Binary(t)
	once, _ := versions.LoadOrStore(version, sync.OnceValues(func() (string, error) {
		dir := built
		if dir == "" { // WEFT_BIN: beside it nothing is ours
			var err error
			if dir, err = os.MkdirTemp("", "weft-bin"); err != nil {
				return "", err
			}
			built = dir
		}
		bin := filepath.Join(dir, "weft-"+version)
		return bin, compile(bin, "-ldflags", "-X main.version="+version)
	}))
	bin, err := once.(func() (string, error))()
	if err != nil {
		t.Fatalf("a weft like %s of version %s: %v", base, version, err)
	}
	return bin
}

// built is the folder to remove when the tests are over; empty when nothing was built.
var built string

// Binary returns the path of the weft under test: WEFT_BIN, or one built from this module, once per test process.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Main runs a package's tests and removes the binary built for them; call it from TestMain. A test binary that was
// started as one of the rig's own small programs (see MulticastProbe) becomes that program.
func Main(m *testing.M) {
	if program() {
		return
	}
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}
