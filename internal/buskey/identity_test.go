package buskey

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
)

// identityOf is an identity on a bus that follows from a number.
func identityOf(t testing.TB, b *Bus, n byte) *Identity {
	t.Helper()
	i, err := b.Identity(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize)), [SaltSize]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestEpochIsTheKeys: an epoch belongs to a key and a salt, is even, and is claimed by nobody else: not with another key, another salt or a
// signature of another hello or bus.
func TestEpochIsTheKeys(t *testing.T) {
	tok := ident.NewToken()
	b, other := bus(t, tok, "quotes"), bus(t, tok, "orders")
	me, thief := identityOf(t, b, 1), identityOf(t, b, 2)
	again, err := b.Identity(me.key, [SaltSize]byte{3})
	if err != nil {
		t.Fatal(err)
	}
	if !Signs(me.Epoch()) || Signs(me.Epoch()|1) || Signs(0) || me.Epoch() == thief.Epoch() || again.Epoch() == me.Epoch() || again.Public() != me.Public() {
		t.Errorf("epochs %x, %x, %x", me.Epoch(), thief.Epoch(), again.Epoch())
	}
	hello := me.SignHello([]byte("who"))
	if public, ok := b.CheckHello(me.Epoch(), hello); !ok || public != me.Public() {
		t.Error("a hello that is signed is refused")
	}
	for name, h := range map[string][]byte{
		"another key": thief.SignHello([]byte("who")), "another salt": again.SignHello([]byte("who")), "nothing": nil, "cut": hello[:HelloProof-1],
		// The thief shows the key that it does not have, and signs by its own.
		"shown only": thief.sign(bytes.Clone(hello[:len(hello)-SignatureSize]), signHello, make([]byte, 32)),
	} {
		if _, ok := b.CheckHello(me.Epoch(), h); ok {
			t.Errorf("%s: taken", name)
		}
	}
	if _, ok := other.CheckHello(me.Epoch(), hello); ok {
		t.Error("a hello is taken on another bus")
	}
	for i := range hello {
		bad := bytes.Clone(hello)
		bad[i] ^= 1
		if _, ok := b.CheckHello(me.Epoch(), bad); ok {
			t.Fatalf("byte %d changed: taken", i)
		}
	}
}

// TestSigningKey: what is no Ed25519 key is refused with what is wrong with it, and none is printed.
func TestSigningKey(t *testing.T) {
	b := bus(t, ident.NewToken(), "x")
	torn := bytes.Clone(identityOf(t, b, 1).key)
	torn[len(torn)-1] ^= 1
	for _, k := range []ed25519.PrivateKey{nil, make([]byte, 31), torn} {
		if _, err := b.Identity(k, [SaltSize]byte{}); err == nil || !strings.Contains(err.Error(), "signing key") {
			t.Errorf("%d bytes: %v", len(k), err)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if s := fmt.Sprintf(verb, identityOf(t, b, 1)); !strings.Contains(s, "(signing key)") {
			t.Errorf("%s: %s", verb, s)
		}
	}
}

// TestControlSigned: a control packet is signed with its counter, for one receiver, and for one bus.
func TestControlSigned(t *testing.T) {
	b := bus(t, ident.NewToken(), "x")
	me := identityOf(t, b, 1)
	var hdr, later [Header]byte
	PutHeader(hdr[:], 2, 0, me.Epoch(), 5)
	PutHeader(later[:], 2, 0, me.Epoch(), 6)
	sig := me.SignControl(nil, hdr[:], 7, []byte("records"))
	v := b.Verifier(me.Public())
	if !v.Control(hdr[:], 7, []byte("records"), sig) {
		t.Error("refused")
	}
	batch := me.sign(nil, signBatch, []byte("records"))
	for name, ok := range map[string]bool{
		"another counter": v.Control(later[:], 7, []byte("records"), sig), "another receiver": v.Control(hdr[:], 8, []byte("records"), sig),
		"all": v.Control(hdr[:], 0, []byte("records"), sig), "other records": v.Control(hdr[:], 7, []byte("record"), sig),
		"another key":     b.Verifier(identityOf(t, b, 2).Public()).Control(hdr[:], 7, []byte("records"), sig),
		"another bus":     bus(t, ident.NewToken(), "x").Verifier(me.Public()).Control(hdr[:], 7, []byte("records"), sig),
		"another purpose": v.Control(hdr[:], 7, []byte("records"), batch), "no signature": v.Control(hdr[:], 7, []byte("records"), nil),
		"no header": v.Control(nil, 7, []byte("records"), sig),
	} {
		if ok {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestPeekTakesNothing: a packet that was looked at comes still; one that was taken does not come again.
func TestPeekTakesNothing(t *testing.T) {
	b := bus(t, ident.NewToken(), "x")
	from, err := b.Control(seal.SuiteAES, 7)
	if err != nil {
		t.Fatal(err)
	}
	to, err := b.Control(seal.SuiteAES, 7)
	if err != nil {
		t.Fatal(err)
	}
	pkt := from.Finish(from.Begin([]byte("before"), 2), len("before"), []byte("control"))[len("before"):]
	for range 2 {
		if got, err := to.Peek(nil, pkt); err != nil || string(got) != "control" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if err := to.Took(pkt); err != nil {
		t.Error(err)
	}
	if _, err := to.Open(nil, pkt); !errors.Is(err, ErrReplay) || !errors.Is(to.Took(pkt), ErrReplay) || !errors.Is(to.Took(nil), ErrReplay) {
		t.Errorf("again: %v", err)
	}
	if _, err := to.Peek(nil, pkt[:Header]); !errors.Is(err, ErrShort) {
		t.Error(err)
	}
}

// FuzzCheckHello: a hello that ends in something is that of the key or none.
func FuzzCheckHello(f *testing.F) {
	tok := ident.Token{Secret: ident.Secret{1}}
	b := bus(f, tok, "x")
	me := identityOf(f, b, 1)
	good := me.SignHello([]byte("who"))
	f.Add(me.Epoch(), good)
	f.Add(uint64(2), make([]byte, HelloProof))
	f.Add(uint64(1), []byte{})
	f.Fuzz(func(t *testing.T, epoch uint64, plain []byte) {
		if _, ok := b.CheckHello(epoch, plain); ok && !bytes.Equal(plain, good) {
			t.Errorf("%x is taken for %x", plain, epoch)
		}
	})
}
