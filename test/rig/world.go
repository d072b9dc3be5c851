// Package rig builds hosts as network namespaces around an underlay that misbehaves on demand, and runs the real weft in them.
//
// A World is one test's machine room. Its underlay is a Cloud (a router that forwards unicast only), a LAN (a bridge) or
// both, with NATs behind the router. Hosts are joined to it by veth and run weft as a child process with folders of
// their own. Faults, captures and counters live in the underlay's namespace, so no host can tell who did it.
//
// Everything of a World is named after its prefix and removed by a child process, the sweeper, which also acts when
// the test process dies without a word.
package rig

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// sweep removes all that belongs to a prefix once its standard input ends. It reads process groups to kill, one a line.
// $1 prefix, $2 folder. A process inside one of our namespaces is ours whoever started it; one that left them, as
// weft run does, is found by its group, containers by their control group, which has their own name if they are Docker's plugins. (No "--" after -KILL: Debian's sh takes it for a group.)
// Dying takes its time, and what dies still holds its namespace and its control group.
const sweep = `
trap '' INT TERM HUP
groups=$(cat)
for g in $groups; do kill -s KILL -- "-$g" 2>/dev/null; done
plugins=$(ls "$2"/*/docker/data/plugins 2>/dev/null | grep -E '^[0-9a-f]{64}$')
for round in $(seq 100); do
  pids=$(find /sys/fs/cgroup -path "*/$1/*" -name cgroup.procs -exec cat {} + 2>/dev/null
    for p in $plugins; do find /sys/fs/cgroup -path "*/$p/cgroup.procs" -exec cat {} + 2>/dev/null; done
    for ns in $(ip netns list | cut -d' ' -f1 | grep "^$1-"); do ip netns pids "$ns" 2>/dev/null; done)
  [ -z "$pids" ] && break
  kill -KILL $pids 2>/dev/null
  sleep 0.02
done
for ns in $(ip netns list | cut -d' ' -f1 | grep "^$1-"); do ip netns del "$ns"; done
for round in $(seq 100); do
  find /sys/fs/cgroup -depth -type d -path "*/$1*" -exec rmdir {} + 2>/dev/null
  [ -z "$(find /sys/fs/cgroup -type d -path "*/$1*" -print -quit 2>/dev/null)" ] && break
  sleep 0.02
done
for p in $plugins; do find /sys/fs/cgroup -depth -type d -name "$p" -exec rmdir {} + 2>/dev/null; done
rm -rf /etc/netns/"$1"-* "$2"
exit 0
`

// World is the machine room of one test. Its methods are for the test's goroutine, unless they say otherwise.
type World struct {
	T testing.TB

	prefix string // of every namespace
	dir    string // state and run folders, captures
	bin    string

	sweeper *exec.Cmd
	groups  io.WriteCloser // process groups for the sweeper

	mu    sync.Mutex // guards what follows
	token string
	hosts []*Host
	procs []*Process
	names map[string]bool
}

// New makes an empty World and has the test remove it when it ends. It needs root and fails the test without.
func New(t testing.TB) *World {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root (make test)")
	}
	for _, tool := range []string{"ip", "nft", "ethtool", "tcpdump"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test needs %s: run make test-deps", tool)
		}
	}
	var id [3]byte
	_, _ = rand.Read(id[:])
	w := &World{T: t, prefix: "wt" + hex.EncodeToString(id[:]), bin: Binary(t), names: map[string]bool{}}
	dir, err := os.MkdirTemp("", w.prefix)
	if err != nil {
		t.Fatal(err)
	}
	w.dir = dir
	w.sweeper = exec.Command("/bin/sh", "-c", sweep, "sweeper", w.prefix, dir)
	w.sweeper.SysProcAttr = ownGroup() // Ctrl-C at a terminal must reach the test, not the sweeper
	if w.groups, err = w.sweeper.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := w.sweeper.Start(); err != nil {
		t.Fatalf("start the sweeper: %v", err)
	}
	t.Cleanup(w.close)
	return w
}

// Prefix begins the name of every namespace of this World.
func (w *World) Prefix() string { return w.prefix }

// Dir is a folder that is removed with the World.
func (w *World) Dir() string { return w.dir }

// Token is the join token of the first host that founded a cluster here.
func (w *World) Token() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.token
}

// SetToken makes hosts that join from now on use another token.
func (w *World) SetToken(token string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.token = token
}

// Hosts returns the hosts in the order they were made.
func (w *World) Hosts() []*Host {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*Host(nil), w.hosts...)
}

func (w *World) close() {
	if w.T.Failed() {
		w.dump()
	}
	_ = w.groups.Close()
	if err := w.sweeper.Wait(); err != nil {
		w.T.Errorf("remove %s: %v", w.prefix, err)
	}
	w.mu.Lock()
	procs := w.procs
	w.mu.Unlock()
	for _, p := range procs {
		p.wait() // reap; all are dead now
	}
	if left := leftovers(w.prefix, w.dir); len(left) > 0 {
		w.T.Errorf("left behind: %v", left)
	}
}

