// Package test proves weft's promises with real hosts: namespaces, the built binary, and an underlay that misbehaves.
//
// Tests that mostly wait run in parallel, two on two cores; those that measure time, copies or memory run before, alone.
package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

func TestMain(m *testing.M) {
	if !busProgram() && !storeProgram() {
		rig.Main(m)
	}
}

const python = "/usr/bin/python3"

// longVariable is set by make test-long; long says whether it is.
const longVariable = "WEFT_TEST_LONG"

var long = os.Getenv(longVariable) != ""

// times returns how often to do a thing: a short and a long run.
func times(short, inLong int) int {
	if long {
		return inLong
	}
	return short
}

// script is the absolute path of a program in testdata.
func script(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// agent is testdata/agent.py running as an attachment.
type agent struct {
	*rig.Process
	t    *testing.T
	host *rig.Host
	name string
}

const agentPort = "4321"

// startAgent attaches an agent to the default network, or with other options of weft run.
func startAgent(t *testing.T, h *rig.Host, name string, options ...string) *agent {
	t.Helper()
	p := h.RunWith(append([]string{"--name", name}, options...), python, script(t, "agent.py"), agentPort)
	p.ExpectLine("^ready$", 10*time.Second)
	return &agent{Process: p, t: t, host: h, name: name}
}

// do types a command and waits until it is done.
func (a *agent) do(format string, args ...any) {
	a.t.Helper()
	cmd := fmt.Sprintf(format, args...)
	a.Send(cmd)
	a.ExpectLine("^ok "+regexp.QuoteMeta(cmd)+"$", 10*time.Second)
}

// beside is a command in the agent's attachment.
func (a *agent) beside(cmd ...string) []string {
	return append([]string{"nsenter", "-t", strconv.Itoa(a.PID()), "-n"}, cmd...)
}

// ping sends n pings of size bytes that must not be fragmented, and returns how many were answered, and all that it printed.
func (a *agent) ping(to string, n, size int, options ...string) (int, string) {
	a.t.Helper()
	cmd := append([]string{"ping", "-n", "-M", "do", "-i", "0.1", "-W", "1", "-c", strconv.Itoa(n), "-s", strconv.Itoa(size)}, options...)
	r := a.host.Exec(a.beside(append(cmd, to)...)...)
	return strings.Count(r.Stdout, " bytes from "), r.Stdout + r.Stderr
}

// got returns how many datagrams with this text arrived.
func (a *agent) got(text string) int { return a.Count("^got " + regexp.QuoteMeta(text) + " ") }

// awaitGot waits for a datagram.
func (a *agent) awaitGot(text string, d time.Duration) {
	a.t.Helper()
	rig.Eventually(a.t, d, func() error {
		if a.got(text) == 0 {
			return fmt.Errorf("%s on %s did not get %q", a.name, a.host.Name, text)
		}
		return nil
	})
}

// flowed returns how many distinct datagrams of a flow arrived, and how many in all.
func (a *agent) flowed(text string) (distinct, all int) {
	seen := map[string]bool{}
	for _, l := range a.Lines() {
		f := strings.Fields(l)
		if len(f) > 2 && f[0] == "got" && strings.HasPrefix(f[1], text+"-") {
			seen[f[1]] = true
			all++
		}
	}
	return len(seen), all
}

// ip4 and ip6 are the attachment's addresses in its network, as the cluster knows them.
func (a *agent) ip4() string { a.t.Helper(); return a.ip(".") }
func (a *agent) ip6() string { a.t.Helper(); return a.ip(":") }

func (a *agent) ip(mark string) string {
	a.t.Helper()
	att, err := a.host.Attachment(a.name)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, ip := range att.IPs {
		ip, _, _ = strings.Cut(ip, "/")
		if strings.Contains(ip, mark) && !strings.HasPrefix(ip, "fe80:") {
			return ip
		}
	}
	a.t.Fatalf("%s has no address with %q: %v", a.name, mark, att.IPs)
	return ""
}

// cloud makes n hosts of one cluster in a cloud, after showing that the cloud carries no multicast. Every second one has
// its packet filter set as Docker sets it.
func cloud(t *testing.T, n int) (*rig.Underlay, []*rig.Host) {
	t.Helper()
	w := rig.New(t)
	u := w.Cloud()
	var hosts []*rig.Host
	for i := range n {
		hosts = append(hosts, u.Host(fmt.Sprintf("h%d", i+1)))
		if i%2 == 1 {
			hosts[i].DockerFirewall()
		}
	}
	rig.MulticastProbe(t, hosts[0], hosts[1])
	rig.Found(t, hosts...)
	return u, hosts
}

// converse shows that agents on different hosts hear each other in a group, whoever speaks.
func converse(t *testing.T, group string, agents ...*agent) {
	t.Helper()
	for _, a := range agents {
		a.do("join %s", group)
	}
	for _, a := range agents {
		rig.AwaitMembers(t, 10*time.Second, a.host, group, len(agents))
	}
	stamp := fmt.Sprint(time.Now().UnixNano())
	for _, a := range agents {
		a.do("send %s %s-says-%s", group, a.name, stamp)
	}
	for _, a := range agents {
		for _, b := range agents {
			if a != b {
				a.awaitGot(b.name+"-says-"+stamp, 5*time.Second)
			}
		}
	}
	for _, a := range agents {
		a.do("leave %s", group)
	}
}
