package client

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/weft-net/weft/internal/api"
)

// Buses returns the buses, and who is on them.
func (c *Client) Buses(ctx context.Context) ([]Bus, error) {
	l, err := get[api.Buses](ctx, c, "/v1/buses")
	return l.Buses, err
}

// Bus returns one bus.
func (c *Client) Bus(ctx context.Context, name string) (Bus, error) {
	return get[Bus](ctx, c, "/v1/buses/"+url.PathEscape(name))
}

// BusToken returns what a program needs to join a bus by package bus: a secret.
func (c *Client) BusToken(ctx context.Context, name string) (BusToken, error) {
	return get[BusToken](ctx, c, "/v1/buses/"+url.PathEscape(name)+"/token")
}

// CreateBus makes a bare bus on the daemon's host, or takes up one that another host made.
func (c *Client) CreateBus(ctx context.Context, b BusCreate) (Bus, error) {
	return post[Bus](ctx, c, "/v1/buses", b)
}

// RemoveBus ends a bare bus on the daemon's host.
func (c *Client) RemoveBus(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/buses/"+url.PathEscape(name), nil, nil)
}

// Publish publishes messages on a bus, in order, MaxBusBatch at most.
func (c *Client) Publish(ctx context.Context, bus string, messages ...BusMessage) (BusPublished, error) {
	return post[BusPublished](ctx, c, "/v1/buses/"+url.PathEscape(bus)+"/messages", api.BusPublish{Messages: messages})
}

// Request publishes a message and waits for an answer.
func (c *Client) Request(ctx context.Context, bus string, r BusRequest) (BusMessage, error) {
	return post[BusMessage](ctx, c, "/v1/buses/"+url.PathEscape(bus)+"/request", r)
}

// Subscribe calls tell with what comes on subjects that match, until it returns an error, which is then returned, or ctx ends. queue may be
// empty: else one member of that queue group gets each message.
func (c *Client) Subscribe(ctx context.Context, bus, subject, queue string, tell func(BusEvent) error) error {
	q := url.Values{"subject": {subject}}
	if queue != "" {
		q.Set("queue", queue)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://weft/v1/buses/"+url.PathEscape(bus)+"/messages?"+q.Encode(), nil)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err != nil {
			return fmt.Errorf("read the daemon's answer: %w", err)
		}
		return problem(res, b)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, api.MaxBusBody)
	for lines.Scan() {
		var e BusEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("read the daemon's answer: %w", err)
		}
		if e.Error != nil {
			return e.Error
		}
		if err := tell(e); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the daemon at %s ended the subscription: %w", c.socket, cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
}
