package test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// The first lines of a script say how many hosts it wants, and more: how weft is founded, what its resolver knows, whether there is Docker on each
// host (alone, or to be a node of a Swarm), or what runtimes by CNI have.
var (
	smokeHosts    = regexp.MustCompile(`(?m)^# hosts: ([1-3])$`)
	smokeUp       = regexp.MustCompile(`(?m)^# up: (.*)$`)
	smokeDocker   = regexp.MustCompile(`(?m)^# docker: (alone|swarm)$`)
	smokeCNI      = regexp.MustCompile(`(?m)^# cni$`)
	smokeResolver = regexp.MustCompile(`(?m)^# resolver: (.*)$`)
)

// TestSmoke runs what Weave Net's smoke tests proved, of its numbers those that are about hosts, expose, names, addresses and Docker: scripts in the
// folder smoke, which whoever knows weft's commands can read and write. docs/weave.md says where the other numbers are.
func TestSmoke(t *testing.T) {
	all, err := filepath.Glob("smoke/[0-9]*.sh")
	if err != nil || len(all) < 15 {
		t.Fatalf("%d scripts: %v", len(all), err)
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(path), ".sh"), func(t *testing.T) {
			if smokeDocker.Find(text) == nil { // several engines at once are much for a small machine
				t.Parallel()
			}
			smoke(t, path, text)
		})
	}
}

func smoke(t *testing.T, path string, text []byte) {
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
	docker := smokeDocker.FindSubmatch(text)
	for i, h := range hosts {
		options := up
		if i > 0 {
			options = []string{hosts[0].Endpoint()}
		}
		if docker != nil {
			options = slices.Concat(options, h.DockerPlugin(), h.DockerNames())
		}
		h.Up(options...)
	}
	if count > 1 {
		rig.AllKnowAll(t, 15*time.Second, hosts...)
	}
	limit := 60 * time.Second
	for _, h := range hosts {
		vars := map[string]string{"WEFT_RUN_DIR": h.RunDir(), "WEFT_STATE_DIR": h.StateDir(), "ADDRESS": h.IP.String()}
		if docker != nil {
			limit = 4 * time.Minute
			smokeEngine(t, h, string(docker[1]) == "swarm", vars)
		}
		if smokeCNI.Find(text) != nil {
			c := h.CNI()
			vars["CNI_PATH"], vars["NETCONFPATH"] = c.BinDir, c.ConfDir
		}
		words := []string{"#!/bin/sh\nexec ip netns exec", h.NS, "env"}
		for _, k := range slices.Sorted(maps.Keys(vars)) {
			words = append(words, k+"="+vars[k])
		}
		if err := os.WriteFile(filepath.Join(bin, h.Name), []byte(strings.Join(words, " ")+" \"$@\"\n"), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", `. smoke/lib.sh && . "$0"`, path)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", path, err, out)
	}
}

// smokeEngine starts Docker on a host, and tells where it is.
func smokeEngine(t *testing.T, h *rig.Host, inSwarm bool, vars map[string]string) {
	t.Helper()
	if inSwarm {
		h.ForSwarm()
	}
	h.Setenv("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE=1")
	e := engine{Host: h, Docker: h.Docker()}
	if inSwarm {
		t.Cleanup(e.leaveSwarm)
	}
	vars["DOCKER_HOST"], vars["WEFT_DOCKER_PLUGIN"] = e.Where(), h.DockerPlugin()[1]
	vars["IMAGE"] = rig.DockerImage
}
