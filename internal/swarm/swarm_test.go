package swarm_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/dockerapi/dockerapitest"
	"github.com/weft-net/weft/internal/swarm"
)

// program builds a program that needs no library, in place of weft.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "weft")
	cmd := exec.Command("go", "build", "-o", out, source)
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

// TestSetUp: a node gets the plugin once; a plugin that is there is enabled, one that is other is made anew, and what fails leaves nothing.
func TestSetUp(t *testing.T) {
	weft, daemon := program(t), dockerapitest.Driver(t)
	e := dockerapitest.New(t)
	c := dockerapi.New(e.Socket)
	s, err := swarm.SetUp(t.Context(), c, weft, daemon)
	if want := (swarm.Setup{Docker: "20.10.24+dfsg1", InSwarm: true, Made: true, Enabled: true}); err != nil || s != want {
		t.Fatalf("%+v, %v; want %+v", s, err, want)
	}
	info, err := os.Stat(weft)
	if err != nil {
		t.Fatal(err)
	}
	p := e.Plugin(swarm.Driver)
	if p == nil || !p.Enabled || p.Files["rootfs/bin/weft"] != info.Size() || len(p.Files) != 4 || len(p.Config.Linux.Capabilities) != 0 {
		t.Fatalf("plugin: %+v", p)
	}
	changes := e.Changes()
	if s, err = swarm.SetUp(t.Context(), c, weft, daemon); err != nil || s.Made || s.Enabled || len(e.Changes()) != len(changes) {
		t.Errorf("a second time: %+v, %v, %v", s, err, e.Changes())
	}

	// Disabled by hand.
	p.Enabled = false
	if s, err = swarm.SetUp(t.Context(), c, weft, daemon); err != nil || s.Made || !s.Enabled || !p.Enabled {
		t.Errorf("disabled before: %+v, %v", s, err)
	}

	// Weft answers elsewhere now.
	moved := dockerapitest.Driver(t)
	if _, err = swarm.SetUp(t.Context(), c, weft, moved); err == nil || !strings.Contains(err.Error(), "docker plugin disable -f weft-swarm:latest, and again") {
		t.Errorf("enabled for another socket: %v", err)
	}
	p.Enabled = false
	if s, err = swarm.SetUp(t.Context(), c, weft, moved); err != nil || !s.Made || !s.Enabled {
		t.Errorf("disabled, for another socket: %+v, %v", s, err)
	}
}

// TestSetUpRefused: what keeps a node from being set up is said in one sentence with the fix, and leaves nothing.
func TestSetUpRefused(t *testing.T) {
	weft, daemon := program(t), dockerapitest.Driver(t)
	script := filepath.Join(t.TempDir(), "weft")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*dockerapitest.Engine)
		weft   string
		daemon string
		want   string
	}{
		"no weft": {daemon: "/nowhere/weft.sock", want: "weft does not answer Docker at /nowhere/weft.sock: weft up on this host, with --docker-plugin /nowhere/weft.sock"},
		"old Docker": {
			change: func(e *dockerapitest.Engine) { e.Info.ServerVersion = "19.03.15" },
			want:   "this is Docker 19.03.15: weft needs 20.10 or later",
		},
		"no binary": {weft: script, want: "build weft for Linux with CGO_ENABLED=0 (make build)"},
		"not taken": {
			change: func(e *dockerapitest.Engine) { e.Fails["POST /plugins/create"] = "no space left on device" },
			want:   "make the plugin weft-swarm:latest: docker: no space left on device",
		},
		"not started": {
			change: func(e *dockerapitest.Engine) {
				e.Fails["POST /plugins/weft-swarm:latest/enable"] = "dial unix: no such file"
			},
			want: "plugin weft-swarm:latest does not start: docker: dial unix: no such file",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := dockerapitest.New(t)
			if c.change != nil {
				c.change(e)
			}
			use, at := weft, daemon
			if c.weft != "" {
				use = c.weft
			}
			if c.daemon != "" {
				at = c.daemon
			}
			_, err := swarm.SetUp(t.Context(), dockerapi.New(e.Socket), use, at)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if e.Plugin(swarm.Driver) != nil {
				t.Error("a plugin is left")
			}
		})
	}
	_, err := swarm.SetUp(t.Context(), dockerapi.New("/nowhere/docker.sock"), weft, daemon)
	if want := "no Docker answers at /nowhere/docker.sock (connect: no such file or directory): is it running there?"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestWriteDir: the folder is what docker plugin create takes, and what setup makes as well.
