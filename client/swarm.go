package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/weft-net/weft/internal/api"
)

// AllowSwarm lets weft make the configurations of a Swarm's networks in the Docker behind a socket of the daemon's host; empty: in none.
func (c *Client) AllowSwarm(ctx context.Context, socket string) error {
	return c.call(ctx, http.MethodPut, "/v1/docker/swarm", api.SwarmAllow{Socket: socket}, nil)
}

// PutSwarmNetwork asks for a network's configuration on all nodes that allow it.
func (c *Client) PutSwarmNetwork(ctx context.Context, name string, n SwarmNetwork) error {
	return c.call(ctx, http.MethodPut, swarmNetworkPath(name), n, nil)
}

// RemoveSwarmNetwork has these nodes remove it.
func (c *Client) RemoveSwarmNetwork(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, swarmNetworkPath(name), nil, nil)
}

// SwarmNodes tells how far these nodes are.
func (c *Client) SwarmNodes(ctx context.Context, name string) (SwarmNodes, error) {
	return get[SwarmNodes](ctx, c, swarmNetworkPath(name))
}

func swarmNetworkPath(name string) string { return "/v1/docker/networks/" + url.PathEscape(name) }
