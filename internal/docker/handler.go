package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/api"
)

const (
	// callTime bounds a call. Docker gives up what it cannot deliver after 30 s, and waits for answers without a bound.
	callTime = 25 * time.Second
	// headTime bounds how long a request's head, and its body, may take.
	headTime = 10 * time.Second
	// endTime is how long calls under way may take when the plugin ends.
	endTime = 2 * time.Second

	contentType = "application/vnd.docker.plugins.v1.1+json"

	// What a request is refused with that is no call.
	postOnly = "Docker's plugin protocol has POST only"
	cutShort = "the call is cut short, or longer than 1 MiB"

	networkDriver = "NetworkDriver."
	ipamDriver    = "IpamDriver."
)

// method answers one call: body in, answer out.
type method func(p *Plugin, ctx context.Context, body []byte) (any, error)

// on makes a method of a function with a typed call.
func on[T any](f func(p *Plugin, ctx context.Context, call T) (any, error)) method {
	return func(p *Plugin, ctx context.Context, body []byte) (any, error) {
		var call T
		if err := parse(body, &call); err != nil {
			p.counts.malformed.Add(1)
			return nil, err
		}
		return f(p, ctx, call)
	}
}

// fixed are the answers that are always the same, whatever the call.
var fixed = map[string]any{
	"Plugin.Activate": activation{[]string{"NetworkDriver", "IpamDriver"}},

	// Local: networks are made on each host. Connectivity: a container of one host reaches those of others.
	networkDriver + "GetCapabilities": networkCapability{Scope: "local", ConnectivityScope: "global", GwAllocChecker: true},
	// No gateway: none of a network's addresses is set aside for one.
	networkDriver + "GwAllocCheck": gatewayCheck{SkipIPv4: true, SkipIPv6: true},
	// What docker inspect could show beside what it shows anyway: nothing.
	networkDriver + "EndpointOperInfo": operInfo{Value: map[string]string{}},
	// Nodes of a Swarm: hosts of a cluster know each other already.
	networkDriver + "DiscoverNew":    none{},
	networkDriver + "DiscoverDelete": none{},
	// Published ports are Docker's own, on the network by which a container reaches the outside.
	networkDriver + "ProgramExternalConnectivity": none{},
	networkDriver + "RevokeExternalConnectivity":  none{},

	ipamDriver + "GetCapabilities":         ipamCapability{},
	ipamDriver + "GetDefaultAddressSpaces": addressSpaces{Local: addressSpace, Global: addressSpace},
}

// methods answer all other calls.
var methods = map[string]method{
	networkDriver + "CreateNetwork":  on((*Plugin).createNetwork),
	networkDriver + "DeleteNetwork":  on((*Plugin).deleteNetwork),
	networkDriver + "CreateEndpoint": on((*Plugin).createEndpoint),
	networkDriver + "DeleteEndpoint": on((*Plugin).deleteEndpoint),
	networkDriver + "Join":           on((*Plugin).join),
	networkDriver + "Leave":          on((*Plugin).leave),

	ipamDriver + "RequestPool":    on((*Plugin).requestPool),
	ipamDriver + "ReleasePool":    on((*Plugin).releasePool),
	ipamDriver + "RequestAddress": on((*Plugin).requestAddress),
	ipamDriver + "ReleaseAddress": on((*Plugin).releaseAddress),
}

// call answers one call: the status and what to write.
func (p *Plugin) call(ctx context.Context, name string, body []byte) (status int, answer any) {
	p.counts.calls.Add(1)
	if v, ok := fixed[name]; ok {
		return http.StatusOK, v
	}
	m := methods[name]
	if m == nil {
		// Docker takes 404 for "not this plugin's", and does without what is optional.
		p.counts.unknown.Add(1)
		return http.StatusNotFound, map[string]string{"Err": "404 page not found: weft has no method " + name}
	}
	answer, err := m(p, ctx, body)
	if err == nil {
		return http.StatusOK, answer
	}
	p.counts.failed.Add(1)
	p.cfg.Log.Warn("docker's call failed", "call", name, "err", err)
	return http.StatusOK, failure(name, err)
}

// failure is an error in the field where Docker looks for it.
func failure(name string, err error) map[string]string {
	field := "Err"
	if strings.HasPrefix(name, ipamDriver) {
		field = "Error"
	}
	return map[string]string{field: sentence(err)}
}

// sentence is an error in one line, with what to do about it.
func sentence(err error) string {
	text := err.Error()
	var e *api.Error
	if errors.As(err, &e) && e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return strings.Join(strings.Fields(text), " ")
}

// ServeHTTP answers Docker.
func (p *Plugin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", contentType)
	if r.Method != http.MethodPost {
		p.counts.malformed.Add(1)
		write(w, http.StatusMethodNotAllowed, map[string]string{"Err": postOnly})
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		p.counts.malformed.Add(1)
		write(w, http.StatusRequestEntityTooLarge, map[string]string{"Err": cutShort})
		return
	}
	if !p.calls.begin() {
		write(w, http.StatusServiceUnavailable, map[string]string{"Err": "this host is being handed over to another weft: try again"})
		return
	}
	defer p.calls.end()
	ctx, cancel := context.WithTimeout(r.Context(), callTime)
	defer cancel()
	status, answer := p.call(ctx, strings.TrimPrefix(r.URL.Path, "/"), body)
	write(w, status, answer)
}

func write(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever asked may have gone
}

// Serve answers calls until ctx ends; it closes l. Each call is a connection of its own, so that none is lost when another daemon
// goes on with the listener.
func (p *Plugin) Serve(ctx context.Context, l net.Listener) error { return serve(ctx, l, p, p.cfg.Log) }

func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: headTime, ReadTimeout: headTime, MaxHeaderBytes: 1 << 16,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	server.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		if server.Shutdown(late) != nil {
			_ = server.Close()
		}
	})
	defer stop()
	err := server.Serve(l)
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return err
}
