package arch

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnusedMethodsAreLeftOut: nothing that is linked looks methods up by names known at run time only (reflect's Method and MethodByName),
// as text/template does. One such place has the linker keep every exported method of every type: 3.5 MB of the binary, and 5 MB of each
// daemon's resident memory when this was written.
func TestUnusedMethodsAreLeftOut(t *testing.T) {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-dumpdep", "-o", filepath.Join(t.TempDir(), "weft"), module+"/cmd/weft")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	deps, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, guilty := 0, map[string]string{}
	in := bufio.NewScanner(deps)
	for in.Scan() {
		lines++
		from, to, _ := strings.Cut(in.Text(), " -> ")
		if name, found := strings.CutSuffix(to, " <ReflectMethod>"); found && guilty[name] == "" {
			guilty[name] = from
		}
	}
	if err := in.Err(); err != nil {
		t.Fatalf("what the linker says: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go build: %v", err)
	}
	if lines < 10_000 {
		t.Fatalf("the linker named %d dependencies only: has its output changed?", lines)
	}
	for name, from := range guilty {
		t.Errorf("%s, by way of %s, needs every method there is", name, from)
	}
}
