package fdb

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
)

// Hosts of the tests, in the order of their ids.
var (
	self  = ident.HostID{1}
	hostB = ident.HostID{2}
	hostC = ident.HostID{3}
	hostD = ident.HostID{4}
	hostX = ident.HostID{9} // has no link
)

var peers = map[ident.HostID]*link.Peer{hostB: {ID: hostB}, hostC: {ID: hostC}, hostD: {ID: hostD}}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func mac(host, n byte) MAC { return MAC{2, 0, 0, 0, host, n} }

// groupMAC maps a group to its MAC (RFC 1112 section 6.4, RFC 2464 section 7).
func groupMAC(g netip.Addr) MAC {
	if g.Is4() {
		b := g.As4()
		return MAC{1, 0, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	b := g.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

func ether(dst, src MAC, etherType uint16, payload []byte) []byte {
	f := append(append([]byte{}, dst[:]...), src[:]...)
	return append(binary.BigEndian.AppendUint16(f, etherType), payload...)
}

func packet(proto byte, src, dst netip.Addr, payload ...byte) (uint16, []byte) {
	if dst.Is4() {
		p := make([]byte, 20)
		p[0], p[8], p[9] = 0x45, 1, proto
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
		s, d := src.As4(), dst.As4()
		copy(p[12:], s[:])
		copy(p[16:], d[:])
		return typeIPv4, append(p, payload...)
	}
	p := make([]byte, 40)
	p[0], p[6], p[7] = 0x60, proto, 1
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	s, d := src.As16(), dst.As16()
	copy(p[8:], s[:])
	copy(p[24:], d[:])
	return typeIPv6, append(p, payload...)
}

func groupFrame(src, group string) []byte {
	s, g := addr(src), addr(group)
	t, p := packet(17, s, g, make([]byte, 16)...)
	return ether(groupMAC(g), mac(1, 1), t, p)
}

func unicastFrame(dst MAC) []byte {
	t, p := packet(17, addr("10.0.0.1"), addr("10.0.0.2"), 1, 2, 3)
	return ether(dst, mac(1, 1), t, p)
}

func arpRequest(target string) []byte {
	p := make([]byte, 28)
	copy(p, []byte{0, 1, 8, 0, 6, 4, 0, 1})
	t := addr(target).As4()
	copy(p[24:], t[:])
	return ether(MAC{255, 255, 255, 255, 255, 255}, mac(1, 1), typeARP, p)
}

func solicitation(target string) []byte {
	t := addr(target)
	b := t.As16()
	g := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
	et, p := packet(58, addr("fe80::1"), g, append([]byte{icmpSolicit, 0, 0, 0, 0, 0, 0, 0}, b[:]...)...)
	return ether(groupMAC(g), mac(1, 1), et, p)
}

func input() Input {
	return Input{
		VNI:  7,
		Self: self,
		Remotes: []Remote{
			{mac(1, 1), self, []netip.Addr{addr("10.0.0.1")}},
			{mac(2, 1), hostB, []netip.Addr{addr("10.0.0.2"), addr("fe80::2")}},
			{mac(3, 1), hostC, []netip.Addr{addr("10.0.0.3")}},
			{mac(9, 1), hostX, nil},
		},
		Hosts: []ident.HostID{self, hostD, hostB, hostC, hostB, hostX},
		Members: []Member{
			{Host: hostB, Group: addr("239.1.1.1")},
			{Host: self, Group: addr("239.1.1.1")},
			{Host: self, Group: addr("239.9.9.9")},
			{Host: hostC, Group: addr("239.1.1.1"), Mode: Include, Sources: []netip.Addr{addr("10.0.0.1")}},
			{Host: hostD, Group: addr("239.1.1.1"), Sources: []netip.Addr{addr("10.0.0.1"), addr("10.0.0.9")}},
			{Host: hostC, Group: addr("ff02::fb")},
			{Host: hostD, Group: addr("232.1.1.1"), Mode: Include, Sources: []netip.Addr{addr("10.0.0.9")}},
		},
		Peer: func(id ident.HostID) *link.Peer { return peers[id] },
	}
}

func ids(d Decision) (out []ident.HostID) {
	for _, p := range d.To {
		out = append(out, p.ID)
	}
	return out
}

func TestLookup(t *testing.T) {
	tagged := unicastFrame(mac(2, 1))
	binary.BigEndian.PutUint16(tagged[12:], typeVLAN)
	wrongMAC := groupFrame("10.0.0.1", "239.1.1.1")
	wrongMAC[5]++
	wrongMAC6 := groupFrame("fe80::1", "ff02::fb")
	wrongMAC6[5]++
	hidden := groupFrame("10.0.0.1", "239.1.1.1")
	copy(hidden, []byte{255, 255, 255, 255, 255, 255})
	igmpType, igmp := packet(protoIGMP, addr("10.0.0.1"), addr("224.0.0.22"))
	mldType, mld := packet(0, addr("fe80::1"), addr("ff02::16"), append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, icmpMLD2Report, 0, 0, 0)...)
	queryType, query := packet(0, addr("fe80::1"), addr("ff02::1"), append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, icmpMLDQuery, 0, 0, 0)...)
	bcastType, bcast := packet(17, addr("10.0.0.1"), addr("10.0.0.255"))
	everyone := []ident.HostID{hostB, hostC, hostD}
	bmac := MAC{255, 255, 255, 255, 255, 255}

	table := Build(input())
	for _, c := range []struct {
		name  string
		frame []byte
		drop  Drop
		one   bool
		flood bool
		to    []ident.HostID
	}{
		{"empty", nil, DropShort, false, false, nil},
		{"cut header", unicastFrame(mac(2, 1))[:13], DropShort, false, false, nil},
		{"known unicast", unicastFrame(mac(2, 1)), Deliver, true, false, []ident.HostID{hostB}},
		{"unknown unicast", unicastFrame(mac(8, 8)), DropUnknownUnicast, true, false, nil},
		{"unicast to own attachment", unicastFrame(mac(1, 1)), DropLocal, true, false, nil},
		{"unicast to host without link", unicastFrame(mac(9, 1)), DropNobody, true, false, nil},
		{"vlan tag", tagged, DropVLAN, false, false, nil},
		{"broadcast", ether(bmac, mac(1, 1), bcastType, bcast), Deliver, false, true, everyone},
		{"broadcast of no IP", ether(bmac, mac(1, 1), 0x88b5, []byte{1}), Deliver, false, true, everyone},
		{"group in a broadcast", hidden, DropMalformed, false, false, nil},
		{"mDNS", groupFrame("10.0.0.1", "224.0.0.251"), Deliver, false, true, everyone},
		{"all nodes", groupFrame("fe80::1", "ff02::1"), Deliver, false, true, everyone},
		{"mDNS in IPv6 is selective", groupFrame("fe80::1", "ff02::fb"), Deliver, false, false, []ident.HostID{hostC}},
		{"SSDP without members", groupFrame("10.0.0.1", "239.255.255.250"), DropNoMember, false, false, nil},
		{"(*,G), included source, excluded source", groupFrame("10.0.0.1", "239.1.1.1"), Deliver, false, false, []ident.HostID{hostB, hostC}},
		{"(*,G), not included, not excluded", groupFrame("10.0.0.7", "239.1.1.1"), Deliver, false, false, []ident.HostID{hostB, hostD}},
		{"(*,G), not included, excluded", groupFrame("10.0.0.9", "239.1.1.1"), Deliver, false, false, []ident.HostID{hostB}},
		{"SSM, wanted", groupFrame("10.0.0.9", "232.1.1.1"), Deliver, false, false, []ident.HostID{hostD}},
		{"SSM, other source", groupFrame("10.0.0.1", "232.1.1.1"), DropNoMember, false, false, nil},
		{"members here only", groupFrame("10.0.0.1", "239.9.9.9"), DropNoMember, false, false, nil},
		{"MAC of another group", wrongMAC, DropMalformed, false, false, nil},
		{"MAC of another IPv6 group", wrongMAC6, DropMalformed, false, false, nil},
		{"cut IPv4", groupFrame("10.0.0.1", "239.1.1.1")[:33], DropMalformed, false, false, nil},
		{"cut IPv6", groupFrame("fe80::1", "ff02::fb")[:53], DropMalformed, false, false, nil},
		{"IGMP report", ether(groupMAC(addr("224.0.0.22")), mac(1, 1), igmpType, igmp), DropIGMP, false, false, nil},
		{"MLD report", ether(groupMAC(addr("ff02::16")), mac(1, 1), mldType, mld), DropMLD, false, false, nil},
		{"MLD query", ether(groupMAC(addr("ff02::1")), mac(1, 1), queryType, query), DropMLD, false, false, nil},
		{"STP", ether(MAC{1, 0x80, 0xc2, 0, 0, 0}, mac(1, 1), 0x27, []byte{0x42}), DropLinkControl, false, false, nil},
		{"group MAC of no IP", ether(MAC{1, 0x1b, 0x19}, mac(1, 1), 0x88f7, []byte{0}), DropNonIP, false, false, nil},
		{"group as source", ether(mac(2, 1), MAC{3}, typeIPv4, nil), DropMalformed, false, false, nil},
		{"ARP, known", arpRequest("10.0.0.3"), Deliver, true, false, []ident.HostID{hostC}},
		{"ARP, unknown", arpRequest("10.0.0.77"), DropARPUnknown, true, false, nil},
		{"ARP, own", arpRequest("10.0.0.1"), DropLocal, true, false, nil},
		{"ARP, cut", arpRequest("10.0.0.3")[:41], DropMalformed, false, false, nil},
		{"ND, known", solicitation("fe80::2"), Deliver, true, false, []ident.HostID{hostB}},
		{"ND, unknown", solicitation("fe80::77"), DropNDUnknown, true, false, nil},
		{"ND, cut", solicitation("fe80::2")[:70], DropMalformed, false, false, nil},
	} {
		d := table.Lookup(c.frame)
		if d.Drop != c.drop || d.One != c.one || d.Flood != c.flood || !slices.Equal(ids(d), c.to) {
			t.Errorf("%s: drop %q one %v flood %v to %v; want drop %q one %v flood %v to %v",
				c.name, d.Drop, d.One, d.Flood, ids(d), c.drop, c.one, c.flood, c.to)
		}
		if d.Drop == Deliver && d.Counters == nil {
			t.Errorf("%s: delivered but not counted", c.name)
		}
	}
	if table.Others() != 3 {
		t.Errorf("Others() = %d, want 3: B, C, D", table.Others())
	}
}

// Two members of one host add up as RFC 3376 section 3.2 says.
func TestMembersOfOneHostAddUp(t *testing.T) {
	g, s1, s2 := addr("239.5.5.5"), addr("10.0.0.51"), addr("10.0.0.52")
	for _, c := range []struct {
		name           string
		members        []Member
		s1, s2, others bool
	}{
		{"exclude both lists: only what both exclude", []Member{{Sources: []netip.Addr{s1, s2}}, {Sources: []netip.Addr{s2}}}, true, false, true},
		{"exclude and plain join: all", []Member{{Sources: []netip.Addr{s1}}, {}}, true, true, true},
		{"include beats exclude", []Member{{Sources: []netip.Addr{s1, s2}}, {Mode: Include, Sources: []netip.Addr{s1}}}, true, false, true},
		{"includes add up", []Member{{Mode: Include, Sources: []netip.Addr{s1}}, {Mode: Include, Sources: []netip.Addr{s2}}}, true, true, false},
		{"include nothing is no member", []Member{{Mode: Include}}, false, false, false},
	} {
		in := input()
		in.Members = nil
		for _, m := range c.members {
			m.Host, m.Group = hostB, g
			in.Members = append(in.Members, m)
		}
		for order := range 2 {
			table := Build(in)
			for src, want := range map[string]bool{"10.0.0.51": c.s1, "10.0.0.52": c.s2, "10.0.0.99": c.others} {
				if got := table.Lookup(groupFrame(src, g.String())).Drop == Deliver; got != want {
					t.Errorf("%s (order %d): source %s delivered %v, want %v", c.name, order, src, got, want)
				}
			}
			slices.Reverse(in.Members)
		}
	}
}

func TestInbound(t *testing.T) {
	table := Build(input())
	from := func(f []byte, src MAC) []byte {
		copy(f[6:], src[:])
		return f
	}
	for _, c := range []struct {
		name  string
		frame []byte
		drop  Drop
	}{
		{"unicast to us", from(unicastFrame(mac(1, 1)), mac(2, 1)), Deliver},
		{"source not known yet", from(unicastFrame(mac(1, 1)), mac(2, 200)), Deliver},
		{"source is another host's", from(unicastFrame(mac(1, 1)), mac(3, 1)), DropWrongSource},
		{"source is ours", from(unicastFrame(mac(1, 7)), mac(1, 1)), DropWrongSource},
		{"addressed to a third", from(unicastFrame(mac(3, 1)), mac(2, 1)), DropStray},
		{"group", from(groupFrame("10.0.0.2", "239.1.1.1"), mac(2, 1)), Deliver},
		{"ARP", from(arpRequest("10.0.0.1"), mac(2, 1)), Deliver},
		{"IGMP", from(func() []byte {
			et, p := packet(protoIGMP, addr("10.0.0.2"), addr("224.0.0.1"))
			return ether(groupMAC(addr("224.0.0.1")), MAC{}, et, p)
		}(), mac(2, 1)), DropIGMP},
	} {
		counters, drop := table.Inbound(c.frame, hostB)
		if drop != c.drop || (drop == Deliver) != (counters != nil) {
			t.Errorf("%s: %q, counted %v; want %q", c.name, drop, counters != nil, c.drop)
		}
	}
}

func TestPolicy(t *testing.T) {
	in := input()
	in.Policy = Policy{
		Allow: []netip.Prefix{netip.MustParsePrefix("239.0.0.0/8"), netip.MustParsePrefix("224.0.0.251/32")},
		Deny:  []netip.Prefix{netip.MustParsePrefix("239.1.1.1/32")},
	}
	in.Members = append(in.Members, Member{Host: hostB, Group: addr("239.2.2.2")}, Member{Host: hostB, Group: addr("ff02::1:ff00:2")})
	table := Build(in)
	for g, want := range map[string]Drop{
		"239.1.1.1": DropDeniedGroup, "239.2.2.2": Deliver, "239.3.3.3": DropNoMember, "225.1.1.1": DropDeniedGroup,
		"224.0.0.251": Deliver, "224.0.0.252": DropDeniedGroup, "ff02::fb": DropDeniedGroup, "ff02::1": Deliver, "ff02::1:ff00:2": Deliver,
	} {
		src := "10.0.0.1"
		if addr(g).Is6() {
			src = "fe80::1"
		}
		f := groupFrame(src, g)
		if d := table.Lookup(f); d.Drop != want {
			t.Errorf("%s: %q, want %q", g, d.Drop, want)
		}
		if want == DropDeniedGroup {
			if _, d := table.Inbound(f, self); d != want {
				t.Errorf("%s from another host: %q, want %q", g, d, want)
			}
		}
	}
	if d := table.Lookup(arpRequest("10.0.0.3")); d.Drop != Deliver {
		t.Errorf("policy stopped ARP: %q", d.Drop)
	}
}

// Two hosts that claim one MAC: everyone must believe the same one.
func TestConflictGoesToLowerHost(t *testing.T) {
	in := input()
	in.Remotes = append(in.Remotes, Remote{mac(2, 1), hostC, []netip.Addr{addr("10.0.0.2")}})
	for range 2 {
		table := Build(in)
		for _, f := range [][]byte{unicastFrame(mac(2, 1)), arpRequest("10.0.0.2")} {
			if got := ids(table.Lookup(f)); !slices.Equal(got, []ident.HostID{hostB}) {
				t.Errorf("goes to %v, want the lower host", got)
			}
		}
		slices.Reverse(in.Remotes)
	}
}

func TestTooManySourcesFallBackToAllMembers(t *testing.T) {
	in := input()
	in.Members = nil
	for i := range MaxSources + 1 {
		s := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		in.Members = append(in.Members, Member{Host: hostC, Group: addr("232.1.1.1"), Mode: Include, Sources: []netip.Addr{s}})
	}
	table := Build(in)
	if got := ids(table.Lookup(groupFrame("10.1.0.0", "232.1.1.1"))); !slices.Equal(got, []ident.HostID{hostC}) {
		t.Errorf("an included source went to %v: lost silently", got)
	}
	if table.Omitted() == 0 {
		t.Error("nothing says that the bound was exceeded")
	}
}

func TestBoundsHold(t *testing.T) {
	in := Input{Self: self, Peer: func(id ident.HostID) *link.Peer { return peers[hostB] }}
	for i := range MaxGroups + 10 {
		in.Members = append(in.Members, Member{Host: hostB, Group: netip.AddrFrom4([4]byte{239, 1, byte(i >> 8), byte(i)})})
	}
	for i := range MaxHosts + 10 {
		in.Hosts = append(in.Hosts, ident.HostID{5, byte(i >> 8), byte(i)})
	}
	table := Build(in)
	if len(table.groups) != MaxGroups || table.Others() != MaxHosts || table.Omitted() != 20 {
		t.Errorf("%d groups, %d hosts, %d omitted", len(table.groups), table.Others(), table.Omitted())
	}
}

func TestCountersSurviveTables(t *testing.T) {
	in := input()
	in.Counters = NewRegistry()
	f := groupFrame("10.0.0.1", "239.1.1.1")
	Build(in).Lookup(f).Counters.PacketsIn.Add(3)
	Build(in).Lookup(f).Counters.PacketsIn.Add(4)
	Build(in).Lookup(groupFrame("10.0.0.7", "239.1.1.1")).Counters.PacketsIn.Add(1)
	want := map[string]uint64{"239.1.1.1 10.0.0.1": 7, "239.1.1.1 invalid IP": 1}
	for _, s := range in.Counters.Groups() {
		k := s.Group.String() + " " + s.Source.String()
		if s.VNI != 7 || s.PacketsIn != want[k] {
			t.Errorf("VNI %d, %s: %d packets, want %d", s.VNI, k, s.PacketsIn, want[k])
		}
		delete(want, k)
	}
	if len(want) > 0 {
		t.Errorf("missing rows: %v", want)
	}
	in.Counters.Forget(7)
	if n := len(in.Counters.Groups()); n != 0 {
		t.Errorf("%d rows after Forget", n)
	}
}

// Groups that come and go must not use up the rows of those that are there.
func TestCountersAreBounded(t *testing.T) {
	in := Input{VNI: 7, Self: self, Counters: NewRegistry(), Peer: func(ident.HostID) *link.Peer { return peers[hostB] }}
	for round := range 4 {
		in.Members = nil
		for i := range MaxGroupCounters / 2 {
			in.Members = append(in.Members, Member{Host: hostB, Group: netip.AddrFrom4([4]byte{239, byte(round), byte(i >> 8), byte(i)})})
		}
		table := Build(in)
		if n := len(in.Counters.Groups()); n > MaxGroupCounters {
			t.Fatalf("%d rows", n)
		}
		f := groupFrame("10.0.0.1", in.Members[0].Group.String())
		if table.Lookup(f).Counters == &table.counters.Unregistered {
			t.Errorf("round %d: a live group has no row of its own", round)
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	table := Build(input())
	frames := [][]byte{
		unicastFrame(mac(2, 1)), unicastFrame(mac(8, 8)), groupFrame("10.0.0.1", "239.1.1.1"), groupFrame("10.0.0.1", "239.7.7.7"),
		groupFrame("fe80::1", "ff02::fb"), groupFrame("fe80::1", "ff05::9"), groupFrame("10.0.0.1", "224.0.0.251"), arpRequest("10.0.0.3"), solicitation("fe80::2"),
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, f := range frames {
			table.Lookup(f)
			table.Inbound(f, hostB)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzLookup(f *testing.F) {
	for _, seed := range [][]byte{
		nil, unicastFrame(mac(2, 1)), groupFrame("10.0.0.1", "239.1.1.1"), groupFrame("fe80::1", "ff02::fb"),
		arpRequest("10.0.0.3"), solicitation("fe80::2"), solicitation("fe80::2")[:60],
	} {
		f.Add(seed)
	}
	table := Build(input())
	f.Fuzz(func(t *testing.T, frame []byte) {
		d := table.Lookup(frame)
		if (d.Drop == Deliver) != (len(d.To) > 0 && d.Counters != nil) {
			t.Errorf("drop %q, %d receivers, counted %v", d.Drop, len(d.To), d.Counters != nil)
		}
		if d.One && len(d.To) > 1 {
			t.Errorf("%d receivers of a frame for one", len(d.To))
		}
		if c, drop := table.Inbound(frame, hostB); (drop == Deliver) != (c != nil) {
			t.Errorf("inbound: %q, counted %v", drop, c != nil)
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	table := Build(input())
	for name, f := range map[string][]byte{"unicast": unicastFrame(mac(2, 1)), "group": groupFrame("10.0.0.1", "239.1.1.1"), "group6": groupFrame("fe80::1", "ff02::fb")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table.Lookup(f)
			}
		})
	}
}
