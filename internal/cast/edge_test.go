package cast

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

// checker is a PacketWriter that opens what it is given, as it stands at that moment.
type checker struct {
	t      *testing.T
	suite  seal.Suite
	key    []byte
	hop    *seal.Opener
	byHost map[string]*seal.Opener // by endpoint and relayed host: each sees every packet once
	parts  map[string]*frag.Assembler
	whole  map[string]int
}

func (c *checker) WriteBatch(ps []Packet) (int, error) {
	for _, p := range ps {
		size := p.Segment
		if size == 0 {
			size = len(p.Data)
		}
		for data := range slices.Chunk(p.Data, size) {
			c.packet(bytes.Clone(data), p.To.String())
		}
	}
	return len(ps), nil
}

func (c *checker) packet(data []byte, who string) {
	if data[0] == wire.TypeRelay {
		info, inner, err := c.hop.OpenEnvelope(data)
		if err != nil {
			c.t.Fatalf("envelope: %v", err)
		}
		data, who = inner, string(info.Dst[:])
	}
	if c.byHost[who] == nil {
		o, err := seal.NewOpener(c.suite, c.key)
		check(c.t, err)
		c.byHost[who], c.parts[who] = o, &frag.Assembler{}
	}
	plain, err := c.byHost[who].OpenGroup(data)
	if err != nil {
		c.t.Fatalf("group packet: %v", err)
	}
	if plain[0] == wire.KindFragment {
		whole, ok := c.parts[who].Add(time.Unix(0, 0), plain)
		if !ok {
			return
		}
		plain = whole
	}
	for b := plain[frameHeader:]; len(b) > 0; {
		_, rest, ok := gso.Next(b)
		if !ok {
			c.t.Fatal("half a record")
		}
		b = rest
		c.whole[who]++
	}
}

// More packets than arenas and batches hold: none is overwritten before it is written.
func TestArenasAreNotReusedTooSoon(t *testing.T) {
	for _, c := range []struct{ receivers, size int }{
		{16, 1350}, // whole, in envelopes
		{16, 1414}, // in two fragments
		{1, 9014},  // in seven, direct
	} {
		u, nw, _ := newBench(t, c.receivers)
		hop, err := seal.NewLinkSealer(seal.SuiteAES, make([]byte, 32), 1, 0)
		check(t, err)
		for _, p := range nw.table.Load().Lookup(multicast(200, "239.1.1.1", 60)).To {
			if p.ID == idOf(1) {
				continue
			}
			path := *p.Path()
			path.Relay, path.Payload = &link.Relay{Host: idOf(1), Hop: hop}, 1472-wire.RelayTotal
			p.SetPath(&path)
		}
		opener, err := seal.NewOpener(seal.SuiteAES, make([]byte, 32))
		check(t, err)
		w := &checker{
			t: t, suite: u.e.cfg.Suite, key: nw.keys.current.key[:], hop: opener,
			byHost: map[string]*seal.Opener{}, parts: map[string]*frag.Assembler{}, whole: map[string]int{},
		}
		u.w = w
		u.load(multicast(200, "239.1.1.1", c.size), batchFrames)
		u.batch(batchFrames, time.Now())
		if len(w.whole) != c.receivers {
			t.Errorf("%d receivers, want %d", len(w.whole), c.receivers)
		}
		for who, n := range w.whole {
			if n != batchFrames {
				t.Errorf("%x got %d frames of %d, want %d", who, n, c.size, batchFrames)
			}
		}
	}
}

// halfWriter refuses every second packet.
type halfWriter struct{}

func (halfWriter) WriteBatch(ps []Packet) (int, error) { return len(ps) / 2, nil }

func TestRefusedPacketsAreCounted(t *testing.T) {
	u, nw, _ := newBench(t, 2)
	u.w = halfWriter{}
	for range 10 {
		u.load(unicast(200, 1, 100), 1)
		u.batch(1, time.Now())
	}
	if n := nw.drops[dropSend].Load(); n != 10 {
		t.Errorf("send_refused = %d, want 10", n)
	}
}

func TestSpentKeysSealNothing(t *testing.T) {
	u, nw, w := newBench(t, 2)
	spent, err := seal.NewGroupSealer(seal.SuiteAES, make([]byte, 32), 5, 1)
	check(t, err)
	nw.key.Store(spent)
	u.load(multicast(200, "239.1.1.1", 1000), 3) // a packet each
	u.batch(3, time.Now())
	if n := nw.drops[dropKeySpent].Load(); n != 2 || w.sent != 2 {
		t.Errorf("key_spent = %d, %d packets sent; want 2 and 2", n, w.sent)
	}
}

