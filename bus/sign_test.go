package bus

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/udp"
)

// signing has a member sign with a key that follows from a number.
func signing(n byte) func(*Config) {
	return func(c *Config) { c.Sign = keyOf(n) }
}

func keyOf(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func publicOf(n byte) ed25519.PublicKey { return keyOf(n).Public().(ed25519.PublicKey) }

// readAll reads until a number of messages, or a loss, came.
func readAll(ctx context.Context, s *Subscription, n int) (payloads []string, err error) {
	for m, err := range s.Messages(ctx) {
		if err != nil {
			return payloads, err
		}
		if payloads = append(payloads, string(m.Payload)); len(payloads) == n {
			return payloads, nil
		}
	}
	return payloads, ctx.Err()
}

// TestSigned: who signs is received, in all classes, long and short, by multicast and by copies, and answers requests; others see by which key. Of one
// that does not sign, or by a key that is not trusted, those who say so take nothing, and it waits for none of them.
func TestSigned(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := within(t)
		a, plain, other := w.join(signing(1)), w.join(), w.join(signing(2))
		trusts := w.join(signing(3), func(c *Config) { c.Trust = []ed25519.PublicKey{publicOf(9), publicOf(1)} })
		requires := w.join(func(c *Config) { c.RequireSigned = true })
		all := w.join()
		subs := map[*Bus]*Subscription{}
		for _, b := range []*Bus{trusts, requires, all} {
			subs[b] = must(b.Subscribe("x", FromOldest()))(t)
		}
		pubs := map[string]*Publisher{}
		for name, b := range map[string]*Bus{"a": a, "plain": plain, "other": other} {
			pubs[name] = must(b.Publisher("x"))(t)
		}
		check(t, pubs["a"].Ready(ctx, 3))
		check(t, pubs["plain"].Ready(ctx, 1))
		check(t, pubs["other"].Ready(ctx, 2))
		for _, s := range subs {
			check(t, s.Ready(ctx))
		}
		for name, p := range pubs {
			for i := range 100 {
				check(t, p.Send(ctx, fmt.Append(nil, name, strings.Repeat("x", i%7*1000), i)))
			}
			check(t, p.Wait(ctx, All))
		}
		for b, want := range map[*Bus]int{trusts: 100, requires: 200, all: 300} {
			got, err := readAll(ctx, subs[b], want)
			check(t, err)
			for _, m := range got {
				if b == trusts && m[0] != 'a' || b == requires && m[0] == 'p' {
					t.Fatalf("%s takes %.10q", b.cfg.Member, m)
				}
			}
		}
		for _, m := range trusts.Members() {
			key := map[string]ed25519.PublicKey{"m1": publicOf(1), "m3": publicOf(2)}[m.Name]
			if !key.Equal(m.Key) || m.Refused != (m.Name != "m1") {
				t.Errorf("%s signs by %x, refused %v", m.Name, m.Key, m.Refused)
			}
		}
		for class, pattern := range map[Class]string{BestEffort: "loose", LastValue: "value"} {
			s := must(trusts.Subscribe(pattern))(t)
			p := must(a.Publisher(pattern, WithClass(class)))(t)
			check(t, p.Ready(ctx, 1))
			check(t, p.Send(ctx, []byte("one")))
			if got, err := readAll(ctx, s, 1); err != nil || got[0] != "one" {
				t.Errorf("class %v: %q, %v", class, got, err)
			}
		}
		r := must(a.Respond("ask", func(context.Context, Message) (Outgoing, error) { return Outgoing{Payload: []byte("yes")}, nil }))(t)
		check(t, r.Ready(ctx))
		if m := must(trusts.Request(ctx, "ask", []byte("?")))(t); string(m.Payload) != "yes" {
			t.Errorf("%q", m.Payload)
		}
		for _, b := range []*Bus{a, plain, other, trusts, requires, all} {
			if d := b.Stats().Dropped; d["unsigned"] != 0 || d["untrusted"] != 0 {
				t.Errorf("%s: %v", b.cfg.Member, d)
			}
		}
	})
}

