package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/nameserver"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/vnet"
)

// defaultDomain is the end of all full names where the founder of the cluster chose no other.
const defaultDomain = "weft.internal"

// maxServed bounds the subnets of one network in which the name service has addresses: a network that was created on both sides of
// a partition has two.
const maxServed = 8

// nameService tells the name server what the state says, and plugs it into the networks that are up.
type nameService struct {
	s         *System
	server    *nameserver.Server
	hostAddrs atomic.Pointer[[]netip.Addr] // of the host itself, in all networks

	mu     sync.Mutex // guards all below; taken before the locks of vnet and of the server
	here   map[uint32]served
	closed bool
}

// served is how a network is served.
type served struct {
	zone    string // domain and network
	ips     []netip.Prefix
	subnets []netip.Prefix
	own     []netip.Prefix
}

func (s *System) newNames() *nameService {
	c := &nameService{s: s, here: map[uint32]served{}}
	c.hostAddrs.Store(&[]netip.Addr{})
	resolvers := nameserver.NewResolvers(nameserver.ResolvConf)
	c.server = nameserver.New(nameserver.Config{
		Upstream: resolvers.List, Log: s.log,
		Own: func(a netip.Addr) bool { return slices.Contains(*c.hostAddrs.Load(), a) },
	})
	return c
}

// domain is the end of attachments' full names.
func (s *System) domain() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == nil || s.cluster.Domain == "" {
		return defaultDomain
	}
	return s.cluster.Domain
}

// follow takes changes of the state, and who is alive.
func (c *nameService) follow(changes []state.Change) {
	c.server.SetAlive(c.s.aliveHosts())
	for _, ch := range changes {
		if ch.Scope == state.Cluster {
			continue
		}
		switch {
		case strings.HasPrefix(ch.Key, keyAttach):
			c.attachment(ch)
		case names.Owns(ch.Key):
			c.server.Change(uint32(ch.Scope), func(t *names.Table) {
				if err := t.Apply(ch.Writer, ch.Key, ch.Value, ch.Gone); err != nil {
					c.s.log.Debug("record refused", "host", ch.Writer.Short(), "err", err)
				}
			})
		}
	}
}

func (c *nameService) attachment(ch state.Change) {
	name := strings.TrimPrefix(ch.Key, keyAttach)
	var addrs []netip.Addr
	gone := ch.Gone
	if !gone {
		_, rec, err := decodeAttachment(ch.Key, ch.Value)
		if err != nil {
			gone = true
		}
		for _, p := range rec.IPs {
			addrs = append(addrs, p.Addr())
		}
	}
	c.server.Change(uint32(ch.Scope), func(t *names.Table) {
		if gone {
			t.Detach(ch.Writer, name)
			return
		}
		t.Attach(ch.Writer, name, addrs)
	})
}

// place says where a network's name service is to be.
func (c *nameService) place(n *network) served {
	domain := c.s.domain()
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	net6 := map[netip.Prefix]netip.Prefix{n.def.Subnet: n.def.Subnet6}
	if d := c.s.defs[n.name]; d != nil {
		maps.Copy(net6, d.net6)
	}
	p := served{zone: domain + " " + n.name}
	for _, sub := range slices.SortedFunc(maps.Keys(net6), netip.Prefix.Compare)[:min(len(net6), maxServed)] {
		a := ipam.NameServer(sub, n.def.Subnet6)
		p.ips, p.subnets = append(p.ips, a.IP4), append(p.subnets, sub)
		if six := net6[sub]; six.IsValid() {
			p.ips, p.subnets = append(p.ips, ipam.IP6(six, a.IP4.Addr())), append(p.subnets, six)
		}
	}
	p.own = slices.Clone(p.subnets)
	if cl := c.s.cluster; cl != nil {
		p.own = append(p.own, cl.Range, cl.ULA)
	}
	return p
}

func (p served) equal(o served) bool {
	return p.zone == o.zone && slices.Equal(p.ips, o.ips) && slices.Equal(p.own, o.own)
}

// serve has a network that is up here served; one that is served as it should be stays.
func (c *nameService) serve(n *network) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	want := c.place(n)
	if have, ok := c.here[n.vni]; c.closed || ok && have.equal(want) && c.s.vnet.Serves(n.vni) {
		return nil
	}
	c.server.Stop(n.vni)
	delete(c.here, n.vni)
	mac := ipam.NameServer(want.subnets[0], n.def.Subnet6).MAC
	ns, err := c.s.vnet.Serve(c.s.ctx, n.vni, vnet.Service{MAC: nl.MAC(mac), IPs: want.ips})
	if err != nil {
		return err
	}
	var servers []netip.Addr
	for _, p := range want.ips {
		servers = append(servers, p.Addr())
	}
	domain, _, _ := strings.Cut(want.zone, " ")
	err = c.server.Serve(n.vni, names.NewZone(n.name, domain, servers, want.own), want.subnets, ns.Do)
	if err = errors.Join(err, ns.Close()); err != nil { // the sockets keep the namespace
		return err
	}
	c.here[n.vni] = want
	return nil
}

// stop ends serving a network.
func (c *nameService) stop(vni uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.here, vni)
	c.server.Stop(vni)
}

// close ends it all.
func (c *nameService) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	clear(c.here)
	c.server.Close()
}

// tend serves what should be served and is not, as far as that is possible now.
func (c *nameService) tend() {
	for _, n := range c.s.localNetworks() {
		c.tell(n, c.serve(n))
	}
	c.noteHost()
}

// tell shows in status that a network's names are not served, while that is so.
func (c *nameService) tell(n *network, err error) {
	if c.s.ctx.Err() != nil || errors.Is(err, vnet.ErrNoNetwork) || errors.Is(err, vnet.ErrClosed) || errors.Is(err, context.Canceled) {
		return
	}
	text := ""
	if err != nil {
		text = fmt.Sprintf("network %s: names are not answered: %v", n.name, err)
	}
	c.s.trouble("names "+n.name, text)
}

// noteHost notes the addresses that the host itself has in networks.
func (c *nameService) noteHost() {
	var own []netip.Addr
	for _, a := range c.s.vnet.Attachments() {
		if a.Kind != vnet.KindExpose {
			continue
		}
		for _, p := range a.IPs {
			own = append(own, p.Addr())
		}
	}
	c.hostAddrs.Store(&own)
}

// resolver returns what an attachment's resolv.conf should say; nothing while its network's names are not answered.
func (c *nameService) resolver(vni uint32, ips []netip.Prefix) (servers, search []string) {
	zone := c.server.Zone(vni)
	if zone == nil {
		return nil, nil
	}
	for _, p := range ips {
		for _, s := range zone.Servers() {
			if p.Addr().Is4() && p.Masked().Contains(s) {
				servers = append(servers, s.String())
			}
		}
	}
	return servers, []string{zone.Apex()}
}

// drops counts what the name service dropped, by reason.
func (c *nameService) drops() map[string]uint64 {
	out := map[string]uint64{}
	for k, v := range c.server.Counts().Drops {
		out["names_"+k] = v
	}
	return out
}
