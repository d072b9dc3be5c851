package dockerapi

import (
	"context"
	"net/http"
)

// Network is a network of Docker's: as it is made, and as it is shown.
type Network struct {
	ID         string `json:"Id,omitempty"` // shown only
	Name       string
	Driver     string            `json:",omitempty"`
	Scope      string            `json:",omitempty"` // "swarm", "local"
	Internal   bool              `json:",omitempty"`
	Attachable bool              `json:",omitempty"`
	IPAM       *IPAM             `json:",omitempty"`
	Options    map[string]string `json:",omitempty"`
	// ConfigOnly: it is no network, but what others on this node are made by, those with its name in ConfigFrom.
	ConfigOnly bool        `json:",omitempty"`
	ConfigFrom *ConfigFrom `json:",omitempty"`
}

// ConfigFrom names a network by which another is made.
type ConfigFrom struct{ Network string }

// IPAM says who gives a network's addresses.
type IPAM struct {
	Driver  string            `json:",omitempty"`
	Options map[string]string `json:",omitempty"`
	Config  []Pool            `json:",omitempty"`
}

// Pool is a subnet of a network.
type Pool struct {
	Subnet string `json:",omitempty"`
}

// Network returns a network; false when there is none of that name here. A worker of a Swarm knows those of the Swarm that it uses.
func (c *Client) Network(ctx context.Context, name string) (Network, bool, error) {
	var n Network
	err := c.call(ctx, http.MethodGet, named("networks", name, ""), nil, &n)
	switch {
	case missing(err), err == nil && n.Name != name: // another's id may begin with the name
		return Network{}, false, nil
	case err != nil:
		return Network{}, false, err
	}
	return n, true, nil
}

// CreateNetwork makes a network.
func (c *Client) CreateNetwork(ctx context.Context, n Network) error {
	request := struct {
		Network
		CheckDuplicate bool // before Docker 25 two networks could have one name
	}{n, true}
	return c.call(ctx, http.MethodPost, "/networks/create", request, nil)
}

// RemoveNetwork removes a network; one that is not there is no error.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	err := c.call(ctx, http.MethodDelete, named("networks", name, ""), nil, nil)
	if missing(err) {
		return nil
	}
	return err
}

// Connect puts a container into a network, now if it runs and else from its start on.
func (c *Client) Connect(ctx context.Context, network, container string) error {
	return c.call(ctx, http.MethodPost, named("networks", network, "/connect"), struct{ Container string }{container}, nil)
}
