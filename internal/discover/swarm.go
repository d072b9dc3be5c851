package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"time"

	"github.com/weft-net/weft/internal/dockerapi"
)

// swarm asks this machine's Docker for the nodes of its swarm (docs.docker.com/reference/api/engine: GET /info, GET /nodes). It only reads.
// Workers are told the managers only, managers all nodes.
type swarm struct {
	readOnly
	c      *caller
	socket string
	port   uint16
}

func newSwarm(s spec, e Environment) (Source, error) {
	if err := s.only("port"); err != nil {
		return nil, err
	}
	w := &swarm{socket: dockerapi.DefaultSocket, port: e.Port}
	switch {
	case len(s.hosts) > 0:
		return nil, errors.New("want swarm, or swarm:///PATH/TO/docker.sock")
	case s.name != "":
		w.socket = path.Clean("/" + s.name)
	}
	if p := s.query.Get("port"); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("port=%s: want a number from 1 to 65535", p)
		}
		w.port = uint16(n)
	}
	t := &http.Transport{MaxIdleConns: 1, IdleConnTimeout: time.Minute, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.socket)
	}}
	w.c = &caller{
		client: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		bases:  []string{"http://docker"},
	}
	return w, nil
}

type (
	swarmInfo struct {
		Swarm *struct {
			NodeAddr         string
			LocalNodeState   string
			ControlAvailable bool
			RemoteManagers   []struct{ Addr string }
		}
	}
	swarmNode struct {
		Status struct {
			State, Addr string
		}
		ManagerStatus *struct{ Addr string }
	}
)

func (w *swarm) Find(ctx context.Context) (Found, error) {
	b, err := w.ask(ctx, "/info")
	if err != nil {
		return Found{}, err
	}
	var g gather
	manager, err := g.swarmInfo(b, w.port)
	if err != nil {
		return Found{}, err
	}
	if manager {
		if b, err = w.ask(ctx, "/nodes"); err != nil {
			return Found{}, err
		}
		if err := g.swarmNodes(b, w.port); err != nil {
			return Found{}, err
		}
	}
	return g.all("the swarm")
}

// swarmInfo takes the managers out of what Docker says of itself, and whether this node is one.
func (g *gather) swarmInfo(b []byte, port uint16) (manager bool, err error) {
	var info swarmInfo
	if err := decode("Docker", b, &info); err != nil {
		return false, err
	}
	switch s := info.Swarm; {
	case s == nil:
		return false, fault("is it Docker that listens there?", "Docker says nothing of a swarm")
	case s.LocalNodeState != "active":
		return false, fault("docker swarm init, or docker swarm join", "this node's Docker is in no swarm (%s)", printable(s.LocalNodeState))
	default:
		for _, m := range s.RemoteManagers {
			g.node(m.Addr, port)
		}
		return s.ControlAvailable, nil
	}
}

// swarmNodes takes the nodes that are not down. A manager's own address may be 0.0.0.0 in its list: it stands in its ManagerStatus.
func (g *gather) swarmNodes(b []byte, port uint16) error {
	var nodes []swarmNode
	if err := decode("Docker", b, &nodes); err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Status.State == "down" {
			continue
		}
		if n.ManagerStatus != nil && n.ManagerStatus.Addr != "" {
			g.node(n.ManagerStatus.Addr, port)
			if a, err := netip.ParseAddr(n.Status.Addr); err == nil && a.IsUnspecified() {
				continue
			}
		}
		g.node(n.Status.Addr, port)
	}
	return nil
}

// node takes a node's address for that of a host: the port that Docker names is Docker's.
func (g *gather) node(text string, port uint16) {
	ap, err := parseAddress(text, port)
	if err != nil {
		g.refuse(err.Error())
		return
	}
	g.add(netip.AddrPortFrom(ap.Addr(), port))
}

func (w *swarm) ask(ctx context.Context, what string) ([]byte, error) {
	b, err := w.c.call(ctx, http.MethodGet, what, http.Header{}, nil)
	var status *errStatus
	var f *Error
	switch {
	case errors.As(err, &status):
		return nil, fault("the log of Docker says more", "Docker refuses: status %d, %s", status.code, status.text)
	case errors.As(err, &f):
		return nil, fault("is Docker up, and this its socket?", "Docker at %s: %s", w.socket, f.Text)
	}
	return b, err
}

func (w *swarm) Close() error { return w.c.Close() }
