package apiserver

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/weft-net/weft/internal/api"
)

type (
	inNetwork struct {
		Network string `query:"network" maxLength:"63" doc:"Default: all"`
	}
	byName struct {
		Network   string   `path:"network" minLength:"1" maxLength:"63"`
		Name      string   `path:"name" minLength:"1" maxLength:"80"`
		Addresses []string `query:"address,explode" maxItems:"16" doc:"Only these; default: all"`
	}
	byService struct {
		Network string `path:"network" minLength:"1" maxLength:"63"`
		Service string `path:"service" minLength:"1" maxLength:"32"`
		Name    string `path:"name" minLength:"1" maxLength:"80"`
	}
	lookup struct {
		Network string `query:"network" maxLength:"63" doc:"Default: weft"`
		Name    string `query:"name" required:"true" minLength:"1" maxLength:"253" doc:"A name, short or full, or an address"`
	}
	withAliases struct {
		Network string `path:"network" minLength:"1" maxLength:"63"`
		Name    string `path:"name" minLength:"1" maxLength:"63"`
		Body    api.Aliases
	}
)

func (s *Server) nameRoutes(to huma.API) {
	b := s.backend
	op(s, to, http.MethodGet, "/v1/names", "names", "Names in the networks of this host", func(ctx context.Context, in *inNetwork) (api.Names, error) {
		v, err := b.Names(ctx, in.Network)
		v.Names = list(v.Names)
		for i := range v.Names {
			v.Names[i].Addresses = list(v.Names[i].Addresses)
		}
		return v, err
	})
	op(s, to, http.MethodPost, "/v1/names", "addName", "Give addresses a name", func(ctx context.Context, in *withBody[api.NameAdd]) (api.Name, error) {
		v, err := b.AddName(ctx, in.Body)
		v.Addresses = list(v.Addresses)
		return v, err
	})
	op(s, to, http.MethodDelete, "/v1/names/{network}/{name}", "removeName", "Take a name back", func(ctx context.Context, in *byName) (api.Done, error) {
		return done(b.RemoveName(ctx, in.Network, in.Name, in.Addresses))
	})
	op(s, to, http.MethodGet, "/v1/lookup", "lookup", "What a name or an address means in a network", func(ctx context.Context, in *lookup) (api.Lookup, error) {
		v, err := b.Lookup(ctx, in.Network, in.Name)
		v.Addresses, v.Names = list(v.Addresses), list(v.Names)
		return v, err
	})
	op(s, to, http.MethodPut, "/v1/attachments/{network}/{name}/aliases", "setAliases", "Give an attachment of this host further names", func(ctx context.Context, in *withAliases) (api.Done, error) {
		return done(b.SetAliases(ctx, in.Network, in.Name, in.Body))
	})
	op(s, to, http.MethodGet, "/v1/services", "services", "Services in the networks of this host", func(ctx context.Context, in *inNetwork) (api.Services, error) {
		v, err := b.Services(ctx, in.Network)
		v.Services = list(v.Services)
		for i := range v.Services {
			v.Services[i].Texts = list(v.Services[i].Texts)
		}
		return v, err
	})
	op(s, to, http.MethodPost, "/v1/services", "addService", "Say where a service is", func(ctx context.Context, in *withBody[api.ServiceAdd]) (api.Service, error) {
		v, err := b.AddService(ctx, in.Body)
		v.Texts = list(v.Texts)
		return v, err
	})
	op(s, to, http.MethodDelete, "/v1/services/{network}/{service}/{name}", "removeService", "Take a service back", func(ctx context.Context, in *byService) (api.Done, error) {
		return done(b.RemoveService(ctx, in.Network, in.Service, in.Name))
	})
}
