package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// parsePing returns the round trips of ping's lines, in microseconds.
func parsePing(out string) (sample, error) {
	var s sample
	for line := range strings.Lines(out) {
		_, after, ok := strings.Cut(line, " time=")
		if !ok {
			continue
		}
		v, unit, _ := strings.Cut(strings.TrimSpace(after), " ")
		ms, err := strconv.ParseFloat(v, 64)
		if err != nil || !strings.HasPrefix(unit, "ms") {
			return nil, fmt.Errorf("ping: %q is no round trip", strings.TrimSpace(line))
		}
		s = append(s, ms*1000)
	}
	if len(s) == 0 {
		return nil, errors.New("ping: no answer")
	}
	return s, nil
}

// parseIperf returns what the receiver got, in bytes and bits per second, from `iperf3 -J`.
func parseIperf(out []byte) (bytes, bits float64, err error) {
	var r struct {
		Error string
		End   struct {
			Received struct {
				Bytes float64
				Bits  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return 0, 0, fmt.Errorf("iperf3: %w in %.80q", err, out)
	}
	if r.Error != "" {
		return 0, 0, fmt.Errorf("iperf3: %s", r.Error)
	}
	if r.End.Received.Bytes <= 0 {
		return 0, 0, errors.New("iperf3: nothing was received")
	}
	return r.End.Received.Bytes, r.End.Received.Bits, nil
}

// parseLinks returns the packets that entered a bridge by its ports, from `ip -s -j link`: what the hosts sent.
func parseLinks(out []byte) (uint64, error) {
	var links []struct {
		Name   string `json:"ifname"`
		Master string
		Stats  struct {
			RX struct{ Packets uint64 }
		} `json:"stats64"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		return 0, fmt.Errorf("ip -s -j link: %w", err)
	}
	var n uint64
	for _, l := range links {
		if l.Master != "" {
			n += l.Stats.RX.Packets
		}
	}
	return n, nil
}
