package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// maxEvent bounds one line of a measurement's answer, in bytes.
const maxEvent = 4 << 20

// BenchNet measures a network between the daemon's host and others, and tells progress, which may be nil, as it goes. It
// ends when ctx does.
func (c *Client) BenchNet(ctx context.Context, r BenchRequest, progress func(BenchProgress)) (Bench, error) {
	e, err := c.bench(ctx, "net", r, progress, func(e *BenchEvent) bool { return e.Result != nil })
	if err != nil {
		return Bench{}, err
	}
	return *e.Result, nil
}

// BenchBus measures the cluster's bus likewise.
func (c *Client) BenchBus(ctx context.Context, r BenchBusRequest, progress func(BenchProgress)) (BenchBus, error) {
	e, err := c.bench(ctx, "bus", r, progress, func(e *BenchEvent) bool { return e.Bus != nil })
	if err != nil {
		return BenchBus{}, err
	}
	return *e.Bus, nil
}

// bench asks for a measurement and returns the event that is over.
func (c *Client) bench(ctx context.Context, what string, request any, progress func(BenchProgress), over func(*BenchEvent) bool) (BenchEvent, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return BenchEvent{}, fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://weft/v1/bench/"+what, bytes.NewReader(body))
	if err != nil {
		return BenchEvent{}, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return BenchEvent{}, c.unreachable(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err != nil {
			return BenchEvent{}, fmt.Errorf("read the daemon's answer: %w", err)
		}
		return BenchEvent{}, problem(res, b)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		var e BenchEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return BenchEvent{}, fmt.Errorf("read the daemon's answer: %w", err)
		}
		switch {
		case e.Error != nil:
			return BenchEvent{}, e.Error
		case over(&e):
			return e, nil
		case e.Progress != nil && progress != nil:
			progress(*e.Progress)
		}
	}
	if ctx.Err() != nil {
		return BenchEvent{}, ctx.Err()
	}
	return BenchEvent{}, fmt.Errorf("the daemon at %s ended in the middle of the measurement: %w", c.socket, cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
}
