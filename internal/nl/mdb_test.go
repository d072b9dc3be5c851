package nl

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// dumped builds what the kernel answers to RTM_GETMDB for one entry.
func dumped(bridge, port int, group netip.Addr, permanent bool, attrs []byte) []byte {
	e := make([]byte, brMDBEntryLen)
	binary.NativeEndian.PutUint32(e, uint32(port))
	if permanent {
		e[4] = mdbPermanent
	}
	copy(e[8:24], group.AsSlice())
	binary.BigEndian.PutUint16(e[24:], protoIPv6)
	if group.Is4() {
		binary.BigEndian.PutUint16(e[24:], protoIPv4)
	}
	b := binary.NativeEndian.AppendUint32([]byte{afBridge, 0, 0, 0}, uint32(bridge))
	info := appendAttr(nil, mdbaMDBEntryInfo, append(e, attrs...))
	return appendAttr(b, mdbaMDB, appendAttr(nil, mdbaMDBEntry, info))
}

func sourceList(left map[string]uint32) []byte {
	var list []byte
	for addr, t := range left {
		src := appendAttr(nil, srcAttrAddress, netip.MustParseAddr(addr).AsSlice())
		src = appendAttr(src, srcAttrTimer, binary.NativeEndian.AppendUint32(nil, t))
		list = appendAttr(list, srcListEntry, src)
	}
	return appendAttr(nil, eattrSrcList, list)
}

func TestParseMDB(t *testing.T) {
	g4, g6 := netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")
	addrs := func(s ...string) (as []netip.Addr) {
		for _, a := range s {
			as = append(as, netip.MustParseAddr(a))
		}
		return as
	}
	sources := sourceList(map[string]uint32{"10.0.0.1": 0, "10.0.0.3": 26000, "10.0.0.2": 100})
	exclude, include := appendAttr(nil, eattrGroupMode, []byte{modeExclude}), appendAttr(nil, eattrGroupMode, []byte{modeInclude})
	for name, c := range map[string]struct {
		msg  []byte
		want []MDBEntry
	}{
		"no attributes: an IGMPv2 member": {dumped(3, 4, g4, false, nil), []MDBEntry{{Bridge: 3, Port: 4, Group: g4, Exclude: true}}},
		"IPv6":                            {dumped(3, 4, g6, false, exclude), []MDBEntry{{Bridge: 3, Port: 4, Group: g6, Exclude: true}}},
		"include: running timers":         {dumped(3, 4, g4, false, slices.Concat(include, sources)), []MDBEntry{{Bridge: 3, Port: 4, Group: g4, Sources: addrs("10.0.0.2", "10.0.0.3")}}},
		"exclude: ended timers":           {dumped(3, 4, g4, false, slices.Concat(sources, exclude)), []MDBEntry{{Bridge: 3, Port: 4, Group: g4, Exclude: true, Sources: addrs("10.0.0.1")}}},
		"permanent: timers say nothing":   {dumped(3, 4, g4, true, slices.Concat(include, sources)), []MDBEntry{{Bridge: 3, Port: 4, Group: g4, Permanent: true, Sources: addrs("10.0.0.1", "10.0.0.2", "10.0.0.3")}}},
		"(S,G) left out":                  {dumped(3, 4, g4, false, appendAttr(nil, eattrSource, []byte{10, 0, 0, 1})), nil},
		"no MDB":                          {make([]byte, brPortMsgLen), nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseMDB(nil, c.msg)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
			}
			// Cut anywhere, it is an error or fewer entries, never a panic.
			for i := range c.msg {
				if cut, err := parseMDB(nil, c.msg[:i]); err == nil && len(cut) > len(c.want) {
					t.Errorf("cut to %d bytes: %+v", i, cut)
				}
			}
		})
	}
}

func TestSetMDBRefuses(t *testing.T) {
	g4 := netip.MustParseAddr("239.1.2.3")
	for name, e := range map[string]MDBEntry{
		"unicast":          {Group: netip.MustParseAddr("10.0.0.1")},
		"no group":         {},
		"mixed families":   {Group: g4, Sources: []netip.Addr{netip.MustParseAddr("fd00::1")}},
		"too many sources": {Group: g4, Sources: slices.Repeat([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, MaxSources+1)},
	} {
		if b, err := appendSetMDB(nil, e, true); err == nil {
			t.Errorf("%s: % x", name, b)
		}
	}
}

func TestLearned(t *testing.T) {
	g := netip.MustParseAddr("239.1.2.3")
	if learned(dumped(1, 2, g, true, nil)) {
		t.Error("a permanent entry counts as learned")
	}
	if !learned(dumped(1, 2, g, false, nil)) || !learned(nil) {
		t.Error("a report does not count as learned")
	}
}

func TestLinkLocal(t *testing.T) {
	if got := (MAC{0x02, 0x11, 0x22, 0x33, 0x44, 0x55}).LinkLocal(); got != netip.MustParseAddr("fe80::11:22ff:fe33:4455") {
		t.Errorf("got %s", got)
	}
}

func TestMACText(t *testing.T) {
	var m MAC
	if err := m.UnmarshalText([]byte("02:00:00:00:0a:ff")); err != nil || m.String() != "02:00:00:00:0a:ff" {
		t.Errorf("%s, %v", m, err)
	}
	for _, s := range []string{"", "02:00", "02:00:00:00:00:00:00:01", "x"} {
		if err := m.UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q was read", s)
		}
	}
}

func FuzzMDB(f *testing.F) {
	g := netip.MustParseAddr("239.1.2.3")
	f.Add(dumped(3, 4, g, false, slices.Concat(appendAttr(nil, eattrGroupMode, []byte{1}), sourceList(map[string]uint32{"10.0.0.1": 9}))))
	f.Add(dumped(3, 4, netip.MustParseAddr("ff15::1"), true, nil))
	f.Add(dumped(3, 3, g, true, appendAttr(appendAttr(nil, eattrSource, []byte{10, 0, 0, 1}), eattrDst, []byte{192, 0, 2, 1})))
	f.Add([]byte{7, 0, 0, 0, 1, 0, 0, 0, 3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, _ := parseMDB(nil, b)
		for _, e := range entries {
			if !e.Group.IsValid() || slices.ContainsFunc(e.Sources, func(s netip.Addr) bool { return !s.IsValid() }) {
				t.Errorf("entry without an address: %+v", e)
			}
		}
		learned(b)
		groups, _ := parseTunnelGroups(nil, b, 3)
		for _, g := range groups {
			if !g.Group.IsValid() || !g.VTEP.IsValid() || g.Link != 3 {
				t.Errorf("entry without an address: %+v", g)
			}
		}
	})
}
