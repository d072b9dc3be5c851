package guard

import "slices"

// Numbers of protocols and messages in rules.
const (
	typeIP4, typeARP, typeIP6 = 0x0800, 0x0806, 0x86dd

	protoIGMP, protoTCP, protoUDP, protoICMP6, protoPIM = 2, 6, 17, 58, 103

	igmpQuery                                        = 0x11 // RFC 2236 section 2.1, RFC 3376 section 4
	igmpReport1, igmpReport2, igmpLeave, igmpReport3 = 0x12, 0x16, 0x17, 0x22

	icmpEcho, icmpEchoReply                    = 128, 129           // RFC 4443
	mldQuery, mldReport, mldDone, mldReport2   = 130, 131, 132, 143 // RFC 2710, RFC 3810
	ndRS, ndRA, ndNS, ndNA, ndRedirect         = 133, 134, 135, 136, 137
	ndSourceMAC, ndTargetMAC, ndNonce          = 0x0101, 0x0201, 0x0e01 // options with their length, in 8 bytes
	dhcp4Server, dhcp4Client, dhcp6Server      = 67, 68, 547
	ndBare, ndWithOption, rsBare, rsWithOption = 24, 32, 8, 16 // IPv6 payload lengths of neighbour discovery
)

// Names of the drops; docs and metrics use them.
const (
	dropMAC          = "source_mac"     // not the attachment's MAC
	dropEtherType    = "ethertype"      // VLAN, LLC, SNAP and all but IPv4, IPv6, ARP
	dropSTP          = "stp"            // to the addresses of bridge protocols
	dropARP          = "arp"            // claims a foreign MAC or address
	dropIP4Source    = "ip4_source"     // not the attachment's address
	dropIP4Malformed = "ip4_malformed"  // headers that cannot be read
	dropIGMPQuery    = "igmp_query"     //
	dropIGMPOther    = "igmp_other"     // neither report nor leave
	dropIGMPFragment = "igmp_fragment"  //
	dropPIM          = "pim"            // multicast routing from an attachment
	dropDHCP4        = "dhcp4_server"   //
	dropIP6Source    = "ip6_source"     //
	dropIP6Malformed = "ip6_malformed"  //
	dropRA           = "nd_router"      // router advertisement
	dropRedirect     = "nd_redirect"    //
	dropND           = "nd_forged"      // neighbour discovery for a foreign address or MAC, or of unusual form
	dropMLDQuery     = "mld_query"      //
	dropICMP6        = "icmp6_other"    // router renumbering, multicast router discovery, …
	dropICMP6Frag    = "icmp6_fragment" // RFC 6980
	dropDHCP6        = "dhcp6_server"   //
	dropStorm        = "broadcast_rate" // above the rate for frames to everybody
	dropGroupRate    = "group_rate"     // above the network's rate for groups
	dropGroup        = "group_denied"   // by the network's policy
	dropUplinkIGMP   = "uplink_igmp"    // kept off the uplink, or come by it
	dropUplinkMLD    = "uplink_mld"     //
	dropResolve      = "uplink_resolve" // asks a plain network's other hosts for an address that none of them is known to have
	dropVXLAN        = "vxlan_unready"  // by a plain network's device before it is an uplink in these rules
	dropControl      = "control_port"   // weft's own port, from an attachment
	dropHost         = "host_input"     // the host, from an attachment
	dropHostGroups   = "host_multicast" // copies of broadcasts and groups that a bridge passes up to the host
	dropVTEP         = "unknown_vtep"   // a plain network's packet from no host of it
	dropForward      = "host_forward"   // the host as a router between networks, or out of one
)

var bridgeDrops = []string{
	dropMAC, dropEtherType, dropSTP, dropARP, dropIP4Source, dropIP4Malformed, dropIGMPQuery, dropIGMPOther, dropIGMPFragment,
	dropPIM, dropDHCP4, dropIP6Source, dropIP6Malformed, dropRA, dropRedirect, dropND, dropMLDQuery, dropICMP6, dropICMP6Frag,
	dropDHCP6, dropStorm, dropGroupRate, dropGroup, dropUplinkIGMP, dropUplinkMLD, dropResolve, dropVXLAN,
}

