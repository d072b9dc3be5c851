// Package dockerapitest is an engine of Docker's in memory: as much of its API as package dockerapi asks for.
package dockerapitest

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/internal/dockerapi"
)

// Engine answers as dockerd does. Its fields may be set before anybody asks.
type Engine struct {
	Info  dockerapi.Info
	Nodes []dockerapi.Node
	// Fails refuses calls, by method and path, with a sentence.
	Fails map[string]string
	// Socket is where it answers.
	Socket string

	mu sync.Mutex // guards all below
	// plugins and networks by name
	plugins  map[string]*Plugin
	networks map[string]dockerapi.Network
	changes  []string
	// containers by id, and who hears of changes of them
	containers map[string]dockerapi.Container
	followers  map[chan string]bool
	asked      []string
}

// Plugin is a managed plugin as it was made.
type Plugin struct {
	Config  dockerapi.PluginConfig
	Files   map[string]int64 // length by name; folders end in a slash
	Enabled bool
}

// New starts an engine of the version that Debian 12 has, which is a manager of a Swarm of one. It ends with the test.
func New(t testing.TB) *Engine {
	t.Helper()
	e := &Engine{
		Fails: map[string]string{}, plugins: map[string]*Plugin{}, networks: map[string]dockerapi.Network{},
		containers: map[string]dockerapi.Container{}, followers: map[chan string]bool{},
	}
	e.Info.ServerVersion = "20.10.24+dfsg1"
	e.Info.Swarm.NodeID, e.Info.Swarm.LocalNodeState, e.Info.Swarm.ControlAvailable = "n1", "active", true
	e.Socket = Listen(t, e)
	return e
}

// Listen serves h at a unix socket and returns its path.
func Listen(t testing.TB, h http.Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "docker") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Shutdown(context.WithoutCancel(t.Context()))
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return path
}

// Driver answers at a unix socket as weft's daemon answers Docker's first call.
func Driver(t testing.TB) string {
	return Listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/Plugin.Activate" || r.Method != http.MethodPost {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, `{"Implements":["NetworkDriver","IpamDriver"]}`)
	}))
}

// Changes are all requests so far that change something, in order.
func (e *Engine) Changes() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.changes)
}

// Plugin returns a plugin, or nil.
func (e *Engine) Plugin(name string) *Plugin {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.plugins[name]
}

// Network returns a network.
func (e *Engine) Network(name string) (dockerapi.Network, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.networks[name]
	return n, ok
}

// refused is an answer other than 2xx.
type refused struct {
	status int
	text   string
}

func (r refused) Error() string { return r.text }

func noSuch(kind, name string) error {
	return refused{http.StatusNotFound, fmt.Sprintf("%s %q not found", kind, name)}
}

// ServeHTTP implements http.Handler.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/events" {
		e.follow(w, r)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	call := r.Method + " " + r.URL.Path
	if r.Method != http.MethodGet {
		e.changes = append(e.changes, call)
	}
	v, err := e.answer(call, r)
	if text := e.Fails[call]; text != "" {
		err = refused{http.StatusInternalServerError, text}
	}
	var no refused
	switch {
	case errors.As(err, &no):
		w.WriteHeader(no.status)
		v = map[string]string{"message": no.text}
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
		v = map[string]string{"message": err.Error()}
	case v == nil:
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_ = json.NewEncoder(w).Encode(v)
}

func (e *Engine) answer(call string, r *http.Request) (any, error) {
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case call == "GET /info":
		return e.Info, nil
	case call == "GET /nodes":
		if !e.Info.Swarm.ControlAvailable {
			return nil, refused{http.StatusServiceUnavailable, "This node is not a swarm manager."}
		}
		return e.Nodes, nil
	case part[0] == "containers":
		return e.container(part[1:])
	case part[0] == "plugins":
		return e.plugin(r, part[1:])
	case part[0] == "networks":
		return e.network(r, part[1:])
	}
	return nil, refused{http.StatusNotFound, "page not found"}
}

func (e *Engine) plugin(r *http.Request, part []string) (any, error) {
	if part[0] == "create" {
		p, err := unpack(r.Body)
		if err != nil {
			return nil, err
		}
		if e.Fails[r.Method+" "+r.URL.Path] == "" {
			e.plugins[r.URL.Query().Get("name")] = p
		}
		return nil, nil
	}
	name := part[0]
	p, ok := e.plugins[name]
	switch {
	case !ok:
		return nil, noSuch("plugin", name)
	case r.Method == http.MethodDelete && p.Enabled:
		return nil, refused{http.StatusConflict, "plugin " + name + " is enabled"}
	case r.Method == http.MethodDelete:
		delete(e.plugins, name)
		return nil, nil
	case part[1] == "enable":
		if e.Fails[r.Method+" "+r.URL.Path] == "" {
			p.Enabled = true
		}
		return nil, nil
	}
	var out dockerapi.Plugin
	out.Name, out.Enabled, out.Config.Entrypoint = name, p.Enabled, p.Config.Entrypoint
	for _, m := range p.Config.Mounts {
		out.Settings.Mounts = append(out.Settings.Mounts, struct{ Source, Destination string }{m.Source, m.Destination})
	}
	return out, nil
}

// Archive writes a plugin that has a configuration and no files.
func Archive(w io.Writer, c dockerapi.PluginConfig) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&tar.Header{Name: "config.json", Mode: 0o644, Size: int64(len(b))}); err != nil {
		return err
	}
	if _, err := t.Write(b); err != nil {
		return err
	}
	return t.Close()
}

// unpack reads a plugin's archive.
func unpack(r io.Reader) (*Plugin, error) {
	p := &Plugin{Files: map[string]int64{}}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return p, nil
		case err != nil:
			return nil, err
		}
		p.Files[h.Name] = h.Size
		if h.Name == "config.json" {
			if err := json.NewDecoder(t).Decode(&p.Config); err != nil {
				return nil, err
			}
		}
	}
}

func (e *Engine) network(r *http.Request, part []string) (any, error) {
	if part[0] == "create" {
		var n dockerapi.Network
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			return nil, err
		}
		if _, ok := e.networks[n.Name]; ok {
			return nil, refused{http.StatusConflict, "network with name " + n.Name + " already exists"}
		}
		n.ID = fmt.Sprintf("id%d", len(e.networks))
		e.networks[n.Name] = n
		return map[string]string{"Id": n.ID}, nil
	}
	n, ok := e.networks[part[0]]
	switch {
	case !ok:
		return nil, noSuch("network", part[0])
	case r.Method == http.MethodDelete:
		delete(e.networks, n.Name)
		return nil, nil
	}
	return n, nil
}
