package test

import (
	"fmt"
	"os"
	"os/exec"
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
	bin := rig.Binary(t)
	for _, c := range []struct {
		weft string
		ok   bool
	}{{bin, true}, {"/bin/false", false}} {
		cmd := exec.Command("../demo/demo.sh")
		cmd.Env = append(os.Environ(), "WEFT_BIN="+c.weft)
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
		return nil
	})
}