var hostDrops = []string{dropControl, dropHost, dropHostGroups, dropForward}

// plainDrops are counted only where there is a plain network.
var plainDrops = []string{dropVTEP}

// when makes a rule that goes on elsewhere or accepts; deny one that counts and drops.
func when(v verdict, target string, ms ...match) Rule {
	return Rule{Matches: ms, Verdict: v, Target: target}
}

func deny(counter string, ms ...match) Rule {
	return Rule{Matches: ms, Counter: counter, Verdict: drop}
}

// Rules returns the filter for d. It does not look at bounds; Apply has.
func Rules(d Desired) *Ruleset {
	return &Ruleset{Tables: []Table{bridgeTable(d), hostTable(d)}}
}

// bridgeTable sees frames on their way into a bridge before the bridge itself does: before snooping, and before
// br_netfilter (priority 0).
func bridgeTable(d Desired) Table {
	toUplink := []Rule{
		deny(dropUplinkIGMP, is(l4Proto, []byte{protoIGMP}), in("uplinks", oifName)),
		deny(dropUplinkMLD, is(l4Proto, []byte{protoICMP6}), oneOf(icmpType, mldQuery, mldReport, mldDone, mldReport2), in("uplinks", oifName)),
	}
	// What is known the bridge has answered by now. Were it asked elsewhere, the answer would come before the kernel here knows where the
	// address is, and what is then sent there would be lost.
	resolve := []Rule{
		deny(dropResolve, is(etherType, u16(typeARP)), is(etherDst, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), is(arpOp, u16(1)), prefixed(oifName, VXLANPrefix)),
		deny(dropResolve, is(l4Proto, []byte{protoICMP6}), is(icmpType, []byte{ndNS}), masked(etherDst, []byte{0xff, 0xff, 0xff, 0, 0, 0}, []byte{0x33, 0x33, 0xff, 0, 0, 0}), prefixed(oifName, VXLANPrefix)),
	}
	return Table{
		Family: "bridge", Name: "weft", Counters: bridgeDrops,
		Sets: portSets(d),
		Chains: slices.Concat([]Chain{
			{Name: "group_rates4", Rules: groupRates(d, protoIGMP, dropIP4Malformed)},
			{Name: "group_rates6", Rules: groupRates(d, protoICMP6, dropIP6Malformed)},
			{Name: "policy4", Rules: policy(d, ip4Dst, "group_rates4")},
			{Name: "policy6", Rules: policy(d, ip6Dst, "group_rates6")},
			{Name: "broadcasts", Rules: broadcasts(d)},
		}, arpChains(), ip4Chains(), ip6Chains(), []Chain{
			{Name: "to_many", Rules: []Rule{
				deny(dropSTP, masked(etherDst, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}, []byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x00})),
				when(goTo, "broadcasts", is(etherDst, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})),
				when(goTo, "broadcasts", masked(etherDst, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0x00}, []byte{0x01, 0x00, 0x5e, 0x00, 0x00, 0x00})),
				when(goTo, "broadcasts", is(etherDst, []byte{0x33, 0x33, 0x00, 0x00, 0x00, 0x01})),
			}},
			{Name: "port", Rules: []Rule{ // what most frames pass comes first, here and below: each rule is a part of a packet's way
				deny(dropMAC, notIn("macs", iifName, etherSrc)),
				when(jump, "to_many", masked(etherDst, []byte{1, 0, 0, 0, 0, 0}, []byte{1, 0, 0, 0, 0, 0})),
				// The kernel shows a VLAN tag at this offset even when it has put the tag aside.
				when(goTo, "ip4", is(etherType, u16(typeIP4))),
				when(goTo, "ip6", is(etherType, u16(typeIP6))),
				when(goTo, "arp_frame", is(etherType, u16(typeARP))),
				deny(dropEtherType),
			}},
			// Other hosts have these guards too; what others answer for must still not reach snooping here.
			{Name: "from_uplink", Rules: []Rule{
				deny(dropUplinkIGMP, is(l4Proto, []byte{protoIGMP})),
				deny(dropUplinkMLD, is(l4Proto, []byte{protoICMP6}), oneOf(icmpType, mldQuery, mldReport, mldDone, mldReport2)),
				deny(dropRA, is(l4Proto, []byte{protoICMP6}), is(icmpType, []byte{ndRA})),
				deny(dropRedirect, is(l4Proto, []byte{protoICMP6}), is(icmpType, []byte{ndRedirect})),
			}},
			{Name: "pre", Hook: "prerouting", Priority: -300, Rules: []Rule{
				when(goTo, "port", prefixed(iifName, PortPrefix)),
				when(goTo, "from_uplink", in("uplinks", iifName)),
				// It outlives the daemon; the next one may have another opinion of it, or lack the means to guard it.
				deny(dropVXLAN, prefixed(iifName, VXLANPrefix)),
			}},
			{Name: "fw", Hook: "forward", Rules: slices.Concat(toUplink, resolve)},
			{Name: "ou", Hook: "output", Rules: toUplink},
		}),
	}
}

