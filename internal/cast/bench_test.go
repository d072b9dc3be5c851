package cast

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

// newBench makes an engine of one host with a network and receivers, but no goroutine at work.
func newBench(tb testing.TB, receivers int) (*uplink, *network, *sink) {
	tb.Helper()
	w := &sink{}
	e, err := New(Config{Self: idOf(200), NewWriter: func() PacketWriter { return w }, Send: func(ident.HostID, []byte) error { return nil }})
	check(tb, err)
	check(tb, e.AddNetwork(testVNI, newTAP(), MaxMTU))
	tb.Cleanup(func() { check(tb, e.Close()) })
	in := fdb.Input{VNI: testVNI, Self: e.cfg.Self, Counters: e.Counters()}
	for i := 1; i <= receivers; i++ {
		in.Hosts = append(in.Hosts, idOf(i))
		in.Remotes = append(in.Remotes, fdb.Remote{MAC: macOf(i), Host: idOf(i)})
		in.Members = append(in.Members, join(i, "239.1.1.1"))
	}
	in.Peer = func(id ident.HostID) *link.Peer {
		s, err := seal.NewLinkSealer(seal.SuiteAES, make([]byte, 32), 1, 0)
		check(tb, err)
		p := &link.Peer{ID: id}
		p.SetPath(&link.Path{Endpoint: endpoint(int(id[0])), Session: s, Payload: 1472})
		if id[0]%2 == 0 {
			p.SetPath(&link.Path{Endpoint: endpoint(1), Session: s, Payload: 1472 - wire.RelayTotal, Relay: &link.Relay{Host: idOf(1), Hop: s}})
		}
		return p
	}
	check(tb, e.SetTable(testVNI, fdb.Build(in)))
	check(tb, e.SetHosts(testVNI, in.Hosts))
	nw := (*e.networks.Load())[testVNI]
	return newUplink(e, nw), nw, w
}

// sink is a PacketWriter that keeps copies if asked to.
type sink struct {
	keep    bool
	packets [][]byte
	sent    int
	calls   int // messages
}

func (s *sink) WriteBatch(ps []Packet) (int, error) {
	s.calls += len(ps)
	for _, p := range ps {
		size := p.Segment
		if size == 0 {
			size = len(p.Data)
		}
		for data := range slices.Chunk(p.Data, size) {
			if s.keep {
				s.packets = append(s.packets, bytes.Clone(data))
			}
			s.sent++
		}
	}
	return len(ps), nil
}

// load makes f the first n frames that were read.
func (u *uplink) load(f []byte, n int) {
	space := u.space
	if need := n * (gso.HeaderLen + len(f)); need > len(space) {
		space = make([]byte, need)
		u.space = space
	}
	for i := range n {
		clear(space[:gso.HeaderLen])
		size := gso.HeaderLen + copy(space[gso.HeaderLen:], f)
		u.frames[i], space = space[:size:size], space[size:]
	}
}

// sealAllocs is what package seal itself allocates for one packet: the engine adds nothing to it.
func sealAllocs() float64 {
	s, _ := seal.NewGroupSealer(seal.SuiteAES, make([]byte, 32), 5, 0)
	buf := make([]byte, 200)
	return testing.AllocsPerRun(100, func() { _, _ = s.SealGroup(buf, 100, 0) })
}

func TestUplinkDoesNotAllocate(t *testing.T) {
	u, _, _ := newBench(t, 4)
	now := time.Now()
	for name, c := range map[string]struct {
		frame []byte
		seals float64
	}{
		"unicast":            {unicast(200, 1, 1000), 1},
		"unicast, relayed":   {unicast(200, 2, 1000), 2},
		"unicast, fragments": {unicast(200, 2, 1414), 4},
		"group, two relayed": {multicast(200, "239.1.1.1", 1000), 3},
		"group, fragments":   {multicast(200, "239.1.1.1", 1414), 6},
		"flood":              {multicast(200, "224.0.0.251", 1000), 3},
		"no member":          {multicast(200, "239.2.2.2", 1000), 0},
	} {
		got := testing.AllocsPerRun(100, func() {
			u.load(c.frame, 8)
			u.batch(8, now)
			u.bucket.tokens = 1000
		})
		if want := 8 * c.seals * sealAllocs(); got != want {
			t.Errorf("%s: %v allocations for 8 frames, sealing alone has %v", name, got, want)
		}
	}
}

