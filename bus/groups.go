package bus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/udp"
)

// Family is an address family.
type Family int

// The families.
const (
	NoFamily Family = iota
	IPv4
	IPv6
)

// String returns the family in lower case; nothing for none.
func (f Family) String() string { return [...]string{"", "ipv4", "ipv6"}[f] }

// Group is one of the two underlay groups of a bus, that in IPv4 or that in IPv6.
type Group struct {
	Addr      netip.AddrPort
	Interface string // where it is heard, and by which packets to it leave; "": nowhere, for now
	Why       string // why nowhere
	InUse     bool   // what this process sends to all goes to it: to one group at most
}

// Groups returns the underlay groups, that in IPv4 first; none with NoMulticast. A process hears both, and sends by one of them: in IPv4, unless
// more members have said for five seconds that they hear it in IPv6. Nobody gets a packet by both, but where some members have only one family and others only
// the other: those with both may get packets from the publisher and from the member that passes them on by the other group. Member.HearsBy and Member.HeardBy say which is used.
func (b *Bus) Groups() []Group {
	b.mu.Lock()
	defer b.mu.Unlock()
	var gs []Group
	for i := range b.groups {
		if u := &b.groups[i]; u.to.IsValid() {
			gs = append(gs, Group{Addr: u.to, Interface: u.on.Name, Why: u.why, InUse: b.voice.Load() == &u.to})
		}
	}
	return gs
}

// lookEvery is how often a member looks whether interfaces or addresses have come or gone.
const lookEvery = 5 * time.Second

// underlay is a bus's group in one family.
type underlay struct {
	to   netip.AddrPort
	conn udp.Conn      // hears it; nil: it is not joined
	on   net.Interface // where it is joined
	why  string        // why it is not
}

// groupsOf returns the underlay groups of a bus, that in IPv4 and that in IPv6, from its id.
func groupsOf(k *buskey.Bus) [2]netip.AddrPort {
	id := k.ID()
	v4 := [4]byte{239, 192 | byte(id>>16)&3, byte(id >> 8), byte(id)} // organisation-local: 239.192.0.0/14 (RFC 2365)
	v6 := [16]byte{0xff, 0x15}                                        // transient, site-local (RFC 4291 section 2.7)
	binary.BigEndian.PutUint64(v6[8:], id)
	v6[12] |= 0x80 // of the group ids that hosts choose themselves (RFC 3307 section 4.3)
	return [2]netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4(v4), GroupPort), netip.AddrPortFrom(netip.AddrFrom16(v6), GroupPort)}
}

// openGroups joins the groups where that is possible now.
func (b *Bus) openGroups(k *buskey.Bus) {
	for f, to := range groupsOf(k) {
		b.groups[f].to = to
	}
	if b.look(); b.usable == 0 {
		b.log.Warn("no multicast on this host", "ipv4", b.groups[0].why, "ipv6", b.groups[1].why)
	}
}

// sockets returns the sockets that receive, that for unicast first; the lock is held.
func (b *Bus) sockets() []udp.Conn {
	cs := []udp.Conn{b.conn}
	for i := range b.groups {
		if c := b.groups[i].conn; c != nil {
			cs = append(cs, c)
		}
	}
	return cs
}

// tend has the groups follow interfaces and addresses as they come and go. The kernel makes a new IPv6 address usable after a second or two
// (RFC 4862 section 5.4), and nothing leaves before: the beacons that begin with an interface come more than once in that time.
func (b *Bus) tend(ctx context.Context) {
	every := b.cfg.look
	if every == 0 {
		every = lookEvery
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !b.look() {
			continue
		}
		b.mu.Lock()
		b.earlier(b.node.Usable(time.Now(), b.usable))
		b.mu.Unlock()
		b.changed.tell()
	}
}

// look joins the groups where they can be used and leaves what is gone. It reports whether that changed anything. One goroutine calls it.
func (b *Bus) look() (changed bool) {
	ifis, ips, err := interfaces()
	if err != nil {
		b.log.Debug("interfaces not listed", "error", err)
		return false
	}
	seen := fmt.Sprint(ifis, ips)
	if seen == b.seen {
		return false
	}
	b.seen = seen
	for f := range b.groups {
		u := &b.groups[f]
		if u.conn != nil && stays(u, ifis) {
			continue
		}
		on, err := choose(ifis, ips, b.cfg.Interface, u.to.Addr(), b.groups[0].on)
		var c udp.Conn
		if err == nil {
			if c, err = b.joinGroup(u.to, on); err != nil {
				b.seen = "" // try again
			}
		}
		if b.place(f, c, on, err) {
			changed = true
		}
		b.log.Debug("multicast", "group", u.to.Addr(), "interface", u.on.Name, "error", u.why)
	}
	return changed
}

// joinGroup opens a socket that hears a group on an interface, and has packets to it leave there.
func (b *Bus) joinGroup(to netip.AddrPort, on net.Interface) (udp.Conn, error) {
	if to.Addr().Is6() && b.conn.LocalAddr().Addr().Is4() {
		return nil, errors.New("this host has no IPv6")
	}
	c, err := udp.ListenGroup(to, on.Index, udp.Options{Coalesce: true})
	if err != nil {
		return nil, err
	}
	if err := b.conn.MulticastOf(to.Addr(), on.Index, b.cfg.TTL); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// place replaces the socket of a group; nil, with the reason, for none. It reports whether one came or went.
func (b *Bus) place(f int, c udp.Conn, on net.Interface, err error) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		if c != nil {
			_ = c.Close()
		}
		return false
	}
	u := &b.groups[f]
	changed = c != nil || u.conn != nil
	if u.conn != nil {
		b.retire(u.conn)
	}
	u.conn, u.on, u.why = c, net.Interface{}, ""
	if b.usable &^= 1 << f; c == nil {
		u.why = err.Error()
	} else {
		u.on = on
		b.usable |= 1 << f
		if b.life != nil { // else Join does
			b.wg.Go(func() { b.read(c, true) })
		}
	}
	(*speech)(b).set()
	return changed
}