func TestFramesBeforeTheTableAreCounted(t *testing.T) {
	u, nw, _ := newBench(t, 2)
	nw.table.Store(nil)
	u.load(unicast(200, 1, 100), 3)
	u.batch(3, time.Now())
	if n := nw.drops[dropNoTable].Load(); n != 3 {
		t.Errorf("no_table = %d, want 3", n)
	}
}

func TestRefusedFramesAreCounted(t *testing.T) {
	u, nw, w := newBench(t, 1)
	rx, pkts := newReceiver(t, u, nw, w, multicast(200, "239.1.1.1", 100), 8, &discard{fakeTAP: newTAP()})
	tap := (*rx.networks.Load())[testVNI].dev.(*discard)
	feed := func(pkts [][]byte) {
		for _, p := range pkts {
			rx.HandleGroup(p, idOf(200))
		}
		rx.Flush()
	}
	tap.refuse = true
	feed(pkts[:3])
	tap.failing = errors.New("gone")
	feed(pkts[3:])
	if d := rx.Drops(); d["tap_refused"] != 3 || d["tap_failed"] != 5 {
		t.Errorf("drops %v, want 3 refused and 5 failed", d)
	}
}

// Many frames between two calls of Flush.
func TestDownlinkSpaceIsNotReusedTooSoon(t *testing.T) {
	inRigOf(t, 2, 9000, nil, func(t *testing.T, r *rig) {
		e := r.host(2).eng
		var frames [][]byte
		for i := range 3 * (512 << 10) / 9000 {
			f := unicast(1, 2, 9000)
			f[100] = byte(i)
			frames = append(frames, f)
			e.HandleFrame(idOf(1), plaintext(f))
		}
		e.Flush()
		r.host(2).want("a long batch", frames...)
	})
}

// A host that restarted has no keys; its link comes up before anything is sent to it.
func TestHostUpBringsKeys(t *testing.T) {
	inRig(t, 2, func(t *testing.T, r *rig) {
		r.host(1).eng.HostUp(idOf(2))
		synctest.Wait()
		if n := len(r.sent(wire.TypeLink)); n != 2 {
			t.Errorf("%d messages, want an offer and its acknowledgement", n)
		}
		r.host(1).eng.HostUp(idOf(77))
		synctest.Wait()
		if n := len(r.sent(wire.TypeLink)); n != 0 {
			t.Errorf("%d messages for a host without the network", n)
		}
	})
}

// Fragments that are never completed are forgotten, and counted.
func TestUnfinishedFragmentsAreCounted(t *testing.T) {
	inRigOf(t, 2, 9000, nil, func(t *testing.T, r *rig) {
		r.host(1).members(join(2, "239.1.1.1"))
		n := 0
		r.losing(func(_, _ int, kind byte) bool {
			if kind == wire.TypeGroup {
				n++
			}
			return kind == wire.TypeGroup && n == 2
		})
		r.host(1).tap.in <- multicast(1, "239.1.1.1", 5000)
		r.tick(2*frag.MaxAge + time.Second)
		check(t, r.host(1).send(idOf(2), []byte{wire.KindPing}))
		synctest.Wait()
		r.host(2).want("a frame with a part missing")
		r.host(2).wantDrop("fragment", 1)
	})
}

func TestReasonsHaveDistinctNames(t *testing.T) {
	seen := map[string]bool{}
	for d := drop(1); d < numDrops; d++ {
		if s := d.String(); s == "" || s == "unknown" || seen[s] {
			t.Errorf("reason %d is called %q", d, s)
		}
		seen[d.String()] = true
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{Self: ident.HostID{1}}); err == nil {
		t.Error("an engine without a way to send")
	}
}

// What was found once for frames that follow each other holds no longer than it is true.
func TestAdmittedIsNotRemembered(t *testing.T) {
	inRig(t, 2, func(t *testing.T, r *rig) {
		e, f := r.host(2).eng, unicast(1, 2, 100)
		frame := func() {
			e.HandleFrame(idOf(1), plaintext(f))
			e.Flush()
		}
		frame()
		r.host(2).want("a host of the network", f)
		check(t, e.SetHosts(testVNI, nil))
		frame()
		if d := e.Drops(); d["not_of_network"] != 1 {
			t.Errorf("drops %v, want one of a host that is no more of the network", d)
		}
		check(t, e.SetHosts(testVNI, r.ids()))
		frame()
		r.host(2).want("back in the network", f)
		check(t, e.RemoveNetwork(testVNI))
		frame()
		if d := e.Drops(); d["no_network"] != 1 {
			t.Errorf("drops %v, want one without a network", d)
		}
	})
}
