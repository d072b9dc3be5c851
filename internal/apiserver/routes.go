package apiserver

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/weft-net/weft/internal/api"
)

type (
	// nothing is the input of requests that have none.
	nothing struct{}
	// answer is the output of all requests: a JSON body.
	answer[T any] struct{ Body T }

	withBody[T any] struct{ Body T }

	// huma does not look into embedded unexported structs: the path is written twice.
	byHostForce struct {
		Name  string `path:"name" minLength:"1" maxLength:"255" doc:"Name or HostID"`
		Force bool   `query:"force" doc:"Go on without a majority of the last known hosts"`
	}
	byHostProbe struct {
		Name string `path:"name" minLength:"1" maxLength:"255" doc:"Name or HostID"`
		Body api.Probe
	}
	byNetwork struct {
		Name string `path:"name" minLength:"1" maxLength:"63"`
	}
	byAttachment struct {
		Network string `path:"network" minLength:"1" maxLength:"63"`
		Name    string `path:"name" minLength:"1" maxLength:"63"`
	}
)

// op registers one operation; the answer's slices are never null.
func op[I, O any](s *Server, to huma.API, method, path, id, summary string, call func(context.Context, *I) (O, error)) {
	opUpTo(s, to, api.MaxBody, method, path, id, summary, call)
}

// opUpTo is op for requests of another length, in bytes.
func opUpTo[I, O any](s *Server, to huma.API, maxBody int64, method, path, id, summary string, call func(context.Context, *I) (O, error)) {
	huma.Register(to, huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary,
		MaxBodyBytes: maxBody, BodyReadTimeout: readTimeout,
		DefaultStatus: http.StatusOK, Errors: []int{http.StatusUnprocessableEntity, http.StatusInternalServerError},
	}, func(ctx context.Context, in *I) (*answer[O], error) {
		out, err := call(ctx, in)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return &answer[O]{Body: out}, nil
	})
}

// done makes an answer of calls that only succeed or fail.
func done(err error) (api.Done, error) { return api.Done{Done: err == nil}, err }

// list returns l, or an empty list for nil: JSON has [] and null, and callers range over the first.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func (s *Server) routes(to huma.API) {
	s.clusterRoutes(to)
	s.networkRoutes(to)
	s.nameRoutes(to)
	s.swarmRoutes(to)
	s.benchRoutes(to)
	s.busRoutes(to)
	op(s, to, http.MethodPost, "/v1/down", "down", "Stop the daemon", func(ctx context.Context, in *withBody[api.Down]) (api.Done, error) {
		return done(s.backend.Down(ctx, in.Body))
	})
}

func (s *Server) clusterRoutes(to huma.API) {
	b := s.backend
	op(s, to, http.MethodGet, "/v1/status", "status", "One page that says what is wrong", func(ctx context.Context, _ *nothing) (api.Status, error) {
		v, err := b.Status(ctx)
		v.Endpoints, v.Detours, v.Drops = list(v.Endpoints), list(v.Detours), list(v.Drops)
		v.Warnings, v.Limits, v.UnderlayGroups = list(v.Warnings), list(v.Limits), list(v.UnderlayGroups)
		v.Networks = networks(v.Networks)
		if v.Bus != nil {
			v.Bus.Members = list(v.Bus.Members)
		}
		if v.Paths == nil {
			v.Paths = map[string]int{}
		}
		return v, err
	})
	op(s, to, http.MethodGet, "/v1/hosts", "hosts", "Hosts of the cluster", func(ctx context.Context, _ *nothing) (api.Hosts, error) {
		v, err := b.Hosts(ctx)
		v.Hosts = list(v.Hosts)
		for i := range v.Hosts {
			v.Hosts[i].Endpoints = list(v.Hosts[i].Endpoints)
		}
		return v, err
	})
	op(s, to, http.MethodDelete, "/v1/hosts/{name}", "removeHost", "Bar a host that is gone for good and take its ranges", func(ctx context.Context, in *byHostForce) (api.HostRemoved, error) {
		v, err := b.RemoveHost(ctx, in.Name, in.Force)
		v.Ranges, v.InUse = list(v.Ranges), list(v.InUse)
		return v, err
	})
	op(s, to, http.MethodPost, "/v1/hosts/{name}/probe", "probe", "One round trip to a host", func(ctx context.Context, in *byHostProbe) (api.ProbeResult, error) {
		return b.Probe(ctx, in.Name, in.Body)
	})
	op(s, to, http.MethodGet, "/v1/links", "links", "Links to other hosts", func(ctx context.Context, _ *nothing) (api.Links, error) {
		v, err := b.Links(ctx)
		v.Links = list(v.Links)
		return v, err
	})
	op(s, to, http.MethodGet, "/v1/token", "token", "The token that admits new hosts", func(ctx context.Context, _ *nothing) (api.Token, error) {
		return b.Token(ctx)
	})
	op(s, to, http.MethodPost, "/v1/token/rotate", "rotateToken", "Replace the token; admitted hosts stay", func(ctx context.Context, _ *nothing) (api.Token, error) {
		return b.RotateToken(ctx)
	})
	op(s, to, http.MethodPost, "/v1/connect", "connect", "Keep trying these endpoints", func(ctx context.Context, in *withBody[api.Endpoints]) (api.Done, error) {
		return done(b.Connect(ctx, in.Body))
	})
	op(s, to, http.MethodPost, "/v1/forget", "forget", "Stop trying these endpoints", func(ctx context.Context, in *withBody[api.Endpoints]) (api.Done, error) {
		return done(b.Forget(ctx, in.Body))
	})
}

