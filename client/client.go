// Package client talks to a weft daemon over its unix socket.
//
// Errors of the daemon are *Error, with a code for programs and a hint for people; no daemon is
// ErrNoDaemon.
package client

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
	"path/filepath"
	"strconv"

	"github.com/weft-net/weft/internal/api"
)

// DefaultRunDir is where the daemon's socket is unless WEFT_RUN_DIR says otherwise.
const DefaultRunDir = "/run/weft"

// maxAnswer bounds an answer, in bytes: a cluster of a thousand hosts stays well below it.
const maxAnswer = 64 << 20

// ErrNoDaemon is wrapped by every error of a Client that reaches no daemon.
var ErrNoDaemon = errors.New("no weft daemon")

// Client is a connection to one daemon; safe for use by many goroutines.
type Client struct {
	socket string
	http   *http.Client
}

// SocketPath returns the socket of the daemon with this run directory.
func SocketPath(runDir string) string { return filepath.Join(runDir, "weft.sock") }

// Dial returns a client of the daemon at a unix socket. It connects at the first request.
func Dial(socket string) *Client {
	var d net.Dialer
	return &Client{socket: socket, http: &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, "unix", socket)
			},
			DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Socket returns the path given to Dial.
func (c *Client) Socket() string { return c.socket }

// call makes one request; in and out may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	// The host part of the address means nothing on a unix socket.
	req, err := http.NewRequestWithContext(ctx, method, "http://weft"+path, body)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	if res.StatusCode/100 != 2 {
		return problem(res, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read the daemon's answer to %s %s: %w", method, path, err)
	}
	return nil
}

// unreachable says in whose words a failed connection is told.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var op *net.OpError
	if ctx.Err() == nil && errors.As(err, &op) && op.Op == "dial" {
		return &noDaemonError{socket: c.socket, cause: op.Err}
	}
	return fmt.Errorf("ask the daemon at %s: %w", c.socket, err)
}

// noDaemonError says which socket does not answer, and why.
type noDaemonError struct {
	socket string
	cause  error
}

func (e *noDaemonError) Error() string {
	if errors.Is(e.cause, fs.ErrPermission) {
		return fmt.Sprintf("the weft daemon at %s may not be asked by this user: be root or in group weft", e.socket)
	}
	return fmt.Sprintf("no weft daemon at %s: start it with weft up", e.socket)
}

func (e *noDaemonError) Unwrap() []error { return []error{ErrNoDaemon, e.cause} }

// problem reads what a request failed with.
func problem(res *http.Response, body []byte) error {
	var e api.Error
	if json.Unmarshal(body, &e) != nil || e.Code == "" {
		e = api.Error{Status: res.StatusCode, Code: api.CodeOf(res.StatusCode), Detail: fmt.Sprintf("the daemon answered %s", res.Status)}
	}
	return &e
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	err := c.call(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (T, error) {
	var out T
	err := c.call(ctx, http.MethodPost, path, in, &out)
	return out, err
}

// Status returns one page that says what is wrong.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Hosts returns the hosts of the cluster, and who tried to join with a wrong secret.
func (c *Client) Hosts(ctx context.Context) (Hosts, error) {
	return get[Hosts](ctx, c, "/v1/hosts")
}

// RemoveHost bars a host that is gone for good and takes its address ranges.
func (c *Client) RemoveHost(ctx context.Context, name string, force bool) (HostRemoved, error) {
	var out HostRemoved
	path := "/v1/hosts/" + url.PathEscape(name) + "?force=" + strconv.FormatBool(force)
	err := c.call(ctx, http.MethodDelete, path, nil, &out)
	return out, err
}

// Probe makes one round trip to a host.
func (c *Client) Probe(ctx context.Context, name string, p Probe) (ProbeResult, error) {
	return post[ProbeResult](ctx, c, "/v1/hosts/"+url.PathEscape(name)+"/probe", p)
}

// Links returns the links to other hosts.
func (c *Client) Links(ctx context.Context) ([]Link, error) {
	l, err := get[api.Links](ctx, c, "/v1/links")
	return l.Links, err
}

// Connect keeps trying endpoints: ADDRESS, NAME, ADDRESS:PORT or NAME:PORT.
func (c *Client) Connect(ctx context.Context, endpoints ...string) error {
	return c.call(ctx, http.MethodPost, "/v1/connect", api.Endpoints{Endpoints: endpoints}, nil)
}

// Forget stops trying endpoints.
func (c *Client) Forget(ctx context.Context, endpoints ...string) error {
	return c.call(ctx, http.MethodPost, "/v1/forget", api.Endpoints{Endpoints: endpoints}, nil)
}

// Token returns the token that admits new hosts.
func (c *Client) Token(ctx context.Context) (string, error) {
	t, err := get[api.Token](ctx, c, "/v1/token")
	return t.Token, err
}

// RotateToken replaces the token and returns the new one.
func (c *Client) RotateToken(ctx context.Context) (string, error) {
	t, err := post[api.Token](ctx, c, "/v1/token/rotate", nil)
	return t.Token, err
}

// Networks returns the networks of the cluster.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	l, err := get[api.Networks](ctx, c, "/v1/networks")
	return l.Networks, err
}

// Network returns one network.
func (c *Client) Network(ctx context.Context, name string) (Network, error) {
	return get[Network](ctx, c, "/v1/networks/"+url.PathEscape(name))
}

// CreateNetwork creates a network, or takes up one of that name.
func (c *Client) CreateNetwork(ctx context.Context, n NetworkCreate) (Network, error) {
	return post[Network](ctx, c, "/v1/networks", n)
}

// RemoveNetwork withdraws this host's copy of a network.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/networks/"+url.PathEscape(name), nil, nil)
}

// Attachments returns the attachments on all hosts.
func (c *Client) Attachments(ctx context.Context) ([]Attachment, error) {
	l, err := get[api.Attachments](ctx, c, "/v1/attachments")
	return l.Attachments, err
}

// Attach plugs a process, namespace or container into a network.
func (c *Client) Attach(ctx context.Context, a Attach) (Attachment, error) {
	return post[Attachment](ctx, c, "/v1/attachments", a)
}

// Detach unplugs an attachment of this host.
func (c *Client) Detach(ctx context.Context, network, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/attachments/"+url.PathEscape(network)+"/"+url.PathEscape(name), nil, nil)
}

// Groups returns the multicast groups that have members.
func (c *Client) Groups(ctx context.Context) ([]Group, error) {
	l, err := get[api.Groups](ctx, c, "/v1/groups")
	return l.Groups, err
}

// IPAM returns who owns which addresses.
func (c *Client) IPAM(ctx context.Context) ([]AddressRange, error) {
	l, err := get[api.IPAM](ctx, c, "/v1/ipam")
	return l.IPAM, err
}

// Down stops the daemon.
func (c *Client) Down(ctx context.Context, d Down) error {
	return c.call(ctx, http.MethodPost, "/v1/down", d, nil)
}