func TestDownlinkDoesNotAllocate(t *testing.T) {
	for _, size := range []int{1000, 1414} { // 1414 comes in two fragments
		u, nw, w := newBench(t, 2)
		rx, pkts := newReceiver(t, u, nw, w, multicast(200, "239.1.1.1", size), 400, &discard{fakeTAP: newTAP()})
		link := plaintext(unicast(200, 1, 1000))
		i := 0
		feed := func() {
			for range 8 {
				rx.HandleGroup(pkts[i], idOf(200))
				i++
			}
			rx.HandleFrame(idOf(200), link)
			rx.Flush()
		}
		for range 4 {
			feed()
		}
		got := testing.AllocsPerRun(40, feed)
		if want := 8 * sealAllocs(); got != want {
			t.Errorf("frames of %d: %v allocations for 8 packets, opening alone has %v", size, got, want)
		}
		if d := rx.Drops(); len(d) != 0 {
			t.Errorf("drops %v", d)
		}
	}
}

// discard is a TAP that swallows frames, or refuses all.
type discard struct {
	*fakeTAP
	frames  int
	refuse  bool
	failing error
}

func (d *discard) Write([][]byte) (bool, error) {
	if d.refuse || d.failing != nil {
		return false, d.failing
	}
	d.frames++
	return true, nil
}

// newReceiver makes another engine, with dev for its network, that has u's sender key, and n packets for it.
func newReceiver(tb testing.TB, u *uplink, nw *network, w *sink, frame []byte, n int, dev Device) (*Engine, [][]byte) {
	tb.Helper()
	rx, err := New(Config{Self: idOf(1), NewWriter: func() PacketWriter { return w }, Send: func(ident.HostID, []byte) error { return nil }})
	check(tb, err)
	check(tb, rx.AddNetwork(testVNI, dev, 1400))
	tb.Cleanup(func() { check(tb, rx.Close()) })
	check(tb, rx.SetHosts(testVNI, []ident.HostID{idOf(200)}))
	check(tb, rx.SetTable(testVNI, fdb.Build(fdb.Input{VNI: testVNI, Self: idOf(1), Counters: rx.Counters()})))
	k := nw.keys.current
	rx.HandleSenderKey(idOf(200), (&keyMessage{Op: keyOffer, VNI: testVNI, ID: k.id, Suite: u.e.cfg.Suite, Key: k.key[:]}).encode())
	w.keep = true
	for len(w.packets) < n {
		u.load(frame, 1)
		u.batch(1, time.Now())
		w.packets = slices.DeleteFunc(w.packets, func(p []byte) bool { return p[0] != wire.TypeGroup })
	}
	w.keep = false
	return rx, w.packets[:n]
}

func BenchmarkUplink(b *testing.B) {
	for _, receivers := range []int{1, 10, 100} {
		for _, size := range []int{200, 1400} {
			b.Run(fmt.Sprintf("receivers=%d/size=%d", receivers, size), func(b *testing.B) {
				u, _, _ := newBench(b, receivers)
				for _, p := range u.nw.table.Load().Lookup(multicast(200, "239.1.1.1", 60)).To {
					direct := *p.Path()
					direct.Relay, direct.Payload = nil, 1472
					p.SetPath(&direct)
				}
				f, now := multicast(200, "239.1.1.1", size), time.Now()
				b.ReportAllocs()
				b.SetBytes(int64(size * batchFrames))
				for b.Loop() {
					u.load(f, batchFrames)
					u.batch(batchFrames, now)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batchFrames), "ns/frame")
			})
		}
	}
}

func BenchmarkDownlink(b *testing.B) {
	for _, size := range []int{200, 1000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			u, nw, w := newBench(b, 1)
			const n = 4096
			rx, pkts := newReceiver(b, u, nw, w, multicast(200, "239.1.1.1", size), n, &discard{fakeTAP: newTAP()})
			k := nw.keys.current
			scratch := make([][2000]byte, batchFrames) // of one batch
			b.ReportAllocs()
			b.SetBytes(int64(size))
			i := 0
			for b.Loop() {
				if i%n == 0 { // the same packets again, under a window that has not seen them
					o, err := seal.NewOpener(rx.cfg.Suite, k.key[:])
					check(b, err)
					rx.down.drain()
					rx.down.keys[k.id].opener = o
				}
				pkt := &scratch[i%batchFrames]
				rx.HandleGroup(pkt[:copy(pkt[:], pkts[i%n])], idOf(200))
				if i++; i%batchFrames == 0 {
					rx.Flush()
				}
			}
			if d := rx.Drops(); len(d) > 0 {
				b.Errorf("drops %v", d)
			}
		})
	}
}