func arpChains() []Chain {
	ethernetIP4 := []byte{0, 1, 8, 0, 6, 4}
	return []Chain{{Name: "arp_frame", Rules: []Rule{
		deny(dropARP, isNot(arpForm, ethernetIP4)),
		deny(dropARP, notIn("macs", iifName, arpMAC)),
		when(accept, "", in("ip4s", iifName, arpIP)),
		when(accept, "", is(arpIP, []byte{0, 0, 0, 0}), is(arpOp, u16(1))), // probe, RFC 5227 section 2.1.1
		deny(dropARP),
	}}}
}

func ip4Chains() []Chain {
	return []Chain{
		{Name: "igmp_message", Rules: []Rule{
			deny(dropIGMPFragment, maskedNot(ip4Frag, u16(0x3fff), u16(0))), // more to come, or an offset
			deny(dropIGMPQuery, is(igmpType, []byte{igmpQuery})),
			when(accept, "", oneOf(igmpType, igmpReport1, igmpReport2, igmpLeave, igmpReport3)),
			deny(dropIGMPOther),
		}},
		{Name: "ip4_payload", Rules: []Rule{
			when(accept, "", is(l4Proto, []byte{protoTCP}), maskedNot(ip4Dst, []byte{0xf0, 0, 0, 0}, []byte{0xe0, 0, 0, 0})),
			when(goTo, "igmp_message", is(l4Proto, []byte{protoIGMP})),
			deny(dropDHCP4, is(l4Proto, []byte{protoUDP}), is(srcPort, u16(dhcp4Server))),
			deny(dropPIM, is(l4Proto, []byte{protoPIM})),
			when(goTo, "policy4", masked(ip4Dst, []byte{0xf0, 0, 0, 0}, []byte{0xe0, 0, 0, 0})),
			when(accept, "", isNot(l4Proto, []byte{protoIGMP})),
			deny(dropIP4Malformed),
		}},
		{Name: "ip4", Rules: []Rule{
			when(goTo, "ip4_payload", in("ip4s", iifName, ip4Src)),
			when(goTo, "igmp_message", is(ip4Src, []byte{0, 0, 0, 0}), is(l4Proto, []byte{protoIGMP})),
			when(accept, "", is(ip4Src, []byte{0, 0, 0, 0}), is(ip4Dst, []byte{255, 255, 255, 255}),
				is(l4Proto, []byte{protoUDP}), is(srcPort, u16(dhcp4Client)), is(dstPort, u16(dhcp4Server))),
			deny(dropIP4Source),
		}},
	}
}

