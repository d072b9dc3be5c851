package daemon

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/bare"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/state"
)

const (
	// bareLabel makes the key of beacons from the cluster's secret (HKDF, RFC 5869).
	bareLabel = "weft bare beacon 1"
	// maxBare is how many bare buses one host has at most.
	maxBare  = 64
	maxIface = 64
	bareTick = time.Second
)

// bareRecord is one host's copy of a bare bus. It is in the cluster's state, not in the host's settings: so it is made and ended while the
// daemon runs, outlives it, and other hosts see who has it and refuse the same name for another group.
type bareRecord struct {
	Group   netip.AddrPort `cbor:"1,keyasint"`
	Subject string         `cbor:"2,keyasint"`
	Iface   string         `cbor:"3,keyasint,omitempty"` // of this host: name, address, or by route
	TTL     int            `cbor:"4,keyasint"`           // of this host
}

func decodeBare(key string, value []byte) (name string, r bareRecord, err error) {
	if err := decode("bare bus", value, &r); err != nil {
		return "", bareRecord{}, err
	}
	name = strings.TrimPrefix(key, keyBare)
	if err := r.check(name); err != nil {
		return "", bareRecord{}, err
	}
	return name, r, nil
}

func (r bareRecord) check(name string) error {
	if err := ident.CheckName("bus", name); err != nil {
		return err
	}
	switch {
	case name == api.ClusterBus:
		return fmt.Errorf("bus %s is the cluster's own: choose another name", name)
	case r.TTL < 1 || r.TTL > 255:
		return fmt.Errorf("TTL %d: want 1 to 255", r.TTL)
	case len(r.Iface) > maxIface || strings.ContainsAny(r.Iface, "/ \x00"):
		return errors.New("interface: no such name")
	}
	return errors.Join(bare.CheckGroup(r.Group), bare.CheckSubject(r.Subject))
}

// bares are the bare buses: those that this host has run as long as its records of them stand.
type bares struct {
	s *System

	mu   sync.Mutex // guards all below; taken before System's
	here map[string]*bareHere
	past map[string]uint64 // drops of those that ended
}

type bareHere struct {
	rec    bareRecord
	bridge *bare.Bridge
	stop   context.CancelFunc
	ended  chan struct{}
}

// run follows this host's own records until the daemon stops.
func (c *bares) run() {
	tick := time.NewTicker(bareTick)
	defer tick.Stop()
	for {
		c.follow()
		select {
		case <-tick.C:
		case <-c.s.ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			for name := range c.here {
				c.end(name)
			}
			return
		}
	}
}

// records are all copies that hosts publish, by name. Those of hosts that have left count no more.
func (c *bares) records() map[string]map[ident.HostID]bareRecord {
	out := map[string]map[ident.HostID]bareRecord{}
	stays := map[ident.HostID]bool{c.s.mesh.Self(): true}
	for _, h := range c.s.mesh.Hosts() {
		stays[h.ID] = h.Self || h.State != api.HostLeft
	}
	_ = c.s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyBare) {
			name, r, err := decodeBare(i.Key, i.Value)
			if err != nil {
				c.s.log.Debug("record of a bare bus refused", "host", i.Writer.Short(), "err", err)
				continue
			}
			if !stays[i.Writer] {
				continue
			}
			if out[name] == nil {
				out[name] = map[ident.HostID]bareRecord{}
			}
			out[name][i.Writer] = r
		}
	})
	return out
}

