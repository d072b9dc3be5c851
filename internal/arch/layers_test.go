package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weft-net/weft"

// layer is the height of a package: it may import lower ones only.
type layer int

const (
	codec layer = iota
	core
	seam
	service
	assembly
	face
	command
)

// layers places every package below internal, cmd, client and bus. A new package is put here by hand: choosing its
// layer is a decision.
var layers = map[string]layer{
	"internal/ident": codec, "internal/wire": codec, "internal/ether": codec, "internal/api": codec, "internal/config": codec,
	"internal/record": codec, "internal/gso": codec, "internal/snapshot": codec, "internal/natsproto": codec,
	"internal/envelope": codec, "internal/dns": codec,

	"internal/gcm": core, "internal/seal": core, "internal/handshake": core, "internal/frag": core, "internal/link": core,
	"internal/state": core, "internal/ring": core, "internal/fdb": core,
	"internal/island": core, "internal/tree": core, "internal/hearing": core, "internal/measure": core,
	"internal/subject": core, "internal/buskey": core, "internal/rmcast": core, "internal/parity": core,
	"internal/names": core, "internal/lease": core,

	"internal/udp": seam, "internal/netmon": seam, "internal/tap": seam, "internal/nl": seam, "internal/netns": seam,
	"internal/guard": seam, "internal/store": seam, "internal/sdnotify": seam, "internal/handover": seam, "internal/load": seam,
	"internal/ethersock": seam, "internal/unixsock": seam, "internal/sealedtcp": seam, "internal/edge": seam,
	"internal/dockerapi": seam,

	"internal/stream": service, "internal/mesh": service, "internal/cast": service, "internal/vnet": service,
	"internal/ipam": service, "internal/bench": service, "bus": service, "internal/broker": service,
	"internal/nameserver": service, "internal/containers": service, "internal/swarm": service,
	"internal/discover": service,

	"internal/daemon": assembly,

	"internal/cli": face, "internal/apiserver": face, "internal/mcast": face, "internal/run": face, "client": face,
	"internal/nats": face, "internal/bare": face, "internal/docker": face, "internal/dockerproxy": face,
	"internal/cni": face,

	"cmd/weft": command,
}

// sideways lists the imports inside a layer that are meant, by importer.
// Codecs and cores are values and functions: those that build on one another may.
var sideways = map[string][]string{
	"internal/mesh":     {"internal/stream"},
	"internal/load":     {"internal/udp"},
	"internal/edge":     {"internal/sealedtcp"},
	"internal/handover": {"internal/unixsock"},
	"internal/nl":       {"internal/netns"},
	"internal/tap":      {"internal/netns"},
	"internal/cli":      {"internal/mcast", "internal/run", "client", "internal/apiserver", "internal/bare", "internal/docker", "internal/cni", "internal/dockerproxy"},
	"internal/run":      {"client", "internal/mcast"},
	"internal/cni":      {"client"},
}

// up lists the imports against the rule that are meant: faces with a server side are started by the assembly.
var up = map[string][]string{
	"internal/daemon": {"internal/apiserver", "internal/nats", "internal/bare", "internal/docker"},
}

// rails are outside the layers: nothing but a _test.go or another rail imports them.
func rail(rel string) bool {
	return rel == "internal/arch" || strings.HasPrefix(rel, "test/") || rel == "test" ||
		strings.HasSuffix(rel, "test")
}

type goPackage struct {
	ImportPath   string
	Dir          string
	Name         string
	Doc          string
	Imports      []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Standard     bool
}

// packages lists the module's packages as the go command sees them for one operating system.
func packages(t *testing.T, goos string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Name,Doc,Imports,GoFiles,TestGoFiles,XTestGoFiles", module+"/...")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for dec := json.NewDecoder(out); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	return all
}

func relative(path string) string { return strings.TrimPrefix(path, module+"/") }

// layerOf finds the layer of a package or of the package it is a part of (internal/cast/tree is in cast's).
func layerOf(rel string) (layer, bool) {
	for p := rel; p != "."; {
		if l, ok := layers[p]; ok {
			return l, true
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			break
		}
		p = p[:i]
	}
	return 0, false
}

func allowed(from, to string) error {
	lf, okf := layerOf(from)
	lt, okt := layerOf(to)
	switch {
	case !okf:
		return fmt.Errorf("%s has no layer: name one in internal/arch", from)
	case rail(to) || !okt:
		return fmt.Errorf("%s imports %s, which is for tests", from, to)
	case lf > lt, slices.Contains(sideways[from], to), slices.Contains(up[from], to):
		return nil
	case lf == lt && (lf <= core || strings.HasPrefix(to, from+"/") || strings.HasPrefix(from, to+"/")):
		return nil
	case lf == lt:
		return fmt.Errorf("%s imports %s: same layer; take a small interface and let daemon pass it", from, to)
	}
	return fmt.Errorf("%s imports %s: upward", from, to)
}

func TestLayers(t *testing.T) {
	for _, goos := range []string{"linux", "darwin"} {
		for _, p := range packages(t, goos) {
			from := relative(p.ImportPath)
			if rail(from) {
				continue
			}
			if _, ok := layerOf(from); !ok {
				t.Errorf("%s: package %s has no layer: name one in internal/arch", goos, from)
			}
			for _, imp := range p.Imports {
				if !strings.HasPrefix(imp, module+"/") {
					continue
				}
				if err := allowed(from, relative(imp)); err != nil {
					t.Errorf("%s: %v", goos, err)
				}
			}
		}
	}
}

// TestLayersCanFail keeps the rule itself honest.
func TestLayersCanFail(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"internal/cast", "internal/wire", true},
		{"internal/wire", "internal/cast", false},
		{"internal/cast", "internal/mesh", false},
		{"internal/mesh", "internal/stream", true},
		{"internal/stream", "internal/mesh", false},
		{"internal/vnet", "internal/daemon", false},
		{"internal/udp", "internal/tap", false},
		{"internal/daemon", "internal/apiserver", true},
		{"internal/udp", "internal/udp/udptest", false},
		{"internal/nowhere", "internal/wire", false},
		{"internal/cast/tree", "internal/seal", true},
	} {
		if err := allowed(c.from, c.to); (err == nil) != c.ok {
			t.Errorf("%s -> %s: %v, want allowed %v", c.from, c.to, err, c.ok)
		}
	}
	for from := range maps.Keys(sideways) {
		if _, ok := layers[from]; !ok {
			t.Errorf("sideways names %s, which has no layer", from)
		}
	}
}