func ip6Chains() []Chain {
	unspecified := make([]byte, 16)
	length := func(n uint16) match { return is(ip6Len, u16(n)) }
	return []Chain{
		// Neighbour discovery is admitted by its exact form: no extension header (RFC 6980), no option or the one that fits.
		{Name: "nd_probe", Rules: []Rule{ // duplicate address detection, RFC 4862 section 5.4; nonce: RFC 7527
			deny(dropND, isNot(ip6Next, []byte{protoICMP6})),
			deny(dropND, notIn("ip6s", iifName, ndTarget)),
			when(accept, "", length(ndBare)),
			when(accept, "", length(ndWithOption), is(ndOption, u16(ndNonce))),
			deny(dropND),
		}},
		{Name: "nd_solicitation", Rules: []Rule{
			deny(dropND, isNot(ip6Next, []byte{protoICMP6})),
			when(accept, "", length(ndBare)),
			when(accept, "", length(ndWithOption), is(ndOption, u16(ndSourceMAC)), in("macs", iifName, ndOptionMAC)),
			deny(dropND),
		}},
		{Name: "nd_advertisement", Rules: []Rule{
			deny(dropND, isNot(ip6Next, []byte{protoICMP6})),
			deny(dropND, notIn("ip6s", iifName, ndTarget)),
			when(accept, "", length(ndBare)),
			when(accept, "", length(ndWithOption), is(ndOption, u16(ndTargetMAC)), in("macs", iifName, ndOptionMAC)),
			deny(dropND),
		}},
		{Name: "nd_router_solicitation", Rules: []Rule{
			deny(dropND, isNot(ip6Next, []byte{protoICMP6})),
			when(accept, "", length(rsBare)),
			when(accept, "", length(rsWithOption), is(rsOption, u16(ndSourceMAC)), in("macs", iifName, rsOptionMAC)),
			deny(dropND),
		}},
		{Name: "icmp6_fragments", Rules: []Rule{
			deny(dropIP6Source, notIn("ip6s", iifName, ip6Src)),
			when(accept, "", oneOf(icmpType, icmpEcho, icmpEchoReply)),
			when(accept, "", maskedNot(fragOff, u16(0xfff8), u16(0))), // of no use without its first
			deny(dropICMP6Frag),
		}},
		{Name: "icmp6_unspecified", Rules: []Rule{
			when(accept, "", oneOf(icmpType, mldReport, mldDone, mldReport2)), // before the first address is ready, RFC 3590
			when(goTo, "nd_probe", is(icmpType, []byte{ndNS})),
			deny(dropIP6Source),
		}},
		{Name: "icmp6_message", Rules: []Rule{
			when(goTo, "icmp6_fragments", is(fragThere, []byte{1})),
			deny(dropRA, is(icmpType, []byte{ndRA})),
			deny(dropRedirect, is(icmpType, []byte{ndRedirect})),
			deny(dropMLDQuery, is(icmpType, []byte{mldQuery})),
			when(goTo, "icmp6_unspecified", is(ip6Src, unspecified)),
			deny(dropIP6Source, notIn("ip6s", iifName, ip6Src)),
			when(goTo, "nd_solicitation", is(icmpType, []byte{ndNS})),
			when(goTo, "nd_advertisement", is(icmpType, []byte{ndNA})),
			when(goTo, "nd_router_solicitation", is(icmpType, []byte{ndRS})),
			when(accept, "", oneOf(icmpType, 1, 2, 3, 4, icmpEcho, icmpEchoReply, mldReport, mldDone, mldReport2)),
			deny(dropICMP6),
		}},
		{Name: "ip6_payload", Rules: []Rule{
			deny(dropPIM, is(l4Proto, []byte{protoPIM})),
			when(goTo, "policy6", masked(ip6Dst, append([]byte{0xff}, make([]byte, 15)...), append([]byte{0xff}, make([]byte, 15)...))),
			when(accept, "", isNot(l4Proto, []byte{protoICMP6})),
			deny(dropIP6Malformed),
		}},
		{Name: "ip6_udp", Rules: []Rule{
			deny(dropDHCP6, is(srcPort, u16(dhcp6Server))),
			when(goTo, "ip6_payload", isNot(srcPort, u16(dhcp6Server))),
			when(goTo, "ip6_payload", maskedNot(fragOff, u16(0xfff8), u16(0))),
			deny(dropIP6Malformed), // a first fragment that hides its ports, RFC 7112
		}},
		{Name: "ip6", Rules: []Rule{
			when(goTo, "icmp6_message", is(l4Proto, []byte{protoICMP6})),
			deny(dropIP6Source, notIn("ip6s", iifName, ip6Src)),
			when(goTo, "ip6_udp", is(l4Proto, []byte{protoUDP})),
			when(goTo, "ip6_payload"),
		}},
	}
}

