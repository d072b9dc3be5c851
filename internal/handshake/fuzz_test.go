package handshake

import (
	"bytes"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

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
