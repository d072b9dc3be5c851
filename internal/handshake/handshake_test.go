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

var epoch = time.Unix(1_800_000_000, 0)

// node is a host in a test: a Machine and what its functions answer.
type node struct {
	*Machine
	keys   ident.Keys
	token  ident.Token
	info   Info
	cards  map[ident.HostID]ident.Card
	refuse func(ident.HostID, Info, bool) *Refusal
}

func newNode(t testing.TB, name string, token ident.Token, change ...func(*Config)) *node {
	t.Helper()
	keys, err := ident.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{
		keys: keys, token: token, cards: map[ident.HostID]ident.Card{},
		info: Info{Name: name, Suites: []seal.Suite{seal.SuiteAES, seal.SuiteChaCha}, Port: 6783, Build: "test"},
	}
	cfg := Config{
		Keys: keys, Cluster: token.Cluster, Domain: "test",
		Secret: func() ident.Secret { return n.token.Secret },
		Self:   func(time.Time) Info { return n.info },
		Known:  func(id ident.HostID) (ident.Card, bool) { c, ok := n.cards[id]; return c, ok },
		Admit: func(id ident.HostID, i Info, first bool) *Refusal {
			if n.refuse == nil {
				return nil
			}
			return n.refuse(id, i, first)
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	n.Machine = New(cfg)
	return n
}

func meet(nodes ...*node) {
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				a.cards[b.keys.ID()] = b.keys.Card()
			}
		}
	}
}

