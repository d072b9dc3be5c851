package swarm

import (
	"context"
	"fmt"

	"github.com/weft-net/weft/internal/dockerapi"
)

// Wish is a network whose configuration every node of a Swarm is to have, or not any more.
type Wish struct {
	Network
	Version uint64 // a higher one replaces what was wished before under this name
	Gone    bool   // the configuration is to be removed
}

// Report is what became of a wish on a node.
type Report struct {
	Version uint64 // of the wish
	Why     string // it could not be fulfilled; empty: it is
}

// Follow fulfils wishes on this node, as far as it goes, and reports on each. node is its ID in the Swarm, empty where it is in none. Done again,
// nothing changes; a configuration that somebody removed is made again. The error says why Docker could not be asked at all.
func Follow(ctx context.Context, c *dockerapi.Client, wishes []Wish) (node string, reports map[string]Report, err error) {
	info, err := c.Info(ctx)
	if err != nil {
		return "", nil, err
	}
	if info.InSwarm() {
		node = info.Swarm.NodeID
	}
	reports = make(map[string]Report, len(wishes))
	for _, w := range wishes {
		r := Report{Version: w.Version}
		switch {
		case node == "" && !w.Gone:
			err = fmt.Errorf("this Docker is in no Swarm: docker swarm join")
		case w.Gone:
			err = RemoveConfig(ctx, c, w.Name)
		default:
			_, err = MakeConfig(ctx, c, w.Network)
		}
		if err != nil {
			r.Why = err.Error()
		}
		reports[w.Name] = r
	}
	return node, reports, nil
}

// RemoveConfig removes a network's configuration from this node; one that is not there is no error.
func RemoveConfig(ctx context.Context, c *dockerapi.Client, name string) error {
	at := ConfigName(name)
	has, there, err := c.Network(ctx, at)
	switch {
	case err != nil:
		return err
	case !there:
		return nil
	case !has.ConfigOnly || has.IPAM == nil || has.IPAM.Driver != Driver || has.IPAM.Options[optNetwork] != name:
		return notOurs(at)
	}
	return c.RemoveNetwork(ctx, at)
}

func notOurs(name string) error {
	return fmt.Errorf("network %s of Docker's is not weft's for Swarm: docker network rm %s, if you mean it", name, name)
}
