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
	body, err := json.Marshal(r)
	if err != nil {
		return Bench{}, fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://weft/v1/bench/net", bytes.NewReader(body))
	if err != nil {
		return Bench{}, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return Bench{}, c.unreachable(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err != nil {
			return Bench{}, fmt.Errorf("read the daemon's answer: %w", err)
		}
		return Bench{}, problem(res, b)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		var e BenchEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return Bench{}, fmt.Errorf("read the daemon's answer: %w", err)
		}
		switch {
		case e.Error != nil:
			return Bench{}, e.Error
		case e.Result != nil:
			return *e.Result, nil
		case e.Progress != nil && progress != nil:
			progress(*e.Progress)
		}
	}
	if ctx.Err() != nil {
		return Bench{}, ctx.Err()
	}
	return Bench{}, fmt.Errorf("the daemon at %s ended in the middle of the measurement: %w", c.socket, cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
}
