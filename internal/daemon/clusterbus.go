package daemon

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/weft-net/weft/bus"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/broker"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/nats"
	"github.com/weft-net/weft/internal/state"
)

const (
	// busLabel makes the token of the cluster's own bus from the secret of the cluster's (HKDF, RFC 5869), which it does not show.
	busLabel = "weft cluster bus 1"
	// busIdle is how long a host stays on the bus that only commands use.
	busIdle = 5 * time.Minute
	// busSettle is how long the first message waits for the interest of the others.
	busSettle = 3 * time.Second
	// busMissing is how long a host that is on the bus may take to show up before something is done about it.
	busMissing = 5 * time.Second
	busTick    = time.Second
	busRetry   = 200 * time.Millisecond
	busDrain   = 500 * time.Millisecond
	maxSeeds   = 128
	// seedAddrs is how many addresses of a host are asked.
	seedAddrs = 3
)

// busRecord says that a host is on the cluster's own bus, and where.
type busRecord struct {
	Port uint16 `cbor:"1,keyasint"` // UDP
}

func decodeBus(value []byte) (busRecord, error) {
	var r busRecord
	if err := decode("bus", value, &r); err != nil {
		return busRecord{}, err
	}
	if r.Port == 0 {
		return busRecord{}, errors.New("bus: port 0")
	}
	return r, nil
}

// clusterBus is this host on the cluster's own bus: as long as the listener for NATS clients is on, and for ever once it has given the bus's
// token away, for programs must find it; else from the first use by a command until nobody has used it for a while.
type clusterBus struct {
	s      *System
	broker *broker.Broker
	nats   *nats.Server // nil: off
	always bool
	kick   chan struct{}

	mu      sync.Mutex // guards all below
	stay    bool       // the token was given away
	users   int        // requests under way
	used    time.Time
	bus     *bus.Bus // nil while this host is not on it
	port    uint16
	settled chan struct{} // closed when what the others want is known, or was waited for long enough
	failed  error         // why the last attempt to join did not succeed
	past    map[string]uint64
	missing map[string]time.Time // hosts that are on the bus and do not show up, since when
	asked   map[ident.HostID]bool
}

func (s *System) newClusterBus() *clusterBus {
	return &clusterBus{
		s: s, broker: broker.New(), always: s.cfg.NATS != "", kick: make(chan struct{}, 1), settled: make(chan struct{}), past: map[string]uint64{},
	}
}

// run joins while it is needed, until the daemon stops.
func (c *clusterBus) run() {
	if c.given() {
		c.mu.Lock()
		c.stay = true
		c.mu.Unlock()
	} else if !c.always { // of a run that ended without a word
		c.withdraw()
	}
	for c.s.ctx.Err() == nil {
		if !c.wanted(time.Now()) {
			select {
			case <-c.kick:
			case <-c.s.ctx.Done():
			}
			continue
		}
		if err := c.session(); err != nil && c.s.ctx.Err() == nil {
			c.s.trouble("bus", "not on the cluster's bus: "+err.Error())
			c.mu.Lock()
			c.failed = err
			c.mu.Unlock()
			c.s.pauseBus()
		}
	}
}

func (c *clusterBus) wanted(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.always || c.stay || c.users > 0 || now.Sub(c.used) < busIdle
}

// use waits until this host is on the bus and knows what the others want; done says that the caller needs it no more.
func (c *clusterBus) use(ctx context.Context) (done func(), err error) {
	c.mu.Lock()
	c.users++
	c.used = time.Now()
	settled := c.settled
	c.mu.Unlock()
	select {
	case c.kick <- struct{}{}:
	default:
	}
	done = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.users--
		c.used = time.Now()
	}
	wait := time.NewTimer(2 * busSettle)
	defer wait.Stop()
	select {
	case <-settled:
		return done, nil
	case <-wait.C:
		err = api.Errorf(api.CodeUnavailable, "this host is not yet part of a cluster, and so not on its bus")
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.s.ctx.Done():
		err = api.Errorf(api.CodeUnavailable, "this host is stopping")
	}
	c.mu.Lock()
	if c.failed != nil {
		err = api.Errorf(api.CodeUnavailable, "not on the cluster's bus: %w", c.failed)
	}
	c.mu.Unlock()
	done()
	return nil, err
}

