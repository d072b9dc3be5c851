package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/apiserver/apiservertest"
	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/dockerapi/dockerapitest"
	"github.com/weft-net/weft/internal/swarm"
)

// node is a node of a Swarm: a daemon and an engine, both in memory.
type node struct {
	*testing.T
	daemon *apiservertest.Backend
	runDir string
	engine *dockerapitest.Engine
	// systemctl is the service manager's.
	systemctl func(ctx context.Context, args ...string) (string, error)
}

func newNode(t *testing.T) node {
	t.Helper()
	enabled := func(context.Context, ...string) (string, error) { return "enabled", nil }
	daemon := apiservertest.New()
	return node{t, daemon, apiservertest.Serve(t, daemon), dockerapitest.New(t), enabled}
}

// plugin gives the node the plugin, as weft docker setup --swarm would.
func (n node) plugin() {
	n.Helper()
	var archive bytes.Buffer
	c := dockerapi.New(n.engine.Socket)
	if err := dockerapitest.Archive(&archive, swarm.Config("/run/docker/plugins/weft.sock")); err != nil {
		n.Fatal(err)
	}
	if err := c.CreatePlugin(n.Context(), swarm.Driver, &archive); err != nil {
		n.Fatal(err)
	}
	if err := c.EnablePlugin(n.Context(), swarm.Driver, 0); err != nil {
		n.Fatal(err)
	}
}

func (n node) weft(args ...string) call {
	n.Helper()
	var out, errs bytes.Buffer
	app := &App{
		Args: args, Env: []string{"WEFT_RUN_DIR=" + n.runDir, "DOCKER_HOST=unix://" + n.engine.Socket},
		In: strings.NewReader(""), Out: &out, Err: &errs, systemctl: n.systemctl,
	}
	return call{app.Main(n.Context()), out.String(), errs.String()}
}

// TestDockerNetwork: on a manager the weft network, the node's configuration and the Swarm's network are made; what is left to do on which node
// is printed.
func TestDockerNetwork(t *testing.T) {
	n := newNode(t)
	n.engine.Nodes = make([]dockerapi.Node, 3)
	for i, name := range []string{"a", "b", "c"} {
		x := &n.engine.Nodes[i]
		x.ID, x.Description.Hostname, x.Status.State = "n"+string(rune('1'+i)), name, "ready"
	}
	n.engine.Nodes[1].Description.Engine.Plugins = []struct{ Type, Name string }{{"Network", swarm.Driver}}
	if c := n.weft("docker", "network", "create", "films", "--subnet", "10.9.0.0/24"); c.code != 1 || !strings.Contains(c.errs, "weft docker setup --swarm") {
		t.Errorf("without the plugin: %+v", c)
	}
	n.plugin()
	const command = "docker network create --config-only --ipam-driver weft-swarm:latest --ipam-opt weft.network=films --subnet 10.9.0.0/24 -o weft.ipv6=false films-weft"
	c := n.weft("docker", "network", "create", "films", "--subnet", "10.9.0.0/24", "-o", "weft.ipv6=false")
	want := "network films (10.9.0.0/24) is in the Swarm, and this node\n" +
		"type on these nodes, before tasks come there:\n  " + command + "\n    b\n    c  no plugin: weft docker setup --swarm there, first\n"
	if c.code != 0 || c.out != want || c.errs != "" {
		t.Errorf("got\n%+v\nwant\n%s", c, want)
	}
	c = n.weft("docker", "network", "create", "films", "--json", "-o", "weft.ipv6=false")
	var again swarmNetworkMade
	if err := json.Unmarshal([]byte(c.out), &again); err != nil || again.Made || again.Subnet != "10.9.0.0/24" || again.Command != command || len(again.Nodes) != 2 {
		t.Errorf("a second time: %+v, %v", c, err)
	}
	// Of a network of several subnets the configuration names the first, in whatever order they are given, or left out.
	const two = "network two (10.7.0.0/24) is in the Swarm, and this node"
	for _, args := range [][]string{{"--subnet", "10.7.0.0/24", "--subnet", "10.8.0.0/24"}, {"--subnet", "10.8.0.0/24", "--subnet", "10.7.0.0/24"}, nil} {
		if c := n.weft(append([]string{"docker", "network", "create", "two"}, args...)...); c.code != 0 || !strings.HasPrefix(c.out, two) {
			t.Errorf("%v: %+v", args, c)
		}
	}
	if c := n.weft("docker", "network", "create", "two", "--subnet", "10.7.0.0/24", "--subnet", "10.6.0.0/24"); c.code != 1 || !strings.Contains(c.errs, "network two has the subnets 10.7.0.0/24 10.8.0.0/24, not 10.6.0.0/24") {
		t.Errorf("a subnet that it has not: %+v", c)
	}
	if c := n.weft("docker", "network", "rm", "two"); c.code != 0 {
		t.Errorf("rm: %+v", c)
	}
	// Nodes whose weft may do it have done it.
	n.daemon.SetSwarm(client.SwarmNode{Host: "a", Node: "n1"}, client.SwarmNode{Host: "b", Node: "n2"}, client.SwarmNode{Host: "c", Node: "n3", Reason: "no room"})
	c = n.weft("docker", "network", "create", "films", "-o", "weft.ipv6=false")
	if want := "network films (10.9.0.0/24) is in the Swarm, and this node\ntype on these nodes, before tasks come there:\n  " + command + "\n    c  no room\n"; c.code != 0 || c.out != want {
		t.Errorf("got\n%+v\nwant\n%s", c, want)
	}
	if c := n.weft("docker", "network", "rm", "films"); c.code != 0 || !strings.Contains(c.out, "left on c: docker network rm films-weft there") {
		t.Errorf("rm: %+v", c)
	}
	n.daemon.SetSwarm(client.SwarmNode{Host: "b", Node: "n2"}, client.SwarmNode{Host: "c", Node: "n3"})
	if c := n.weft("docker", "network", "rm", "films"); c.code != 0 || !strings.Contains(c.out, "removed from the Swarm and its nodes") {
		t.Errorf("rm: %+v", c)
	}
	for _, name := range []string{"films", "films-weft"} {
		if _, ok := n.engine.Network(name); ok {
			t.Errorf("%s is left", name)
		}
	}

	// On a worker there is nothing to make but the configuration, of a network that is there.
	n.engine.Info.Swarm.ControlAvailable = false
	if c := n.weft("docker", "network", "create", "weft"); c.code != 0 || c.out != "network weft (10.32.0.0/20) is in this node\n" {
		t.Errorf("on a worker: %+v", c)
	}
	if c := n.weft("docker", "network", "rm", "films"); c.code != 1 || !strings.Contains(c.errs, "on a manager: weft docker network rm films") {
		t.Errorf("rm on a worker: %+v", c)
	}
	if c := n.weft("docker", "network", "create", "ghost"); c.code != 1 || !strings.Contains(c.errs, "on a manager of the Swarm first: weft docker network create ghost") {
		t.Errorf("on a worker, of nothing: %+v", c)
	}
	if _, ok := n.engine.Network("ghost-weft"); ok {
		t.Error("a refused network left something")
	}
	n.engine.Info.Swarm.LocalNodeState = "inactive"
	if c := n.weft("docker", "network", "create", "weft"); c.code != 1 || !strings.Contains(c.errs, "this Docker is in no Swarm") {
		t.Errorf("in no Swarm: %+v", c)
	}
}

