package dockerapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Container is a container, as far as networks and names go. Its fields but ID and NetworkSettings are of one of the two questions only.
type Container struct {
	ID              string   `json:"Id"`
	Names           []string // listed: each with a slash before it, also those by which others are linked to it, with two
	Name            string   // shown: with a slash before it
	Config          ContainerConfig
	NetworkSettings struct {
		Networks map[string]Endpoint // by name of the network
	}
}

// ContainerConfig is what a container was made with.
type ContainerConfig struct {
	Hostname string
	Labels   map[string]string
}

// Endpoint is a container's place in a network. Aliases and DNSNames are shown, not listed.
type Endpoint struct {
	EndpointID string
	Aliases    []string // as asked for; up to Docker 24 also the first digits of the id
	DNSNames   []string // from Docker 25 on: all names
}

// Containers lists the containers that run.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	var all []Container
	return all, c.call(ctx, http.MethodGet, "/containers/json", nil, &all)
}

// Container returns a container; false when there is none of that name or id.
func (c *Client) Container(ctx context.Context, name string) (Container, bool, error) {
	var x Container
	err := c.call(ctx, http.MethodGet, named("containers", name, "/json"), nil, &x)
	if missing(err) {
		return Container{}, false, nil
	}
	return x, err == nil, err
}

// RemoveContainer removes a container, also one that runs; one that is not there is no error.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	err := c.call(ctx, http.MethodDelete, named("containers", id, "?force=1"), nil, nil)
	if missing(err) {
		return nil
	}
	return err
}

const (
	// eventFilters are events after which a container may have another name or place.
	eventFilters = `{"type":["container","network"],"event":["start","rename","connect","disconnect"]}`
	// maxEvent bounds an event, in bytes; all labels of its container are in it.
	maxEvent = 1 << 20
)

// Follow calls changed when it hears of changes from now on, and then after each: a container has started, has another name, is
// connected to a network or is no more. It returns when ctx ends, or the engine.
func (c *Client) Follow(ctx context.Context, changed func()) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/events?filters="+url.QueryEscape(eventFilters), nil)
	if err != nil {
		return fmt.Errorf("docker: %w", err)
	}
	a, err := c.http.Do(q)
	if err != nil {
		return c.silent(ctx, err)
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(a.Body, maxMessage)) // what there is of it
		return refusal(a.StatusCode, b)
	}
	changed()
	lines := bufio.NewScanner(a.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		if !json.Valid(lines.Bytes()) {
			return fmt.Errorf("docker at %s: not an event of Docker's: %.40q", c.socket, lines.Bytes())
		}
		changed()
	}
	if err := lines.Err(); err != nil {
		return c.silent(ctx, err)
	}
	return c.silent(ctx, errors.New("it ended the connection"))
}
