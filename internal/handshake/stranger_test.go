package handshake

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

func TestAnswersAreNotLonger(t *testing.T) {
	tok := ident.NewToken()
	long := strings.Repeat("n", 63)
	a, b := newNode(t, long, tok), newNode(t, long, tok)
	for _, n := range []*node{a, b} {
		n.info.Build, n.info.Port, n.info.Suites = strings.Repeat("b", MaxBuild), 65535, []seal.Suite{1, 2, 1, 2}
	}
	meet(a, b)
	for _, peer := range []*node{nil, b} {
		h := start(t, a, peer)
		if len(h.Packet) != HelloSize || len(h.Packet) > wire.MinPath-wire.RelayTotal {
			t.Errorf("hello of %d bytes", len(h.Packet))
		}
		out := b.Input(epoch, "a", h.Packet)
		if len(out.Reply) == 0 || len(out.Reply) > len(h.Packet) {
			t.Errorf("an answer of %d bytes to %d", len(out.Reply), len(h.Packet))
		}
		if fin := a.Input(epoch, "b", out.Reply); fin.Done == nil || len(fin.Reply) > len(out.Reply) {
			t.Errorf("finish: %+v", fin)
		}
	}
	b.refuse = func(ident.HostID, Info, bool) *Refusal {
		return &Refusal{strings.Repeat("c", 99), strings.Repeat("ü", 999)}
	}
	h := start(t, a, nil)
	out := b.Input(epoch, "a", h.Packet)
	if got := a.Input(epoch, "b", out.Reply); got.Refused == nil || len(got.Refused.Text) > MaxText || len(got.Refused.Code) > maxCode {
		t.Errorf("a refusal as long as allowed: %+v", got)
	}
}

func TestWrongSecretIsSilence(t *testing.T) {
	tok := ident.NewToken()
	other := tok
	other.Secret = ident.NewToken().Secret
	elsewhere := tok
	elsewhere.Cluster = ident.NewToken().Cluster
	b := newNode(t, "bee", tok)
	for i, tk := range []ident.Token{other, elsewhere} {
		a := newNode(t, "ant", tk)
		out := b.Input(epoch.Add(time.Duration(i)*time.Second), fmt.Sprintf("10.0.0.%d:6783", i), start(t, a, nil).Packet)
		if out.Reply != nil || out.Done != nil || out.Drop != DropBadSecret {
			t.Errorf("%d: %+v", i, out)
		}
	}
	bad := b.BadSecrets()
	if len(bad) != 2 || bad[0].From != "10.0.0.1:6783" || bad[0].Count != 1 || b.Counters()[DropBadSecret] != 2 {
		t.Errorf("bad secrets: %+v", bad)
	}
	// A known host of another cluster, and one that has another host's key for us.
	x, c := newNode(t, "cat", elsewhere), newNode(t, "cow", tok)
	for _, h := range []Attempt{start(t, x, b), start(t, c, x)} {
		if out := b.Input(epoch, "x", h.Packet); out.Reply != nil || out.Drop != DropBadMAC {
			t.Errorf("IK: %+v", out)
		}
	}
}

func TestReplay(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	meet(a, b)
	for _, peer := range []*node{nil, b} {
		h := start(t, a, peer)
		reply := b.Input(epoch, "a", h.Packet)
		fin := a.Input(epoch, "b", reply.Reply)
		if out := b.Input(epoch.Add(time.Hour), "x", h.Packet); out.Drop != DropReplay || out.Reply != nil || out.Done != nil {
			t.Errorf("hello: %+v", out)
		}
		// The unauthenticated tail makes no new hello of it.
		h.Packet[len(h.Packet)-1] ^= 1
		if out := b.Input(epoch, "x", h.Packet); out.Drop != DropReplay {
			t.Errorf("hello with another mac2: %+v", out)
		}
		if out := a.Input(epoch, "x", reply.Reply); out.Drop != DropUnknown || out.Done != nil || out.Reply != nil {
			t.Errorf("reply: %+v", out)
		}
		if fin.Reply == nil {
			continue
		}
		if out := b.Input(epoch, "a", fin.Reply); out.Done == nil {
			t.Errorf("finish: %+v", out)
		}
		if out := b.Input(epoch, "x", fin.Reply); out.Drop != DropUnknown || out.Done != nil {
			t.Errorf("finish again: %+v", out)
		}
	}
}

func TestReplayMemoryIsBounded(t *testing.T) {
	var r replays
	key := func(i int) []byte {
		b := make([]byte, macSize)
		binary.BigEndian.PutUint64(b, uint64(i))
		return b
	}
	for i := range MaxReplays + 10 {
		r.add(key(i))
		r.add(key(i))
	}
	if len(r.seen) != MaxReplays || len(r.ring) != MaxReplays {
		t.Fatalf("%d, %d", len(r.seen), len(r.ring))
	}
	for i := range MaxReplays + 10 {
		if r.has(key(i)) != (i >= 10) {
			t.Fatalf("entry %d: %v", i, r.has(key(i)))
		}
	}
}

