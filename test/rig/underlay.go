package rig

import (
	"fmt"
	"net/netip"
	"strings"
)

// Underlay is what joins hosts: the namespace in the middle, with one port for each. Faults, counters and captures
// are made there.
type Underlay struct {
	w      *World
	ns     string
	bridge bool // a LAN: frames are bridged, not routed
	ports  []string
	nat    *NAT // a LAN behind a NAT

	// next subnet (router) or host number (LAN) to give away.
	next   int
	prefix string // of a LAN: the IPv4 network's first three bytes
	pre6   string
	pairs  map[string]bool // counted pairs

	blocks map[string]string // fault name -> rules of the forward chain
}

// dropMulticast is what a cloud does: everything multicast, IGMP and MLD, is dropped. Neighbour discovery of IPv6 is
// multicast too, but to one's neighbour; without it there is no IPv6 at all.
const dropMulticast = `
    ip6 daddr ff02::1:ff00:0/104 icmpv6 type nd-neighbor-solicit accept
    ip daddr 224.0.0.0/4 counter name multicast drop
    ip protocol igmp counter name multicast drop
    ip6 daddr ff00::/8 counter name multicast drop
`

// Cloud makes a router: each host has a subnet of its own, unicast is forwarded, multicast is dropped.
func (w *World) Cloud() *Underlay {
	w.T.Helper()
	u := &Underlay{w: w, ns: w.namespace("cloud"), next: 1}
	w.in(u.ns, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0", "net.ipv6.conf.default.accept_dad=0")
	w.nft(u.ns, `table inet rig {
  counter multicast { }
  chain prerouting { type filter hook prerouting priority -300; policy accept;`+dropMulticast+`  }
  chain faults { }
  chain forward { type filter hook forward priority 0; policy accept;
    jump faults
  }
}`)
	return u
}

// LANOptions say what a LAN does with multicast.
type LANOptions struct {
	DropMulticast bool // as many a switch is set up: all but neighbour discovery is dropped
}

// LAN makes a bridge: hosts share one subnet, and its multicast unless dropped.
func (w *World) LAN(o LANOptions) *Underlay {
	w.T.Helper()
	return w.lan("lan", "10.78.0", "fd78", o)
}

func (w *World) lan(name, prefix, pre6 string, o LANOptions) *Underlay {
	w.T.Helper()
	u := &Underlay{w: w, ns: w.namespace(name), bridge: true, next: 2, prefix: prefix, pre6: pre6}
	w.batch(u.ns, "link add sw type bridge mcast_snooping 0 forward_delay 0\nlink set sw up\n")
	drop := ""
	if o.DropMulticast {
		drop = dropMulticast
	}
	w.nft(u.ns, `table bridge rig {
  counter multicast { }
  chain faults { }
  chain forward { type filter hook forward priority 0; policy accept;
    jump faults`+drop+`
  }
}`)
	return u
}

// Segment makes a LAN joined to the cloud by the router: an island when it passes multicast.
func (u *Underlay) Segment(name string, o LANOptions) *Underlay {
	u.w.T.Helper()
	n := u.subnet()
	lan := u.w.lan(name, fmt.Sprintf("10.77.%d", n), fmt.Sprintf("fd77:%d:", n), o)
	u.plug(name, lan.ns, "up", n)
	u.w.batch(lan.ns, "link set dev up master sw\nlink set dev up up\n")
	return lan
}

// Multicast returns how many multicast packets the underlay dropped.
func (u *Underlay) Multicast() int {
	u.w.T.Helper()
	return counterIn(u.w.in(u.ns, "nft", "list", "counter", u.family(), "rig", "multicast"))
}

func counterIn(text string) int {
	var n int
	if _, after, ok := strings.Cut(text, "packets "); ok {
		_, _ = fmt.Sscan(after, &n)
	}
	return n
}

func (u *Underlay) family() string {
	if u.bridge {
		return "bridge"
	}
	return "inet"
}

func (u *Underlay) subnet() int {
	u.w.T.Helper()
	n := u.next
	u.next++
	if n > 250 {
		u.w.T.Fatalf("underlay: more than 250 hosts")
	}
	return n
}

// plug joins a namespace to the router with a veth, and gives the router its address in subnet n.
func (u *Underlay) plug(port, ns, dev string, n int) {
	u.w.T.Helper()
	u.w.batch(u.ns, fmt.Sprintf(`link add %[1]s address 02:77:00:00:%02[4]x:01 type veth peer name %[2]s address 02:77:00:00:%02[4]x:02 netns %[3]s
addr add 10.77.%[4]d.1/24 dev %[1]s
addr add fd77:%[4]d::1/64 dev %[1]s nodad
link set %[1]s up
`, port, dev, ns, n))
	u.ports = append(u.ports, port)
}

// acquaint tells the router and its neighbour in subnet n each other's MAC. The kernel has one neighbour table for all
// namespaces of a machine, 1,024 entries by default, in which permanent ones don't count: fifty hosts on a LAN elsewhere
// would leave no room for ours.
func (u *Underlay) acquaint(port, ns, dev string, n int) {
	u.w.T.Helper()
	for _, end := range []struct {
		ns, dev   string
		neighbour int
	}{{u.ns, port, 2}, {ns, dev, 1}} {
		u.w.batch(end.ns, fmt.Sprintf(`neigh replace 10.77.%[1]d.%[2]d lladdr 02:77:00:00:%02[1]x:%02[2]x dev %[3]s nud permanent
neigh replace fd77:%[1]d::%[2]d lladdr 02:77:00:00:%02[1]x:%02[2]x dev %[3]s nud permanent
`, n, end.neighbour, end.dev))
	}
}

// Host makes a host with addresses of both families.
func (u *Underlay) Host(name string) *Host {
	u.w.T.Helper()
	h := &Host{w: u.w, Name: name, NS: u.w.namespace(name), u: u, nat: u.nat}
	var gw, gw6 string
	if u.bridge {
		n := u.subnet()
		u.w.batch(u.ns, fmt.Sprintf("link add %[1]s type veth peer name eth0 netns %[2]s\nlink set %[1]s master sw\nlink set %[1]s up\n", name, h.NS))
		u.ports = append(u.ports, name)
		h.IP = netip.MustParseAddr(fmt.Sprintf("%s.%d", u.prefix, n))
		h.IP6 = netip.MustParseAddr(fmt.Sprintf("%s:%x", strings.TrimSuffix(u.pre6, ":")+":", n))
		gw, gw6 = u.prefix+".1", strings.TrimSuffix(u.pre6, ":")+"::1"
	} else {
		n := u.subnet()
		u.plug(name, h.NS, "eth0", n)
		h.IP = netip.MustParseAddr(fmt.Sprintf("10.77.%d.2", n))
		h.IP6 = netip.MustParseAddr(fmt.Sprintf("fd77:%d::2", n))
		gw, gw6 = fmt.Sprintf("10.77.%d.1", n), fmt.Sprintf("fd77:%d::1", n)
	}
	u.w.batch(h.NS, fmt.Sprintf("addr add %s/24 dev eth0\naddr add %s/64 dev eth0 nodad\nlink set eth0 up\nroute add default via %s\nroute add ::/0 via %s\n",
		h.IP, h.IP6, gw, gw6))
	if !u.bridge {
		u.acquaint(name, h.NS, "eth0", u.next-1)
	}
	// Without this a capture, a loss or an MTU rule takes 64 datagrams for one.
	u.w.in(h.NS, "ethtool", "-K", "eth0", "tx-udp-segmentation", "off")
	if u.w.prepare(h); h.nat == nil {
		u.w.hostsFile()
	}
	return h
}

// NATOptions choose how a NAT behaves.
type NATOptions struct {
	// Symmetric draws a new outside port for every destination, so that hole punching cannot predict it.
	Symmetric bool
}

// NAT is a home router: hosts behind it share its address, and nothing reaches them unasked.
type NAT struct {
	*Underlay        // the inside: a LAN without multicast to the outside
	ns        string // the NAT's own
	IP        netip.Addr
	outside   *Underlay
	options   NATOptions
	gateway   string
	round     int
}

// NAT makes a NAT on the cloud. Its hosts have IPv4 only, as those who need a NAT do.
func (u *Underlay) NAT(name string, o NATOptions) *NAT {
	u.w.T.Helper()
	n := u.subnet()
	ns := u.w.namespace(name)
	u.plug(name, ns, "out", n)
	nat := &NAT{ns: ns, outside: u, options: o, IP: netip.MustParseAddr(fmt.Sprintf("10.77.%d.2", n)), gateway: fmt.Sprintf("10.77.%d.1", n)}
	nat.Underlay = &Underlay{w: u.w, ns: ns, bridge: true, next: 2, prefix: "192.168.7", pre6: "fd07:", nat: nat}
	u.w.in(ns, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.bridge.bridge-nf-call-iptables=0")
	u.w.batch(ns, fmt.Sprintf(`link add sw type bridge mcast_snooping 0 forward_delay 0
addr add 192.168.7.1/24 dev sw
link set sw up
addr add %s/24 dev out
link set out up
route add default via %s
`, nat.IP, nat.gateway))
	u.w.nft(ns, `table bridge rig {
  counter multicast { }
  chain faults { }
  chain forward { type filter hook forward priority 0; policy accept;
    jump faults
  }
}
table inet filter {
  chain forward { type filter hook forward priority 0; policy drop;
    iifname "sw" oifname "out" accept
    ct state established,related accept
  }
  chain input { type filter hook input priority 0; policy accept;
    iifname "out" ct state new drop
  }
}`)
	nat.masquerade()
	return nat
}

// masquerade loads the translation. Each round has a port range of its own, so that a rebinding is seen outside.
func (n *NAT) masquerade() {
	n.w.T.Helper()
	low := 20000 + 5000*(n.round%8)
	how := fmt.Sprintf("masquerade to :%d-%d", low, low+4999)
	if n.options.Symmetric {
		how += " random,fully-random"
	}
	n.w.nft(n.ns, fmt.Sprintf(`table ip nat
delete table ip nat
table ip nat {
  chain postrouting { type nat hook postrouting priority 100; policy accept;
    oifname "out" meta l4proto { tcp, udp } %s
    oifname "out" masquerade
  }
}`, how))
}

// RebindNAT forgets every translation and gives new outside ports from now on: a home router that was switched off and on.
// The kernel forgets the translations of an address that is taken away.
func (n *NAT) RebindNAT() {
	n.w.T.Helper()
	n.round++
	n.w.batch(n.ns, fmt.Sprintf("addr del %s/24 dev out\n", n.IP))
	n.masquerade()
	n.w.batch(n.ns, fmt.Sprintf("addr add %s/24 dev out\nroute replace default via %s\n", n.IP, n.gateway))
}
