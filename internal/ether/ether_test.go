package ether

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

func frame(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	macs   = "01005e010203 02570a200005"
	eth4   = macs + "0800"
	eth6   = "333300000001 02570a200005 86dd"
	udp4   = "45000021 00004000 0111 0000 0a200005 ef010203 1388 1389 000d 0000 68656c6c6f"
	src6   = "fd000000000000000000 00000a200005"
	group6 = "ff050000000000000000 000000000123"
	all6   = "ff020000000000000000 000000000001"
	mldHop = "3a00 0502 0000 0100" // hop-by-hop with router alert, then ICMPv6
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame []byte
		ok    bool
		want  Info
	}{
		{"udp to a group", frame(t, eth4, udp4), true, Info{Type: TypeIPv4, Proto: ProtoUDP, Payload: 34, Group: true}},
		{"padding behind it", frame(t, eth4, udp4, "000000000000"), true, Info{Type: TypeIPv4, Proto: ProtoUDP, Payload: 34, Group: true}},
		{"mdns", frame(t, eth4, "45000014 00000000 ff11 0000 0a200005 e00000fb"), true, Info{Type: TypeIPv4, Proto: ProtoUDP, Payload: 34, Group: true, LinkLocal: true}},
		{"not link-local", frame(t, eth4, "45000014 00000000 ff11 0000 0a200005 e00001fb"), true, Info{Type: TypeIPv4, Proto: ProtoUDP, Payload: 34, Group: true}},
		{"igmp with router alert", frame(t, eth4, "46000020 00000000 0102 0000 0a200005 e0000016 94040000 2200f9fd 00000000"), true, Info{Type: TypeIPv4, Proto: ProtoIGMP, Payload: 38, Group: true, LinkLocal: true, Membership: true}},
		{"first fragment", frame(t, eth4, "4500001c 00002000 0111 0000 0a200005 ef010203 1388138900080000"), true, Info{Type: TypeIPv4, Proto: ProtoUDP, Payload: 34, Group: true, Fragment: true}},
		{"later fragment", frame(t, eth4, "4500001c 00000064 0111 0000 0a200005 ef010203 1388138900080000"), true, Info{Type: TypeIPv4, Proto: ProtoUDP, Group: true, Fragment: true}},
		{"total beyond the frame", frame(t, eth4, "45000040 00000000 0111 0000 0a200005 ef010203"), false, Info{}},
		{"header beyond the frame", frame(t, eth4, "4f000014 00000000 0111 0000 0a200005 ef010203"), false, Info{}},
		{"not version 4", frame(t, eth4, "65000014 00000000 0111 0000 0a200005 ef010203"), false, Info{}},
		{"udp6 to a group", frame(t, eth6, "60000000 0008 11 01", src6, group6, "1388138900080000"), true, Info{Type: TypeIPv6, Proto: ProtoUDP, Payload: 54, Group: true}},
		{"all nodes", frame(t, eth6, "60000000 0008 11 01", src6, all6, "1388138900080000"), true, Info{Type: TypeIPv6, Proto: ProtoUDP, Payload: 54, Group: true, LinkLocal: true}},
		{"mld report behind hop-by-hop", frame(t, eth6, "60000000 0010 00 01", src6, all6, mldHop, "8f00000000000000"), true, Info{Type: TypeIPv6, Proto: ProtoICMPv6, Payload: 62, Group: true, LinkLocal: true, Membership: true}},
		{"neighbour solicitation", frame(t, eth6, "60000000 0008 3a ff", src6, all6, "8700000000000000"), true, Info{Type: TypeIPv6, Proto: ProtoICMPv6, Payload: 54, Group: true, LinkLocal: true}},
		{"mld behind a fragment header", frame(t, eth6, "60000000 0010 2c 01", src6, all6, "3a000001 00000001", "8f00000000000000"), true, Info{Type: TypeIPv6, Proto: ProtoICMPv6, Payload: 62, Fragment: true, Group: true, LinkLocal: true, Membership: true}},
		{"later fragment6", frame(t, eth6, "60000000 0010 2c 01", src6, group6, "11000008 00000001", "8f00000000000000"), true, Info{Type: TypeIPv6, Proto: ProtoUDP, Fragment: true, Group: true}},
		{"extension beyond the packet", frame(t, eth6, "60000000 0008 00 01", src6, all6, "3aff 0502 0000 0100"), false, Info{}},
		{"endless extensions", frame(t, eth6, "60000000 0050 3c 01", src6, all6, strings.Repeat("3c00000000000000", 10)), false, Info{}},
		{"arp request", frame(t, "ffffffffffff 02570a200005 0806 0001 0800 06 04 0001 02570a200005 0a200005 000000000000 0a200006"), true, Info{Type: TypeARP, ARP: ARPRequest}},
		{"arp of another kind", frame(t, "ffffffffffff 02570a200005 0806 0006 0800 06 04 0001 02570a200005 0a200005 000000000000 0a200006"), false, Info{}},
		{"vlan", frame(t, macs, "8100 0000 0800", udp4), true, Info{Type: TypeVLAN}},
		{"short", make([]byte, 13), false, Info{}},
	} {
		got, ok := Parse(c.frame)
		if ok != c.ok {
			t.Errorf("%s: ok is %v", c.name, ok)
			continue
		}
		if !ok {
			continue
		}
		switch got.Type {
		case TypeIPv4, TypeARP:
			if got.SrcIP != netip.MustParseAddr("10.32.0.5") {
				t.Errorf("%s: source %v", c.name, got.SrcIP)
			}
		case TypeIPv6:
			if got.SrcIP != netip.MustParseAddr("fd00::a20:5") {
				t.Errorf("%s: source %v", c.name, got.SrcIP)
			}
		}
		got.Dst, got.Src, got.DstIP, got.SrcIP = MAC{}, MAC{}, netip.Addr{}, netip.Addr{}
		if got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	v4, v6 := frame(t, eth4, udp4), frame(t, eth6, "60000000 0010 00 01", src6, all6, mldHop, "8f00000000000000")
	if n := testing.AllocsPerRun(100, func() { Parse(v4); Parse(v6) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestGroupMAC(t *testing.T) {
	for group, want := range map[string]string{
		"224.0.0.251":      "01:00:5e:00:00:fb",
		"239.129.2.3":      "01:00:5e:01:02:03", // the 24th bit is lost
		"ff02::fb":         "33:33:00:00:00:fb",
		"ff05::1:2345:67":  "33:33:23:45:00:67",
		"::ffff:224.0.1.1": "01:00:5e:00:01:01",
	} {
		if m, ok := GroupMAC(netip.MustParseAddr(group)); !ok || m.String() != want {
			t.Errorf("%s: %v %v", group, m, ok)
		}
	}
	if _, ok := GroupMAC(netip.MustParseAddr("10.1.2.3")); ok {
		t.Error("a unicast address has a group MAC")
	}
	if _, ok := GroupMAC(netip.Addr{}); ok {
		t.Error("no address has a group MAC")
	}
}

func TestParseMAC(t *testing.T) {
	for _, s := range []string{"02:57:0a:20:00:05", "02-57-0A-20-00-05"} {
		m, err := ParseMAC(s)
		if err != nil || m.String() != "02:57:0a:20:00:05" {
			t.Errorf("%s: %v %v", s, m, err)
		}
	}
	for _, s := range []string{"", "02:57", "02:57:0a:20:00:0g", "02:57-0a:20:00:05", "02:57:0a:20:00:055"} {
		if _, err := ParseMAC(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
	if !Broadcast.IsMulticast() || !Broadcast.IsBroadcast() || (MAC{2}).IsMulticast() {
		t.Error("kinds of address")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(frame(f, eth4, udp4))
	f.Add(frame(f, eth6, "60000000 0010 00 01", src6, all6, mldHop, "8f00000000000000"))
	f.Add(frame(f, "ffffffffffff 02570a200005 0806 0001 0800 06 04 0001 02570a200005 0a200005 000000000000 0a200006"))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, ok := Parse(b)
		if !ok {
			return
		}
		if info.Payload > len(b) || info.Payload < 0 {
			t.Fatalf("payload at %d of %d", info.Payload, len(b))
		}
		if info.LinkLocal && !info.Group {
			t.Fatal("link-local, and no group")
		}
		if (info.Type == TypeIPv4 || info.Type == TypeIPv6) != (info.Proto != 0 || info.DstIP.IsValid() && info.Type != TypeARP) {
			t.Fatalf("addresses without IP: %+v", info)
		}
	})
}

func FuzzParseMAC(f *testing.F) {
	f.Add("02:57:0a:20:00:05")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			return
		}
		if again, err := ParseMAC(m.String()); err != nil || again != m {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	v4 := frame(b, eth4, udp4)
	b.ReportAllocs()
	for b.Loop() {
		Parse(v4)
	}
}
