package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// smokeHead is how many hosts a script wants, and its first lines that say more: how weft is founded, what its resolver knows.
var (
	smokeHosts    = regexp.MustCompile(`(?m)^# hosts: ([1-3])$`)
	smokeUp       = regexp.MustCompile(`(?m)^# up: (.*)$`)
	smokeResolver = regexp.MustCompile(`(?m)^# resolver: (.*)$`)
)

// TestSmoke runs what Weave Net's smoke tests proved, of its numbers those that are about hosts, expose and names: scripts in the folder
// smoke, which whoever knows weft's commands can read and write. docs/weave.md says where the other numbers are.
func TestSmoke(t *testing.T) {
	all, err := filepath.Glob("smoke/[0-9]*.sh")
	if err != nil || len(all) < 15 {
		t.Fatalf("%d scripts: %v", len(all), err)
	}
	for _, path := range all {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".sh"), func(t *testing.T) {
			t.Parallel()
			smoke(t, path)
		})
	}
}

func smoke(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := smokeHosts.FindSubmatch(text)
	if n == nil {
		t.Fatal("its first line is to be # hosts: 1, 2 or 3")
	}
	count, _ := strconv.Atoi(string(n[1])) // a digit
	w := rig.New(t)
	u := w.Cloud()
	var hosts []*rig.Host
	bin := filepath.Join(w.Dir(), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		h := u.Host(fmt.Sprintf("h%d", i+1))
		hosts = append(hosts, h)
		tool := fmt.Sprintf("#!/bin/sh\nexec ip netns exec %s env WEFT_RUN_DIR=%s WEFT_STATE_DIR=%s \"$@\"\n", h.NS, h.RunDir(), h.StateDir())
		if err := os.WriteFile(filepath.Join(bin, h.Name), []byte(tool), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	if err := os.Symlink(hosts[0].WeftPath(), filepath.Join(bin, "weft")); err != nil {
		t.Fatal(err)
	}
	if m := smokeResolver.FindSubmatch(text); m != nil {
		u.Host("dns").NameServer(hosts, strings.Fields(string(m[1]))...)
	}
	up := []string{"--domain", "weave.local"}
	if m := smokeUp.FindSubmatch(text); m != nil {
		up = strings.Fields(string(m[1]))
	}
	hosts[0].Up(up...)
	for _, h := range hosts[1:] {
		h.Up(hosts[0].Endpoint())
	}
	if count > 1 {
		rig.AllKnowAll(t, 15*time.Second, hosts...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", `. smoke/lib.sh && . "$0"`, path)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", path, err, out)
	}
}