// dump shows the end of every process's output, for a test that failed.
func (w *World) dump() {
	w.mu.Lock()
	procs := append([]*Process(nil), w.procs...)
	w.mu.Unlock()
	const most = 12
	if len(procs) > most {
		w.T.Logf("output of %d processes; the last %d follow", len(procs), most)
		procs = procs[len(procs)-most:]
	}
	for _, p := range procs {
		if tail := p.tail(25); tail != "" {
			w.T.Logf("--- %s\n%s", p, tail)
		}
	}
}

// leftovers are the namespaces, control groups, mounts and files of a prefix that there still are.
func leftovers(prefix, dir string) []string {
	var left []string
	for _, pattern := range []string{
		"/run/netns/" + prefix + "-*", "/etc/netns/" + prefix + "-*", dir,
		"/sys/fs/cgroup/" + prefix + "*", "/sys/fs/cgroup/*/" + prefix + "*", // version 2, and version 1
	} {
		found, err := filepath.Glob(pattern)
		if err == nil {
			left = append(left, found...)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return append(left, err.Error())
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.Contains(f[4], prefix) { // field 5 of proc(5): where
			left = append(left, f[4])
		}
	}
	return left
}

// namespace makes a network namespace with loopback up and returns its full name.
func (w *World) namespace(name string) string {
	w.T.Helper()
	w.mu.Lock()
	taken := w.names[name]
	w.names[name] = true
	w.mu.Unlock()
	if taken {
		w.T.Fatalf("two namespaces are named %q", name)
	}
	ns := w.prefix + "-" + name
	w.must("ip", "netns", "add", ns)
	w.must("ip", "-n", ns, "link", "set", "lo", "up")
	return ns
}

// command runs a program and returns its standard output.
func command(stdin, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

func (w *World) must(name string, args ...string) string {
	w.T.Helper()
	out, err := command("", name, args...)
	if err != nil {
		w.T.Fatal(err)
	}
	return out
}

// in runs a program in a namespace.
func (w *World) in(ns, name string, args ...string) string {
	w.T.Helper()
	return w.must("ip", append([]string{"netns", "exec", ns, name}, args...)...)
}

// nft loads a ruleset in a namespace.
func (w *World) nft(ns, rules string) {
	w.T.Helper()
	if _, err := command(rules, "ip", "netns", "exec", ns, "nft", "-f", "-"); err != nil {
		w.T.Fatalf("%v\n%s", err, rules)
	}
}

// batch runs ip commands in a namespace, one a line.
func (w *World) batch(ns, lines string) {
	w.T.Helper()
	if _, err := command(lines, "ip", "-n", ns, "-batch", "-"); err != nil {
		w.T.Fatalf("%v\n%s", err, lines)
	}
}

// hostsFile tells every host the names of all, as an administrator would.
func (w *World) hostsFile() {
	w.T.Helper()
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	hosts := w.Hosts()
	for _, h := range hosts {
		for _, ip := range []netip.Addr{h.IP, h.IP6} {
			if ip.IsValid() && h.nat == nil {
				fmt.Fprintf(&b, "%s %s\n", ip, h.Name)
			}
		}
	}
	for _, h := range hosts {
		dir := "/etc/netns/" + h.NS
		if err := os.MkdirAll(dir, 0o755); err != nil {
			w.T.Fatal(err)
		}
		// Written in place: a running process sees the file through a bind mount of this inode.
		if err := os.WriteFile(dir+"/hosts", []byte(b.String()), 0o644); err != nil {
			w.T.Fatal(err)
		}
	}
}

// Eventually calls check until it returns nil, at most for d, and fails the test with its last error.
func Eventually(t testing.TB, d time.Duration, check func() error) {
	t.Helper()
	if err := Poll(d, check); err != nil {
		t.Fatalf("after %v: %v", d, err)
	}
}

// ErrHopeless ends the waiting for a check whose error wraps it: what is waited for can no longer come.
var ErrHopeless = errors.New("hopeless")

// Poll calls check every 50 ms until it returns nil, at most for d, and returns its last error.
func Poll(d time.Duration, check func() error) error {
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil || errors.Is(err, ErrHopeless) {
			return err
		}
		select {
		case <-deadline.C:
			return err
		case <-tick.C:
		}
	}
}

// During calls check every 50 ms for d and fails the test at the first error: for what must not happen.
func During(t testing.TB, d time.Duration, check func() error) {
	t.Helper()
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := check(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-deadline.C:
			return
		case <-tick.C:
		}
	}
}

// Pause lets d pass, for tests whose subject is the passing of time (a partition of 60 s); never for waiting.
func Pause(t testing.TB, d time.Duration) {
	t.Helper()
	During(t, d, func() error { return nil })
}