// follow begins what this host has a record of, and ends what it has not.
func (c *bares) follow() {
	self := c.s.mesh.Self()
	wanted := map[string]bareRecord{}
	for name, copies := range c.records() {
		if r, ok := copies[self]; ok {
			wanted[name] = r
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, h := range c.here {
		if r, ok := wanted[name]; !ok || r != h.rec {
			c.end(name)
		}
	}
	for name, r := range wanted {
		if c.here[name] == nil && len(c.here) < maxBare && c.s.ctx.Err() == nil {
			c.begin(name, r)
		}
	}
}

// begin starts a bridge; c.mu is held.
func (c *bares) begin(name string, r bareRecord) {
	ctx, stop := context.WithCancel(c.s.ctx)
	h := &bareHere{rec: r, stop: stop, ended: make(chan struct{}), bridge: bare.New(bare.Config{
		Place: r.place(), Subject: r.Subject, Broker: c.s.bus.broker, Host: c.s.mesh.Self(), Key: c.key,
		Alive: func(id ident.HostID) bool { return c.s.aliveHosts()[id] }, Join: c.s.bus.use, Log: c.s.log,
	})}
	c.here[name] = h
	c.s.go_(func() {
		defer close(h.ended)
		h.bridge.Run(ctx)
	})
}

// end stops a bridge and waits for it; c.mu is held.
func (c *bares) end(name string) {
	h := c.here[name]
	h.stop()
	<-h.ended
	if c.past == nil {
		c.past = map[string]uint64{}
	}
	for k, v := range h.bridge.Status().Drops {
		c.past[k] += v
	}
	delete(c.here, name)
}

func (r bareRecord) place() bare.Place { return bare.Place{Group: r.Group, Iface: r.Iface, TTL: r.TTL} }

func (c *bares) key() (bare.Key, error) {
	t := c.s.mesh.Token()
	key, err := hkdf.Key(sha256.New, t.Secret[:], t.Cluster[:], bareLabel, len(bare.Key{}))
	if err != nil {
		return bare.Key{}, fmt.Errorf("key of beacons: %w", err)
	}
	return bare.Key(key), nil
}

// create makes a bare bus on this host.
func (c *bares) create(ctx context.Context, q api.BusCreate) error {
	if q.Bare == nil {
		return api.Errorf(api.CodeInvalid, "bus %s: only bare buses are made by command", q.Name).WithHint("weft bus create NAME --bare GROUP:PORT; other buses are made by the programs that join them")
	}
	group, err := netip.ParseAddrPort(q.Bare.Group)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "group %q: want GROUP:PORT, IPv6 as [GROUP]:PORT", q.Bare.Group)
	}
	r := bareRecord{Group: group, Subject: cmp.Or(q.Bare.Subject, "bare."+q.Name), Iface: q.Bare.Iface, TTL: cmp.Or(q.Bare.TTL, 1)}
	if err := r.check(q.Name); err != nil {
		return api.Errorf(api.CodeInvalid, "%w", err)
	}
	names := c.s.hostNames()
	self := c.s.mesh.Self()
	all := c.records()
	for id, o := range all[q.Name] {
		switch {
		case id == self:
			return api.Errorf(api.CodeConflict, "bus %s is here already", q.Name).WithHint("weft bus rm %s, to make it anew", q.Name)
		case o.Group != r.Group || o.Subject != r.Subject:
			return api.Errorf(api.CodeConflict, "bus %s is %s and subject %s on host %s", q.Name, o.Group, o.Subject, names[id]).WithHint("choose another name, or the same group and subject")
		}
	}
	own := 0
	for name, copies := range all {
		if o, ok := copies[self]; ok {
			own++
			if o.Group == r.Group && o.Iface == r.Iface {
				return api.Errorf(api.CodeConflict, "bus %s has %s on the same interface", name, o.Group)
			}
		}
	}
	if own >= maxBare {
		return api.Errorf(api.CodeUnavailable, "%d bare buses are here, and no more at a time", own)
	}
	s, err := bare.Open(ctx, r.place()) // what is wrong with the place is told now
	if err != nil {
		return api.Errorf(api.CodeRefused, "bus %s: %w", q.Name, err)
	}
	_ = s.Close()
	if err := c.s.mesh.Publish(0, map[string][]byte{keyBare + q.Name: encode(r)}, nil); err != nil {
		return err
	}
	c.follow()
	return nil
}

// remove ends a bare bus on this host.
func (c *bares) remove(name string) error {
	if name == api.ClusterBus {
		return api.Errorf(api.CodeRefused, "bus %s is the cluster's own, and stays", name)
	}
	copies := c.records()[name]
	if _, ok := copies[c.s.mesh.Self()]; !ok {
		if len(copies) > 0 {
			return api.Errorf(api.CodeNotFound, "bus %s is not on this host", name).WithHint("it is on %s", strings.Join(c.hosts(copies), ", "))
		}
		return api.Errorf(api.CodeNotFound, "no bus %q", name).WithHint("weft buses lists them")
	}
	if err := c.s.mesh.Publish(0, nil, []string{keyBare + name}); err != nil && !errors.Is(err, mesh.ErrClosed) {
		return err
	}
	c.follow()
	return nil
}

func (c *bares) hosts(copies map[ident.HostID]bareRecord) []string {
	names := c.s.hostNames()
	out := make([]string, 0, len(copies))
	for id := range copies {
		out = append(out, cmp.Or(names[id], id.Short()))
	}
	slices.Sort(out)
	return out
}

func (c *bares) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.here)
}

// drops counts what all bare buses of this host dropped, by reason.
func (c *bares) drops() map[string]uint64 {
	out := map[string]uint64{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, v := range c.past {
		out["bare_"+k] = v
	}
	for _, h := range c.here {
		for k, v := range h.bridge.Status().Drops {
			out["bare_"+k] += v
		}
	}
	return out
}

// running returns this host's, by name.
func (c *bares) running() map[string]*bareHere {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.here)
}
