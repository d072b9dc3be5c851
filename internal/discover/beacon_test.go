package discover

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var testKey = Key{1, 2, 3}

func TestBeacon(t *testing.T) {
	for _, b := range []Beacon{{Addr: aps("10.0.0.5:6783")[0]}, {Addr: aps("[fd00::5]:7777")[0], Looking: true}} {
		raw := b.Encode(nil, testKey)
		got, err := DecodeBeacon(raw, &testKey)
		if err != nil || got != b || len(raw) != beaconLen {
			t.Errorf("%v, %v; want %v", got, err, b)
		}
		for i := range raw {
			bad := bytes.Clone(raw)
			bad[i] ^= 1
			if _, err := DecodeBeacon(bad, &testKey); err == nil {
				t.Errorf("a beacon with byte %d changed is believed", i)
			}
		}
		for _, n := range []int{0, 1, beaconLen - 1} {
			if _, err := DecodeBeacon(raw[:n], &testKey); !errors.Is(err, errBeacon) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		if _, err := DecodeBeacon(raw, &Key{9}); !errors.Is(err, errStranger) {
			t.Errorf("another cluster's: %v", err)
		}
		if _, err := DecodeBeacon(raw, nil); !errors.Is(err, errStranger) {
			t.Errorf("without a key: %v", err)
		}
	}
	for _, ap := range []string{"127.0.0.1:1", "224.0.0.1:1", "[fe80::1]:1", "10.0.0.1:0"} {
		if _, err := DecodeBeacon(Beacon{Addr: aps(ap)[0]}.Encode(nil, testKey), &testKey); !errors.Is(err, errBeacon) {
			t.Errorf("%s: %v, want it refused although the MAC is right", ap, err)
		}
	}
}

func FuzzDecodeBeacon(f *testing.F) {
	f.Add(Beacon{Addr: netip.MustParseAddrPort("10.0.0.5:6783")}.Encode(nil, testKey))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := DecodeBeacon(b, &testKey)
		if err == nil && !bytes.Equal(got.Encode(nil, testKey), b) {
			t.Fatalf("%v is of other bytes, too", got)
		}
	})
}

// TestHeard: hosts are believed for a while, a beacon only from the address that it names, and strangers leave a number behind and nothing else.
func TestHeard(t *testing.T) {
	var h heard
	now := time.Unix(1_700_000_000, 0)
	one := Beacon{Addr: aps("10.0.0.5:6783")[0]}
	from := one.Addr.Addr()
	if h.input(now, one.Encode(nil, testKey), from, &testKey) {
		t.Error("a beacon is answered that asks for none")
	}
	looking := Beacon{Addr: aps("10.0.0.6:6783")[0], Looking: true}
	raw := looking.Encode(nil, testKey)
	if !h.input(now, raw, looking.Addr.Addr(), &testKey) || h.input(now, raw, looking.Addr.Addr(), &testKey) {
		t.Error("want one answer a second to hosts that look for others")
	}
	if got := h.list(now); len(got) != 2 || got[0] != one.Addr || got[1] != looking.Addr {
		t.Errorf("heard %v", got)
	}
	// Recorded, and sent from elsewhere; another cluster's, even looking; noise.
	if h.input(now.Add(2*time.Second), raw, from, &testKey) || h.counts[dropSource] != 1 {
		t.Error("a beacon is believed from an address that it does not name")
	}
	if h.input(now.Add(2*time.Second), looking.Encode(nil, Key{9}), looking.Addr.Addr(), &testKey) || h.counts[dropStranger] != 1 {
		t.Error("a stranger is answered")
	}
	h.input(now, []byte("hello"), from, &testKey)
	if h.counts[dropMalformed] != 1 || len(h.hosts) != 2 {
		t.Errorf("%v, %d hosts", h.counts, len(h.hosts))
	}
	noise := []byte("x")
	if n := testing.AllocsPerRun(100, func() { h.input(now, noise, from, &testKey) }); n != 0 {
		t.Errorf("%v allocations for noise", n)
	}
	if got := h.list(now.Add(heardLife + time.Second)); len(got) != 0 {
		t.Errorf("still heard: %v", got)
	}
}

// TestHeardIsBounded: a flood is dropped unread, and a full table stays as it is until somebody falls silent.
func TestHeardIsBounded(t *testing.T) {
	var h heard
	now := time.Unix(1_700_000_000, 0)
	send := func(i int) {
		ap := netip.MustParseAddrPort(fmt.Sprintf("10.0.%d.%d:1", i/250, 1+i%250))
		h.input(now, Beacon{Addr: ap}.Encode(nil, testKey), ap.Addr(), &testKey)
	}
	for i := range MaxFound + 5 {
		send(i)
	}
	if len(h.hosts) != MaxFound || h.counts[dropFull] != 5 {
		t.Errorf("%d hosts, %d left out", len(h.hosts), h.counts[dropFull])
	}
	for range int(beaconBurst) {
		send(0)
	}
	if h.counts[dropFlood] != MaxFound+5 {
		t.Errorf("%d dropped of a flood", h.counts[dropFlood])
	}
	now = now.Add(heardLife + time.Second)
	send(MaxFound + 1)
	if len(h.hosts) != 1 {
		t.Errorf("%d hosts after all but one fell silent", len(h.hosts))
	}
}
