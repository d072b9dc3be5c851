package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/net/netutil"

	"github.com/weft-net/weft/internal/api"
)

// Bounds of the server. Whoever may open the socket is trusted with the cluster, but a program of
// his that hangs must not take the daemon's memory or file descriptors.
const (
	maxConns      = 256
	maxHeader     = 16 << 10 // bytes
	readTimeout   = 10 * time.Second
	answerTimeout = 90 * time.Second // above the longest probe (60 s)
	idleTimeout   = 60 * time.Second
	stopTimeout   = 2 * time.Second // for answers under way when the daemon stops
)

// Options of a Server. The zero value works.
type Options struct {
	// Version is weft's version, shown in /openapi.json.
	Version string
	// Report is told of faults of weft itself: panics and internal errors. It must not block.
	Report func(err error)
}

// Server translates HTTP into calls of a Backend.
type Server struct {
	backend Backend
	report  func(error)
	handler http.Handler

	subscribers atomic.Int32 // requests that get messages

	mu       sync.Mutex // guards all below
	changing int        // requests under way that may change something
	quiet    bool       // none are taken
	idle     chan struct{}
}

// New makes a server for a backend.
func New(b Backend, o Options) *Server {
	s := &Server{backend: b, report: o.Report}
	if s.report == nil {
		s.report = func(error) {}
	}
	config := huma.DefaultConfig("weft", o.Version)
	config.CreateHooks = nil // they would add $schema to every answer
	config.DocsPath = ""     // the page loads scripts from elsewhere
	config.SchemasPath = ""
	config.RejectUnknownQueryParameters = true

	mux := http.NewServeMux()
	s.routes(humago.New(mux, config))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", metricsHandler(b))
	s.handler = s.refuseBrowsers(s.recoverPanics(s.count(problems(mux))))
	return s
}

// Handler returns the API as an http.Handler.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers requests that arrive at l until ctx ends, then gives those under way two seconds.
// It closes l. It returns nil when ctx ended it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}
	stopped := make(chan struct{})
	undo := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close() // cuts what is left; nothing more to do about an error
		}
	})
	err := server.Serve(netutil.LimitListener(l, maxConns))
	if !undo() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the api on %s: %w", l.Addr(), err)
}

// refuseBrowsers keeps web pages out: programs send no Origin, browsers always do across sites.
func (s *Server) refuseBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := r.Header["Origin"]; ok {
			writeProblem(w, api.Errorf(api.CodeRefused, "requests of web pages are refused"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// recoverPanics keeps a fault in one request from being a cut connection without a word.
func (s *Server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so, too
				panic(v)
			}
			s.report(fmt.Errorf("panic in %s %s: %v", r.Method, r.URL.Path, v))
			writeProblem(w, api.Errorf(api.CodeInternal, "weft failed at this request"))
		}()
		next.ServeHTTP(w, r)
	})
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", api.Done{Done: true})
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if err := s.backend.Ready(r.Context()); err != nil {
		writeProblem(w, api.Errorf(api.CodeUnavailable, "not ready: %w", err))
		return
	}
	writeJSON(w, http.StatusOK, "application/json", api.Done{Done: true})
}