// token is that of the bus: it changes with the cluster's, so that a host that was removed is off the bus as well.
func (c *clusterBus) token() (ident.Token, error) {
	t := c.s.mesh.Token()
	secret, err := hkdf.Key(sha256.New, t.Secret[:], t.Cluster[:], busLabel, len(t.Secret))
	if err != nil {
		return ident.Token{}, fmt.Errorf("key of the bus: %w", err)
	}
	return ident.Token{Cluster: t.Cluster, Secret: ident.Secret(secret)}, nil
}

// records returns who says that it is on the bus.
func (c *clusterBus) records() map[ident.HostID]busRecord {
	out := map[ident.HostID]busRecord{}
	_ = c.s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyBus) {
			if r, err := decodeBus(i.Value); err == nil && i.Key == keyBus {
				out[i.Writer] = r
			}
		}
	})
	return out
}

// seeds are addresses of all hosts that the mesh knows, those on the bus first: who is not on it now may be later.
func (c *clusterBus) seeds() (seeds []string, asked map[ident.HostID]bool) {
	records := c.records()
	asked = map[ident.HostID]bool{}
	for _, on := range []bool{true, false} {
		for _, h := range c.s.mesh.Hosts() {
			r, there := records[h.ID]
			if h.Self || there != on || h.State == api.HostLeft {
				continue
			}
			port := bus.SeedPort
			if there {
				port = int(r.Port)
			}
			n := 0
			for _, ep := range h.Endpoints {
				s := ep.Addr().Unmap().WithZone("").String()
				if s = net.JoinHostPort(s, strconv.Itoa(port)); n < seedAddrs && len(seeds) < maxSeeds && !slices.Contains(seeds, s) {
					seeds = append(seeds, s)
					asked[h.ID] = true
					n++
				}
			}
		}
	}
	return seeds, asked
}

// session joins the bus and stays until it is not needed any more, or has to be joined anew.
func (c *clusterBus) session() error {
	if !c.awaitCluster() {
		return nil
	}
	token, err := c.token()
	if err != nil {
		return err
	}
	seeds, asked := c.seeds()
	b, err := c.join(token, seeds)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.s.ctx), busDrain)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			c.s.log.Warn("left the bus before all that was sent was confirmed: it may be lost", "err", err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for k, v := range packetDrops(b) {
			c.past[k] += v
		}
		c.bus = nil
		c.settled = make(chan struct{})
	}()
	gate, err := b.Gateway()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.s.ctx)
	var pumps sync.WaitGroup
	defer pumps.Wait()
	defer cancel()
	link := c.broker.Attach(ctx, gate, b.Epoch())
	gate.Watch(link)
	pumps.Go(func() {
		var in broker.Incoming
		_ = gate.Messages(ctx, func(m *bus.Passed) { // it ends with ctx
			in = broker.Incoming{Epoch: m.Epoch, Subject: m.Subject, Envelope: m.Envelope, Payload: m.Payload, Groups: m.Groups, All: m.All}
			link.Receive(&in)
		}, func(lost *bus.Lost) {
			c.s.log.Warn("messages of the bus were lost", "publisher", lost.Publisher, "from", lost.From, "to", lost.To)
			link.Lost(lost.Epoch, lost.To-lost.From+1)
		})
	})
	pumps.Go(func() {
		for e := range b.Events(ctx) {
			c.s.log.Debug("member of the bus", "event", e.Kind.String(), "member", e.Member.Name)
		}
	})
	c.mu.Lock()
	c.bus, c.port, c.failed, c.asked, c.missing = b, b.Addr().Port(), nil, asked, map[string]time.Time{}
	settled := c.settled
	c.mu.Unlock()
	c.s.trouble("bus", "")
	if err := c.s.mesh.Publish(0, map[string][]byte{keyBus: encode(busRecord{Port: b.Addr().Port()})}, nil); err != nil {
		c.s.log.Warn("the others are not told that this host is on the bus", "err", err)
	}
	c.settle(ctx)
	close(settled)
	c.s.log.Info("on the cluster's bus", "udp_port", b.Addr().Port(), "members", len(b.Members()))
	if leave := c.tend(ctx, token); leave {
		c.withdraw()
	}
	return nil
}

