package snapshot

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

func keyOf(b byte) []byte { return bytes.Repeat([]byte{b}, keySize) }

func opener(b byte) Opener {
	return Opener{Suite: 1, Key: keyOf(b), High: 700, Seen: bytes.Repeat([]byte{0xa5}, seenSize)}
}

// full is a state with something in every field; hosts of them.
func full(hosts int) State {
	s := State{Stopped: 1_700_000_000_000_000_000, Mesh: Mesh{Boot: 1 << 63, Fragment: 9, Answered: make([]byte, 3*macSize), Seeds: []Seed{{Name: "10.0.0.5", Host: ident.HostID{1}}}}}
	for i := range hosts {
		var id ident.HostID
		binary.BigEndian.PutUint32(id[:], uint32(i+1))
		s.Mesh.Hosts = append(s.Mesh.Hosts, Host{
			ID: id, Boot: 7, Up: true, Seen: netip.MustParseAddrPort("10.0.0.6:6783"), Observed: netip.MustParseAddrPort("[fd00::1]:6783"), Skew: -time.Second,
			Link: Link{
				Use: 5, Sessions: []LinkSession{{Local: 5, Initiator: true, Confirmed: true, Age: time.Minute}}, Address: Address{Relay: ident.HostID{2}}, State: 1, Since: time.Hour,
				Pinged: time.Second, RTT: time.Millisecond, Loss: 0.25, Reason: "no direct endpoint answers", NextPing: 44, Limit: 1472, Proven: 1472, Failed: 1473, Measured: time.Second,
			},
			Sessions: []Session{{Local: 5, Sealer: Sealer{Suite: 1, Key: keyOf(1), Index: 6, Used: 1 << 20}, Opener: opener(2)}, {Local: 8, Sealer: Sealer{Suite: 2, Key: keyOf(3)}, Opener: Opener{Suite: 2, Key: keyOf(4)}}},
		})
		s.Cast.Rings = append(s.Cast.Rings, Ring{Host: id, VNI: 77, Retired: []uint64{1, 2}, Keys: []ReceivedKey{{ID: 3, Opener: opener(5), Expires: time.Second}, {ID: 4, Opener: Opener{Suite: 1, Key: keyOf(6)}}}})
	}
	next := SenderKey{Sealer: Sealer{Suite: 1, Key: keyOf(7), ID: 10}, Handed: []Handed{{Host: ident.HostID{1}}}}
	s.Cast.Networks = []CastNetwork{{
		VNI: 77, Fragment: 3, Hosts: []ident.HostID{{1}, {2}}, Removal: true, Removed: time.Second, Rotations: 4, Next: &next,
		Current: SenderKey{Sealer: Sealer{Suite: 1, Key: keyOf(8), ID: 9, Used: 12}, Age: time.Hour, Handed: []Handed{{Host: ident.HostID{1}, Acked: true}}},
	}}
	return s
}

func hello() Hello { return Hello{Formats: []uint16{3, 1}, Version: "v1.2.3"} }

func offer() Offer {
	return Offer{
		Format: 1, Formats: []uint16{1}, Version: "v1", PID: 12, Host: ident.HostID{1}, Name: "h1", Cluster: ident.ClusterID{2}, Port: 6783,
		StateDir: "/var/lib/weft", State: Place{1, 2}, Netns: Place{3, 4}, Notify: "/run/systemd/notify",
	}
}

func plan() Plan {
	return Plan{
		Descriptors: []Descriptor{{Use: UseUDP}, {Use: UseTAP, Name: "wu1"}},
		Networks:    []Network{{VNI: 1, Name: "weft", MTU: 1400, TAP: "wu1"}, {VNI: 2, Name: "open", MTU: 1400, Plain: true}},
	}
}

// again checks that a value comes through its bytes, and that the bytes are the same the second time.
func again[T any](t *testing.T, v T, b []byte, decode func([]byte) (T, error), encode func(*T) []byte) {
	t.Helper()
	got, err := decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, v) {
		t.Errorf("got  %+v\nwant %+v", got, v)
	}
	if !bytes.Equal(encode(&got), b) {
		t.Error("other bytes the second time")
	}
}

func TestRoundTrip(t *testing.T) {
	h, o, p, s := hello(), offer(), plan(), full(3)
	again(t, h, h.Encode(), DecodeHello, (*Hello).Encode)
	again(t, o, o.Encode(), DecodeOffer, (*Offer).Encode)
	again(t, p, p.Encode(), DecodePlan, (*Plan).Encode)
	again(t, s, s.Encode(), DecodeState, (*State).Encode)
}