func TestWriteDir(t *testing.T) {
	weft := program(t)
	dir := filepath.Join(t.TempDir(), "plugin")
	if err := swarm.WriteDir(dir, weft, "/run/docker/plugins/weft.sock"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got dockerapi.PluginConfig
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/bin/weft", "docker", "relay", "--listen", "/run/docker/plugins/weft-swarm.sock",
		"--to", "/host/weft.sock", "--known-as", "/run/docker/plugins/weft.sock",
	}
	if !slices.Equal(got.Entrypoint, want) || len(got.Mounts) != 1 || got.Mounts[0].Source != "/run/docker/plugins" || got.Mounts[0].Destination != "/host" {
		t.Errorf("config.json: %s", b)
	}
	if info, err := os.Stat(filepath.Join(dir, "rootfs/bin/weft")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the binary: %v, %v", info, err)
	}
	if err := swarm.WriteDir(dir, weft, "/x"); err == nil {
		t.Error("written over a folder that is there")
	}
}

// TestNetwork: a node's configuration and the Swarm's network are made once, told from others of the same name, and removed together.
func TestNetwork(t *testing.T) {
	weft, daemon := program(t), dockerapitest.Driver(t)
	e := dockerapitest.New(t)
	c := dockerapi.New(e.Socket)
	n := swarm.Network{Name: "party", Subnet: "10.32.16.0/20", Options: map[string]string{"weft.ipv6": "false"}}
	if _, err := swarm.MakeConfig(t.Context(), c, n); err == nil || !strings.Contains(err.Error(), "weft docker setup --swarm") {
		t.Errorf("without the plugin: %v", err)
	}
	if _, err := swarm.SetUp(t.Context(), c, weft, daemon); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if made, err := swarm.MakeConfig(t.Context(), c, n); err != nil || made != want {
			t.Fatalf("configuration, time %d: %v, %v", i, made, err)
		}
		if made, err := swarm.MakeNetwork(t.Context(), c, n); err != nil || made != want {
			t.Fatalf("network, time %d: %v, %v", i, made, err)
		}
	}
	if has, ok := e.Network("party"); !ok || has.Scope != "swarm" || has.Driver != swarm.Driver || !has.Attachable || has.ConfigFrom.Network != "party-weft" {
		t.Errorf("the Swarm's network: %+v", has)
	}
	if want := "docker network create --config-only --ipam-driver weft-swarm:latest --ipam-opt weft.network=party --subnet 10.32.16.0/20 -o weft.ipv6=false party-weft"; n.Command() != want {
		t.Errorf("command:\n%s\nwant\n%s", n.Command(), want)
	}
	other := n
	other.Subnet = "10.9.0.0/24"
	if _, err := swarm.MakeConfig(t.Context(), c, other); err == nil || !strings.Contains(err.Error(), "docker network rm party-weft") {
		t.Errorf("another configuration of the name: %v", err)
	}
	other = n
	other.Internal = true
	if _, err := swarm.MakeNetwork(t.Context(), c, other); err == nil || !strings.Contains(err.Error(), "docker network rm party") {
		t.Errorf("another network of the name: %v", err)
	}
	for _, x := range []string{"mine", "mine-weft"} {
		if err := c.CreateNetwork(t.Context(), dockerapi.Network{Name: x, Driver: "bridge", Scope: "local"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := swarm.MakeNetwork(t.Context(), c, swarm.Network{Name: "mine"}); err == nil || !strings.Contains(err.Error(), "docker has another network mine (driver bridge, scope local)") {
		t.Errorf("somebody's network: %v", err)
	}
	for range 2 {
		if err := swarm.RemoveNetwork(t.Context(), c, "party"); err != nil {
			t.Fatal(err)
		}
	}
	if err := swarm.RemoveNetwork(t.Context(), c, "mine"); err == nil || !strings.Contains(err.Error(), "is not weft's for Swarm") {
		t.Errorf("somebody's network removed: %v", err)
	}
	if _, ok := e.Network("party-weft"); ok {
		t.Error("the configuration is left")
	}
	if _, ok := e.Network("mine"); !ok {
		t.Error("somebody's network is gone")
	}
}

// TestFollow: a node makes what the cluster wants, once, and again when somebody removed it; it says what is in the way, removes what is not wanted
// any more, and nothing else.
func TestFollow(t *testing.T) {
	weft, daemon := program(t), dockerapitest.Driver(t)
	e := dockerapitest.New(t)
	c := dockerapi.New(e.Socket)
	party := swarm.Wish{Network: swarm.Network{Name: "party", Subnet: "10.32.16.0/20", Options: map[string]string{"weft.ipv6": "false"}}, Version: 3}
	follow := func(w ...swarm.Wish) map[string]swarm.Report {
		t.Helper()
		node, r, err := swarm.Follow(t.Context(), c, w)
		if err != nil || node != e.Info.Swarm.NodeID && e.Info.InSwarm() || len(r) != len(w) {
			t.Fatalf("node %q, %v, %v", node, r, err)
		}
		return r
	}
	if r := follow(party)["party"]; r.Version != 3 || !strings.Contains(r.Why, "weft docker setup --swarm") {
		t.Errorf("without the plugin: %+v", r)
	}
	if _, err := swarm.SetUp(t.Context(), c, weft, daemon); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r := follow(party)["party"]; r != (swarm.Report{Version: 3}) {
			t.Errorf("%+v", r)
		}
		changes := len(e.Changes())
		if follow(party); len(e.Changes()) != changes {
			t.Errorf("changed what was right: %v", e.Changes())
		}
		if err := c.RemoveNetwork(t.Context(), "party-weft"); err != nil { // by hand
			t.Fatal(err)
		}
	}
	follow(party)
	if err := c.CreateNetwork(t.Context(), dockerapi.Network{Name: "mine-weft", Driver: "bridge", Scope: "local"}); err != nil {
		t.Fatal(err)
	}
	gone := party
	gone.Version, gone.Gone = 4, true
	mine := swarm.Wish{Network: swarm.Network{Name: "mine"}, Version: 1, Gone: true}
	r := follow(gone, mine)
	if r["party"] != (swarm.Report{Version: 4}) || r["mine"].Version != 1 || !strings.Contains(r["mine"].Why, "is not weft's for Swarm") {
		t.Errorf("%+v", r)
	}
	if _, ok := e.Network("party-weft"); ok {
		t.Error("the configuration is left")
	}
	if _, ok := e.Network("mine-weft"); !ok {
		t.Error("somebody's network is gone")
	}
	e.Info.Swarm.LocalNodeState = "inactive"
	if r := follow(party)["party"]; !strings.Contains(r.Why, "in no Swarm") {
		t.Errorf("in no Swarm: %+v", r)
	}
	if _, _, err := swarm.Follow(t.Context(), dockerapi.New("/nowhere/docker.sock"), nil); err == nil {
		t.Error("no Docker, and no error")
	}
}

// TestNodes: of each other node it is said what it lacks.
func TestNodes(t *testing.T) {
	e := dockerapitest.New(t)
	if err := json.Unmarshal([]byte(`[
		{"ID":"n1","Description":{"Hostname":"a"},"Status":{"State":"ready"}},
		{"ID":"n3","Description":{"Hostname":"c"},"Status":{"State":"down"}},
		{"ID":"n2","Description":{"Hostname":"b","Engine":{"Plugins":[{"Type":"Volume","Name":"weft-swarm:latest"},{"Type":"Network","Name":"weft-swarm:latest"}]}},"Status":{"State":"ready"}}]`), &e.Nodes); err != nil {
		t.Fatal(err)
	}
	got, err := swarm.Nodes(t.Context(), dockerapi.New(e.Socket), "n1")
	want := []swarm.Node{{ID: "n2", Name: "b", Ready: true, Plugin: true}, {ID: "n3", Name: "c"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

// TestSocket: DOCKER_HOST is a socket of this host, or refused.
func TestSocket(t *testing.T) {
	for host, want := range map[string]string{"": "/var/run/docker.sock", "unix:///x/docker.sock": "/x/docker.sock", "tcp://10.0.0.1:2375": "", "unix://x": "", "ssh://h": ""} {
		if got, err := dockerapi.Socket(host); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", host, got, err, want)
		}
	}
}
