package buskey

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// All keys of a bus follow from its token, so whoever has that can seal in anyone's name. A member that signs has a key of its own beside
// (Ed25519, RFC 8032), and its epoch follows from that key and a salt that is drawn when the process joins: epochs of those that sign are even, of
// all others odd, so nobody can claim one without the key, and nobody can say that its owner does not sign.
//
// What is signed begins with what it is and with the bus's id, so that a signature is worth nothing elsewhere.

// Sizes in bytes.
const (
	PublicSize    = ed25519.PublicKeySize
	SaltSize      = 16
	SignatureSize = ed25519.SignatureSize
	// HelloProof is what a hello ends with: key, salt, signature.
	HelloProof = PublicSize + SaltSize + SignatureSize
)

// The kinds of what is signed.
const (
	signHello byte = iota + 1
	signControl
	signBatch
)

const signContext = "weft bus 1 signed\x00"

// Public is the key of a member that signs.
type Public [PublicSize]byte

// Signs reports whether the member of an epoch signs.
func Signs(epoch uint64) bool { return epoch != 0 && epoch&1 == 0 }

// EpochOf is the epoch that a key has with a salt: 63 bits of SHA-256, and a last one that is 0. It is 0, which is nobody's, for one salt in 2^63.
func EpochOf(public *Public, salt *[SaltSize]byte) uint64 {
	b := append([]byte("weft bus 1 epoch\x00"), public[:]...)
	h := sha256.Sum256(append(b, salt[:]...))
	return binary.BigEndian.Uint64(h[:]) &^ 1
}

// Identity signs what one process says on one bus. Any goroutine may use it.
type Identity struct {
	key    ed25519.PrivateKey
	public Public
	salt   [SaltSize]byte
	bus    uint64
	epoch  uint64
}

// String hides the key from logs.
func (*Identity) String() string { return "(signing key)" }

// Format hides the key under every verb of package fmt.
func (i *Identity) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(i.String())) }

// Identity makes a key one with which a process signs. The salt must be drawn anew for each process: the epoch follows from it, and all nonces.
func (b *Bus) Identity(key ed25519.PrivateKey, salt [SaltSize]byte) (*Identity, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("signing key: %d bytes, an Ed25519 private key has %d", len(key), ed25519.PrivateKeySize)
	}
	if !ed25519.NewKeyFromSeed(key.Seed()).Equal(key) {
		return nil, errors.New("signing key: its public half is another key's")
	}
	i := &Identity{key: bytes.Clone(key), salt: salt, bus: b.id}
	copy(i.public[:], key[ed25519.PrivateKeySize-PublicSize:])
	if i.epoch = EpochOf(&i.public, &salt); i.epoch == 0 {
		return nil, errors.New("signing key: the salt makes no epoch, draw another")
	}
	return i, nil
}

// Epoch is that of the process.
func (i *Identity) Epoch() uint64 { return i.epoch }

// Public is what others check by.
func (i *Identity) Public() Public { return i.public }

// sign appends the signature of something to dst.
func (i *Identity) sign(dst []byte, kind byte, what []byte) []byte {
	var space [96]byte
	return append(dst, ed25519.Sign(i.key, statement(space[:0], kind, i.bus, what))...)
}

// statement is what a signature is of.
func statement(b []byte, kind byte, bus uint64, what []byte) []byte {
	b = append(append(b, signContext...), kind)
	return append(binary.BigEndian.AppendUint64(b, bus), what...)
}

// SignHello appends key, salt and signature to what a hello says.
func (i *Identity) SignHello(plain []byte) []byte {
	plain = append(append(plain, i.public[:]...), i.salt[:]...)
	h := sha256.Sum256(plain)
	return i.sign(plain, signHello, h[:])
}

// CheckHello checks a hello that ends as SignHello makes it end: that the epoch is the key's, and that the key has signed it for this bus.
func (b *Bus) CheckHello(epoch uint64, plain []byte) (public Public, ok bool) {
	at := len(plain) - HelloProof
	if at < 0 || !Signs(epoch) {
		return public, false
	}
	var salt [SaltSize]byte
	copy(public[:], plain[at:])
	copy(salt[:], plain[at+PublicSize:])
	if EpochOf(&public, &salt) != epoch {
		return public, false
	}
	at = len(plain) - SignatureSize
	h := sha256.Sum256(plain[:at])
	var space [96]byte
	return public, ed25519.Verify(public[:], statement(space[:0], signHello, b.id, h[:]), plain[at:])
}

// controlDigest is what is signed of a control packet: its header, so that it cannot come under another counter, for whom it is, 0 for all, and what it says.
func controlDigest(hdr []byte, to uint64, plain []byte) [sha256.Size]byte {
	var b [Header + 8 + sha256.Size]byte
	copy(b[:], hdr[:Header])
	binary.BigEndian.PutUint64(b[Header:], to)
	h := sha256.Sum256(plain)
	copy(b[Header+8:], h[:])
	return sha256.Sum256(b[:])
}

// SignControl appends the signature of a control packet to dst.
func (i *Identity) SignControl(dst, hdr []byte, to uint64, plain []byte) []byte {
	h := controlDigest(hdr, to, plain)
	return i.sign(dst, signControl, h[:])
}

// Verifier checks what one member has signed. One goroutine owns it.
type Verifier struct {
	public Public
	bus    uint64
	roots  []root // that were found good, a ring
	last   int    // the newest of them
}

// Verifier returns what checks the signatures of a key on this bus.
func (b *Bus) Verifier(public Public) *Verifier { return &Verifier{public: public, bus: b.id} }

// Public is the key.
func (v *Verifier) Public() Public { return v.public }

func (v *Verifier) check(kind byte, what, signature []byte) bool {
	var space [96]byte
	return ed25519.Verify(v.public[:], statement(space[:0], kind, v.bus, what), signature)
}

// Control reports whether a control packet is signed.
func (v *Verifier) Control(hdr []byte, to uint64, plain, signature []byte) bool {
	if len(hdr) < Header || len(signature) != SignatureSize {
		return false
	}
	h := controlDigest(hdr, to, plain)
	return v.check(signControl, h[:], signature)
}
