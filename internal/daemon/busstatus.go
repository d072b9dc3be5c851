package daemon

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/bus"
	"github.com/weft-net/weft/internal/api"
)

// status is the cluster's own bus as status and lists show it.
func (c *clusterBus) status() api.Bus {
	st := c.broker.Stats()
	out := api.Bus{
		Name: api.ClusterBus, Members: []api.BusMember{}, Subscriptions: st.Subscriptions,
		Published: st.Published, Delivered: st.Delivered, Sent: st.Sent, Received: st.Received,
	}
	c.mu.Lock()
	b := c.bus
	if b != nil {
		out.Joined, out.Port = true, int(c.port)
	}
	c.mu.Unlock()
	if b != nil {
		known, _ := c.broker.Known()
		programs := c.broker.Programs()
		for _, m := range b.Members() {
			program := slices.Contains(programs, m.Epoch)
			out.Members = append(out.Members, api.BusMember{
				Host: m.Name, State: m.State.String(), Endpoint: m.Addr.String(), Known: program || slices.Contains(known, m.Name), Program: program, Multicast: multicastOf(m),
				Path: m.Path.String(), Via: m.Via,
			})
		}
		slices.SortFunc(out.Members, func(a, b api.BusMember) int { return strings.Compare(a.Host, b.Host) })
	}
	if c.nats != nil {
		n := c.nats.Status()
		out.NATS = &api.NATS{
			Address: c.s.cfg.NATS, Clients: n.Connections, ClientsTotal: n.Total, PendingBytes: n.Pending,
			TLS: c.s.cfg.NATSCert != "", Token: c.s.cfg.NATSTokenFile != "", SlowDisconnected: c.nats.Drops()["slow_consumer"],
		}
	}
	return out
}

func multicastOf(m bus.Member) string {
	switch {
	case m.Hears && m.Heard:
		return api.MulticastBoth
	case m.Heard:
		return api.MulticastFrom
	case m.Hears:
		return api.MulticastTo
	}
	return api.MulticastNone
}

// warnings names hosts that are on the bus and not heard there.
func (c *clusterBus) warnings() (out []api.Warning) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, since := range c.missing {
		if time.Since(since) > 2*busMissing {
			out = append(out, api.Warning{
				Code: "bus", Text: fmt.Sprintf("host %s is on the bus and does not answer there", name),
				Fix: fmt.Sprintf("open UDP ports %d and %d between the hosts", bus.GroupPort, bus.SeedPort), Since: since,
			})
		}
	}
	slices.SortFunc(out, func(a, b api.Warning) int { return strings.Compare(a.Text, b.Text) })
	return out
}

// packetDrops are packets of the bus that were not used. Own ones that come back by multicast, and those that a repair brings a
// second time, are what a network does.
func packetDrops(b *bus.Bus) map[string]uint64 {
	st := b.Stats()
	out := map[string]uint64{"socket_rx_full": st.SocketDrops}
	for k, v := range st.Dropped {
		if k != "own" && k != "duplicate" {
			out[k] = v
		}
	}
	return out
}

// drops counts what was dropped since the start, by reason.
func (c *clusterBus) drops() map[string]uint64 {
	out := map[string]uint64{}
	for k, v := range c.broker.Drops() {
		out["bus_"+k] = v
	}
	c.mu.Lock()
	for k, v := range c.past {
		out["bus_packet_"+k] = v
	}
	b := c.bus
	c.mu.Unlock()
	if b != nil {
		for k, v := range packetDrops(b) {
			out["bus_packet_"+k] += v
		}
	}
	if c.nats != nil {
		for k, v := range c.nats.Drops() {
			out["nats_"+k] = v
		}
	}
	return out
}

func (c *clusterBus) metrics() []api.Metric {
	st := c.status()
	out := []api.Metric{
		{Name: "weft_bus_members", Help: "Other hosts and programs on the cluster's own bus.", Kind: api.Gauge, Value: float64(len(st.Members))},
		{Name: "weft_bus_subscriptions", Help: "Subscriptions of programs on this host.", Kind: api.Gauge, Value: float64(st.Subscriptions)},
	}
	for way, v := range map[string]uint64{"published": st.Published, "delivered": st.Delivered, "sent": st.Sent, "received": st.Received} {
		out = append(out, api.Metric{Name: "weft_bus_messages_total", Help: "Messages of the cluster's own bus: published by and delivered to programs on this host, sent to and received from other hosts.", Kind: api.Counter, Labels: map[string]string{"way": way}, Value: float64(v)})
	}
	if n := st.NATS; n != nil {
		out = append(out,
			api.Metric{Name: "weft_nats_clients", Help: "NATS clients connected.", Kind: api.Gauge, Value: float64(n.Clients)},
			api.Metric{Name: "weft_nats_clients_total", Help: "NATS clients that connected.", Kind: api.Counter, Value: float64(n.ClientsTotal)},
			api.Metric{Name: "weft_nats_pending_bytes", Help: "Bytes that wait for NATS clients to read.", Kind: api.Gauge, Value: float64(n.PendingBytes)})
	}
	return out
}