// awaitCluster waits until this host is part of the cluster; false when the daemon stops before.
func (c *clusterBus) awaitCluster() bool {
	for {
		c.s.mu.Lock()
		there := c.s.cluster != nil
		c.s.mu.Unlock()
		if there {
			return true
		}
		if !c.s.pauseBus() {
			return false
		}
	}
}

// pauseBus waits before what the bus could not do is tried again; false when the daemon stops meanwhile.
func (s *System) pauseBus() bool {
	t := time.NewTimer(busRetry)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// join joins by the well-known port, or any if another process keeps it.
func (c *clusterBus) join(token ident.Token, seeds []string) (*bus.Bus, error) {
	c.s.mu.Lock()
	rec := *c.s.cluster
	c.s.mu.Unlock()
	cfg := bus.Config{
		Name: api.ClusterBus, Token: token.Encode(), Member: c.s.cfg.Name, Seeds: seeds, Listen: bus.SeedPort,
		NoMulticast: rec.NoMulticast, TTL: rec.TTL, Log: c.s.log,
	}
	// A daemon whose place this one takes is about to give the port up.
	for began := time.Now(); ; {
		b, err := bus.Join(c.s.ctx, cfg)
		if err == nil || c.s.ctx.Err() != nil || errors.Is(err, bus.ErrConfig) {
			return b, err
		}
		if c.s.from == nil || time.Since(began) > leaveTime {
			break
		}
		c.s.pauseBus()
	}
	cfg.Listen = 0
	return bus.Join(c.s.ctx, cfg)
}

// absent returns the reachable hosts that say they are on the bus and whose interest is not known here.
func (c *clusterBus) absent() (names []string, ids []ident.HostID) {
	known, _ := c.broker.Known()
	records := c.records()
	for _, h := range c.s.mesh.Hosts() {
		if _, on := records[h.ID]; on && !h.Self && h.Reachable && !slices.Contains(known, h.Name) {
			names, ids = append(names, h.Name), append(ids, h.ID)
		}
	}
	return names, ids
}

// settle waits until what all hosts on the bus want is known, for a while.
func (c *clusterBus) settle(ctx context.Context) {
	limit := time.NewTimer(busSettle)
	defer limit.Stop()
	for {
		changed := c.broker.Changed()
		_, unknown := c.broker.Known()
		if names, _ := c.absent(); len(names) == 0 && len(unknown) == 0 {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// tend looks after a membership until it has to end; leave says that nobody needs it, else it is joined anew.
func (c *clusterBus) tend(ctx context.Context, token ident.Token) (leave bool) {
	tick := time.NewTicker(busTick)
	defer tick.Stop()
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return false
		case now = <-tick.C:
		}
		if !c.wanted(now) {
			return true
		}
		if t, err := c.token(); err == nil && t != token {
			c.s.log.Info("the cluster's token has changed, and with it that of the bus")
			return false
		}
		names, ids := c.absent()
		c.mu.Lock()
		maps.DeleteFunc(c.missing, func(n string, _ time.Time) bool { return !slices.Contains(names, n) })
		again := false
		for i, n := range names {
			if c.missing[n].IsZero() {
				c.missing[n] = now
			}
			again = again || !c.asked[ids[i]] && now.Sub(c.missing[n]) > busMissing
		}
		c.mu.Unlock()
		if again { // it came later, and finds us no more than we find it
			c.s.log.Info("the bus is joined anew: a host on it was not known before", "hosts", names)
			return false
		}
	}
}

func (c *clusterBus) withdraw() {
	there := false
	_ = c.s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyBus) {
			there = there || i.Writer == c.s.mesh.Self() && i.Key == keyBus
		}
	})
	if !there {
		return
	}
	if err := c.s.mesh.Publish(0, nil, []string{keyBus}); err != nil && c.s.ctx.Err() == nil && !errors.Is(err, mesh.ErrClosed) {
		c.s.log.Warn("the others are not told that this host has left the bus", "err", err)
	}
}