// TestDamage sends every packet of a handshake cut at each length and with each byte changed.
// None may lead anywhere, and the handshake goes on as if they had not come.
func TestDamage(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	meet(a, b)
	damage := func(to *node, what string, pkt []byte) {
		t.Helper()
		check := func(how string, p []byte) {
			if out := to.Input(epoch, "x", p); out.Reply != nil || out.Done != nil || out.Refused != nil || out.Drop == "" {
				t.Fatalf("%s %s: %+v", what, how, out)
			}
		}
		for i := range pkt {
			check(fmt.Sprint("cut at ", i), pkt[:i])
			p := bytes.Clone(pkt)
			p[i] ^= 1 << (i % 8)
			if pkt[0] == wire.TypeHello && i >= len(pkt)-macSize {
				continue // mac2 is read only under load
			}
			if pkt[0] != wire.TypeHello && (i == 1 || i == 2 || i == 3) && to.Sizes().Attempts+to.Sizes().HalfOpen == 0 {
				continue
			}
			check(fmt.Sprint("byte ", i), p)
		}
		check("with a byte more", append(bytes.Clone(pkt), 0))
	}
	for _, peer := range []*node{nil, b} {
		h := start(t, a, peer)
		damage(b, "hello", h.Packet)
		reply := b.Input(epoch, "a", h.Packet)
		damage(a, "reply", reply.Reply)
		fin := a.Input(epoch, "b", reply.Reply)
		if fin.Done == nil {
			t.Fatalf("%+v", fin)
		}
		if peer == nil {
			damage(b, "finish", fin.Reply)
			if end := b.Input(epoch, "a", fin.Reply); end.Done == nil {
				t.Fatalf("%+v", end)
			}
		}
	}
}

func TestFloodDrawsCookies(t *testing.T) {
	tok := ident.NewToken()
	a := newNode(t, "ant", tok)
	b := newNode(t, "bee", tok, func(c *Config) { c.Load = 3 })
	meet(a, b)
	now := epoch
	for range 3 {
		if out := b.Input(now, "a", start(t, a, b).Packet); out.Done == nil {
			t.Fatalf("not under load: %+v", out)
		}
	}
	for _, peer := range []*node{nil, b} {
		h := start(t, a, peer)
		ck := b.Input(now, "a", h.Packet)
		if ck.Drop != DropLoad || len(ck.Reply) != cookieSize || ck.Reply[0] != wire.TypeCookie || ck.Done != nil {
			t.Fatalf("%+v", ck)
		}
		for i := range ck.Reply {
			if i >= 1 && i <= 3 {
				continue
			}
			p := bytes.Clone(ck.Reply)
			p[i] ^= 4
			if out := a.Input(now, "b", p); out.Reply != nil {
				t.Fatalf("forged cookie, byte %d: %+v", i, out)
			}
		}
		again := a.Input(now, "b", ck.Reply)
		if len(again.Reply) != HelloSize {
			t.Fatalf("%+v", again)
		}
		if out := a.Input(now, "b", ck.Reply); out.Reply != nil {
			t.Error("a cookie made us send twice")
		}
		if out := b.Input(now, "elsewhere", again.Reply); out.Drop != DropLoad || out.Done != nil {
			t.Errorf("a cookie worked for another source: %+v", out)
		}
		out := b.Input(now, "a", again.Reply)
		if out.Reply == nil || out.Drop != "" {
			t.Fatalf("a proven source is not served: %+v", out)
		}
		if fin := a.Input(now, "b", out.Reply); fin.Done == nil {
			t.Fatalf("%+v", fin)
		}
	}
	// The attempts of one proven source are limited: 5 at once, 2 are spent.
	proven := func() Output {
		h := start(t, a, b)
		defer a.Cancel(h.Index)
		again := a.Input(now, "b", b.Input(now, "a", h.Packet).Reply)
		return b.Input(now, "a", again.Reply)
	}
	for range SourceBurst - 2 {
		if out := proven(); out.Done == nil {
			t.Fatalf("%+v", out)
		}
	}
	if out := proven(); out.Drop != DropRate || out.Reply != nil {
		t.Errorf("%+v", out)
	}
	now = now.Add(60 * time.Millisecond) // a twentieth of a second is one token
	if out := proven(); out.Done == nil {
		t.Errorf("%+v", out)
	}
	// An older cookie is good for one rotation.
	h := start(t, a, b)
	again := a.Input(now, "b", b.Input(now, "a", h.Packet).Reply)
	later := now.Add(CookieAge + time.Second)
	for range 4 {
		b.Input(later, "z", start(t, a, b).Packet)
	}
	if out := b.Input(later, "a", again.Reply); out.Done == nil {
		t.Errorf("one rotation later: %+v", out)
	}
	h = start(t, a, b)
	again = a.Input(now, "b", b.Input(later, "a", h.Packet).Reply)
	later = later.Add(2*CookieAge + time.Second)
	for range 4 {
		b.Input(later, "z", start(t, a, b).Packet)
	}
	if out := b.Input(later, "a", again.Reply); out.Done != nil || out.Drop != DropLoad {
		t.Errorf("two rotations later: %+v", out)
	}
	b.Tick(later)
	if n := b.Sizes().Sources; n != 0 {
		t.Errorf("%d sources kept", n)
	}
	// Calm again.
	later = later.Add(5 * time.Second)
	if out := b.Input(later, "a", start(t, a, b).Packet); out.Done == nil {
		t.Errorf("after the flood: %+v", out)
	}
}

