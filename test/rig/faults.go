package rig

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Fault undoes what a fault method did.
type Fault func()

// setFault installs, replaces (or with empty rules removes) a named part of the forward chain.
func (u *Underlay) setFault(name, rules string) Fault {
	u.w.T.Helper()
	if u.blocks == nil {
		u.blocks = map[string]string{}
	}
	if rules == "" {
		delete(u.blocks, name)
	} else {
		u.blocks[name] = rules
	}
	var b strings.Builder
	fmt.Fprintf(&b, "flush chain %s rig faults\ntable %s rig {\n chain faults {\n", u.family(), u.family())
	for _, n := range slices.Sorted(maps.Keys(u.blocks)) {
		b.WriteString(u.blocks[n])
	}
	b.WriteString(" }\n}\n")
	u.w.nft(u.ns, b.String())
	return func() {
		if u.blocks[name] != "" {
			u.setFault(name, "")
		}
	}
}

// Heal removes every fault of the forward path.
func (u *Underlay) Heal() {
	u.w.T.Helper()
	u.blocks = nil
	u.setFault("", "")
}

// chance is an nft match that takes a share of the packets, in tenths of a percent.
func chance(percent float64) string {
	n := int(percent*10 + 0.5)
	if n >= 1000 {
		return ""
	}
	return fmt.Sprintf("numgen random mod 1000 < %d", n)
}

// Loss drops a share of all packets, at random.
func (u *Underlay) Loss(percent float64) Fault {
	u.w.T.Helper()
	return u.setFault("loss", "  "+chance(percent)+" drop\n")
}

// Corrupt changes one byte of the payload of a share of all UDP datagrams. veth checks no checksum: the receiver gets them.
func (u *Underlay) Corrupt(percent float64) Fault {
	u.w.T.Helper()
	l4 := "meta l4proto udp"
	if u.bridge {
		l4 = "ip protocol udp"
	}
	return u.setFault("corrupt", fmt.Sprintf("  %s %s @th,200,8 set 0x41\n", l4, chance(percent)))
}

// BlackHole drops packets longer than n bytes and says nothing: a path whose MTU nobody tells.
func (u *Underlay) BlackHole(n int) Fault {
	u.w.T.Helper()
	return u.setFault("blackhole", fmt.Sprintf("  meta length > %d drop\n", n))
}

// BlackHoleFrom is BlackHole for what one host sends another.
func (u *Underlay) BlackHoleFrom(from, to *Host, n int) Fault {
	u.w.T.Helper()
	a, b := u.port(from), u.port(to)
	return u.setFault("blackhole "+a+" "+b, fmt.Sprintf("  iifname %q oifname %q meta length > %d drop\n", a, b, n))
}

// BlackHoleBetween is BlackHole for what two hosts send each other.
func (u *Underlay) BlackHoleBetween(a, b *Host, n int) Fault {
	u.w.T.Helper()
	there, back := u.BlackHoleFrom(a, b, n), u.BlackHoleFrom(b, a, n)
	return func() { there(); back() }
}

// Block cuts two hosts, or the NATs they are behind, off from each other.
func (u *Underlay) Block(a, b *Host) Fault {
	u.w.T.Helper()
	pa, pb := u.port(a), u.port(b)
	return u.setFault("block "+pa+" "+pb, fmt.Sprintf("  iifname %q oifname %q drop\n  iifname %[2]q oifname %[1]q drop\n", pa, pb))
}

// BlockUDP cuts UDP only between two hosts; TCP still works.
func (u *Underlay) BlockUDP(a, b *Host) Fault {
	u.w.T.Helper()
	pa, pb := u.port(a), u.port(b)
	l4 := "meta l4proto udp"
	if u.bridge {
		l4 = "ip protocol udp"
	}
	return u.setFault("blockudp "+pa+" "+pb,
		fmt.Sprintf("  iifname %q oifname %q %s drop\n  iifname %[2]q oifname %[1]q %[3]s drop\n", pa, pb, l4))
}

