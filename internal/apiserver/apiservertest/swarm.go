package apiservertest

import (
	"context"

	"github.com/weft-net/weft/internal/api"
)

// SetSwarm sets what SwarmNodes answers from now on.
func (b *Backend) SetSwarm(nodes ...api.SwarmNode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = nodes
}

// AllowSwarm does nothing.
func (b *Backend) AllowSwarm(_ context.Context, a api.SwarmAllow) error {
	defer b.mu.Unlock()
	return b.called("allow swarm %q", a.Socket)
}

// PutSwarmNetwork does nothing.
func (b *Backend) PutSwarmNetwork(_ context.Context, name string, n api.SwarmNetwork) error {
	defer b.mu.Unlock()
	return b.called("put swarm network %s %+v", name, n)
}

// RemoveSwarmNetwork does nothing.
func (b *Backend) RemoveSwarmNetwork(_ context.Context, name string) error {
	defer b.mu.Unlock()
	return b.called("rm swarm network %s", name)
}

// SwarmNodes answers as SetSwarm said.
func (b *Backend) SwarmNodes(_ context.Context, name string) (api.SwarmNodes, error) {
	defer b.mu.Unlock()
	err := b.called("swarm nodes %s", name)
	return api.SwarmNodes{Network: name, Nodes: b.nodes}, err
}
