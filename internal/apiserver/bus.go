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

type (
	toBus struct {
		Bus  string `path:"bus" minLength:"1" maxLength:"63"`
		Body api.BusPublish
	}
	byBus struct {
		Bus string `path:"bus" minLength:"1" maxLength:"63"`
	}
	askBus struct {
		Bus  string `path:"bus" minLength:"1" maxLength:"63"`
		Body api.BusRequest
	}
	fromBus struct {
		Bus     string `path:"bus" minLength:"1" maxLength:"63"`
		Subject string `query:"subject" minLength:"1" maxLength:"255" doc:"May have the wildcards * and >"`
		Queue   string `query:"queue" maxLength:"255" doc:"Queue group: one of its members gets each message"`
	}
)

func (s *Server) busRoutes(to huma.API) {
	b := s.backend
	op(s, to, http.MethodGet, "/v1/buses", "buses", "Buses, and who is on them", func(ctx context.Context, _ *nothing) (api.Buses, error) {
		v, err := b.Buses(ctx)
		v.Buses = list(v.Buses)
		for i := range v.Buses {
			v.Buses[i] = whole(v.Buses[i])
		}
		return v, err
	})
	op(s, to, http.MethodGet, "/v1/buses/{bus}", "bus", "One bus", func(ctx context.Context, in *byBus) (api.Bus, error) {
		v, err := b.Bus(ctx, in.Bus)
		return whole(v), err
	})
	op(s, to, http.MethodPost, "/v1/buses", "createBus", "Make a bare bus, or take up one of that name", func(ctx context.Context, in *withBody[api.BusCreate]) (api.Bus, error) {
		v, err := b.CreateBus(ctx, in.Body)
		return whole(v), err
	})
	op(s, to, http.MethodDelete, "/v1/buses/{bus}", "removeBus", "End a bare bus on this host", func(ctx context.Context, in *byBus) (api.Done, error) {
		return done(b.RemoveBus(ctx, in.Bus))
	})
	op(s, to, http.MethodGet, "/v1/buses/{bus}/token", "busToken", "The token that admits programs to a bus, and where to find it", func(ctx context.Context, in *byBus) (api.BusToken, error) {
		v, err := b.BusToken(ctx, in.Bus)
		v.Seeds = list(v.Seeds)
		return v, err
	})
	opUpTo(s, to, api.MaxBusBody, http.MethodPost, "/v1/buses/{bus}/messages", "publish", "Publish messages", func(ctx context.Context, in *toBus) (api.BusPublished, error) {
		return b.Publish(ctx, in.Bus, in.Body)
	})
	opUpTo(s, to, api.MaxBusBody, http.MethodPost, "/v1/buses/{bus}/request", "request", "Publish a message and wait for an answer", func(ctx context.Context, in *askBus) (api.BusMessage, error) {
		return b.Request(ctx, in.Bus, in.Body)
	})
	event := to.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.BusEvent](), true, "BusEvent")
	problem := to.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Error](), true, "Error")
	huma.Register(to, huma.Operation{
		OperationID: "subscribe", Method: http.MethodGet, Path: "/v1/buses/{bus}/messages", Summary: "Get messages as they come",
		Description:   "Answers with lines of JSON until the caller hangs up. One that does not read loses messages, and is told how many.",
		DefaultStatus: http.StatusOK,
		Responses: map[string]*huma.Response{
			"200":     {Description: "One line each", Content: map[string]*huma.MediaType{linesType: {Schema: event}}},
			"default": {Description: "Error", Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}},
		},
	}, func(_ context.Context, in *fromBus) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			s.subscribe(r.Context(), w, in)
		}}, nil
	})
}

// whole makes empty lists of those that are missing.
func whole(b api.Bus) api.Bus {
	b.Members = list(b.Members)
	if b.Bare != nil {
		bare := *b.Bare
		bare.Hosts = list(bare.Hosts)
		b.Bare = &bare
	}
	return b
}

// maxSubscribers leaves connections for everything else.
const maxSubscribers = maxConns / 2

func (s *Server) subscribe(ctx context.Context, w http.ResponseWriter, in *fromBus) {
	defer s.subscribers.Add(-1)
	if s.subscribers.Add(1) > maxSubscribers {
		writeProblem(w, api.Errorf(api.CodeUnavailable, "%d subscriptions by this API, and no more at a time", maxSubscribers).WithHint("weft up --nats serves more"))
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // else the end of the time for the request would look like a caller who hung up
	begun := false
	tell := func(e api.BusEvent) error {
		if !begun {
			w.Header().Set("Content-Type", linesType)
			w.WriteHeader(http.StatusOK)
			begun = true
		}
		_ = control.SetWriteDeadline(time.Now().Add(eventTimeout))
		return errors.Join(json.NewEncoder(w).Encode(e), control.Flush())
	}
	err := s.backend.Subscribe(ctx, in.Bus, api.BusSubscribe{Subject: in.Subject, Queue: in.Queue}, tell)
	if err == nil || ctx.Err() != nil {
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
	_ = tell(api.BusEvent{Error: p})
}
