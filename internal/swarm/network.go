package swarm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/dockerapi"
)

// optNetwork is the option by which the plugin is told the weft network's name.
const optNetwork = "weft.network"

// Network is a weft network that a Swarm shall have, under the same name.
type Network struct {
	Name    string
	Subnet  string            // IPv4: said, so that all nodes have the same whichever of them is asked first
	Options map[string]string // docker network create -o
	// Internal: its containers have no way out.
	Internal bool
}

// ConfigName is the name of the network that holds a network's configuration on each node.
func ConfigName(name string) string { return name + "-weft" }

// config is that network.
func (n Network) config() dockerapi.Network {
	return dockerapi.Network{
		Name: ConfigName(n.Name), ConfigOnly: true, Options: n.Options,
		IPAM: &dockerapi.IPAM{
			Driver: Driver, Options: map[string]string{optNetwork: n.Name}, Config: []dockerapi.Pool{{Subnet: n.Subnet}},
		},
	}
}

// Command is what to type on a node to have the same done there.
func (n Network) Command() string {
	words := []string{"docker network create --config-only --ipam-driver", Driver, "--ipam-opt", optNetwork + "=" + n.Name, "--subnet", n.Subnet}
	for _, k := range slices.Sorted(maps.Keys(n.Options)) {
		words = append(words, "-o", quote(k+"="+n.Options[k]))
	}
	return strings.Join(append(words, ConfigName(n.Name)), " ")
}

// quote makes a word of a shell's of a text.
func quote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./:,+@") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// MakeConfig gives this node a network's configuration; made is false when it has it already.
func MakeConfig(ctx context.Context, c *dockerapi.Client, n Network) (made bool, err error) {
	p, there, err := c.Plugin(ctx, Driver)
	switch {
	case err != nil:
		return false, err
	case !there || !p.Enabled:
		return false, fmt.Errorf("this node has no plugin %s, or not enabled: weft docker setup --swarm", Driver)
	}
	want := n.config()
	has, there, err := c.Network(ctx, want.Name)
	if err != nil {
		return false, err
	}
	if !there {
		return true, c.CreateNetwork(ctx, want)
	}
	if !has.ConfigOnly || has.IPAM == nil || has.IPAM.Driver != want.IPAM.Driver || !maps.Equal(has.IPAM.Options, want.IPAM.Options) ||
		!slices.Equal(has.IPAM.Config, want.IPAM.Config) || !maps.Equal(has.Options, want.Options) {
		return false, fmt.Errorf("network %s is on this node already, and is another: docker network rm %s, and again, or choose another name", want.Name, want.Name)
	}
	return false, nil
}

// MakeNetwork makes the network of the Swarm itself, on a manager whose node has the configuration.
func MakeNetwork(ctx context.Context, c *dockerapi.Client, n Network) (made bool, err error) {
	has, there, err := c.Network(ctx, n.Name)
	switch {
	case err != nil:
		return false, err
	case !there:
		return true, c.CreateNetwork(ctx, dockerapi.Network{
			Name: n.Name, Driver: Driver, Scope: "swarm", Attachable: true, Internal: n.Internal,
			ConfigFrom: &dockerapi.ConfigFrom{Network: ConfigName(n.Name)},
		})
	case has.Scope != "swarm" || has.Driver != Driver || has.ConfigFrom == nil || has.ConfigFrom.Network != ConfigName(n.Name):
		return false, fmt.Errorf("docker has another network %s (driver %s, scope %s): docker network rm it, or choose another name", n.Name, has.Driver, has.Scope)
	case has.Internal != n.Internal:
		return false, fmt.Errorf("network %s is there, and internal is %v: docker network rm %s, and again", n.Name, has.Internal, n.Name)
	}
	return false, nil
}

// RemoveNetwork removes the network of the Swarm, where this node is a manager, and its configuration from this node.
func RemoveNetwork(ctx context.Context, c *dockerapi.Client, name string) error {
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	if info.Swarm.ControlAvailable {
		has, there, err := c.Network(ctx, name)
		switch {
		case err != nil:
			return err
		case there && has.Driver != Driver:
			return notOurs(name)
		case there:
			if err := c.RemoveNetwork(ctx, name); err != nil {
				return err
			}
		}
	}
	return RemoveConfig(ctx, c, name)
}

// Node is a node of the Swarm, as far as a network of weft's goes.
type Node struct {
	ID, Name string
	Ready    bool
	Plugin   bool // it has the plugin, enabled
}

// Nodes lists all other nodes, on a manager.
func Nodes(ctx context.Context, c *dockerapi.Client, self string) ([]Node, error) {
	all, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	var out []Node
	for _, n := range all {
		if n.ID == self {
			continue
		}
		x := Node{ID: n.ID, Name: n.Description.Hostname, Ready: n.Status.State == "ready"}
		for _, p := range n.Description.Engine.Plugins {
			x.Plugin = x.Plugin || p.Type == "Network" && p.Name == Driver
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Node) int { return strings.Compare(a.Name+" "+a.ID, b.Name+" "+b.ID) })
	return out, nil
}
