package handshake

import (
	"bytes"
	"encoding/binary"
	"errors"
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
