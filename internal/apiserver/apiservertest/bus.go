package apiservertest

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/weft-net/weft/internal/api"
)

// Buses implements apiserver.Backend.
func (b *Backend) Buses(context.Context) (api.Buses, error) {
	if err := b.note("buses"); err != nil {
		return api.Buses{}, err
	}
	return api.Buses{Buses: []api.Bus{ownBus(), bareBus()}}, nil
}

func ownBus() api.Bus {
	return api.Bus{
		Name: api.ClusterBus, Joined: true, Port: 6785, Subscriptions: 3, Published: 1200, Delivered: 34, Sent: 1000, Received: 30,
		Members: []api.BusMember{
			{Host: "three", State: "suspected", Endpoint: "10.1.0.3:6785", Multicast: api.MulticastNone, Path: "tcp"},
			{Host: "three/4711", State: "alive", Endpoint: "10.1.0.3:40000", Known: true, Program: true, Multicast: api.MulticastNone, Path: "udp"},
			{Host: "two", State: "alive", Endpoint: "10.1.0.2:6785", Known: true, Multicast: api.MulticastBoth, Path: "udp"},
		},
		NATS: &api.NATS{Address: "127.0.0.1:4222", Clients: 2, ClientsTotal: 9, Token: true},
	}
}

func bareBus() api.Bus {
	return api.Bus{Name: "chat", Joined: true, Bare: &api.Bare{
		Group: "225.4.5.6:5000", Subject: "bare.chat", Here: true, Interface: "eth0", TTL: 1, Bridging: true, Bridge: "one",
		OnLAN: []string{"two"}, Hosts: []string{"one", "three", "two"}, DatagramsIn: 12, DatagramsOut: 30, BytesIn: 140, BytesOut: 900,
		Drops: map[string]uint64{"rate": 3},
	}}
}

// Bus implements apiserver.Backend.
func (b *Backend) Bus(_ context.Context, name string) (api.Bus, error) {
	if err := b.note("bus " + name); err != nil {
		return api.Bus{}, err
	}
	for _, v := range []api.Bus{ownBus(), bareBus()} {
		if v.Name == name {
			return v, nil
		}
	}
	return api.Bus{}, bus(name, "")
}

// BusToken implements apiserver.Backend.
func (b *Backend) BusToken(_ context.Context, name string) (api.BusToken, error) {
	if err := b.note("bus token " + name); err != nil {
		return api.BusToken{}, err
	}
	switch name {
	case api.ClusterBus:
		return api.BusToken{Bus: name, Token: BusToken, Seeds: []string{"10.1.0.1:6785", "10.1.0.2:6785"}}, nil
	case "chat":
		return api.BusToken{}, api.Errorf(api.CodeInvalid, "bus %s is bare: its messages are on the cluster's own bus", name)
	}
	return api.BusToken{}, bus(name, "")
}

// CreateBus implements apiserver.Backend.
func (b *Backend) CreateBus(_ context.Context, r api.BusCreate) (api.Bus, error) {
	if err := b.note("create bus " + r.Name); err != nil {
		return api.Bus{}, err
	}
	if r.Name == "chat" {
		return api.Bus{}, api.Errorf(api.CodeConflict, "bus chat is here already")
	}
	v := bareBus()
	v.Name = r.Name
	v.Bare.Group, v.Bare.Subject = r.Bare.Group, cmp.Or(r.Bare.Subject, "bare."+r.Name)
	return v, nil
}

// RemoveBus implements apiserver.Backend.
func (b *Backend) RemoveBus(_ context.Context, name string) error {
	if err := b.note("remove bus " + name); err != nil {
		return err
	}
	switch name {
	case api.ClusterBus:
		return api.Errorf(api.CodeRefused, "bus %s is the cluster's own, and stays", name)
	case "chat":
		return nil
	}
	return bus(name, "")
}

func bus(name, subject string) error {
	if name != api.ClusterBus {
		return api.Errorf(api.CodeNotFound, "no bus %q", name).WithHint("weft buses lists them")
	}
	if strings.Contains(subject, "..") {
		return api.Errorf(api.CodeInvalid, "bad subject %q: an empty token", subject)
	}
	return nil
}

// Publish implements apiserver.Backend: somebody wants what is below news.
func (b *Backend) Publish(_ context.Context, name string, p api.BusPublish) (api.BusPublished, error) {
	var out api.BusPublished
	for _, m := range p.Messages {
		if err := b.note(fmt.Sprintf("publish %s %s %q %q %v", name, m.Subject, m.Payload, m.PayloadBase64, m.Headers)); err != nil {
			return out, err
		}
		if err := bus(name, m.Subject); err != nil {
			return out, err
		}
		out.Published++
		if strings.HasPrefix(m.Subject, "news.") {
			out.Wanted++
		}
	}
	return out, nil
}

// Request implements apiserver.Backend: echo answers.
func (b *Backend) Request(_ context.Context, name string, r api.BusRequest) (api.BusMessage, error) {
	if err := b.note(fmt.Sprintf("request %s %s %q %d", name, r.Subject, r.Payload, r.TimeoutMS)); err != nil {
		return api.BusMessage{}, err
	}
	if err := bus(name, r.Subject); err != nil {
		return api.BusMessage{}, err
	}
	switch r.Subject {
	case "echo":
		return api.BusMessage{Subject: "_INBOX.1", Payload: r.Payload, Headers: map[string][]string{"By": {"two"}}}, nil
	case "mute":
		return api.BusMessage{}, api.Errorf(api.CodeTimeout, "no answer on %q within 5s", r.Subject)
	}
	return api.BusMessage{}, api.Errorf(api.CodeUnavailable, "nobody is there to answer on %q", r.Subject)
}

// Subscribe implements apiserver.Backend: three messages come, and on slow one was dropped before; then it waits.
func (b *Backend) Subscribe(ctx context.Context, name string, s api.BusSubscribe, tell func(api.BusEvent) error) error {
	if err := b.note(fmt.Sprintf("subscribe %s %s %s", name, s.Subject, s.Queue)); err != nil {
		return err
	}
	if err := bus(name, s.Subject); err != nil {
		return err
	}
	events := []api.BusEvent{
		{Ready: true},
		{Message: &api.BusMessage{Subject: "news.a", Payload: "first"}},
		{Message: &api.BusMessage{Subject: "news.b", Payload: "second\x1b[31m", Reply: "_INBOX.1"}},
		{Message: &api.BusMessage{Subject: "news.a", PayloadBase64: []byte{0xff, 0}, Headers: map[string][]string{"A": {"b"}}}},
	}
	if s.Subject == "slow" {
		events = append(events[:1:1], append([]api.BusEvent{{Dropped: 5}}, events[1:]...)...)
	}
	for _, e := range events {
		if err := tell(e); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// note remembers a call.
func (b *Backend) note(call string) error {
	defer b.mu.Unlock()
	return b.called("%s", call)
}
