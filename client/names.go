package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/weft-net/weft/internal/api"
)

// Names returns the names in a network, or in all that the daemon's host has.
func (c *Client) Names(ctx context.Context, network string) ([]Name, error) {
	l, err := get[api.Names](ctx, c, "/v1/names?network="+url.QueryEscape(network))
	return l.Names, err
}

// AddName gives addresses a name.
func (c *Client) AddName(ctx context.Context, n NameAdd) (Name, error) {
	return post[Name](ctx, c, "/v1/names", n)
}

// RemoveName takes addresses of a name back, or all of them.
func (c *Client) RemoveName(ctx context.Context, network, name string, addresses ...string) error {
	path := "/v1/names/" + url.PathEscape(network) + "/" + url.PathEscape(name)
	if len(addresses) > 0 {
		path += "?" + url.Values{"address": addresses}.Encode()
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// Lookup tells what a name or an address means in a network.
func (c *Client) Lookup(ctx context.Context, network, name string) (Lookup, error) {
	return get[Lookup](ctx, c, "/v1/lookup?"+url.Values{"network": {network}, "name": {name}}.Encode())
}

// SetAliases gives an attachment of the daemon's host further names in place of those it had.
func (c *Client) SetAliases(ctx context.Context, network, attachment string, aliases ...string) error {
	path := "/v1/attachments/" + url.PathEscape(network) + "/" + url.PathEscape(attachment) + "/aliases"
	if aliases == nil {
		aliases = []string{}
	}
	return c.call(ctx, http.MethodPut, path, api.Aliases{Aliases: aliases}, nil)
}

// Services returns the services in a network, or in all that the daemon's host has.
func (c *Client) Services(ctx context.Context, network string) ([]Service, error) {
	l, err := get[api.Services](ctx, c, "/v1/services?network="+url.QueryEscape(network))
	return l.Services, err
}

// AddService says where a service is.
func (c *Client) AddService(ctx context.Context, s ServiceAdd) (Service, error) {
	return post[Service](ctx, c, "/v1/services", s)
}

// RemoveService takes a service back.
func (c *Client) RemoveService(ctx context.Context, network, service, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/services/"+url.PathEscape(network)+"/"+url.PathEscape(service)+"/"+url.PathEscape(name), nil, nil)
}
