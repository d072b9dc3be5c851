package test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

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
	left, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(left)) {
		if strings.HasPrefix(line, "wd") {
			t.Errorf("a namespace is left: %s", line)
		}
	}
}
