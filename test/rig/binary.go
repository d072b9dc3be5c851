package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var build = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("WEFT_BIN"); bin != "" {
		return bin, nil
	}
	root, err := command("", "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "weft-bin")
	if err != nil {
		return "", err
	}
	built = dir
	bin := filepath.Join(dir, "weft")
	args := []string{"build", "-o", bin}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv("WEFT_TEST_RACE") != "" { // the daemon under the race detector: slow, and finds what others don't
		args = append(args, "-race")
		env = append(os.Environ(), "CGO_ENABLED=1", "GORACE=halt_on_error=1")
	}
	cmd := exec.Command("go", append(args, "./cmd/weft")...)
	cmd.Dir = root[:len(root)-1]
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build weft: %w\n%s", err, out)
	}
	return bin, nil
})

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