// retire closes a socket that hears a group, whose counters count on; the lock is held.
func (b *Bus) retire(c udp.Conn) {
	b.past.add(c.Stats())
	_ = c.Close()
}

// stays reports whether a group can go on where it is.
func stays(u *underlay, ifis []net.Interface) bool {
	i := slices.IndexFunc(ifis, func(ifi net.Interface) bool {
		return ifi.Index == u.on.Index && ifi.Name == u.on.Name && ifi.Flags&net.FlagUp != 0
	})
	return i >= 0 && len(fit(addresses(ifis[i]), u.to.Addr())) > 0
}

// interfaces lists the host's interfaces and all their addresses, in two calls: there may be thousands of interfaces.
func interfaces() (ifis []net.Interface, ips []netip.Addr, err error) {
	if ifis, err = net.Interfaces(); err != nil {
		return nil, nil, fmt.Errorf("list the interfaces: %w", err)
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, nil, fmt.Errorf("list the addresses: %w", err)
	}
	return ifis, ipsOf(all), nil
}

func addresses(ifi net.Interface) []netip.Addr {
	all, err := ifi.Addrs()
	if err != nil {
		return nil // it is gone
	}
	return ipsOf(all)
}

func ipsOf(all []net.Addr) (ips []netip.Addr) {
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				ips = append(ips, ip.Unmap())
			}
		}
	}
	return ips
}

// fit returns the addresses from which packets to a group can be answered: those of its family, and in IPv6 such as mean the same on every interface.
func fit(ips []netip.Addr, group netip.Addr) (out []netip.Addr) {
	for _, ip := range ips {
		if ip.Is4() == group.Is4() && (ip.Is4() || ip.IsGlobalUnicast()) {
			out = append(out, ip)
		}
	}
	return out
}

// choose returns the interface for a group: that of a name, if there is one. Else in IPv6 the one of IPv4, beside, for it is one LAN that is meant; and
// without that, or in IPv4, that of the route to the group, or the first that is up, can multicast and has an address of the group's family.
func choose(ifis []net.Interface, ips []netip.Addr, name string, group netip.Addr, beside net.Interface) (none net.Interface, err error) {
	version := "IPv6 address beyond the link's own"
	if group.Is4() {
		version = "IPv4 address"
	}
	if name == "" && group.Is6() && beside.Index != 0 && !overlay(beside) {
		name = beside.Name
	}
	if name != "" {
		for _, ifi := range ifis {
			switch {
			case ifi.Name != name:
			case ifi.Flags&net.FlagUp == 0:
				return none, fmt.Errorf("interface %s is down", name)
			case len(fit(addresses(ifi), group)) == 0:
				return none, fmt.Errorf("interface %s has no %s", name, version)
			default:
				return ifi, nil
			}
		}
		return none, fmt.Errorf("interface %s: there is none of that name", name)
	}
	var first, within net.Interface
	if len(fit(ips, group)) > 0 {
		routed := route(group)
		for _, ifi := range ifis {
			const want = net.FlagUp | net.FlagMulticast
			if ifi.Flags&want != want || ifi.Flags&net.FlagLoopback != 0 {
				continue
			}
			switch here := fit(addresses(ifi), group); {
			case len(here) == 0:
			case slices.Contains(here, routed) && (group.Is4() || !overlay(ifi)): // in IPv6 every interface has a route to all groups
				return ifi, nil
			case overlay(ifi):
				within = ifi
			case first.Index == 0:
				first = ifi
			}
		}
	}
	switch {
	case first.Index != 0:
		return first, nil
	case within.Index != 0:
		return within, nil
	}
	return none, errors.New("no interface is up, can multicast and has an " + version)
}

// overlay reports whether an interface is in a network of weft's: weft0, weft1 and so on. What is beneath that is nearer.
func overlay(ifi net.Interface) bool { return strings.HasPrefix(ifi.Name, "weft") }

// route returns the address from which the system would send to a group: connecting a UDP socket shows it and sends nothing.
func route(group netip.Addr) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, 9)))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
}

// speech is the Groups of the node; the bus's lock is held.
type speech Bus

var _ rmcast.Groups = (*speech)(nil)

// Use implements rmcast.Groups.
func (s *speech) Use(group int) {
	s.used = group
	s.set()
}

// set has Send send to the group in use, if that is possible now.
func (s *speech) set() {
	if u := &s.groups[s.used]; s.usable&(1<<s.used) != 0 {
		s.voice.Store(&u.to)
	} else {
		s.voice.Store(nil)
	}
}

// Aside implements rmcast.Groups.
func (s *speech) Aside(buf []byte) {
	if other := 1 - s.used; s.usable&(1<<other) != 0 {
		_, _ = s.conn.WriteBatch([]udp.Message{{Buf: buf, Addr: s.groups[other].to}}) // as in Send
	}
}
