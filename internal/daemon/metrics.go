package daemon

import (
	"cmp"
	"maps"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/broker"
	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/island"
	"github.com/weft-net/weft/internal/lease"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/nameserver"
	"github.com/weft-net/weft/internal/nats"
	"github.com/weft-net/weft/internal/stream"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/vnet"
)

// limits are the bounded tables of all parts: used and most.
func (s *System) limits() map[string][2]int {
	out := s.mesh.Limits()
	ways := s.cast.Ways()
	out["tree_flights"] = [2]int{ways.Flights, tree.MaxFlights}
	out["tree_labels_heard"] = [2]int{ways.Watches, tree.MaxWatches}
	out["tree_branches"] = [2]int{ways.Branches, tree.MaxBranches}
	out["multicast_hosts"] = [2]int{ways.Voices, island.MaxHeard}
	out["bus_subscriptions"] = [2]int{s.bus.broker.Stats().Subscriptions, broker.MaxSubscriptions}
	c := s.names.server.Counts()
	out["names"] = [2]int{c.Fullest, names.MaxEntries}
	out["names_waiting"] = [2]int{c.Waiting, nameserver.MaxWaiting}
	out["attachments"] = [2]int{s.vnet.Stats().Attachments, vnet.MaxAttachments}
	out["swarm_networks"] = [2]int{s.swarm.count(), maxSwarmNets}
	out["bare_buses"] = [2]int{s.bares.count(), maxBare}
	if s.bus.nats != nil {
		out["nats_clients"] = [2]int{s.bus.nats.Status().Connections, nats.MaxConnections}
	}
	out["hosts_that_come_and_go"] = [2]int{s.leases.count(), lease.MaxHolders}
	maps.Copy(out, s.docker.Limits())
	for k, v := range s.ipam.Limits() {
		out["addresses_"+k] = v
	}
	return out
}

// drops adds up all counted drops by reason.
func (s *System) drops() map[string]uint64 {
	out := map[string]uint64{}
	for k, v := range s.mesh.Drops() {
		out["link_"+k] = v
	}
	maps.Copy(out, s.leases.drops())
	handshakes, streams := s.mesh.Handshakes(), s.mesh.Streams().Counters()
	for _, k := range handshake.Drops {
		out["handshake_"+k] = handshakes[k]
	}
	for _, k := range stream.Drops {
		out["stream_"+k] = streams[k]
	}
	for k, v := range s.cast.Drops() {
		out["frame_"+k] = v
	}
	if c, err := s.guard.filter.Counters(); err == nil {
		for k, v := range c {
			out["guard_"+k] = v.Packets
		}
	}
	c := s.ipam.Counts()
	out["addresses_bad_value"], out["addresses_bad_ask"], out["addresses_asks_full"] = c.BadValues, c.BadAsks, c.AsksFull
	out["addresses_book_refused"], out["addresses_book_old"], out["addresses_write_failed"] = c.RefusedBooks, c.OldBooks, c.Persisting
	maps.Copy(out, s.bus.drops())
	maps.Copy(out, s.bares.drops())
	maps.Copy(out, s.finder.drops())
	maps.Copy(out, s.docker.Counts())
	if s.containers != nil {
		out["docker_names_refused"] = s.containers.Refused()
	}
	maps.Copy(out, s.names.drops())
	st := s.conn.Stats()
	out["socket_rx_full"], out["socket_rx_truncated"] = st.RxDrops, st.RxTruncated
	for k, v := range st.TxErrors {
		out["socket_tx_"+k] = v
	}
	return out
}