// broadcasts bounds what goes to all attachments of a network. Groups that nobody joined are not in it: a bridge with
// snooping on delivers them to nobody.
func broadcasts(d Desired) []Rule {
	var rs []Rule
	for _, n := range d.Networks {
		if n.Rate == 0 {
			continue
		}
		of := in(portsOf(n.Bridge), iifName)
		rs = append(rs,
			Rule{Matches: []match{of}, Limit: &limit{"broadcast_rates", iifName, n.Rate}, Counter: dropStorm, Verdict: drop},
			when(back, "", of))
	}
	return append(rs, Rule{Limit: &limit{"broadcast_rates", iifName, DefaultRate}, Counter: dropStorm, Verdict: drop})
}

// policy decides on packets to groups: by the network's lists, then by its rate.
func policy(d Desired, dst field, then string) []Rule {
	var rs []Rule
	for _, n := range d.Networks {
		of := in(portsOf(n.Bridge), iifName)
		for _, p := range n.DenyGroups {
			if p.Addr().Is4() == (dst.kind == kindIP4) {
				rs = append(rs, deny(dropGroup, of, within(dst, p)))
			}
		}
		for _, p := range n.AllowGroups {
			if p.Addr().Is4() == (dst.kind == kindIP4) {
				rs = append(rs, when(goTo, then, of, within(dst, p)))
			}
		}
		if len(n.AllowGroups) > 0 {
			rs = append(rs, deny(dropGroup, of))
		}
	}
	return append(rs, when(goTo, then))
}

// groupRates ends a packet's way; other is the protocol that never comes here.
func groupRates(d Desired, other byte, malformed string) []Rule {
	var rs []Rule
	for _, n := range d.Networks {
		if n.GroupRate > 0 {
			rs = append(rs, Rule{Matches: []match{in(portsOf(n.Bridge), iifName)}, Limit: &limit{"group_rates", iifName, n.GroupRate}, Counter: dropGroupRate, Verdict: drop})
		}
	}
	return append(rs, when(accept, "", isNot(l4Proto, []byte{other})), deny(malformed))
}

// hostTable keeps attachments away from the host: from its addresses, and from the host as a router.
func hostTable(d Desired) Table {
	control := u16(d.ControlPort)
	t := Table{Family: "inet", Name: "weft", Counters: hostDrops}
	var same []string
	for _, n := range d.Networks {
		same = append(same, key(ifname(n.Bridge), ifname(n.Bridge)))
	}
	t.Sets = []Set{newSet("bridged", MaxNetworks, same, kindName, kindName)}
	t.Chains = []Chain{
		{Name: "control", Rules: []Rule{
			deny(dropControl, is(l4Proto, []byte{protoUDP}), is(dstPort, control)),
			deny(dropControl, is(l4Proto, []byte{protoTCP}), is(dstPort, control)),
		}},
		{Name: "from_bridge", Rules: []Rule{
			when(jump, "control"),
			when(accept, "", is(family, []byte{familyIP6}), is(l4Proto, []byte{protoICMP6}), oneOf(icmpType, ndNS, ndNA)),
			deny(dropHostGroups, isNot(packetType, []byte{0})),
			deny(dropHost),
		}},
		// Bridged frames pass here too where br_netfilter is on: by the same bridge in and out.
		{Name: "fw", Hook: "forward", Priority: -150, Rules: []Rule{
			when(accept, "", prefixed(iifName, BridgePrefix), in("bridged", iifName, oifName)),
			deny(dropForward, prefixed(iifName, BridgePrefix)),
			deny(dropForward, prefixed(oifName, BridgePrefix)),
			deny(dropForward, prefixed(iifName, ExposePrefix), prefixed(oifName, ExposePrefix)),
		}},
	}
	input := []Rule{when(goTo, "from_bridge", prefixed(iifName, BridgePrefix))}
	if sets, chain := vtepFilter(d); len(sets) > 0 {
		t.Sets, t.Chains, t.Counters = append(t.Sets, sets...), append(t.Chains, chain), slices.Concat(hostDrops, plainDrops)
		input = append(input, when(jump, chain.Name, is(l4Proto, []byte{protoUDP}), is(dstPort, u16(d.VXLANPort))))
	}
	input = append(input, when(goTo, "control", prefixed(iifName, ExposePrefix)))
	t.Chains = append(t.Chains, Chain{Name: "in", Hook: "input", Priority: -150, Rules: input})
	return t
}