func (s *Server) networkRoutes(to huma.API) {
	b := s.backend
	op(s, to, http.MethodGet, "/v1/networks", "networks", "Networks of the cluster", func(ctx context.Context, _ *nothing) (api.Networks, error) {
		v, err := b.Networks(ctx)
		v.Networks = networks(v.Networks)
		return v, err
	})
	op(s, to, http.MethodPost, "/v1/networks", "createNetwork", "Create a network, or take up one of that name", func(ctx context.Context, in *withBody[api.NetworkCreate]) (api.Network, error) {
		v, err := b.CreateNetwork(ctx, in.Body)
		v.Subnets = list(v.Subnets)
		return v, err
	})
	op(s, to, http.MethodGet, "/v1/networks/{name}", "network", "One network", func(ctx context.Context, in *byNetwork) (api.Network, error) {
		v, err := b.Network(ctx, in.Name)
		v.Subnets = list(v.Subnets)
		return v, err
	})
	op(s, to, http.MethodDelete, "/v1/networks/{name}", "removeNetwork", "Withdraw this host's copy of a network", func(ctx context.Context, in *byNetwork) (api.Done, error) {
		return done(b.RemoveNetwork(ctx, in.Name))
	})
	op(s, to, http.MethodGet, "/v1/attachments", "attachments", "Attachments on all hosts", func(ctx context.Context, _ *nothing) (api.Attachments, error) {
		v, err := b.Attachments(ctx)
		v.Attachments = list(v.Attachments)
		for i := range v.Attachments {
			v.Attachments[i].IPs = list(v.Attachments[i].IPs)
		}
		return v, err
	})
	op(s, to, http.MethodPost, "/v1/attachments", "attach", "Plug a process, namespace or container into a network", func(ctx context.Context, in *withBody[api.Attach]) (api.Attachment, error) {
		v, err := b.Attach(ctx, in.Body)
		v.IPs = list(v.IPs)
		return v, err
	})
	op(s, to, http.MethodDelete, "/v1/attachments/{network}/{name}", "detach", "Unplug an attachment of this host", func(ctx context.Context, in *byAttachment) (api.Done, error) {
		return done(b.Detach(ctx, in.Network, in.Name))
	})
	op(s, to, http.MethodGet, "/v1/groups", "groups", "Multicast groups that have members", func(ctx context.Context, _ *nothing) (api.Groups, error) {
		v, err := b.Groups(ctx)
		v.Groups = list(v.Groups)
		for i := range v.Groups {
			v.Groups[i].Members = list(v.Groups[i].Members)
		}
		return v, err
	})
	op(s, to, http.MethodGet, "/v1/ipam", "ipam", "Who owns which addresses", func(ctx context.Context, _ *nothing) (api.IPAM, error) {
		v, err := b.IPAM(ctx)
		v.IPAM = list(v.IPAM)
		return v, err
	})
}

func networks(l []api.Network) []api.Network {
	for i := range l {
		l[i].Subnets = list(l[i].Subnets)
	}
	return list(l)
}
