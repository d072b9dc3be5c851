// Package testservice stands in for the helper by which the tests of NATS's Go client ask for servers: the servers that
// it starts are weft's. What a test wants of a server that weft's listener is not fails the test, by name.
package testservice

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// ServerEnv is the variable that names the program to start: the command test/natsgo/server.
const ServerEnv = "WEFT_NATS_SERVER"

// Client starts servers for one test.
type Client struct{}

// New makes a Client. The URL of the service that would start nats-servers is of no use here.
func New(testing.TB, string) *Client { return &Client{} }

// Close does nothing: each Instance is destroyed by who made it.
func (*Client) Close(testing.TB) {}

// WaitForJetStream fails: there is none.
func (*Client) WaitForJetStream(t testing.TB, _ any) {
	t.Helper()
	t.Fatal("needs JetStream")
}

// Server is one that runs, or ran.
type Server struct {
	Name    string
	URL     string
	Port    int
	Cluster string
	Ports   map[string]int // of what weft does not serve

	cmd   *exec.Cmd
	stdin io.Closer
}

// TLS is what a client needs to trust the servers of an Instance.
type TLS struct{ CAPEM, ClientCertPEM, ClientKeyPEM string }

// Instance is what one test started.
type Instance struct {
	ID      string
	Servers []*Server
	TLS     *TLS

	token string
	dir   string // of certificate and key, if there is TLS
}

var instances atomic.Int64

// CreateServer starts a server and returns once it answers.
func (*Client) CreateServer(t testing.TB, jetStream bool, opts ...CreateOption) *Instance {
	t.Helper()
	if jetStream {
		t.Fatal("needs JetStream")
	}
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.needs != "" {
		t.Fatal("needs " + o.needs)
	}
	inst := &Instance{ID: fmt.Sprintf("weft-%d", instances.Add(1)), token: o.token}
	if o.tls {
		inst.dir = t.TempDir()
		ca, err := certify(inst.dir, o.sans)
		if err != nil {
			t.Fatal(err)
		}
		inst.TLS = &TLS{CAPEM: ca}
	}
	s := &Server{Name: inst.ID}
	inst.Servers = []*Server{s}
	inst.StartServer(t, s)
	return inst
}

// CreateCluster fails: hosts of weft share a bus, and a client knows the host it is on.
func (*Client) CreateCluster(t testing.TB, _ int, _ bool, _ ...CreateOption) *Instance {
	t.Helper()
	t.Fatal("needs a cluster of nats-servers")
	return nil
}

// StartServer starts a server, at the port it had before if it had one.
func (i *Instance) StartServer(t testing.TB, s *Server) {
	t.Helper()
	args := []string{"-addr", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))}
	if i.token != "" {
		args = append(args, "-token", i.token)
	}
	if i.TLS != nil {
		args = append(args, "-cert", filepath.Join(i.dir, certFile), "-key", filepath.Join(i.dir, keyFile))
	}
	if err := s.start(os.Getenv(ServerEnv), args); err != nil {
		t.Fatalf("start a server: %v", err)
	}
}

func (s *Server) start(program string, args []string) error {
	if program == "" {
		return errors.New(ServerEnv + " is not set: make test-nats sets it")
	}
	cmd := exec.Command(program, args...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // else the race detector keeps each for a second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = stdin.Close()
		return errors.Join(err, cmd.Wait())
	}
	_, port, err := net.SplitHostPort(strings.TrimSpace(line))
	if err != nil {
		return err
	}
	s.Port, err = strconv.Atoi(port)
	// By name, as the service whose place this takes announces it: some tests compare.
	s.cmd, s.stdin, s.URL = cmd, stdin, "nats://"+net.JoinHostPort("localhost", port)
	return err
}

// StopServer ends a server as a daemon ends: what waits for its clients is written first.
func (i *Instance) StopServer(t testing.TB, s *Server) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	cmd := s.cmd
	s.cmd = nil
	_ = s.stdin.Close()
	stuck := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: the server ended badly: %v", i.ID, err)
	}
}

// Destroy stops all.
func (i *Instance) Destroy(t testing.TB) {
	t.Helper()
	for _, s := range i.Servers {
		i.StopServer(t, s)
	}
}

// UpdateServer fails: weft has no file of nats-server's configuration.
func (*Instance) UpdateServer(t testing.TB, _ *Server, _ ...CreateOption) {
	t.Helper()
	t.Fatal("needs a configuration of nats-server that changes")
}

// ReloadServer fails as UpdateServer does.
func (i *Instance) ReloadServer(t testing.TB, s *Server) {
	t.Helper()
	i.UpdateServer(t, s)
}
