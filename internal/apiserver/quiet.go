package apiserver

import (
	"context"
	"net/http"

	"github.com/weft-net/weft/internal/api"
)

// Quiet refuses requests that may change something, until Loud, and waits until those under way are done or ctx ends.
func (s *Server) Quiet(ctx context.Context) {
	s.mu.Lock()
	s.quiet = true
	idle := make(chan struct{})
	s.idle = idle
	if s.changing == 0 {
		s.idle = nil
		close(idle)
	}
	s.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// Loud takes all requests again.
func (s *Server) Loud() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet, s.idle = false, nil
}

// begin counts a request that may change something; false when none are taken.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.quiet {
		s.changing++
	}
	return !s.quiet
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changing--; s.changing == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

func (s *Server) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		if !s.begin() {
			writeProblem(w, api.Errorf(api.CodeUnavailable, "this host is being handed over to another weft").WithHint("try again in a moment"))
			return
		}
		defer s.end()
		next.ServeHTTP(w, r)
	})
}
