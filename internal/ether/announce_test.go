package ether

import (
	"bytes"
	"net/netip"
	"testing"
)

func TestAnnouncement(t *testing.T) {
	mac := MAC{0x02, 0x57, 0x0a, 0x20, 0x00, 0x05}
	for ip, want := range map[string][]byte{
		"10.32.0.5": frame(t, "ffffffffffff 02570a200005 0806", "0001 0800 06 04 0002", "02570a200005 0a200005 02570a200005 0a200005"),
		"fd00::a20:5": frame(t, "333300000001 02570a200005 86dd", "60000000 0020 3a ff", src6, all6,
			"8800 3bd8 20000000", src6, "0201 02570a200005"),
	} {
		got, err := Announcement(netip.MustParseAddr(ip), mac)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, %v, want %x", ip, got, err, want)
		}
		if info, ok := Parse(got); !ok || info.Src != mac || info.SrcIP != netip.MustParseAddr(ip) {
			t.Errorf("%s: %+v %v", ip, info, ok)
		}
	}
}
