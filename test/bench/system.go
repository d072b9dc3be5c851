package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// system is one way to join hosts, in one world. It grows: hosts are added one by one, so that a cluster is never
// larger than what is measured on it.
type system interface {
	// add takes the world's next host in and sets its inside, dev and addr.
	add(ctx context.Context, w *world, h *host) error
}

// controlled is a system that has to be told who listens to the group; others find out, or flood.
type controlled interface {
	members(w *world, hosts []*host) error
}

var _ controlled = (*vxlan)(nil)

// settling is a system that finds its way to receivers while it is used. The process it returns, if any, keeps it found.
type settling interface {
	settle(ctx context.Context, s *stream) (*process, error)
}

var _ settling = (*weft)(nil)

// entry is a system one can choose.
type entry struct {
	name  string // in ONLY
	title string // in the tables
	how   string // it is set up, beyond its defaults
	// noMulticast says why it has none; empty when it has.
	noMulticast string
	// onlyMulticast says that the rest is that of the system before.
	onlyMulticast bool
	// version asks the program for its own; an error says why the system cannot be run.
	version func(ctx context.Context) (string, error)
	make    func() system
}

// catalogue lists all systems in the order of the tables.
var catalogue = []entry{
	{
		name: "bare", title: "bare veth", how: "no overlay: what the machine gives at most",
		version: kernel, make: func() system { return bare{} },
	},
	{
		name: "vxlan", title: "kernel VXLAN, ingress replication", how: "not encrypted; one flood entry per peer, no learning",
		version: kernel, make: func() system { return &vxlan{} },
	},
	{
		name: "vxlan-mdb", title: "kernel VXLAN, MDB", how: "not encrypted; the group's members programmed by hand",
		version: kernel, make: func() system { return &vxlan{mdb: true} },
	},
	{
		name: "vxlan-bridge", title: "kernel VXLAN, bridge and veth", how: "the first one, for containers: the device in a bridge, programs behind a veth",
		version: kernel, make: func() system { return &vxlan{bridged: true} },
	},
	{
		name: "wireguard", title: "wireguard-go", how: "ChaCha20-Poly1305, MTU 1420, configured over its socket",
		noMulticast: "allowed-ips give each destination to one peer",
		version:     wireguardVersion, make: func() system { return &wireguard{} },
	},
	{
		name: "tinc", title: "tinc, switch mode", how: "its default AES-256-CBC and SHA-256; TAP MTU 1400; direct data",
		version: versionOf(`version (\S+)`, "tincd", "--version"), make: func() system { return &tinc{} },
	},
	{
		name: "n2n", title: "n2n", how: "its default Twofish; supernode beside the hosts; TAP MTU 1400, `-r`",
		version: versionOf(`n2n v\.(\S+)`, "edge", "-h"), make: func() system { return &n2n{} },
	},
	{
		name: "openvpn", title: "OpenVPN, tap", how: "AES-256-GCM over UDP; TAP MTU 1400; the sender is the server; client-to-client",
		version: versionOf(`OpenVPN (\S+)`, "openvpn", "--version"), make: func() system { return &openvpn{} },
	},
	{
		name: "weft", title: "weft, sealed", how: "AES-GCM; programs in a namespace attached to the network; no native multicast, as in a cloud",
		version: weftVersion, make: func() system { return &weft{} },
	},
	{
		name: "weft-multicast", title: "weft, sealed, native multicast", how: "the same, and the underlay's multicast is used", onlyMulticast: true,
		version: weftVersion, make: func() system { return &weft{multicast: true} },
	},
	{
		name: "weft-plain", title: "weft, plain", how: "not encrypted; `weft network create --plain`",
		version: weftVersion, make: func() system { return &weft{plain: true} },
	},
}

// versionOf runs a program and finds its version in what it prints, whatever its exit code.
func versionOf(pattern string, args ...string) func(context.Context) (string, error) {
	re := regexp.MustCompile(pattern)
	return func(ctx context.Context) (string, error) {
		if _, err := program(args[0]); err != nil {
			return "", err
		}
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		out, _ := cmd.CombinedOutput() // several of them call a question for help a failure
		m := re.FindSubmatch(out)
		if m == nil {
			return "", fmt.Errorf("%s: no version in %.80q", strings.Join(args, " "), out)
		}
		return strings.TrimRight(string(m[1]), ","), nil
	}
}

func kernel(ctx context.Context) (string, error) {
	out, err := execute(ctx, nil, "uname", "-r")
	return "Linux " + strings.TrimSpace(out), err
}

// program finds a program in PATH, in sbin, where users' PATHs don't look, or where the go command installs.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	dirs := []string{"/usr/local/sbin", "/usr/sbin", "/sbin", os.Getenv("GOBIN")}
	if out, err := exec.Command("go", "env", "GOPATH").Output(); err == nil {
		dirs = append(dirs, filepath.Join(strings.TrimSpace(string(out)), "bin"))
	}
	for _, d := range dirs {
		if p := filepath.Join(d, name); d != "" {
			if st, err := os.Stat(p); err == nil && st.Mode()&0o111 != 0 {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("%s is not installed: run .ci/deps bench", name)
}

// bare is the underlay itself.
type bare struct{}

func (bare) add(_ context.Context, _ *world, h *host) error {
	h.inside, h.dev, h.addr = h.ns, "eth0", h.ip
	return nil
}
