package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// demoNamespace is how the demo names its namespaces: wd, six digits, and which.
var demoNamespace = regexp.MustCompile(`^wd[0-9a-f]{6}-`)

// TestDemo: the demo ends well within its time, and badly when weft does nothing; either way it leaves nothing.
func TestDemo(t *testing.T) {
	bin, tmp := rig.Binary(t), t.TempDir()
	for _, c := range []struct {
		weft string
		ok   bool
	}{{bin, true}, {"/bin/false", false}} {
		cmd := exec.Command("../demo/demo.sh")
		cmd.Env = append(os.Environ(), "WEFT_BIN="+c.weft, "TMPDIR="+tmp)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		if took := time.Since(start); took > 32*time.Second {
			t.Errorf("the demo took %v", took)
		}
		if (err == nil) != c.ok {
			t.Errorf("demo with %s: %v\n%s", c.weft, err, out)
		}
		if !strings.Contains(string(out), "h1 heard: hello") || !strings.Contains(string(out), "h2 heard nothing") {
			t.Errorf("the demo did not show a plain datagram being dropped:\n%s", out)
		}
	}
	// Somebody else's demo may run beside this; it ends within 30 s.
	rig.Eventually(t, 35*time.Second, func() error {
		left, err := exec.Command("ip", "netns", "list").Output()
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(left)) {
			if demoNamespace.MatchString(line) {
				return fmt.Errorf("a namespace is left: %s", line)
			}
		}
		files, err := os.ReadDir(tmp)
		if err != nil {
			return err
		}
		if len(files) > 0 {
			return fmt.Errorf("a folder is left: %s", files[0])
		}
		environs, err := filepath.Glob("/proc/[0-9]*/environ")
		if err != nil {
			return err
		}
		for _, e := range environs {
			if b, err := os.ReadFile(e); err == nil && bytes.Contains(b, []byte("WEFT_RUN_DIR="+tmp)) { // else it has ended meanwhile
				cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(e), "cmdline"))
				return fmt.Errorf("a process is left: %s", bytes.ReplaceAll(cmd, []byte{0}, []byte{' '}))
			}
		}
		return nil
	})
}
