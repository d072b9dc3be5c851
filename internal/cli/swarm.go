package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/swarm"
)

const (
	// nodesTime is how long all nodes have to do what they are asked for, nodesSoon when a person is told who is waited for, and nodesPoll
	// how often it is looked.
	nodesTime = 30 * time.Second
	nodesSoon = 2 * time.Second
	nodesPoll = 200 * time.Millisecond
)

// spread has all nodes make a network's configuration, as far as they let weft do that, and returns what became of it.
func (a *App) spread(ctx context.Context, n swarm.Network) ([]client.SwarmNode, error) {
	d := a.client()
	defer d.Close()
	if err := d.PutSwarmNetwork(ctx, n.Name, client.SwarmNetwork{Subnet: n.Subnet, Options: n.Options}); err != nil {
		return nil, err
	}
	return a.nodesOf(ctx, d, n.Name)
}

// nodesOf waits until all nodes that follow have tried what was asked for, or nodesTime is over.
func (a *App) nodesOf(ctx context.Context, d *client.Client, network string) ([]client.SwarmNode, error) {
	tick := time.NewTicker(nodesPoll)
	defer tick.Stop()
	began, said := time.Now(), false
	for {
		s, err := d.SwarmNodes(ctx, network)
		if err != nil {
			return nil, err
		}
		var waits []string
		for _, x := range s.Nodes {
			if x.Waiting {
				waits = append(waits, x.Host)
			}
		}
		since := time.Since(began)
		if len(waits) == 0 || since >= nodesTime {
			return s.Nodes, nil
		}
		if since >= nodesSoon && !said {
			said = true
			_, _ = fmt.Fprintf(a.Err, "waiting for %s, up to %v\n", strings.Join(waits, ", "), nodesTime)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// removeSwarmNetwork removes a network from the Swarm and its configuration from the nodes.
func (a *App) removeSwarmNetwork(ctx context.Context, engine *dockerapi.Client, name string) error {
	info, err := engine.Info(ctx)
	if err != nil {
		return err
	}
	d := a.client()
	defer d.Close()
	if !info.Swarm.ControlAvailable {
		if s, err := d.SwarmNodes(ctx, name); err == nil && !s.Gone { // it would be made again
			return fmt.Errorf("all nodes of the Swarm are to have network %s: on a manager: weft docker network rm %s", name, name)
		}
		if err := swarm.RemoveNetwork(ctx, engine, name); err != nil {
			return err
		}
		return a.done("removed from this node")
	}
	if err := swarm.RemoveNetwork(ctx, engine, name); err != nil {
		return err
	}
	if err := d.RemoveSwarmNetwork(ctx, name); err != nil {
		return err
	}
	has, err := a.nodesOf(ctx, d, name)
	if err != nil && !client.IsCode(err, client.CodeNotFound) {
		return err
	}
	nodes, err := swarm.Nodes(ctx, engine, info.Swarm.NodeID)
	if err != nil {
		return err
	}
	var by []string
	for _, x := range nodes {
		if i := slices.IndexFunc(has, func(h client.SwarmNode) bool { return h.Node == x.ID }); i < 0 || has[i].Waiting || has[i].Reason != "" {
			by = append(by, x.Name)
		}
	}
	if len(by) > 0 {
		return a.done("removed; left on %s: docker network rm %s there; and the weft network: weft network rm %s", strings.Join(by, ", "), swarm.ConfigName(name), name)
	}
	return a.done("removed from the Swarm and its nodes; and the weft network: weft network rm %s", name)
}
