// Package dockerapi asks Docker's engine, by its API on a unix socket, for the few things that weft needs of it. Of the API it uses what
// 20.10 to 29 have alike, and names no version, so that each answers by its own (https://docs.docker.com/reference/api/engine/).
package dockerapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// DefaultSocket is where Docker listens.
const DefaultSocket = "/var/run/docker.sock"

const (
	// maxAnswer bounds an answer, in bytes: a thousand nodes fit.
	maxAnswer = 16 << 20
	// maxMessage bounds what is shown of an error.
	maxMessage = 1000
	// activateTime is how long a plugin may take to say what it is.
	activateTime = 5 * time.Second
)

// Socket reads a DOCKER_HOST: the path of a unix socket. Empty: the default one.
func Socket(host string) (string, error) {
	if host == "" {
		return DefaultSocket, nil
	}
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("docker at %s: only this host's own Docker will do, by unix:///PATH", host)
	}
	return path, nil
}

// Client asks one engine. It may be used by any goroutine.
type Client struct {
	socket string
	http   http.Client
}

// New makes a client for the engine behind a socket.
func New(socket string) *Client {
	return &Client{socket: socket, http: http.Client{Transport: byUnix(socket)}}
}

// byUnix connects to a socket, whatever the address; a connection is used once.
func byUnix(socket string) *http.Transport {
	var d net.Dialer
	return &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		DisableKeepAlives: true,
	}
}

// Error is Docker's refusal.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return "docker: " + e.Message }

// missing reports whether Docker says that it has no such thing.
func missing(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// call makes one request. in is sent as it is if it is a reader, else as JSON, if not nil; the answer goes to out, if not nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	contentType := "application/json"
	switch v := in.(type) {
	case nil:
	case io.Reader:
		body, contentType = v, "application/x-tar"
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("docker: %w", err)
		}
		body = bytes.NewReader(b)
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return fmt.Errorf("docker: %w", err)
	}
	if body != nil {
		q.Header.Set("Content-Type", contentType)
	}
	a, err := c.http.Do(q)
	if err != nil {
		return c.silent(ctx, err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer+1))
	switch {
	case err != nil:
		return c.silent(ctx, err)
	case len(b) > maxAnswer:
		return fmt.Errorf("docker at %s: an answer of more than %d bytes", c.socket, maxAnswer)
	case a.StatusCode/100 != 2:
		return refusal(a.StatusCode, b)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("docker at %s: not an answer of Docker's API: %w", c.socket, err)
	}
	return nil
}

// refusal reads an error's body.
func refusal(status int, body []byte) error {
	var e struct{ Message string }
	if json.Unmarshal(body, &e) != nil || e.Message == "" {
		e.Message = fmt.Sprintf("%d %s", status, http.StatusText(status))
	}
	return &Error{status, fmt.Sprintf("%.*s", maxMessage, strings.Join(strings.Fields(e.Message), " "))}
}

// silent says that nobody answers, and what to do about it.
func (c *Client) silent(ctx context.Context, err error) error {
	var op *net.OpError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("docker at %s does not answer: %w", c.socket, ctx.Err())
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("docker at %s lets in root and its group only: %w", c.socket, fs.ErrPermission)
	case errors.As(err, &op):
		err = op.Err
	}
	return fmt.Errorf("no Docker answers at %s (%w): is it running there?", c.socket, err)
}

// Info is what an engine says of itself.
type Info struct {
	ServerVersion string
	Swarm         struct {
		NodeID           string
		LocalNodeState   string // "active": it is in a Swarm
		ControlAvailable bool   // as a manager
	}
}

// InSwarm reports whether the engine is a node of a Swarm that can be reached.
func (i Info) InSwarm() bool { return i.Swarm.LocalNodeState == "active" }

// Info asks what the engine is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var i Info
	return i, c.call(ctx, http.MethodGet, "/info", nil, &i)
}

// Node is a node of the Swarm.
type Node struct {
	ID          string
	Description struct {
		Hostname string
		Engine   struct {
			Plugins []struct{ Type, Name string }
		}
	}
	Status struct {
		State string // "ready", "down", ...
	}
}

// Nodes lists the nodes of the Swarm; only a manager knows them.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var all []Node
	return all, c.call(ctx, http.MethodGet, "/nodes", nil, &all)
}

// named is the path of one thing that has a name.
func named(kind, name, rest string) string { return "/" + kind + "/" + url.PathEscape(name) + rest }

// Activates asks a plugin behind a socket what it is, as Docker does.
func Activates(ctx context.Context, socket string) (implements []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, activateTime)
	defer cancel()
	var a struct{ Implements []string }
	return a.Implements, New(socket).call(ctx, http.MethodPost, "/Plugin.Activate", nil, &a)
}