// Unblock undoes Block and BlockUDP of two hosts.
func (u *Underlay) Unblock(a, b *Host) {
	u.w.T.Helper()
	pa, pb := u.port(a), u.port(b)
	for _, kind := range []string{"block ", "blockudp "} {
		for _, pair := range []string{pa + " " + pb, pb + " " + pa} {
			if u.blocks[kind+pair] != "" {
				u.setFault(kind+pair, "")
			}
		}
	}
}

// BlockPort drops UDP datagrams to a port on their way from one host to another.
func (u *Underlay) BlockPort(from, to *Host, udpPort int) Fault {
	u.w.T.Helper()
	a, b := u.port(from), u.port(to)
	return u.setFault(fmt.Sprintf("blockport %s %s %d", a, b, udpPort), fmt.Sprintf("  iifname %q oifname %q udp dport %d drop\n", a, b, udpPort))
}

// Partition lets hosts talk inside their group only. Hosts in no group are cut off from all.
func (u *Underlay) Partition(groups ...[]*Host) Fault {
	u.w.T.Helper()
	var rules strings.Builder
	for _, g := range groups {
		for _, a := range g {
			for _, b := range g {
				if a != b {
					fmt.Fprintf(&rules, "  iifname %q oifname %q accept\n", u.port(a), u.port(b))
				}
			}
		}
	}
	rules.WriteString("  drop\n")
	return u.setFault("~partition", rules.String()) // "~" sorts last: other faults come first
}

// Cut takes a host off the underlay; Fault plugs it in again.
func (u *Underlay) Cut(h *Host) Fault {
	u.w.T.Helper()
	p := u.port(h)
	return u.setFault("cut "+p, fmt.Sprintf("  iifname %q drop\n  oifname %[1]q drop\n", p))
}

// Deafen drops what multicast a LAN carries to a host. Neighbour discovery of IPv6 goes on.
func (u *Underlay) Deafen(h *Host) Fault {
	u.w.T.Helper()
	return u.setFault("deaf "+h.Name, fmt.Sprintf("  oifname %q ip daddr 224.0.0.0/4 drop\n  oifname %q ip6 daddr ff10::/12 drop\n", u.port(h), u.port(h)))
}

// DeafenIPv4 drops what IPv4 multicast a LAN carries to a host; that of IPv6 goes on.
func (u *Underlay) DeafenIPv4(h *Host) Fault {
	u.w.T.Helper()
	return u.setFault("deaf in IPv4 "+h.Name, fmt.Sprintf("  oifname %q ip daddr 224.0.0.0/4 drop\n", u.port(h)))
}

// Dup delivers a share of the packets to each host twice.
func (u *Underlay) Dup(percent float64) Fault {
	u.w.T.Helper()
	var b strings.Builder
	b.WriteString("table netdev rigdup {\n")
	for i, p := range u.ports {
		fmt.Fprintf(&b, " chain c%d { type filter hook egress device %q priority 0; policy accept;\n  %s dup to %q\n }\n",
			i, p, chance(percent), p)
	}
	b.WriteString("}\n")
	u.w.nft(u.ns, b.String())
	return func() { u.w.nft(u.ns, "table netdev rigdup\ndelete table netdev rigdup\n") }
}

// MTU sets the MTU of every host's underlay interface and of the underlay's ports.
func (u *Underlay) MTU(n int) {
	u.w.T.Helper()
	var b strings.Builder
	for _, p := range u.ports {
		fmt.Fprintf(&b, "link set %s mtu %d\n", p, n)
	}
	u.w.batch(u.ns, b.String())
	for _, h := range u.w.Hosts() {
		if h.u == u {
			u.w.batch(h.NS, fmt.Sprintf("link set eth0 mtu %d\n", n))
		}
	}
}

// port is the underlay's port towards a host: its own, or its NAT's.
func (u *Underlay) port(h *Host) string {
	u.w.T.Helper()
	name := h.Name
	if h.nat != nil && h.u != u {
		name = strings.TrimPrefix(h.nat.ns, u.w.prefix+"-")
	}
	if !slices.Contains(u.ports, name) {
		u.w.T.Fatalf("%s is not on this underlay", h.Name)
	}
	return name
}
