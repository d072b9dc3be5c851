package daemon

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/vnet"
)

// settleTime gathers changes that come together: a joining host's whole table, a burst of joins.
const settleTime = 20 * time.Millisecond

// How often sender keys are looked after: offers are repeated after 200 ms, in the seconds after a
// change; an idle host sleeps most of the time.
const (
	castTick  = 200 * time.Millisecond
	idleTick  = time.Second
	busyAfter = 5 * time.Second
	freeEvery = 20 * time.Second // a collection by force costs some milliseconds

	// How much the heap may grow, in percent, before it is collected: as usual while much changes, when many hosts join
	// say; little else. The datapath allocates nothing, so collecting often costs a quiet host little and keeps it small.
	busyGC, quietGC = 100, 25
)

// inbox is what the mesh's loop tells: it must never wait for us, nor we for it.
type inbox struct {
	changes []state.Change
	hosts   map[ident.HostID]bool // whose liveness, reachability or session changed
}

// maxInForce bounds how long a list waits for what it shows to be in force.
const maxInForce = time.Second

// inForce waits until the kernel and the datapath follow all that the tables said when it was
// called: who reads in a list that a member is there may send to it.
func (s *System) inForce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maxInForce)
	defer cancel()
	s.inboxMu.Lock()
	want := s.told
	for s.followed < want {
		c := s.digested
		s.inboxMu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return
		case <-s.ctx.Done():
			return
		}
		s.inboxMu.Lock()
	}
	s.inboxMu.Unlock()
}

func (s *System) onChanged(cs []state.Change) {
	rest := make([]state.Change, 0, len(cs))
	for _, c := range cs {
		if c.Recovered && c.Key == "" {
			s.ipam.Forked(uint32(c.Scope))
			continue
		}
		if ipam.Owns(c.Key) { // it takes note and no more: whoever waits for addresses must not have to wait for spread
			if c.Recovered {
				s.ipam.Recovered(uint32(c.Scope), c.Key, c.Value, c.Gone)
			}
			s.ipam.OnChange(uint32(c.Scope), c.Writer, c.Key, c.Value, c.Gone)
			continue
		}
		rest = append(rest, c)
	}
	s.inboxMu.Lock()
	s.inbox.changes = append(s.inbox.changes, rest...)
	s.told++
	s.inboxMu.Unlock()
	s.poke()
}

func (s *System) onHost(id ident.HostID) {
	s.inboxMu.Lock()
	if s.inbox.hosts == nil {
		s.inbox.hosts = map[ident.HostID]bool{}
	}
	s.inbox.hosts[id] = true
	s.inboxMu.Unlock()
	s.poke()
}