// rigged replays chosen index bytes for reads of four bytes and is random for others.
type rigged struct{ indices []uint32 }

func (r *rigged) Read(p []byte) (int, error) {
	if len(p) == 4 && len(r.indices) > 0 {
		binary.BigEndian.PutUint32(p, r.indices[0])
		r.indices = r.indices[1:]
		return 4, nil
	}
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return len(p), nil
}

func TestIndexCollision(t *testing.T) {
	tok := ident.NewToken()
	r := &rigged{}
	a := newNode(t, "ant", tok)
	b := newNode(t, "bee", tok, func(c *Config) { c.Rand = r })
	meet(a, b)
	r.indices = []uint32{0, 7}
	if h := start(t, b, a); h.Index != 7 {
		t.Errorf("index %d: 0 must not be used", h.Index)
	}
	r.indices = []uint32{7, 7, 8}
	out := b.Input(epoch, "a", start(t, a, b).Packet)
	if out.Done == nil || out.Done.Local != 8 {
		t.Fatalf("taken by an attempt: %+v", out.Done)
	}
	r.indices = []uint32{8, 9}
	b.Input(epoch, "a", start(t, a, nil).Packet) // half open as 9
	r.indices = []uint32{9, 8, 7, 10}
	if h := start(t, b, a); h.Index != 10 {
		t.Errorf("index %d", h.Index)
	}
	b.Release(8)
	r.indices = []uint32{8}
	if h := start(t, b, a); h.Index != 8 {
		t.Errorf("a released index is not used again: %d", h.Index)
	}
	r.indices = make([]uint32, 100)
	if _, err := b.Start(epoch, nil); err == nil {
		t.Error("a broken source of randomness goes unnoticed")
	}
}

func TestTablesAreBoundedAndForget(t *testing.T) {
	tok := ident.NewToken()
	b := newNode(t, "bee", tok, func(c *Config) { c.Load = 1 << 20 })
	a := newNode(t, "ant", tok)
	for i := range MaxHalfOpen {
		if i < MaxHalfOpen-20 { // the work of the first thousand is spared
			a.attempts[uint32(i+1)] = &attempt{born: epoch}
			b.halfOpen[uint32(i+1)] = &halfOpen{born: epoch}
			continue
		}
		h := start(t, a, nil)
		if out := b.Input(epoch, "a", h.Packet); out.Reply == nil {
			t.Fatalf("%+v", out)
		}
	}
	if _, err := a.Start(epoch, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("attempts: %v", err)
	}
	c := newNode(t, "cat", tok)
	if out := b.Input(epoch, "c", start(t, c, nil).Packet); out.Drop != DropHalfOpen || out.Reply != nil {
		t.Errorf("%+v", out)
	}
	later := epoch.Add(HalfOpenAge + time.Second)
	a.Tick(later)
	b.Tick(later)
	if a.Sizes().Attempts != 0 || b.Sizes().HalfOpen != 0 {
		t.Errorf("%+v %+v", a.Sizes(), b.Sizes())
	}
	for i := range MaxBadSecrets + 5 {
		b.bad.add(epoch.Add(time.Duration(i)*time.Second), fmt.Sprint("s", i))
	}
	list := b.BadSecrets()
	if len(list) != MaxBadSecrets || list[0].From != fmt.Sprint("s", MaxBadSecrets+4) || list[len(list)-1].From != "s5" {
		t.Errorf("%d bad secrets, first %v", len(list), list[0])
	}
	for i := range MaxSources + 5 {
		b.flood.allow(epoch, fmt.Sprint("s", i))
	}
	if n := b.Sizes().Sources; n != MaxSources {
		t.Errorf("%d sources", n)
	}
}

// TestStrangersCostNothing: until the MAC is right, a packet makes the Machine allocate nothing.
func TestStrangersCostNothing(t *testing.T) {
	b := newNode(t, "bee", ident.NewToken())
	x := newNode(t, "eve", ident.NewToken())
	for _, pkt := range [][]byte{start(t, x, nil).Packet, start(t, x, x).Packet, make([]byte, 600), {wire.TypeReply, 1, 0, 0, 0, 0, 0, 1, 9}} {
		b.Input(epoch, "x", pkt)
		if n := testing.AllocsPerRun(100, func() { b.Input(epoch, "x", pkt) }); n != 0 {
			t.Errorf("%d bytes of type %d: %v allocations", len(pkt), pkt[0], n)
		}
	}
}