func (b backend) Metrics() []api.Metric {
	var out []api.Metric
	for reason, n := range b.s.drops() {
		out = append(out, api.Metric{Name: "weft_drops_total", Help: "Packets and frames dropped, by reason.", Kind: api.Counter, Labels: map[string]string{"reason": reason}, Value: float64(n)})
	}
	for name, l := range b.s.limits() {
		out = append(out,
			api.Metric{Name: "weft_table_used", Help: "Entries of a bounded table.", Kind: api.Gauge, Labels: map[string]string{"table": name}, Value: float64(l[0])},
			api.Metric{Name: "weft_table_max", Help: "Bound of a table.", Kind: api.Gauge, Labels: map[string]string{"table": name}, Value: float64(l[1])})
	}
	states := map[string]int{}
	for _, h := range b.s.mesh.Hosts() {
		states[h.State]++
	}
	for st, n := range states {
		out = append(out, api.Metric{Name: "weft_hosts", Help: "Hosts of the cluster, by state.", Kind: api.Gauge, Labels: map[string]string{"state": st}, Value: float64(n)})
	}
	paths := map[string]int{}
	for _, l := range b.s.mesh.Links() {
		paths[cmp.Or(l.Path, api.PathNone)]++
	}
	for p, n := range paths {
		out = append(out, api.Metric{Name: "weft_links", Help: "Links to other hosts, by path.", Kind: api.Gauge, Labels: map[string]string{"path": p}, Value: float64(n)})
	}
	handshakes, streams := b.s.mesh.Handshakes(), b.s.mesh.Streams().Counters()
	for _, k := range handshake.Counts {
		out = append(out, api.Metric{Name: "weft_handshakes_total", Help: "Handshakes, by stage.", Kind: api.Counter, Labels: map[string]string{"stage": k}, Value: float64(handshakes[k])})
	}
	for _, k := range stream.Counts {
		out = append(out, api.Metric{Name: "weft_streams_" + k + "_total", Help: "Streams between hosts: " + k + ".", Kind: api.Counter, Value: float64(streams[k])})
	}
	names := map[uint32]string{}
	for _, n := range b.s.localNetworks() {
		names[n.vni] = n.name
	}
	for _, n := range b.s.cast.Networks() {
		out = append(out, api.Metric{Name: "weft_sender_key_rotations_total", Help: "Times this host changed its sender key of a network.", Kind: api.Counter, Labels: map[string]string{"network": names[n.VNI]}, Value: float64(n.Rotations)})
	}
	for _, g := range b.s.groupList() {
		if g.Uncounted {
			continue
		}
		labels := map[string]string{"network": g.Network, "group": g.Group, "source": g.Source}
		for name, v := range map[string]uint64{"packets_in": g.PacketsIn, "packets_out": g.PacketsOut, "bytes_in": g.BytesIn, "bytes_out": g.BytesOut, "copies_sent": g.CopiesSent, "copies_saved": g.CopiesSaved} {
			out = append(out, api.Metric{Name: "weft_group_" + name + "_total", Help: "Multicast of a group, as weft groups shows it.", Kind: api.Counter, Labels: labels, Value: float64(v)})
		}
	}
	ways := b.s.cast.Ways()
	for name, v := range map[string]uint64{"used": ways.Plans, "failed": ways.Failed} {
		out = append(out, api.Metric{Name: "weft_trees_total", Help: "Ways for frames to many that this host set up: put to use, or given up before.", Kind: api.Counter, Labels: map[string]string{"end": name}, Value: float64(v)})
	}
	out = append(out, api.Metric{Name: "weft_tree_moves_total", Help: "Hosts that got copies because their way failed.", Kind: api.Counter, Value: float64(ways.Moves)})
	out = append(out, api.Metric{Name: "weft_relayed_packets_total", Help: "Packets forwarded for other hosts.", Kind: api.Counter, Value: float64(b.s.mesh.Relayed())})
	c := b.s.names.server.Counts()
	out = append(out,
		api.Metric{Name: "weft_dns_queries_total", Help: "DNS queries that came from attachments.", Kind: api.Counter, Value: float64(c.Queries)},
		api.Metric{Name: "weft_dns_forwarded_total", Help: "Of these, questions that the host's resolvers were asked.", Kind: api.Counter, Value: float64(c.Forwarded)},
		api.Metric{Name: "weft_names", Help: "Names known in the networks of this host: attachments, aliases, names given by hand, services.", Kind: api.Gauge, Value: float64(c.Entries)})
	return append(append(out, b.s.bus.metrics()...), b.s.bares.metrics()...)
}
