package rig

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// cnitool is the reference runtime's own tool, built from the version that tools/go.mod pins.
var cnitool = sync.OnceValues(func() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(built, "cnitool")
	cmd := exec.Command("go", "build", "-modfile=tools/go.mod", "-o", bin, "github.com/containernetworking/cni/cnitool")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cnitool: %w\n%s", err, out)
	}
	return bin, nil
})

// CNI is what runtimes of containers have on a host: a folder of plugins with weft in it, one of configurations, one of results.
type CNI struct {
	h                    *Host
	BinDir, ConfDir, tmp string
}

// CNI installs the plugin with weft's own command, in folders of the host's own.
func (h *Host) CNI(options ...string) *CNI {
	h.w.T.Helper()
	dir := filepath.Join(h.w.dir, h.Name, "cni")
	c := &CNI{h: h, BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "conf"), tmp: filepath.Join(dir, "results")}
	for _, d := range []string{c.tmp, "/var/lib/cni"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			h.w.T.Fatal(err)
		}
	}
	h.MustWeft(append([]string{"cni", "install", "--bin-dir", c.BinDir, "--conf-dir", c.ConfDir}, options...)...)
	return c
}

// Tool runs cnitool: add, del, check, gc or status of a CNI network for a container, with variables NAME=VALUE.
func (c *CNI) Tool(command, network string, at *Container, vars ...string) Result {
	t := c.h.w.T
	t.Helper()
	tool, err := buildIn(t, cnitool)
	if err != nil {
		t.Fatal(err)
	}
	// It keeps results in a fixed place, which all hosts of a machine would share.
	args := append([]string{"sh", "-c", `mount --bind "$0" /var/lib/cni && exec "$@"`, c.tmp, "env", "CNI_PATH=" + c.BinDir, "NETCONFPATH=" + c.ConfDir}, vars...)
	return c.h.Exec(append(args, tool, command, network, at.Path)...)
}

// buildIn builds a tool in the folder of the test's binaries, and makes one when nothing was built yet.
func buildIn(t testing.TB, tool func() (string, error)) (string, error) {
	t.Helper()
	if built == "" { // WEFT_BIN: beside it nothing is ours
		dir, err := os.MkdirTemp("", "weft-bin")
		if err != nil {
			return "", err
		}
		built = dir
	}
	return tool()
}

// Call calls the plugin as a runtime does, and returns what it answers.
func (c *CNI) Call(command, config string, at *Container, vars ...string) Result {
	c.h.w.T.Helper()
	env := append([]string{"env", "CNI_COMMAND=" + command, "CNI_PATH=" + c.BinDir}, vars...)
	if at != nil {
		env = append(env, "CNI_CONTAINERID="+at.ID, "CNI_NETNS="+at.Path, "CNI_IFNAME=eth0")
	}
	return c.h.exec(config, append(env, filepath.Join(c.BinDir, "weft"))...)
}

// Container is a namespace as a runtime makes one, and nothing in it yet.
type Container struct {
	ID, Path string
	ns       string
	h        *Host
}

// Container makes one on this host.
func (h *Host) Container(name string) *Container {
	h.w.T.Helper()
	ns := h.w.namespace(h.Name + "-" + name)
	return &Container{ID: name, ns: ns, Path: "/run/netns/" + ns, h: h}
}

// Start starts a command in it.
func (c *Container) Start(args ...string) *Process {
	c.h.w.T.Helper()
	return c.h.w.start(c.ns, strings.Join(args, " ")+" in "+c.ID+" on "+c.h.Name, c.h.env(), args...)
}

// Must runs a command in it.
func (c *Container) Must(args ...string) string {
	c.h.w.T.Helper()
	return c.h.w.in(c.ns, args[0], args[1:]...)
}

// Remove removes the namespace.
func (c *Container) Remove() {
	c.h.w.T.Helper()
	if _, err := command("", "ip", "netns", "del", c.ns); err != nil {
		c.h.w.T.Fatal(err)
	}
}

// Renew makes the namespace anew under its old name, as a runtime does whose container is restarted.
func (c *Container) Renew() {
	c.h.w.T.Helper()
	c.Remove()
	if _, err := command("", "ip", "netns", "add", c.ns); err != nil {
		c.h.w.T.Fatal(err)
	}
}

// CNIResult is the answer of ADD, of version 0.3.1 or later.
type CNIResult struct {
	Version    string `json:"cniVersion"`
	Interfaces []struct{ Name, Mac, Sandbox string }
	IPs        []struct {
		Interface int
		Address   netip.Prefix
	}
	DNS struct {
		Nameservers, Search []string
	}
}

// Result decodes what ADD has printed.
func (r Result) Result(t testing.TB) CNIResult {
	t.Helper()
	var out CNIResult
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil || r.Code != 0 {
		t.Fatalf("exit %d, %v: %s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	return out
}

// IP returns the address of a family that an interface has.
func (r CNIResult) IP(t testing.TB, iface string, six bool) string {
	t.Helper()
	for _, ip := range r.IPs {
		if ip.Interface < len(r.Interfaces) && r.Interfaces[ip.Interface].Name == iface && ip.Address.Addr().Is6() == six {
			return ip.Address.Addr().String()
		}
	}
	t.Fatalf("no address of %s (IPv6 %v) in %+v", iface, six, r)
	return ""
}