func (s *System) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// spread turns the shared state into what this host's kernel and datapath do. It is the one
// goroutine that builds forwarding tables.
func (s *System) spread() {
	tick := time.NewTimer(castTick)
	defer tick.Stop()
	var second time.Time
	changed, stirred, freed := time.Now(), true, time.Time{}
	lavish := true // the collector is set as busyGC says, as it is at the start
	for {
		select {
		case <-s.ctx.Done():
			return
		case now := <-tick.C:
			tick.Reset(idleTick)
			busy := now.Sub(changed) < busyAfter
			if busy != lavish && os.Getenv("GOGC") == "" {
				lavish = busy
				gc := quietGC
				if busy {
					gc = busyGC
				}
				debug.SetGCPercent(gc)
			}
			if busy {
				tick.Reset(castTick)
			} else if stirred && now.Sub(freed) >= freeEvery {
				debug.FreeOSMemory() // what a burst of joining hosts took for a while
				stirred, freed = false, now
			}
			s.cast.Tick(now)
			if now.Sub(second) >= time.Second {
				second = now
				s.joinIsland()
				s.retryNetworks()
				s.watchPlain(now)
				s.names.tend()
			}
			continue
		case <-s.wake:
		}
		changed, stirred = time.Now(), true
		tick.Reset(castTick)
		timer := time.NewTimer(settleTime)
		select {
		case <-s.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		s.inboxMu.Lock()
		in, told := s.inbox, s.told
		s.inbox = inbox{}
		s.inboxMu.Unlock()
		s.publishHeard()
		s.digest(in)
		s.inboxMu.Lock()
		s.followed = told
		close(s.digested)
		s.digested = make(chan struct{})
		s.inboxMu.Unlock()
	}
}

// digest sorts changes to those whom they concern.
func (s *System) digest(in inbox) {
	dirty := map[uint32]bool{}
	defs, hearing := false, false
	for _, c := range in.changes {
		switch {
		case c.Scope == state.Cluster && strings.HasPrefix(c.Key, mesh.KeyBar) && !c.Gone:
			s.removed(c.Key[len(mesh.KeyBar):], s.heir().Self)
		case c.Scope == state.Cluster && isLease(c.Key):
			s.leases.follow(c)
		case c.Scope != state.Cluster:
			dirty[uint32(c.Scope)] = true
		case c.Key == keyCluster, strings.HasPrefix(c.Key, keyNetwork):
			defs = true
		case c.Key == keyHear:
			hearing = true
		}
	}
	if hearing {
		s.cast.SetHearing(s.hearing())
	}
	if defs {
		s.readDefinitions()
	}
	s.names.follow(in.changes)
	s.meet(in.hosts)
	for _, n := range s.localNetworks() {
		if defs || len(in.hosts) > 0 || dirty[n.vni] {
			s.rebuild(n)
		}
	}
}

// removed tells of a host that is gone for good. The lowest living host takes its addresses at once,
// others only when that one fails to.
func (s *System) removed(key string, heir bool) {
	id, err := ident.ParseHostID(key)
	if err != nil {
		return
	}
	s.leases.removed(id)
	if err := s.ipam.HostRemoved(id, heir); err != nil {
		s.log.Error("addresses of a removed host not taken over", "host", id.Short(), "err", err)
	}
}

// meet greets hosts with which a session is new: they may have restarted and lost our sender keys.
func (s *System) meet(hosts map[ident.HostID]bool) {
	for id := range hosts {
		p := s.mesh.Peer(id)
		if p == nil || p.Path() == nil {
			delete(s.met, id)
			continue
		}
		if key := p.Path().Session; s.met[id] != key {
			s.met[id] = key
			s.cast.HostUp(id)
		}
	}
}

// view is what the tables say about one network.
type view struct {
	remotes []fdb.Remote
	members []fdb.Member
	hosts   []ident.HostID // with attachments, this one included
	having  []ident.HostID // that have the network, this one included
	vteps   map[ident.HostID]netip.Addr
}

// look reads one network's scope. Hosts that are dead and out of reach count for nothing.
func (s *System) look(n *network) view {
	v := view{vteps: map[ident.HostID]netip.Addr{}}
	if s.leases.silent() {
		v.having = []ident.HostID{s.mesh.Self()}
		return v
	}
	alive := s.aliveHosts()
	if n.def.Plain {
		alive = s.presentHosts() // their kernels go on without them
	}
	_ = s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyNetwork+n.name) {
			if i.Key == keyNetwork+n.name { // the dead too: their return needs no new key
				v.having = append(v.having, i.Writer)
			}
		}
		for i := range t.All(state.Scope(n.vni), keyAttach) {
			if !alive[i.Writer] {
				continue
			}
			_, a, err := decodeAttachment(i.Key, i.Value)
			if err != nil {
				s.log.Debug("record refused", "host", i.Writer.Short(), "err", err)
				continue
			}
			r := fdb.Remote{MAC: fdb.MAC(a.MAC), Host: i.Writer, IPs: []netip.Addr{nl.MAC(a.MAC).LinkLocal()}}
			for _, p := range a.IPs {
				r.IPs = append(r.IPs, p.Addr())
			}
			v.remotes = append(v.remotes, r)
			if !slices.Contains(v.hosts, i.Writer) {
				v.hosts = append(v.hosts, i.Writer)
			}
		}
		for i := range t.All(state.Scope(n.vni), keyVTEP) {
			if a, err := decodeVTEP(i.Key, i.Value); err == nil && alive[i.Writer] {
				v.vteps[i.Writer] = a
			}
		}
		for i := range t.All(state.Scope(n.vni), keyMember) {
			if !alive[i.Writer] {
				continue
			}
			group, m, err := decodeMembers(i.Key, i.Value)
			if err != nil {
				s.log.Debug("record refused", "host", i.Writer.Short(), "err", err)
				continue
			}
			for _, w := range m {
				mode := fdb.Include
				if w.Exclude {
					mode = fdb.Exclude
				}
				v.members = append(v.members, fdb.Member{Host: i.Writer, Group: group, Mode: mode, Sources: w.Sources})
			}
		}
	})
	return v
}