// TestDockerUsage: mistakes are found before anybody is asked.
func TestDockerUsage(t *testing.T) {
	n := newNode(t)
	for line, want := range map[string]string{
		"docker":                                    "one of its commands is missing",
		"docker frob":                               "docker has no command frob",
		"docker setup x":                            "takes no argument",
		"docker network create":                     "NAME is missing",
		"docker network create Bad_Name":            "use a-z",
		"docker network create a --opt x":           "want KEY=VALUE",
		"docker network create a --subnet 10.0.0.1": "want ADDRESS/BITS",
		"docker setup --docker-plugin off":          "want the path of a socket",
		"docker proxy -H unix://docker.sock":        "want unix:///PATH",
		"docker proxy -H 127.0.0.1:2375":            "want unix:///PATH or tcp://ADDRESS:PORT",
		"docker proxy -H tcp://127.0.0.1:2375":      "spell out --insecure-tcp",
		"docker proxy --network a/b":                "network",
		"docker proxy -H tcp://127.0.0.1:2375 --insecure-tcp --tlscert x": "without certificates",
		"docker plugin": "DIR is missing",
	} {
		if c := n.weft(strings.Fields(line)...); c.code != 2 || c.out != "" || !strings.Contains(c.errs, want) {
			t.Errorf("%s: %+v, want %s", line, c, want)
		}
	}
	if len(n.engine.Changes()) != 0 {
		t.Errorf("changes: %v", n.engine.Changes())
	}
}

// TestDockerSetupUnit: where systemd has weft's service it is enabled, once; where it has none, or may not, that is said.
func TestDockerSetupUnit(t *testing.T) {
	n := newNode(t)
	driver := dockerapitest.Driver(t)
	for state, want := range map[string]struct {
		calls, says string
		code        int
	}{
		"enabled":   {"is-enabled weft.service", "", 0},
		"disabled":  {"is-enabled weft.service, enable weft.service", "weft.service enabled", 0},
		"masked":    {"is-enabled weft.service", "weft.service is masked", 0},
		"not-found": {"is-enabled weft.service", "no weft.service here (not-found)", 0},
		"refused":   {"is-enabled weft.service, enable weft.service", "systemctl enable weft.service: exit status 1: Access denied", 1},
	} {
		var calls []string
		n.systemctl = func(_ context.Context, args ...string) (string, error) {
			calls = append(calls, strings.Join(args, " "))
			switch {
			case args[0] == "enable" && state == "refused":
				return "Access denied", errors.New("exit status 1")
			case state == "refused":
				return "disabled", errors.New("exit status 1")
			case state == "enabled" || args[0] == "enable":
				return state, nil
			}
			return state, errors.New("exit status 1")
		}
		c := n.weft("docker", "setup", "--docker-plugin", driver)
		if got := strings.Join(calls, ", "); got != want.calls || c.code != want.code || !strings.Contains(c.out+c.errs, want.says) {
			t.Errorf("%s: %+v after %s", state, c, got)
		}
	}
}

// TestDockerSetup: without --swarm nothing is installed, and what is missing is said.
func TestDockerSetup(t *testing.T) {
	n := newNode(t)
	if c := n.weft("docker", "setup", "--docker-plugin", dockerapitest.Driver(t)); c.code != 0 || !strings.HasPrefix(c.out, "Docker 20.10.24+dfsg1 can use weft: docker network create -d weft") {
		t.Errorf("%+v", c)
	}
	none := filepath.Join(t.TempDir(), "weft.sock")
	for _, args := range [][]string{{"docker", "setup", "--docker-plugin", none}, {"docker", "setup", "--swarm", "--docker-plugin", none}} {
		if c := n.weft(args...); c.code != 1 || !strings.Contains(c.errs, "weft does not answer Docker at "+none) {
			t.Errorf("%v: %+v", args, c)
		}
	}
	if len(n.engine.Changes()) != 0 {
		t.Errorf("changes: %v", n.engine.Changes())
	}
}