// TestFormats: the newest format that both know, and none when there is none.
func TestFormats(t *testing.T) {
	if got := Choose(Readable()); got != Format {
		t.Errorf("chose %d of our own", got)
	}
	if got := Choose([]uint16{9, Format, 2}); got != Format {
		t.Errorf("chose %d", got)
	}
	if got := Choose([]uint16{Format + 1}); got != 0 {
		t.Errorf("chose %d, which we don't write", got)
	}
}

// TestUnknownFieldsAreIgnored: a later build of the same format may say more.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	b := encode(map[int]any{1: []uint16{1}, 2: "v9", 99: "new"})
	if h, err := DecodeHello(b); err != nil || h.Version != "v9" {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestRefused(t *testing.T) {
	edit := func(f func(*State)) []byte {
		s := full(1)
		f(&s)
		return s.Encode()
	}
	for name, b := range map[string][]byte{
		"empty":          nil,
		"no map":         {0x01},
		"cut":            edit(func(*State) {})[:100],
		"short key":      edit(func(s *State) { s.Mesh.Hosts[0].Sessions[0].Sealer.Key = make([]byte, 31) }),
		"frozen counter": edit(func(s *State) { s.Mesh.Hosts[0].Sessions[0].Sealer.Used = 1 << 63 }),
		"short window":   edit(func(s *State) { s.Mesh.Hosts[0].Sessions[0].Opener.Seen = make([]byte, 8) }),
		"lost window":    edit(func(s *State) { s.Mesh.Hosts[0].Sessions[0].Opener.Seen = nil }),
		"many sessions":  edit(func(s *State) { s.Mesh.Hosts[0].Sessions = make([]Session, MaxSessions+1) }),
		"many hosts":     edit(func(s *State) { s.Mesh.Hosts = make([]Host, MaxHosts+1) }),
		"odd marks":      edit(func(s *State) { s.Mesh.Answered = make([]byte, macSize+1) }),
		"long age":       edit(func(s *State) { s.Mesh.Hosts[0].Link.Since = maxAge + 1 }),
		"state":          edit(func(s *State) { s.Mesh.Hosts[0].Link.State = 3 }),
		"loss":           edit(func(s *State) { s.Mesh.Hosts[0].Link.Loss = 1.5 }),
		"next key":       edit(func(s *State) { s.Cast.Networks[0].Next.Sealer.Key = nil }),
		"ring":           edit(func(s *State) { s.Cast.Rings[0].Keys = make([]ReceivedKey, MaxKeys+1) }),
	} {
		if _, err := DecodeState(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	p := plan()
	p.Networks[0].VNI = 0
	if _, err := DecodePlan(p.Encode()); err == nil {
		t.Error("a network without a number: taken")
	}
	o := offer()
	o.Port = 0
	if _, err := DecodeOffer(o.Encode()); err == nil {
		t.Error("an offer without a port: taken")
	}
	h := hello()
	h.Version = strings.Repeat("v", MaxText+1)
	if _, err := DecodeHello(h.Encode()); err == nil {
		t.Error("a version of 4 KiB: taken")
	}
}

// TestNoSecretsInText: what is printed by accident names no key.
func TestNoSecretsInText(t *testing.T) {
	s := full(1)
	x := s.Mesh.Hosts[0].Sessions[0]
	if text := x.Sealer.String() + x.Opener.String(); strings.Contains(text, "\x01\x01") || strings.Contains(text, "1 1 1") {
		t.Errorf("%q", text)
	}
}

func FuzzDecode(f *testing.F) {
	h, o, p, s := hello(), offer(), plan(), full(2)
	for _, b := range [][]byte{h.Encode(), o.Encode(), p.Encode(), s.Encode(), {}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := DecodeHello(b); err == nil {
			refuzz(t, v, DecodeHello, (*Hello).Encode)
		}
		if v, err := DecodeOffer(b); err == nil {
			refuzz(t, v, DecodeOffer, (*Offer).Encode)
		}
		if v, err := DecodePlan(b); err == nil {
			refuzz(t, v, DecodePlan, (*Plan).Encode)
		}
		if v, err := DecodeState(b); err == nil {
			refuzz(t, v, DecodeState, (*State).Encode)
		}
	})
}

// refuzz: what was taken is written and taken again, as the same bytes.
func refuzz[T any](t *testing.T, v T, decode func([]byte) (T, error), encode func(*T) []byte) {
	b := encode(&v)
	w, err := decode(b)
	if err != nil {
		t.Fatalf("%+v written is refused: %v", v, err)
	}
	if !bytes.Equal(encode(&w), b) {
		t.Fatalf("%+v is not stable", v)
	}
}

// BenchmarkState is the codec's part of the pause, for a host that knows a thousand others.
func BenchmarkState(b *testing.B) {
	s := full(1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeState(s.Encode()); err != nil {
			b.Fatal(err)
		}
	}
}
