package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/weft-net/weft/internal/api"
)

// huma makes its errors by this variable, of which there is one per process. Ours is the only
// API in it.
func init() { huma.NewError = newProblem }

// newProblem gives huma's own refusals (schema, size, content type) weft's form.
func newProblem(status int, text string, errs ...error) huma.StatusError {
	p := &api.Error{Status: status, Title: http.StatusText(status), Code: api.CodeOf(status), Detail: text}
	for _, err := range errs {
		var d huma.ErrorDetailer
		switch {
		case err == nil:
		case errors.As(err, &d):
			// The value is left out: it may be a secret.
			detail := d.ErrorDetail()
			p.Fields = append(p.Fields, api.Field{Location: detail.Location, Message: detail.Message})
		default:
			p.Fields = append(p.Fields, api.Field{Message: err.Error()})
		}
	}
	return p
}

// problem turns what a Backend returned into what the caller gets.
func (s *Server) problem(ctx context.Context, err error) error {
	var p *api.Error
	switch {
	case errors.As(err, &p):
		return p
	case ctx.Err() != nil:
		return api.Errorf(api.CodeUnavailable, "the request was given up: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeTimeout, "%w", err)
	}
	s.report(err)
	return api.Errorf(api.CodeInternal, "%w", err)
}

func writeProblem(w http.ResponseWriter, p *api.Error) {
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	// The caller has gone when this fails.
	_ = json.NewEncoder(w).Encode(v)
}

// problems gives the mux's own refusals (no such path, no such method) weft's form.
func problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := statusProbe{header: http.Header{}}
		h.ServeHTTP(&probe, r)
		p := api.Errorf(api.CodeNotFound, "no resource %s", r.URL.Path).
			WithHint("GET /openapi.json lists them")
		if probe.status == http.StatusMethodNotAllowed {
			allow := probe.header.Get("Allow")
			w.Header().Set("Allow", allow)
			p = api.Errorf(api.CodeInvalid, "%s does not take %s", r.URL.Path, r.Method).
				WithHint("it takes %s", strings.ToUpper(allow))
			p.Status, p.Title = probe.status, http.StatusText(probe.status)
		}
		writeProblem(w, p)
	})
}

// statusProbe is an http.ResponseWriter that keeps the status and the headers only.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }
