package natsgo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/netns"
)

// packages are those of nats.go whose tests connect to a server and want more of it than JetStream.
var packages = []string{"github.com/nats-io/nats.go/test", "github.com/nats-io/nats.go/micro/test"}

// tries is how often a test that fails is tried.
const tries = 3

// entry is a test, by its name or as TestName/subtest.
type entry struct {
	name    string
	skipped string // why it is not run; empty: it is
}

// listed reads tests.txt: names below headings, "# run" or "# skipped: " and the reason.
func listed(t *testing.T) []entry {
	t.Helper()
	b, err := os.ReadFile("tests.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []entry
	seen := map[string]bool{}
	reason, headed := "", false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		why, skipped := strings.CutPrefix(line, "# skipped: ")
		switch {
		case line == "" || strings.HasPrefix(line, "## "):
		case skipped:
			reason, headed = why, true
		case line == "# run":
			reason, headed = "", true
		case !headed || !strings.HasPrefix(line, "Test") || seen[line]:
			t.Fatalf("tests.txt: %q: want a heading first, and each test once", line)
		default:
			seen[line] = true
			out = append(out, entry{line, reason})
		}
	}
	return out
}

// namespace returns a network namespace with nothing but its loopback. Tests of nats.go listen on numbers of their own, up
// to 50224, which elsewhere may be some connection's local port.
func namespace(t *testing.T) netns.Namespace {
	t.Helper()
	ns, err := netns.OS().New()
	if err != nil {
		t.Fatalf("%v: needs root", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	err = ns.Do(func() error {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			return fmt.Errorf("ip link set lo up: %w\n%s", err, out)
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("20000 49999"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// run calls go in the suite's module.
func run(env []string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", append([]string{args[0], "-C", "suite"}, args[1:]...)...)
	cmd.Env = append(append(os.Environ(), "GOWORK=off"), env...)
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("go %s: %w\n%s", args[0], err, stderr.Bytes())
	}
	return out, err
}

// start runs the server in a namespace and returns its URL.
func start(t *testing.T, ns netns.Namespace, program string) string {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended badly: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return "nats://" + net.JoinHostPort("localhost", port)
}

// TestSuite runs the tests of NATS's own Go client that need what NATS calls core against weft's listener, each server a
// process of its own. A test that is in neither list fails this one: a new version of the client has to be looked through.
func TestSuite(t *testing.T) {
	tests := listed(t)
	t.Run("list", func(t *testing.T) {
		out, err := run([]string{"TESTER_NATS_URL=nats://localhost:1"}, append([]string{"test", "-vet=off", "-tags=internal_testing", "-list=."}, packages...)...)
		if err != nil {
			t.Fatal(err)
		}
		checkList(t, tests, out)
	})
	if t.Failed() {
		return
	}
	server := filepath.Join(t.TempDir(), "server")
	if out, err := exec.Command("go", "build", "-race", "-o", server, "./server").CombinedOutput(); err != nil {
		t.Fatalf("build the server: %v\n%s", err, out)
	}
	var skip []string
	for _, e := range tests {
		if e.skipped != "" {
			parts := strings.Split(e.name, "/")
			for i, p := range parts {
				parts[i] = "^" + p + "$"
			}
			skip = append(skip, strings.Join(parts, "/"))
		}
	}
	args := []string{"test", "-json", "-count=1", "-p=1", "-vet=off", "-tags=internal_testing", "-timeout=5m", "-skip=" + strings.Join(skip, "|")}
	ns := namespace(t)
	env := []string{"TESTER_NATS_URL=" + start(t, ns, server), "WEFT_NATS_SERVER=" + server}
	tested := func(args ...string) (out []byte, err error) {
		err = ns.Do(func() (err error) { out, err = run(env, args...); return err })
		return out, err
	}
	out, err := tested(append(args, packages...)...)
	results, said := judge(t, out)
	failed := failures(results)
	if err != nil && len(failed) == 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	// Some give an answer no more than 100 ms, which a busy machine does not keep. What fails for a reason of its own fails again.
	for try := 1; try < tries && len(failed) > 0; try++ {
		t.Logf("once more: %s\n%s", strings.Join(failed, ", "), said[failed[0]])
		out, err := tested(append(append(args, "-run=^("+strings.Join(failed, "|")+")$"), packages...)...)
		again, why := judge(t, out)
		if len(again) < len(failed) {
			t.Fatalf("%v\n%s", err, out)
		}
		maps.Copy(results, again)
		maps.Copy(said, why)
		failed = failures(again)
	}
	for _, name := range failed {
		t.Errorf("%s: %s, %d times\n%s", name, results[name], tries, said[name])
	}
	n := 0
	for _, e := range tests {
		name, _, sub := strings.Cut(e.name, "/")
		switch got := results[name]; {
		case e.skipped == "" && got != "pass":
			t.Errorf("%s: %q, want pass", e.name, got)
		case e.skipped == "":
			n++
		case !sub && got != "":
			t.Errorf("%s is listed as skipped and was run: %s", e.name, got)
		}
	}
	t.Logf("%d tests of nats.go passed, %d entries skipped", n, len(tests)-n)
}

// checkList compares tests.txt with what `go test -list` says.
func checkList(t *testing.T, tests []entry, out []byte) {
	t.Helper()
	there := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "Test") {
			there[line] = true
		}
	}
	for _, e := range tests {
		if name, _, _ := strings.Cut(e.name, "/"); !there[name] {
			t.Errorf("%s is listed, and nats.go has no such test", name)
		}
	}
	for name := range there {
		if !slices.ContainsFunc(tests, func(e entry) bool { return e.name == name }) {
			t.Errorf("%s is not listed: under which heading does it belong?", name)
		}
	}
}

// failures are the tests that did not pass, by name.
func failures(results map[string]string) (out []string) {
	for name, got := range results {
		if got != "pass" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// judge reads what `go test -json` wrote: how each test ended, and what it said.
func judge(t *testing.T, out []byte) (results, said map[string]string) {
	t.Helper()
	results, said = map[string]string{}, map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var ev struct{ Action, Test, Output string }
		if err := dec.Decode(&ev); errors.Is(err, io.EOF) {
			return results, said
		} else if err != nil {
			t.Fatalf("go test -json: %v", err)
		}
		top, _, _ := strings.Cut(ev.Test, "/")
		switch ev.Action {
		case "output":
			said[top] += ev.Output
		case "pass", "fail", "skip":
			if top != "" && top == ev.Test {
				results[top] = ev.Action
			}
		}
	}
}
