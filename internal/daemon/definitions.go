package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/state"
)

// definition is what all copies of a network's record say together.
type definition struct {
	name     string
	rec      networkRecord                 // the copy that stands
	subnets  []netip.Prefix                // of all copies
	net6     map[netip.Prefix]netip.Prefix // the /64 of each
	hosts    []ident.HostID                // that have it
	conflict string
	fresh    bool // this host is creating it: the tables don't have it yet
}

// vniOf gives a network its number: the same on every host without a word between them.
func vniOf(cluster ident.ClusterID, name string) uint32 {
	sum := sha256.Sum256(append(append([]byte("weft vni 1\x00"), cluster[:]...), name...))
	return max(binary.BigEndian.Uint32(sum[:4])>>8, 1)
}

// definitions reads cluster and network records from the tables.
func (s *System) definitions() (cluster *clusterRecord, defs map[string]*definition) {
	alive := s.aliveHosts()
	defs = map[string]*definition{}
	_ = s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyCluster) {
			if i.Key != keyCluster {
				continue
			}
			if c, err := decodeCluster(i.Value); err == nil {
				cluster = &c
			}
		}
		for i := range t.All(state.Cluster, keyNetwork) {
			name, rec, err := decodeNetwork(i.Key, i.Value)
			if err != nil || rec.VNI != vniOf(s.id.Cluster, name) {
				s.log.Debug("network record refused", "host", i.Writer.Short(), "err", err)
				continue
			}
			d := defs[name]
			if d == nil {
				d = &definition{name: name, rec: rec}
				defs[name] = d
			}
			d.merge(i.Writer, rec, alive[i.Writer])
		}
	})
	return cluster, defs
}

// readDefinitions follows cluster and network records, and takes up the default network.
func (s *System) readDefinitions() {
	cluster, defs := s.definitions()
	s.mu.Lock()
	met := cluster != nil && s.cluster == nil
	if met {
		s.cluster = cluster
		s.log.Info("cluster known", "range", cluster.Range, "range6", cluster.ULA, "mtu", cluster.MTU)
	}
	for name, d := range s.defs {
		if d.fresh && defs[name] == nil { // being created: not in the tables yet
			defs[name] = d
		}
	}
	s.defs = defs
	s.mu.Unlock()
	if met && s.joining {
		if err := s.checkRange(cluster.Range, "take the route away"); err != nil {
			s.turnBack(fmt.Errorf("the cluster's %w", err))
			return
		}
	}
	if met && s.cfg.Range != cluster.Range && s.cfg.Range.String() != config.DefaultRange {
		s.trouble("range", fmt.Sprintf("the cluster has the range %s, not %s: it is as it was founded with; start without --range, or found another cluster", cluster.Range, s.cfg.Range))
	}
	s.retryNetworks()
}

// turnBack ends a first start that found out too late why it should not have begun: the cluster hears
// that this host left, and its state directory is emptied.
func (s *System) turnBack(cause error) {
	if err := s.quit(); err != nil {
		s.log.Error("leaving not told", "err", err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
	defer cancel()
	if err := s.mesh.Leave(ctx); err != nil {
		s.log.Debug("goodbye not heard by all", "err", err)
	}
	if err := s.clean(); err != nil {
		s.log.Error("not all removed", "err", err)
	}
	s.reject(cause)
}

// merge adds one host's copy. Copies of the same name with other subnets (created twice unseen)
// make one network with both; explicit subnets that differ are a conflict, and the lower creator's stands.
func (d *definition) merge(writer ident.HostID, rec networkRecord, alive bool) {
	if alive {
		d.hosts = append(d.hosts, writer)
	}
	if rec.Plain != d.rec.Plain {
		d.conflict = "defined as sealed and as plain; sealed stands: weft network rm where it is plain, and take it up again"
		if !rec.Plain {
			d.rec = rec
		}
	} else if rec.Subnet != d.rec.Subnet {
		if rec.Explicit && d.rec.Explicit {
			d.conflict = fmt.Sprintf("defined with subnet %s and with %s; the one of the lower HostID stands", d.rec.Subnet, rec.Subnet)
		}
		if rec.Creator.Less(d.rec.Creator) {
			d.rec = rec
		}
	}
	d.add(subnetPair{rec.Subnet, rec.Subnet6})
	for _, p := range rec.More {
		d.add(p)
	}
}

// pairs returns the subnets of all copies, the first one of the copy that stands first.
func (d *definition) pairs() []subnetPair {
	out := []subnetPair{{d.rec.Subnet, d.rec.Subnet6}}
	for _, p := range d.subnets {
		if p != d.rec.Subnet {
			out = append(out, subnetPair{p, d.net6[p]})
		}
	}
	return out
}

// add notes a subnet, once.
func (d *definition) add(p subnetPair) {
	if slices.Contains(d.subnets, p.IP4) || len(d.subnets) >= maxSubnets {
		return
	}
	d.subnets = append(d.subnets, p.IP4)
	if d.net6 == nil {
		d.net6 = map[netip.Prefix]netip.Prefix{}
	}
	d.net6[p.IP4] = p.IP6
}
