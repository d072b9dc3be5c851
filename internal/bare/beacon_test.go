package bare

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

func TestBeacon(t *testing.T) {
	group := netip.MustParseAddrPort("225.4.5.6:5000")
	in := beacon{flags: flagActive, host: ident.HostID{1, 2}, epoch: 3, number: 4, group: groupHash(group, "bare.chat")}
	b := in.encode(nil, Key{1})
	if got, err := decodeBeacon(b, Key{2}, Key{1}); err != nil || got != in || len(b) != beaconLen {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := decodeBeacon(b, Key{2}); !errors.Is(err, errMAC) {
		t.Errorf("another cluster's: %v", err)
	}
	for i := range b {
		bad := append([]byte{}, b...)
		bad[i] ^= 4
		if _, err := decodeBeacon(bad, Key{1}); err == nil {
			t.Errorf("byte %d changed, and taken", i)
		}
		if _, err := decodeBeacon(b[:i], Key{1}); err == nil {
			t.Errorf("%d bytes taken", i)
		}
	}
	if groupHash(group, "a") == groupHash(group, "b") || groupHash(group, "a") == groupHash(netip.MustParseAddrPort("225.4.5.6:5001"), "a") {
		t.Error("two buses with one hash")
	}
}

func FuzzBeacon(f *testing.F) {
	f.Add(beacon{flags: flagLeaving, epoch: 1}.encode(nil, Key{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := decodeBeacon(b, Key{})
		if err == nil && string(in.encode(nil, Key{})) != string(b) {
			t.Errorf("%x is not what %+v makes", b, in)
		}
	})
}
