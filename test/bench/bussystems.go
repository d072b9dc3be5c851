package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// busSystem is one way to get messages from one process to many.
type busSystem struct {
	entry
	client string // in busClients; empty: the C client
	// broker starts what passes messages on; nil: nothing does.
	broker func(w *world, h *host) (*process, error)
	// multicast says that it uses the underlay's, dropped that the underlay drops it.
	multicast, dropped bool
	raw                bool // loses what is not heard, and measures no latency but the first's
	other              bool // its client is another build of this program
}

//go:embed testdata/zeromq.c
var zeromqSource []byte

// Names that ratios are made of.
const (
	busWeft    = "weft"
	busDropped = "weft-dropped"
	busNATS    = "nats"
	busRedis   = "redis"
	busZeroMQ  = "zeromq"
	busCeiling = "gso"
)

var busCatalogue = []busSystem{
	{entry: entry{
		name: busWeft, title: "weft bus", version: ownVersion,
		how: "package bus: reliable, AES-GCM; blocks of 64 messages, lent to the reader (WithLent); nothing between the processes; multicast",
	}, client: "weft", multicast: true},
	{entry: entry{
		name: busDropped, title: "weft bus, multicast dropped", version: ownVersion,
		how: "the same program where the underlay drops multicast, as a cloud does: a copy for each, from 9 subscribers on by way of others",
	}, client: "weft", dropped: true},
	{entry: entry{
		name: busNATS, title: "NATS", version: versionOf(`v(\d\S+)`, "nats-server", "--version"),
		how: "nats-server beside the publisher, nats.go, not encrypted",
	}, client: "nats", broker: func(_ *world, h *host) (*process, error) {
		bin, err := program("nats-server")
		if err != nil {
			return nil, err
		}
		return start(h.ns, nil, bin, "-a", "0.0.0.0", "-p", natsPort)
	}},
	{entry: entry{
		name: busRedis, title: "Redis pub/sub", version: versionOf(`v=(\S+)`, "redis-server", "--version"),
		how: "redis-server beside the publisher, PUBLISH pipelined in blocks of 64, no bound on subscribers' queues, not encrypted",
	}, client: "redis", broker: func(w *world, h *host) (*process, error) {
		bin, err := program("redis-server")
		if err != nil {
			return nil, err
		}
		return start(h.ns, nil, bin, "--port", redisPort, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no",
			"--client-output-buffer-limit", "pubsub 0 0 0", "--dir", w.dir)
	}},
	{entry: entry{
		name: busZeroMQ, title: "ZeroMQ PUB/SUB", version: zeromqVersion,
		how: "libzmq by a client in C, XPUB_NODROP so that it waits instead of dropping, TCP, not encrypted",
	}},
	{entry: entry{
		name: "single", title: "raw multicast, a message a datagram", version: kernel,
		how: "Go, sendmmsg of 64; nothing is repaired, ordered or encrypted",
	}, client: "single", multicast: true, raw: true},
	{entry: entry{
		name: "packed", title: "raw multicast, packed", version: kernel, how: "21 messages in a datagram of 1386 bytes",
	}, client: "packed", multicast: true, raw: true},
	{entry: entry{
		name: busCeiling, title: "raw multicast, packed, with offloads", version: kernel,
		how: "44 such datagrams in a system call (UDP_SEGMENT, UDP_GRO): the ceiling",
	}, client: "gso", multicast: true, raw: true},
}

// busOther is a system for another build of weft's client.
func busOther() []busSystem {
	if os.Getenv("OTHER") == "" {
		return nil
	}
	var more []busSystem
	for _, s := range busCatalogue {
		if s.client == "weft" {
			s.name, s.title, s.other = "other-"+s.name, "another build: "+s.title, true
			more = append(more, s)
		}
	}
	return more
}

func busSystems() []busSystem { return slices.Concat(busCatalogue, busOther()) }

func entriesOf(ss []busSystem) []entry {
	es := make([]entry, len(ss))
	for i, s := range ss {
		es[i] = s.entry
	}
	return es
}

// ownVersion is that of the source this program was built from.
func ownVersion(ctx context.Context) (string, error) {
	out, err := execute(ctx, nil, "git", "describe", "--tags", "--always", "--dirty")
	if err != nil {
		return "unknown", nil //nolint:nilerr // not built from a clone
	}
	return strings.TrimSpace(out), nil
}

func zeromqClient() string { return filepath.Join(folder, "zeromq") }

// zeromqVersion builds the client and asks it.
func zeromqVersion(ctx context.Context) (string, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	source := zeromqClient() + ".c"
	if err := os.WriteFile(source, zeromqSource, 0o600); err != nil {
		return "", err
	}
	if _, err := execute(ctx, nil, "gcc", "-O2", "-o", zeromqClient(), source, "-lzmq"); err != nil {
		return "", fmt.Errorf("its client was not built (gcc, libzmq3-dev): %w", err)
	}
	v, err := execute(ctx, nil, zeromqClient(), "version")
	return strings.TrimSpace(v), err
}

// publish and subscribe are the commands of a system's clients.
func (s busSystem) publish(h *host, subscribers int, token, profile string) ([]string, error) {
	if s.client == "" {
		return []string{zeromqClient(), "publish", "tcp://*:5555", strconv.Itoa(subscribers)}, nil
	}
	args, err := s.own(rolePublish, h, h, token, profile)
	if s.multicast {
		args = append(args, "-multicast")
	}
	return append(args, "-subscribers", strconv.Itoa(subscribers)), err
}

func (s busSystem) subscribe(h, publisher *host, token, profile string) ([]string, error) {
	if s.client == "" {
		return []string{zeromqClient(), "subscribe", fmt.Sprintf("tcp://%s:5555", publisher.ip)}, nil
	}
	return s.own(roleSubscribe, h, publisher, token, profile)
}

func (s busSystem) own(role string, h, peer *host, token, profile string) ([]string, error) {
	bin, err := os.Executable()
	if s.other {
		bin = os.Getenv("OTHER")
	}
	args := []string{bin, role, "-system", s.client, "-peer", peer.ip.String(), "-own", h.ip.String(), "-dev", "eth0", "-token", token}
	if profile != "" && s.client == "weft" {
		args = append(args, "-profile", filepath.Join(profile, fmt.Sprintf("%s-%s-%s.pprof", s.name, role, h.dir[strings.LastIndexByte(h.dir, '/')+1:])))
	}
	return args, err
}
