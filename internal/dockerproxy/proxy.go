// Package dockerproxy passes Docker's API on, and plugs what is created through it into a weft network: for those who start containers by
// the API and name no network.
//
//	client --> Proxy --> dockerd
//	             |  POST /containers/create: name servers go into the request; then the new container is connected, before it can be started
//	             |  all else: as it is, streams included
//
// It removes nothing: containers keep what networks they have, and all of it when the proxy ends. A container that uses another's
// network, or the host's, or none, is left alone.
package dockerproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"regexp"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/dockerapi"
)

const (
	// maxCreate bounds the request by which a container is created, and Docker's answer, in bytes.
	maxCreate = 4 << 20
	// headerTime is how long a client may take to say what it wants.
	headerTime = 30 * time.Second
	// connectTime is how long it may take to plug a container in, or to remove one that could not be.
	connectTime = 60 * time.Second
)

// Names says where containers ask for names.
type Names struct {
	Servers []string // addresses, for resolv.conf
	Search  []string
}

// Config is what a Proxy needs; all but Log.
type Config struct {
	Socket  string // of dockerd
	Network string // of Docker's, and of weft's, by which it is made when Docker has none of that name
	// Names returns where the network's containers ask for names; none is no error.
	Names func(ctx context.Context) (Names, error)
	Log   *slog.Logger
}

// Proxy is the handler.
type Proxy struct {
	cfg    Config
	engine *dockerapi.Client
	direct *http.Transport
	pass   *httputil.ReverseProxy
}

// New makes a proxy. It asks nothing yet.
func New(cfg Config) *Proxy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var d net.Dialer
	p := &Proxy{cfg: cfg, engine: dockerapi.New(cfg.Socket), direct: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", cfg.Socket)
		},
		// Docker answers what it is asked: an answer is not to be unpacked, nor a connection kept that it may close.
		DisableCompression: true, DisableKeepAlives: true,
	}}
	p.pass = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { aim(r.Out) },
		Transport:     p.direct,
		FlushInterval: -1, // logs and events are to be seen when they come
		ErrorLog:      slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, err error) { p.silent(w, err) },
	}
	return p
}

// aim sends a request to Docker. Its name is of no importance, but must be there.
func aim(r *http.Request) { r.URL.Scheme, r.URL.Host = "http", "docker" }

// Serve answers at a listener until ctx ends; streams that are open then end with it.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: p, ReadHeaderTimeout: headerTime, ErrorLog: slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

var create = regexp.MustCompile(`^(/v[0-9.]+)?/containers/create$`)

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !create.MatchString(r.URL.Path) {
		p.pass.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCreate))
	if err != nil {
		p.refuse(w, http.StatusBadRequest, fmt.Errorf("weft's proxy: read the request: %w", err))
		return
	}
	c, err := parse(body)
	if err != nil {
		p.forward(w, r, body) // Docker says better what is wrong with it
		return
	}
	mode := c.mode()
	if !apart(mode) {
		p.forward(w, r, body)
		return
	}
	if err := p.network(r.Context()); err != nil {
		p.refuse(w, http.StatusInternalServerError, err)
		return
	}
	names, err := p.cfg.Names(r.Context())
	if err != nil {
		p.refuse(w, http.StatusInternalServerError, fmt.Errorf("weft's proxy: %w", err))
		return
	}
	if body, err = c.withNames(names); err != nil {
		p.refuse(w, http.StatusInternalServerError, fmt.Errorf("weft's proxy: %w", err))
		return
	}
	if mode == p.cfg.Network {
		p.forward(w, r, body) // Docker connects it itself
		return
	}
	p.create(w, r, body)
}

// create has Docker create a container, and connects it. One that cannot be is removed: the client is to have both or neither.
func (p *Proxy) create(w http.ResponseWriter, r *http.Request, body []byte) {
	a, err := p.ask(r, body)
	if err != nil {
		p.silent(w, err)
		return
	}
	defer a.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(a.Body, maxCreate))
	if err != nil {
		p.silent(w, err)
		return
	}
	if a.StatusCode == http.StatusCreated {
		var made struct {
			ID string `json:"Id"`
		}
		err := json.Unmarshal(answer, &made)
		if err == nil && made.ID == "" {
			err = errors.New("docker names no container")
		}
		if err == nil {
			err = p.connect(r.Context(), made.ID)
		}
		if err != nil {
			p.refuse(w, http.StatusInternalServerError, fmt.Errorf("weft's proxy: not created, for it cannot be attached to network %s: %w", p.cfg.Network, err))
			return
		}
		p.cfg.Log.Info("container attached", "container", fmt.Sprintf("%.12s", made.ID), "network", p.cfg.Network)
	}
	maps.Copy(w.Header(), a.Header)
	w.Header().Del("Content-Length")
	w.WriteHeader(a.StatusCode)
	_, _ = w.Write(answer) // the client may have gone
}

// connect plugs a new container in, or removes it. The client may go meanwhile: what was begun is ended.
func (p *Proxy) connect(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTime)
	defer cancel()
	err := p.engine.Connect(ctx, p.cfg.Network, id)
	if err == nil {
		return nil
	}
	return errors.Join(err, p.engine.RemoveContainer(ctx, id))
}

// network makes sure that Docker has the network.
func (p *Proxy) network(ctx context.Context) error {
	n, there, err := p.engine.Network(ctx, p.cfg.Network)
	switch {
	case err != nil:
		return err
	case there && !strings.HasPrefix(n.Driver, "weft"):
		return fmt.Errorf("docker's network %s is not weft's (driver %s): docker network rm it, or weft docker proxy --network ANOTHER", n.Name, n.Driver)
	case there:
		return nil
	}
	err = p.engine.CreateNetwork(ctx, dockerapi.Network{
		Name: p.cfg.Network, Driver: "weft", IPAM: &dockerapi.IPAM{Driver: "weft", Options: map[string]string{"weft.network": p.cfg.Network}},
	})
	if err == nil {
		return nil
	}
	if _, there, again := p.engine.Network(ctx, p.cfg.Network); again == nil && there {
		return nil // another request has made it meanwhile
	}
	return fmt.Errorf("make network %s: %w", p.cfg.Network, err)
}

// ask sends a request on, with another body.
func (p *Proxy) ask(r *http.Request, body []byte) (*http.Response, error) {
	out := r.Clone(r.Context())
	aim(out)
	out.RequestURI, out.Body, out.ContentLength = "", io.NopCloser(bytes.NewReader(body)), int64(len(body))
	out.Header.Del("Content-Length")
	out.TransferEncoding = nil
	return p.direct.RoundTrip(out)
}

// forward passes a request on whose body was read.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, body []byte) {
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	p.pass.ServeHTTP(w, r)
}

// refuse answers as Docker does when it refuses.
func (p *Proxy) refuse(w http.ResponseWriter, status int, err error) {
	p.cfg.Log.Warn("refused", "err", err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": strings.Join(strings.Fields(err.Error()), " ")}) // the client may have gone
}

func (p *Proxy) silent(w http.ResponseWriter, err error) {
	p.refuse(w, http.StatusBadGateway, fmt.Errorf("weft's proxy: docker at %s does not answer: %w", p.cfg.Socket, err))
}
