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

// benchRoutes register answers that come in pieces: lines of JSON, each an api.BenchEvent. What is wrong before
// the first is a problem as everywhere, later it is the last line.
func (s *Server) benchRoutes(to huma.API) {
	benchRoute(s, to, "benchNet", "/v1/bench/net", "Measure a network between this host and others", s.benchNet)
	benchRoute(s, to, "benchBus", "/v1/bench/bus", "Measure the cluster's bus between this host and others", s.benchBus)
}

func benchRoute[T any](s *Server, to huma.API, id, path, summary string,
	measure func(ctx context.Context, r T, progress func(api.BenchProgress) error) (api.BenchEvent, error),
) {
	event := to.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.BenchEvent](), true, "BenchEvent")
	problem := to.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Error](), true, "Error")
	huma.Register(to, huma.Operation{
		OperationID: id, Method: http.MethodPost, Path: path, Summary: summary,
		Description:  "Answers with lines of JSON: progress as it goes, then the result, or an error. Whoever hangs up ends the measurement.",
		MaxBodyBytes: api.MaxBody, BodyReadTimeout: readTimeout, DefaultStatus: http.StatusOK,
		Responses: map[string]*huma.Response{
			"200":     {Description: "One line each", Content: map[string]*huma.MediaType{linesType: {Schema: event}}},
			"default": {Description: "Error", Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}},
		},
	}, func(_ context.Context, in *withBody[T]) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			s.benchEvents(r.Context(), w, func(ctx context.Context, progress func(api.BenchProgress) error) (api.BenchEvent, error) {
				return measure(ctx, in.Body, progress)
			})
		}}, nil
	})
}

const linesType = "application/x-ndjson"

func (s *Server) benchNet(ctx context.Context, r api.BenchRequest, progress func(api.BenchProgress) error) (api.BenchEvent, error) {
	out, err := s.backend.BenchNet(ctx, r, progress)
	out.Bench, out.Hosts, out.Skipped = list(out.Bench), list(out.Hosts), list(out.Skipped)
	for i := range out.Bench {
		b := &out.Bench[i]
		b.To, b.Receivers, b.CPU = list(b.To), list(b.Receivers), list(b.CPU)
	}
	return api.BenchEvent{Result: &out}, err
}

func (s *Server) benchBus(ctx context.Context, r api.BenchBusRequest, progress func(api.BenchProgress) error) (api.BenchEvent, error) {
	out, err := s.backend.BenchBus(ctx, r, progress)
	out.Bench, out.Hosts, out.Skipped = list(out.Bench), list(out.Hosts), list(out.Skipped)
	for i := range out.Bench {
		b := &out.Bench[i]
		b.To, b.Receivers, b.CPU = list(b.To), list(b.Receivers), list(b.CPU)
	}
	return api.BenchEvent{Bus: &out}, err
}

// benchEvents tells what a measurement says as it goes, and what came of it.
func (s *Server) benchEvents(ctx context.Context, w http.ResponseWriter,
	measure func(ctx context.Context, progress func(api.BenchProgress) error) (api.BenchEvent, error),
) {
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
	out, err := measure(ctx, func(p api.BenchProgress) error {
		p.To = list(p.To)
		return tell(api.BenchEvent{Progress: &p})
	})
	if err == nil {
		_ = tell(out) // the caller has gone when this fails
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
