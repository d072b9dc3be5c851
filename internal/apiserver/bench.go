package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/weft-net/weft/internal/api"
)

// eventTimeout bounds the writing of one line to a caller who does not read.
const eventTimeout = 10 * time.Second

// benchRoute registers the only answer that comes in pieces: lines of JSON, each an api.BenchEvent. What is wrong before
// the first is a problem as everywhere, later it is the last line.
func (s *Server) benchRoute(to huma.API) {
	event := to.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.BenchEvent](), true, "BenchEvent")
	problem := to.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Error](), true, "Error")
	huma.Register(to, huma.Operation{
		OperationID: "benchNet", Method: http.MethodPost, Path: "/v1/bench/net", Summary: "Measure a network between this host and others",
		Description:  "Answers with lines of JSON: progress as it goes, then the result, or an error. Whoever hangs up ends the measurement.",
		MaxBodyBytes: api.MaxBody, BodyReadTimeout: readTimeout, DefaultStatus: http.StatusOK,
		Responses: map[string]*huma.Response{
			"200":     {Description: "One line each", Content: map[string]*huma.MediaType{linesType: {Schema: event}}},
			"default": {Description: "Error", Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}},
		},
	}, func(ctx context.Context, in *withBody[api.BenchRequest]) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			s.benchNet(r.Context(), w, in.Body)
		}}, nil
	})
}

const linesType = "application/x-ndjson"

func (s *Server) benchNet(ctx context.Context, w http.ResponseWriter, r api.BenchRequest) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // else the end of the time for the request would look like a caller who hung up
	begun := false
	tell := func(e api.BenchEvent) error {
		if !begun {
			w.Header().Set("Content-Type", linesType)
			w.WriteHeader(http.StatusOK)
			begun = true
		}
		_ = control.SetWriteDeadline(time.Now().Add(eventTimeout))
		return errors.Join(json.NewEncoder(w).Encode(e), control.Flush())
	}
	out, err := s.backend.BenchNet(ctx, r, func(p api.BenchProgress) error {
		p.To = list(p.To)
		return tell(api.BenchEvent{Progress: &p})
	})
	if err == nil {
		out.Bench, out.Hosts, out.Skipped = list(out.Bench), list(out.Hosts), list(out.Skipped)
		for i := range out.Bench {
			b := &out.Bench[i]
			b.To, b.Receivers, b.CPU = list(b.To), list(b.Receivers), list(b.CPU)
		}
		_ = tell(api.BenchEvent{Result: &out}) // the caller has gone when this fails
		return
	}
	var p *api.Error
	if !errors.As(s.problem(ctx, err), &p) {
		p = api.Errorf(api.CodeInternal, "%w", err)
	}
	if !begun {
		writeProblem(w, p)
		return
	}
	_ = tell(api.BenchEvent{Error: p})
}
