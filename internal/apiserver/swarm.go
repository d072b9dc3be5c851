package apiserver

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/weft-net/weft/internal/api"
)

type (
	swarmName struct {
		Name string `path:"name" minLength:"1" maxLength:"63"`
	}
	swarmPut struct {
		Name string `path:"name" minLength:"1" maxLength:"63"`
		Body api.SwarmNetwork
	}
)

func (s *Server) swarmRoutes(to huma.API) {
	b := s.backend
	op(s, to, http.MethodPut, "/v1/docker/swarm", "allowSwarm", "Let weft make configurations in this host's Docker", func(ctx context.Context, in *withBody[api.SwarmAllow]) (api.Done, error) {
		return done(b.AllowSwarm(ctx, in.Body))
	})
	op(s, to, http.MethodPut, "/v1/docker/networks/{name}", "putSwarmNetwork", "Ask all nodes for a network's configuration", func(ctx context.Context, in *swarmPut) (api.Done, error) {
		return done(b.PutSwarmNetwork(ctx, in.Name, in.Body))
	})
	op(s, to, http.MethodDelete, "/v1/docker/networks/{name}", "removeSwarmNetwork", "Have all nodes remove it", func(ctx context.Context, in *swarmName) (api.Done, error) {
		return done(b.RemoveSwarmNetwork(ctx, in.Name))
	})
	op(s, to, http.MethodGet, "/v1/docker/networks/{name}", "swarmNodes", "How far the nodes are", func(ctx context.Context, in *swarmName) (api.SwarmNodes, error) {
		v, err := b.SwarmNodes(ctx, in.Name)
		v.Nodes = list(v.Nodes)
		return v, err
	})
}