// rebuild brings one network's kernel state and forwarding table up to the shared state.
func (s *System) rebuild(n *network) {
	n.building.Lock()
	defer n.building.Unlock()
	v := s.look(n)
	if n.def.Plain {
		s.rebuildPlain(n, v)
	} else if err := s.rebuildSealed(n, v); err != nil {
		s.log.Debug("network not set", "network", n.name, "err", err)
		return // removed meanwhile
	}
	served := make(map[membership]bool, len(v.members))
	for _, m := range v.members {
		served[membership{m.Host, m.Group}] = true
	}
	n.served.Store(&served)
}

// aim tells the datapath who has a network and who gets a frame.
func (s *System) aim(n *network, v view) error {
	self := s.mesh.Self()
	hosts := slices.DeleteFunc(v.having, func(id ident.HostID) bool { return id == self })
	table := fdb.Build(fdb.Input{
		VNI: n.vni, Self: self, Remotes: v.remotes, Hosts: v.hosts, Members: v.members,
		Policy: fdb.Policy{Allow: n.def.Allow, Deny: n.def.Deny}, Peer: s.mesh.Peer, Counters: s.cast.Counters(),
	})
	return errors.Join(s.cast.SetHosts(n.vni, hosts), s.cast.SetTable(n.vni, table))
}

func (s *System) rebuildSealed(n *network, v view) error {
	if err := s.aim(n, v); err != nil {
		return err
	}
	self := s.mesh.Self()
	var remotes []vnet.Remote
	for _, r := range v.remotes {
		if r.Host != self {
			remotes = append(remotes, vnet.Remote{MAC: nl.MAC(r.MAC), IPs: r.IPs})
		}
	}
	fresh, err := s.vnet.SetRemotes(n.vni, remotes)
	if err != nil {
		s.log.Error("remote attachments not all set", "network", n.name, "err", err)
	}
	s.announce(n, fresh)
	if err := s.vnet.SetWanted(n.vni, wanted(v.members, self)); err != nil {
		s.log.Error("wanted groups not all set", "network", n.name, "err", err)
	}
	return nil
}

// wanted adds up what other hosts' members want (RFC 3376 section 3.2): all sources as soon as
// one member excludes, else the union of those included. Receivers' own bridges do the rest.
func wanted(members []fdb.Member, self ident.HostID) []vnet.Group {
	byGroup := map[netip.Addr]int{}
	var out []vnet.Group
	for _, m := range members {
		if m.Host == self {
			continue
		}
		i, ok := byGroup[m.Group]
		if !ok {
			i = len(out)
			byGroup[m.Group] = i
			out = append(out, vnet.Group{Addr: m.Group, Sources: []netip.Addr{}})
		}
		switch {
		case m.Mode == fdb.Exclude:
			out[i].Sources = nil
		case out[i].Sources != nil:
			for _, src := range m.Sources {
				if !slices.Contains(out[i].Sources, src) {
					out[i].Sources = append(out[i].Sources, src)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b vnet.Group) int { return a.Addr.Compare(b.Addr) })
	return out
}

// onMembers publishes what attachments here joined.
func (s *System) onMembers(vni uint32, ms []vnet.Membership) {
	now := map[string]memberRecord{}
	for _, m := range ms {
		key := keyMember + m.Group.String()
		if now[key] == nil {
			now[key] = memberRecord{}
		}
		if len(now[key]) < maxMembers {
			now[key][m.Attachment] = wish{Exclude: m.Exclude, Sources: m.Sources[:min(len(m.Sources), maxSources)]}
		}
	}
	puts := map[string][]byte{}
	for key, r := range now {
		puts[key] = encode(r)
	}
	var dels []string
	_ = s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Scope(vni), keyMember) {
			if i.Writer != s.mesh.Self() {
				continue
			}
			if v, ok := puts[i.Key]; !ok {
				dels = append(dels, i.Key)
			} else if string(v) == string(i.Value) {
				delete(puts, i.Key)
			}
		}
	})
	if len(puts)+len(dels) == 0 {
		return
	}
	if err := s.mesh.Publish(vni, puts, dels); err != nil {
		s.log.Error("memberships not published", "vni", vni, "err", err)
	}
}
