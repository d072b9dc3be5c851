package docker_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/docker"
)

// relayed sends a call through a relay, and returns status and body.
func relayed(t *testing.T, r *docker.Relay, method, name, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/"+name, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

// TestRelay: what goes through a relay is answered as by the plugin itself, whichever daemon has the socket, and also when the daemon is
// not there at first.
func TestRelay(t *testing.T) {
	l := newLab(t)
	dir, err := os.MkdirTemp("", "weft") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "weft.sock")
	r := docker.NewRelay(socket, "/run/docker/plugins/weft.sock", slog.New(slog.DiscardHandler))

	type answer struct {
		code int
		body string
	}
	early := make(chan answer, 1)
	asked := make(chan struct{})
	go func() {
		close(asked)
		code, body := relayed(t, r, http.MethodPost, "IpamDriver.RequestPool", `{"Options":{"weft.network":"party"}}`)
		early <- answer{code, body}
	}()
	<-asked
	up := func() (down func()) {
		ln, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.p.Serve(ctx, ln) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	down := up()
	if a := <-early; a.code != http.StatusOK || !strings.Contains(a.body, `"PoolID":"weft,party,`) {
		t.Errorf("a call before the daemon was there: %d %s", a.code, a.body)
	}
	same := func(method, name, body string) {
		t.Helper()
		code, got := relayed(t, r, method, name, body)
		w := httptest.NewRecorder()
		l.p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/"+name, strings.NewReader(body)))
		if want := strings.TrimSpace(w.Body.String()); code != w.Code || got != want {
			t.Errorf("%s %s:\n %d %s through a relay\n %d %s by the plugin", name, body, code, got, w.Code, want)
		}
	}
	for _, name := range docker.Methods() {
		same(http.MethodPost, name, `{"NetworkID":"ab","EndpointID":"cd"}`)
	}
	same(http.MethodPost, "NetworkDriver.Nonsense", "{}")
	same(http.MethodPost, "NetworkDriver.Join", "{")
	same(http.MethodPost, "NetworkDriver.Join", strings.Repeat("x", docker.MaxBody+1))
	same(http.MethodGet, "NetworkDriver.Join", "")

	// Another daemon has the socket.
	down()
	_ = os.Remove(socket)
	l.restart()
	down = up()
	defer down()
	same(http.MethodPost, "NetworkDriver.DeleteNetwork", `{"NetworkID":"ab"}`)
}

// TestRelayBroken: a daemon that dies in the middle of a call, or is being handed over, is asked again.
func TestRelayBroken(t *testing.T) {
	dir, err := os.MkdirTemp("", "weft") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "weft.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var calls atomic.Int32
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			q, err := http.ReadRequest(bufio.NewReader(c))
			if err == nil {
				_, _ = io.Copy(io.Discard, q.Body)
			}
			switch calls.Add(1) {
			case 1: // no answer
			case 2:
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			case 3:
				_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
			default:
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
			}
			_ = c.Close()
		}
	}()
	r := docker.NewRelay(socket, socket, slog.New(slog.DiscardHandler))
	if code, body := relayed(t, r, http.MethodPost, "NetworkDriver.Leave", "{}"); code != http.StatusOK || body != "{}" || calls.Load() != 4 {
		t.Errorf("%d %s after %d calls", code, body, calls.Load())
	}
}

// TestRelayAlone: without a daemon Docker learns what the plugin can do all the same, and every other call fails in one sentence before Docker
// gives up.
func TestRelayAlone(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		r := docker.NewRelay(filepath.Join(t.TempDir(), "none"), "/run/docker/plugins/weft.sock", slog.New(slog.DiscardHandler))
		began := time.Now()
		if code, body := relayed(t, r, http.MethodPost, "NetworkDriver.GetCapabilities", ""); code != http.StatusOK || !strings.Contains(body, `"Scope":"local"`) {
			t.Errorf("capabilities: %d %s", code, body)
		}
		const sentence = `weft on this host has not answered at /run/docker/plugins/weft.sock for 25s (connect: no such file or directory): ` +
			`weft status there says how it is; systemctl start weft, or weft up, starts it`
		for name, field := range map[string]string{"NetworkDriver.CreateNetwork": "Err", "IpamDriver.RequestPool": "Error"} {
			if code, body := relayed(t, r, http.MethodPost, name, "{}"); code != http.StatusOK || body != `{"`+field+`":"`+sentence+`"}` {
				t.Errorf("%s: %d %s", name, code, body)
			}
		}
		if took := time.Since(began); took != 2*docker.RelayTime {
			t.Errorf("took %v, want %v", took, 2*docker.RelayTime)
		}
	})
}

// TestSweepPools: a node of a Swarm that is killed forgets the pool of a network, asks for another one, and gives back only that; weft's network
// goes all the same, and not while it is used.
func TestSweepPools(t *testing.T) {
	l := newLab(t)
	before := l.weft.String()
	lost := l.pool("party")
	l.network("n1", "10.32.16.0/20", "")
	l.endpoint("n1", "killed", l.address(lost))
	l.ok("NetworkDriver.DeleteEndpoint", `{"NetworkID":"n1","EndpointID":"killed"}`)
	pool := l.pool("party")
	l.network("n1", "10.32.16.0/20", "")
	s := docker.NewSweeper(l.p)
	now := time.Unix(1000, 0)
	sweep := func(pools int) {
		t.Helper()
		for range 3 { // the address, then the pool, then the network
			for range 2 {
				if err := s.Sweep(now); err != nil {
					t.Fatal(err)
				}
				now = now.Add(docker.SweepAfter)
			}
		}
		if ids := l.p.PoolIDs(); len(ids) != pools {
			t.Errorf("pools %v, want %d", ids, pools)
		}
	}
	sweep(2) // Docker has a network: its pool may be either
	if given := l.p.Given(); len(given) != 0 {
		t.Errorf("addresses of the container that was killed: %v", given)
	}
	l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+pool+`"}`)
	l.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	sweep(0)
	if got := l.weft.String(); got != before {
		t.Errorf("left:\n%s", got)
	}
	// Should Docker remember it after all, it is as good as before.
	if a := l.address(lost); a == "" {
		t.Error("no address of a pool that was swept")
	}
}