// vtepFilter lets packets of plain networks in from their VTEPs only. A host without plain networks has no such rules.
func vtepFilter(d Desired) ([]Set, Chain) {
	var vnis, vteps4, vteps6 []string
	for _, n := range d.Networks {
		if n.VNI == 0 {
			continue
		}
		vnis = append(vnis, key(u24(n.VNI)))
		for _, a := range n.VTEPs {
			if a = a.Unmap(); a.Is4() {
				vteps4 = append(vteps4, key(u24(n.VNI), a.AsSlice()))
			} else {
				vteps6 = append(vteps6, key(u24(n.VNI), a.AsSlice()))
			}
		}
	}
	if len(vnis) == 0 {
		return nil, Chain{}
	}
	ip4, ip6 := is(family, []byte{familyIP4}), is(family, []byte{familyIP6})
	return []Set{
			newSet("plain_vnis", MaxNetworks, vnis, kindVNI),
			newSet("vteps4", MaxVTEPs, vteps4, kindVNI, kindIP4),
			newSet("vteps6", MaxVTEPs, vteps6, kindVNI, kindIP6),
		}, Chain{Name: "vxlan", Rules: []Rule{
			deny(dropVTEP, in("plain_vnis", vxlanVNI), ip4, notIn("vteps4", vxlanVNI, ip4Src)),
			deny(dropVTEP, in("plain_vnis", vxlanVNI), ip6, notIn("vteps6", vxlanVNI, ip6Src)),
			// Input sees IPv6 fragments (IPv4 ones are joined before): one too short to show its VNI must not pass for another
			// program's. 0 is no network's number, so the match holds for all that can be read.
			when(back, "", isNot(vxlanVNI, u24(0))),
			deny(dropVTEP, ip6, is(fragThere, []byte{1})),
		}}
}

// portSets holds who may send what by which port.
func portSets(d Desired) []Set {
	var macs, ip4s, ip6s, uplinks []string
	for _, p := range d.Ports {
		name := ifname(p.Name)
		macs = append(macs, key(name, p.MAC[:]))
		ll := linkLocal(p.MAC).As16()
		ip6s = append(ip6s, key(name, ll[:]))
		for _, a := range p.IPs {
			if a = a.Unmap(); a.Is4() {
				ip4s = append(ip4s, key(name, a.AsSlice()))
			} else {
				ip6s = append(ip6s, key(name, a.AsSlice()))
			}
		}
	}
	for _, n := range d.Networks {
		if n.Uplink != "" {
			uplinks = append(uplinks, key(ifname(n.Uplink)))
		}
	}
	limits := func(name string) Set { return Set{Name: name, Parts: []kind{kindName}, Size: MaxPorts, Limits: true} }
	sets := []Set{
		newSet("macs", MaxPorts, macs, kindName, kindMAC),
		newSet("ip4s", MaxAddrs, ip4s, kindName, kindIP4),
		newSet("ip6s", MaxAddrs, ip6s, kindName, kindIP6),
		newSet("uplinks", MaxNetworks, uplinks, kindName),
		limits("broadcast_rates"), limits("group_rates"),
	}
	for _, n := range d.Networks {
		if !n.hasPolicy() {
			continue
		}
		var ports []string
		for _, p := range d.Ports {
			if p.Bridge == n.Bridge {
				ports = append(ports, key(ifname(p.Name)))
			}
		}
		sets = append(sets, newSet(portsOf(n.Bridge), MaxPorts, ports, kindName))
	}
	return sets
}

// portsOf names the set of a network's ports. Not every kernel can match on the bridge itself (nft_meta_bridge).
func portsOf(bridge string) string { return "ports_" + bridge }

func newSet(name string, size uint32, elements []string, parts ...kind) Set {
	slices.Sort(elements)
	return Set{Name: name, Parts: parts, Size: size, Elements: slices.Compact(elements)}
}