// TestForged: a member with the token sends packets in the name of a publisher, over real sockets, sealed as they should be: if that one signs, receivers
// take none of them, and have what it sends itself. If it does not, each works.
func TestForged(t *testing.T) {
	type forged struct {
		name string
		make func(p *Publisher, seal func(typ byte, stream uint32, seq uint64, plain []byte) []byte) []byte
	}
	const sent = 10
	record := func(kind byte, body []byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(body))), body...)
	}
	next := func(p *Publisher) uint64 { _, n, _ := p.tx.Gathered(); return n }
	numbers := func(ns ...uint64) (b []byte) {
		for _, n := range ns {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		return b
	}
	attacks := []forged{
		{"a message", func(p *Publisher, seal func(byte, uint32, uint64, []byte) []byte) []byte {
			plain := append(append([]byte{0}, numbers(sent+1)...), 0, 1, 3<<2)
			return seal(rmcast.TypeData, p.tx.ID(), next(p), append(plain, "lie"...))
		}},
		{"that messages are gone", func(p *Publisher, seal func(byte, uint32, uint64, []byte) []byte) []byte {
			body := append(binary.BigEndian.AppendUint32(nil, p.tx.ID()), numbers(next(p)+100, sent+101)...)
			return seal(rmcast.TypeControl, 0, 0, record(10, body))
		}},
		{"the end of the stream, and a goodbye", func(p *Publisher, seal func(byte, uint32, uint64, []byte) []byte) []byte {
			return seal(rmcast.TypeControl, 0, 0, record(4+1, nil))
		}},
	}
	for _, a := range attacks {
		for _, signs := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/signed=%v", a.name, signs), func(t *testing.T) {
				w := newWorld(t, false)
				ctx := within(t)
				sign := func(n byte) func(*Config) {
					if signs {
						return signing(n)
					}
					return func(*Config) {}
				}
				pb, rb, bad := w.join(sign(1)), w.join(sign(2)), w.join()
				p, s := must(pb.Publisher("x"))(t), must(rb.Subscribe("x"))(t)
				check(t, p.Ready(ctx, 1))
				for i := range sent {
					check(t, p.Send(ctx, fmt.Append(nil, i)))
				}
				check(t, p.Wait(ctx, All))
				if got, err := readAll(ctx, s, sent); err != nil {
					t.Fatal(got, err)
				}
				keys := must(bad.cfg.keys(nil))(t)
				ctl := must(keys[0].Control(seal.Preferred(), pb.Epoch()))(t)
				for range 4000 { // fresh ones, whatever the publisher has used
					ctl.Begin(nil, rmcast.TypeControl)
				}
				pkt := a.make(p, func(typ byte, stream uint32, seq uint64, plain []byte) []byte {
					if typ == rmcast.TypeControl {
						return ctl.Seal(nil, typ, plain)
					}
					return must(keys[0].Stream(seal.Preferred(), pb.Epoch(), stream).Seal(nil, typ, seq, plain))(t)
				})
				to := rb.Addr()
				for _, m := range bad.Members() {
					if m.Epoch == rb.Epoch() {
						to = m.Addr
					}
				}
				_ = must(bad.conn.WriteBatch([]udp.Message{{Buf: pkt, Addr: to}}))(t)
				if signs {
					await(t, rb, "a forged packet", func() bool { return rb.Stats().Dropped["unsigned"] == 1 })
				} else {
					await(t, rb, "a forged packet", func() bool { return worked(rb, s, pb) })
					return
				}
				for i := range 5 {
					check(t, p.Send(ctx, fmt.Append(nil, sent+i)))
				}
				check(t, p.Wait(ctx, All))
				for i, got := range must(readAll(ctx, s, 5))(t) {
					if got != fmt.Sprint(sent+i) {
						t.Errorf("%q, not %d", got, sent+i)
					}
				}
				if worked(rb, s, pb) {
					t.Error("it works")
				}
			})
		}
	}
}

// worked reports whether a receiver was given something that its publisher did not send, or believes that it has left.
func worked(rb *Bus, s *Subscription, pb *Bus) bool {
	s.mu.Lock()
	items := len(s.items)
	s.mu.Unlock()
	for _, m := range rb.Members() {
		if m.Epoch == pb.Epoch() {
			return items > 0
		}
	}
	return true
}

// TestSignConfig: what is no key is refused by name, and none is shown.
func TestSignConfig(t *testing.T) {
	good := Config{Name: "x", Token: NewToken(), NoMulticast: true, TCP: TCPOff}
	torn := bytes.Clone(keyOf(1))
	torn[40] ^= 1
	for name, change := range map[string]func(*Config){
		"Sign: signing key: 5 bytes": func(c *Config) { c.Sign = torn[:5] },
		"Sign: signing key: its":     func(c *Config) { c.Sign = torn },
		"Trust: no key":              func(c *Config) { c.Trust = []ed25519.PublicKey{} },
		"Trust: key 1 has 3 bytes":   func(c *Config) { c.Trust = []ed25519.PublicKey{publicOf(1), {1, 2, 3}} },
		"Trust: 1025 keys":           func(c *Config) { c.Trust = make([]ed25519.PublicKey, MaxTrust+1); fillKeys(c.Trust) },
	} {
		c := good
		change(&c)
		b, err := Join(t.Context(), c)
		if err == nil {
			check(t, b.Close(t.Context()))
		}
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := good
	c.Sign = keyOf(1)
	b := must(Join(t.Context(), c))(t)
	again := must(Join(t.Context(), c))(t)
	if b.Epoch() == again.Epoch() || !buskey.Signs(b.Epoch()) || b.cfg.Sign != nil || len(c.Sign) == 0 {
		t.Errorf("two processes with one key have the epochs %x and %x", b.Epoch(), again.Epoch())
	}
	check(t, b.Close(t.Context()))
	check(t, again.Close(t.Context()))
}

func fillKeys(ks []ed25519.PublicKey) {
	for i := range ks {
		ks[i] = publicOf(1)
	}
}

// BenchmarkSigned is BenchmarkMessages of members that sign, beside members that don't.
func BenchmarkSigned(b *testing.B) {
	for _, multicast := range []bool{true, false} {
		for _, subscribers := range []int{1, 4} {
			for _, signs := range []bool{false, true} {
				b.Run(fmt.Sprintf("multicast=%v/subscribers=%d/signed=%v", multicast, subscribers, signs), func(b *testing.B) {
					if !signs {
						benchmark(b, multicast, subscribers, 64)
						return
					}
					benchmark(b, multicast, subscribers, 64, signing(1))
				})
			}
		}
	}
}
