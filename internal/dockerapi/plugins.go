package dockerapi

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// PluginConfig is the config.json of a managed plugin, in Docker's form (https://docs.docker.com/engine/extend/config/). One that says
// nothing of a network has none.
type PluginConfig struct {
	Description   string          `json:"description"`
	Documentation string          `json:"documentation"`
	Entrypoint    []string        `json:"entrypoint"`
	Interface     PluginInterface `json:"interface"`
	Linux         PluginLinux     `json:"linux"`
	Mounts        []PluginMount   `json:"mounts"`
}

// PluginInterface says what a plugin answers, and where.
type PluginInterface struct {
	Types  []string `json:"types"`  // such as docker.networkdriver/1.0
	Socket string   `json:"socket"` // name in /run/docker/plugins
}

// PluginLinux says what a plugin may do beyond what every container may.
type PluginLinux struct {
	Capabilities []string `json:"capabilities"`
}

// PluginMount shows a plugin a part of the host's file system.
type PluginMount struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Source      string   `json:"source"`
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Options     []string `json:"options"`
}

// Plugin is a managed plugin as an engine has it.
type Plugin struct {
	Name    string
	Enabled bool
	Config  struct {
		Entrypoint []string
	}
	Settings struct {
		Mounts []struct{ Source, Destination string }
	}
}

// Plugin returns a plugin; false when there is none of that name.
func (c *Client) Plugin(ctx context.Context, name string) (Plugin, bool, error) {
	var p Plugin
	err := c.call(ctx, http.MethodGet, named("plugins", name, "/json"), nil, &p)
	if missing(err) {
		return Plugin{}, false, nil
	}
	return p, err == nil, err
}

// CreatePlugin makes a plugin, not enabled yet, of an archive (tar) with config.json and rootfs.
func (c *Client) CreatePlugin(ctx context.Context, name string, archive io.Reader) error {
	return c.call(ctx, http.MethodPost, "/plugins/create?name="+url.QueryEscape(name), archive, nil)
}

// EnablePlugin starts a plugin. timeout is how long Docker waits for each of its answers from then on.
func (c *Client) EnablePlugin(ctx context.Context, name string, timeout time.Duration) error {
	return c.call(ctx, http.MethodPost, named("plugins", name, "/enable?timeout="+strconv.Itoa(int(timeout.Seconds()))), nil, nil)
}

// RemovePlugin removes a plugin that is not enabled.
func (c *Client) RemovePlugin(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, named("plugins", name, ""), nil, nil)
}