func start(t testing.TB, n *node, peer *node) Attempt {
	t.Helper()
	var card *ident.Card
	if peer != nil {
		c := peer.keys.Card()
		card = &c
	}
	a, err := n.Start(epoch, card)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func session(t *testing.T, a, b *Result) {
	t.Helper()
	if a == nil || b == nil {
		t.Fatalf("no session: %v, %v", a, b)
	}
	if a.SendKey != b.RecvKey || a.RecvKey != b.SendKey {
		t.Error("the two ends have different keys")
	}
	if a.SendKey == a.RecvKey || a.SendKey == [32]byte{} {
		t.Error("directions share a key, or there is none")
	}
	if a.Local != b.Remote || a.Remote != b.Local || a.Local == 0 || b.Local == 0 {
		t.Errorf("indices: %d/%d and %d/%d", a.Local, a.Remote, b.Local, b.Remote)
	}
	if a.Suite != b.Suite || a.First != b.First || a.Initiator == b.Initiator {
		t.Errorf("ends disagree: %+v %+v", a, b)
	}
}

func first(t *testing.T, a, b *node) (*Result, *Result) {
	t.Helper()
	h := start(t, a, nil)
	reply := b.Input(epoch, "a", h.Packet)
	fin := a.Input(epoch, "b", reply.Reply)
	end := b.Input(epoch, "a", fin.Reply)
	session(t, fin.Done, end.Done)
	return fin.Done, end.Done
}

func TestFirstContact(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	ra, rb := first(t, a, b)
	if ra.ID != b.keys.ID() || rb.ID != a.keys.ID() || ra.Peer.Name != "bee" || rb.Peer.Name != "ant" {
		t.Errorf("identities: %v %v", ra, rb)
	}
	if !ra.First || !ra.Initiator || !ra.Confirmed || !rb.Confirmed {
		t.Errorf("flags: %+v %+v", ra, rb)
	}
	if ra.Peer.Port != 6783 || ra.Peer.Unix != epoch.Unix() || ra.Peer.Build != "test" || ra.Peer.Card != b.keys.Card() {
		t.Errorf("info: %+v", ra.Peer)
	}
	if s := a.Sizes(); s.Attempts != 0 || s.HalfOpen != 0 || s.Sessions != 1 {
		t.Errorf("left over: %+v", s)
	}
	if s := b.Sizes(); s.HalfOpen != 0 || s.Sessions != 1 {
		t.Errorf("left over: %+v", s)
	}
	a.Release(ra.Local)
	if s := a.Sizes(); s.Sessions != 0 {
		t.Errorf("not released: %+v", s)
	}
}

func TestKnown(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	meet(a, b)
	b.token = ident.NewToken() // rotated: admitted hosts reconnect by their keys
	h := start(t, a, b)
	reply := b.Input(epoch, "a", h.Packet)
	end := a.Input(epoch, "b", reply.Reply)
	session(t, end.Done, reply.Done)
	if end.Reply != nil {
		t.Error("IK has two messages")
	}
	if end.Done.First || !end.Done.Confirmed || reply.Done.Confirmed {
		t.Errorf("flags: %+v %+v", end.Done, reply.Done)
	}
	if reply.Done.ID != a.keys.ID() || end.Done.ID != b.keys.ID() {
		t.Error("wrong identities")
	}
}

func TestSuiteIsBothOnes(t *testing.T) {
	aes, cha := seal.SuiteAES, seal.SuiteChaCha
	for _, c := range []struct {
		a, b []seal.Suite
		want seal.Suite
	}{
		{[]seal.Suite{aes, cha}, []seal.Suite{aes, cha}, aes},
		{[]seal.Suite{cha, aes}, []seal.Suite{aes, cha}, cha},
		{[]seal.Suite{aes, cha}, []seal.Suite{cha, aes}, cha},
		{[]seal.Suite{cha}, []seal.Suite{cha}, cha},
	} {
		tok := ident.NewToken()
		a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
		a.info.Suites, b.info.Suites = c.a, c.b
		if r, _ := first(t, a, b); r.Suite != c.want {
			t.Errorf("%v %v: got %d, want %d", c.a, c.b, r.Suite, c.want)
		}
	}
}

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

func TestDomainsAreApart(t *testing.T) {
	tok := ident.NewToken()
	a := newNode(t, "ant", tok)
	b := newNode(t, "bee", tok, func(c *Config) { c.Domain = "other" })
	meet(a, b)
	for _, h := range []Attempt{start(t, a, nil), start(t, a, b)} {
		if out := b.Input(epoch, "a", h.Packet); out.Reply != nil {
			t.Errorf("answered: %+v", out)
		}
	}
}

func TestRotatedSecret(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	h := start(t, a, nil)
	reply := b.Input(epoch, "a", h.Packet)
	b.token.Secret = ident.NewToken().Secret
	if out := b.Input(epoch, "a", start(t, a, nil).Packet); out.Drop != DropBadSecret {
		t.Errorf("the old token still works: %+v", out)
	}
	fin := a.Input(epoch, "b", reply.Reply)
	if end := b.Input(epoch, "a", fin.Reply); end.Done == nil {
		t.Errorf("a handshake under way was cut: %+v", end)
	}
	a.token = b.token
	first(t, a, b)
}

func TestOtherVersion(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	meet(a, b)
	a.version = wire.Version + 1
	for _, peer := range []*node{nil, b} {
		h := start(t, a, peer)
		out := b.Input(epoch, "a", h.Packet)
		if out.Drop != DropVersion || len(out.Reply) == 0 || len(out.Reply) > len(h.Packet) {
			t.Fatalf("%+v", out)
		}
		forged := bytes.Clone(out.Reply)
		forged[helloHeader] ^= 1
		if got := a.Input(epoch, "b", forged); got.Refused != nil {
			t.Error("a forged refusal was believed")
		}
		if again := b.Input(epoch, "a", h.Packet); again.Reply != nil {
			t.Error("a replay drew an answer")
		}
		got := a.Input(epoch, "b", out.Reply)
		if got.Refused == nil || got.Refused.Code != CodeVersion || got.Index != h.Index || !strings.Contains(got.Refused.Text, "version 1, this host 2") {
			t.Errorf("%+v %+v", got, got.Refused)
		}
		// The answer to one hello ends no other attempt.
		h2 := start(t, a, peer)
		stale := bytes.Clone(out.Reply)
		binary.BigEndian.PutUint32(stale[4:], h2.Index)
		if got := a.Input(epoch, "b", stale); got.Refused != nil {
			t.Error("a refusal of another attempt was believed")
		}
		a.Cancel(h2.Index)
	}
	// Another version's hello may be shorter than what we would say.
	key := newMACKey(firstKey(tok.Secret, "test", tok.Cluster))
	short := make([]byte, minHello)
	putHeader(short, wire.TypeHello, 9, modeFirst, 7)
	copy(short[minHello-2*macSize:], key.sum(short[:minHello-2*macSize], nil))
	if out := b.Input(epoch, "a", short); out.Drop != DropVersion || len(out.Reply) > len(short) {
		t.Errorf("%+v", out)
	}
}

func TestRefusal(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	meet(a, b)
	b.refuse = func(id ident.HostID, i Info, _ bool) *Refusal {
		if id != a.keys.ID() {
			t.Errorf("asked about %v", id)
		}
		return &Refusal{CodeNameTaken, "the name " + i.Name + " is taken\n\x1b[31m: use --name"}
	}
	for _, peer := range []*node{nil, b} {
		h := start(t, a, peer)
		out := b.Input(epoch, "a", h.Packet)
		if out.Done != nil || out.Drop != DropRefused || bytes.Contains(out.Reply, []byte("taken")) {
			t.Fatalf("%+v", out)
		}
		got := a.Input(epoch, "b", out.Reply)
		if got.Done != nil || got.Reply != nil || got.Refused == nil || got.Refused.Code != CodeNameTaken || got.Index != h.Index {
			t.Fatalf("%+v", got)
		}
		if got.Refused.Text != "the name ant is taken  [31m: use --name" {
			t.Errorf("%q", got.Refused.Text)
		}
		if a.Sizes().Attempts != 0 || b.Sizes().HalfOpen != 0 || b.Sizes().Sessions != 0 {
			t.Error("a refusal left something behind")
		}
	}
	// Changed between answer and finish.
	b.refuse = nil
	reply := b.Input(epoch, "a", start(t, a, nil).Packet)
	fin := a.Input(epoch, "b", reply.Reply)
	b.refuse = func(ident.HostID, Info, bool) *Refusal { return &Refusal{CodeBarred, "removed"} }
	if out := b.Input(epoch, "a", fin.Reply); out.Done != nil || out.Drop != DropRefused {
		t.Errorf("%+v", out)
	}
}

func TestUnknownHostIsToldToJoin(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	out := b.Input(epoch, "a", start(t, a, b).Packet)
	if out.Done != nil {
		t.Fatal("IK from a host not admitted")
	}
	if got := a.Input(epoch, "b", out.Reply); got.Refused == nil || got.Refused.Code != CodeUnknown {
		t.Errorf("%+v", got)
	}
	// The right HostID under another X25519 key, signed by the host or not, is not the known host.
	b.cards[a.keys.ID()] = ident.Card{Sign: a.keys.Card().Sign}
	if out := b.Input(epoch, "a", start(t, a, b).Packet); out.Done != nil {
		t.Error("another key was taken for the known one")
	}
}

func TestSelfAndClone(t *testing.T) {
	tok := ident.NewToken()
	a := newNode(t, "ant", tok)
	meet(a, a)
	h := start(t, a, nil)
	out := a.Input(epoch, "a", h.Packet)
	if got := a.Input(epoch, "a", out.Reply); got.Refused == nil || got.Refused.Code != CodeSelf {
		t.Errorf("%+v", got)
	}
	clone := newNode(t, "copy", tok, func(c *Config) { c.Keys = a.keys })
	out = a.Input(epoch, "x", start(t, clone, nil).Packet)
	if got := clone.Input(epoch, "a", out.Reply); got.Refused == nil || got.Refused.Code != CodeElsewhere {
		t.Errorf("%+v", got)
	}
}

func TestStolenCard(t *testing.T) {
	tok := ident.NewToken()
	a, b, thief := newNode(t, "ant", tok), newNode(t, "bee", tok), newNode(t, "eve", tok)
	meet(a, b)
	thief.info.Card = a.keys.Card() // says it is a, and lacks a's key
	if out := b.Input(epoch, "x", start(t, thief, b).Packet); out.Done != nil || out.Drop != DropInfo {
		t.Errorf("IK: %+v", out)
	}
	out := b.Input(epoch, "x", start(t, thief, nil).Packet)
	fin := thief.Input(epoch, "b", out.Reply)
	if end := b.Input(epoch, "x", fin.Reply); end.Done != nil || end.Drop != DropInfo {
		t.Errorf("XX: %+v", end)
	}
	// And as a responder.
	out = thief.Input(epoch, "b", start(t, b, nil).Packet)
	if got := b.Input(epoch, "x", out.Reply); got.Done != nil || got.Drop != DropInfo {
		t.Errorf("responder: %+v", got)
	}
	// Its own static key under a's signing key: the signature is missing.
	thief.info.Card.Static = thief.keys.Card().Static
	if out := b.Input(epoch, "x", start(t, thief, nil).Packet); out.Reply != nil || out.Drop != DropInfo {
		t.Errorf("unsigned: %+v", out)
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

func TestSimultaneous(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	meet(a, b)
	ha, hb := start(t, a, b), start(t, b, a)
	rb, ra := b.Input(epoch, "a", ha.Packet), a.Input(epoch, "b", hb.Packet)
	ea, eb := a.Input(epoch, "b", rb.Reply), b.Input(epoch, "a", ra.Reply)
	session(t, ea.Done, rb.Done)
	session(t, eb.Done, ra.Done)
	if ea.Done.SendKey == ra.Done.SendKey {
		t.Error("two sessions, one key")
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

func TestLateAnswers(t *testing.T) {
	tok := ident.NewToken()
	a, b := newNode(t, "ant", tok), newNode(t, "bee", tok)
	late := epoch.Add(HalfOpenAge + time.Millisecond)
	h := start(t, a, nil)
	reply := b.Input(epoch, "a", h.Packet)
	if out := a.Input(late, "b", reply.Reply); out.Drop != DropUnknown {
		t.Errorf("%+v", out)
	}
	fin := a.Input(epoch, "b", reply.Reply)
	if out := b.Input(late, "a", fin.Reply); out.Drop != DropUnknown || out.Done != nil {
		t.Errorf("%+v", out)
	}
	h = start(t, a, nil)
	reply = b.Input(epoch, "a", h.Packet)
	a.Cancel(h.Index)
	if out := a.Input(epoch, "b", reply.Reply); out.Drop != DropUnknown {
		t.Errorf("cancelled: %+v", out)
	}
}

func TestNoFirstContactWithoutSecret(t *testing.T) {
	tok := ident.NewToken()
	b := newNode(t, "bee", tok, func(c *Config) { c.Secret = nil })
	if _, err := b.Start(epoch, nil); !errors.Is(err, ErrNoSecret) {
		t.Error(err)
	}
	zero := newNode(t, "ant", ident.Token{Cluster: tok.Cluster})
	if out := b.Input(epoch, "a", start(t, zero, nil).Packet); out.Reply != nil || out.Drop != DropBadSecret {
		t.Errorf("an empty secret opened the door: %+v", out)
	}
}

func TestOwnInfoIsChecked(t *testing.T) {
	a := newNode(t, "ant", ident.NewToken())
	for _, f := range []func(*Info){
		func(i *Info) { i.Name = "Not A Name" },
		func(i *Info) { i.Suites = nil },
		func(i *Info) { i.Build = "\x1b[2J" },
	} {
		keep := a.info
		f(&a.info)
		if _, err := a.Start(epoch, nil); err == nil {
			t.Errorf("%+v was said", a.info)
		}
		a.info = keep
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

func FuzzInput(f *testing.F) {
	tok := ident.NewToken()
	a, b := newNode(f, "ant", tok), newNode(f, "bee", tok)
	b.Machine.cfg.Load = 1 << 30
	meet(a, b)
	h, k := start(f, a, nil), start(f, a, b)
	reply := b.Input(epoch, "a", h.Packet)
	fin := a.Input(epoch, "b", reply.Reply)
	for _, s := range [][]byte{h.Packet, k.Packet, reply.Reply, fin.Reply, {}, {wire.TypeCookie}} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, pkt []byte, fix bool) {
		if len(b.sessions) > 100 {
			clear(b.sessions)
			clear(b.halfOpen)
		}
		if fix && len(pkt) >= minHello { // past the MAC, to what lies behind
			n := len(pkt) - 2*macSize
			pkt = bytes.Clone(pkt)
			pkt[0] = wire.TypeHello
			key := &b.Machine.known
			if pkt[2] == modeFirst {
				key = &b.Machine.first
			}
			copy(pkt[n:], key.sum(pkt[:n], nil))
		}
		for _, n := range []*node{a, b} {
			out := n.Input(epoch, "x", pkt)
			if len(out.Reply) > max(len(pkt), HelloSize) {
				t.Errorf("%d bytes answered to %d", len(out.Reply), len(pkt))
			}
			if out.Drop == "" && out.Reply == nil && out.Done == nil {
				t.Error("dropped without a name")
			}
		}
	})
}

func FuzzPayload(f *testing.F) {
	k, err := ident.NewKeys()
	if err != nil {
		f.Fatal(err)
	}
	p := payload{Answer: make([]byte, macSize), Info: &Info{Card: k.Card(), Name: "ant", Suites: []seal.Suite{1}}}
	b, err := p.encode(payloadSize)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	p = payload{Answer: make([]byte, macSize), Refusal: &Refusal{CodeBarred, "gone"}}
	b, _ = p.encode(payloadSize)
	f.Add(b)
	f.Add([]byte{0, 1, 0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePayload(b)
		if err != nil {
			return
		}
		if p.Info != nil {
			_ = p.Info.Validate()
		}
		if p.Refusal != nil {
			if c := p.Refusal.clean(); len(c.Text) > MaxText || len(c.Code) > maxCode || strings.ContainsAny(c.Text, "\x1b\n\r") {
				t.Errorf("unclean: %q", c.Text)
			}
		}
	})
}

func BenchmarkKnown(bm *testing.B) {
	tok := ident.NewToken()
	a := newNode(bm, "ant", tok)
	b := newNode(bm, "bee", tok, func(c *Config) { c.Load = 1 << 30 })
	meet(a, b)
	bm.ReportAllocs()
	for bm.Loop() {
		h := start(bm, a, b)
		out := b.Input(epoch, "a", h.Packet)
		end := a.Input(epoch, "b", out.Reply)
		a.Release(end.Done.Local)
		b.Release(out.Done.Local)
	}
}

func BenchmarkStranger(bm *testing.B) {
	b := newNode(bm, "bee", ident.NewToken())
	pkt := start(bm, newNode(bm, "eve", ident.NewToken()), nil).Packet
	bm.ReportAllocs()
	for bm.Loop() {
		b.Input(epoch, "x", pkt)
	}
}
