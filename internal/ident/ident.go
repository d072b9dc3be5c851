// Package ident holds the identities of hosts and clusters: keys, ids, join tokens and names.
package ident

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog" //nolint:depguard // for LogValue alone: it keeps secrets out of logs
	"net/netip"
	"strings"
)

// HostID names a host for ever: the first 16 bytes of the SHA-256 of its Ed25519 public key.
type HostID [16]byte

// IDOf returns the HostID that belongs to an Ed25519 public key.
func IDOf(pub ed25519.PublicKey) HostID {
	sum := sha256.Sum256(pub)
	return HostID(sum[:16])
}

// String returns the id as 32 hexadecimal digits.
func (id HostID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first 8 digits, for people.
func (id HostID) Short() string { return hex.EncodeToString(id[:4]) }

// IsZero reports whether no id is set.
func (id HostID) IsZero() bool { return id == HostID{} }

// Addr returns the id in the form of an IPv6 address: the address under which
// libraries that want one (memberlist) know the host. It never appears on a wire.
func (id HostID) Addr() netip.Addr { return netip.AddrFrom16(id) }

// Less orders hosts; where two must agree without talking, the lower id acts.
func (id HostID) Less(o HostID) bool { return string(id[:]) < string(o[:]) }

// MarshalText and UnmarshalText give the hexadecimal form to JSON.
func (id HostID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 32 hexadecimal digits.
func (id *HostID) UnmarshalText(b []byte) error {
	v, err := ParseHostID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// ParseHostID reads 32 hexadecimal digits.
func ParseHostID(s string) (HostID, error) {
	var id HostID
	if len(s) != 32 {
		return id, fmt.Errorf("host id %q: want 32 hexadecimal digits", s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return HostID{}, fmt.Errorf("host id %q: want 32 hexadecimal digits", s)
	}
	return id, nil
}

// ClusterID names a cluster: 8 random bytes drawn at founding.
type ClusterID [8]byte

// String returns the id as 16 hexadecimal digits.
func (id ClusterID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether no id is set.
func (id ClusterID) IsZero() bool { return id == ClusterID{} }

// Secret admits new hosts to a cluster: 128 random bits, never typed by people.
type Secret [16]byte

// String hides the secret from logs and error texts.
func (Secret) String() string { return "(secret)" }

// Format hides the secret under every verb of package fmt, those that print bytes as numbers included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue hides the secret from log handlers that encode values themselves.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Token is what a joining host is given.
type Token struct {
	Cluster ClusterID
	Secret  Secret
}

const tokenPrefix = "weft1"

// tokenEncoding is lower-case base32 (RFC 4648 section 6) without padding.
var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ErrToken is wrapped by every error of ParseToken; the text never holds the token.
var ErrToken = errors.New("not a weft token")

// Encode returns the token's text: weft1 + base32(cluster id, secret, 4 bytes of SHA-256 over both).
func (t Token) Encode() string {
	raw := append(append([]byte{}, t.Cluster[:]...), t.Secret[:]...)
	sum := sha256.Sum256(raw)
	return tokenPrefix + tokenEncoding.EncodeToString(append(raw, sum[:4]...))
}

// String hides the token from logs; Encode returns it.
func (Token) String() string { return "(token)" }

// Format hides the token under every verb of package fmt.
func (t Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// LogValue hides the token from log handlers that encode values themselves.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// ParseToken reads what Encode wrote; surrounding white space and capitals are forgiven.
func ParseToken(s string) (Token, error) {
	var t Token
	s = strings.ToLower(strings.TrimSpace(s))
	body, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return t, fmt.Errorf("%w: it does not begin with %q", ErrToken, tokenPrefix)
	}
	raw, err := tokenEncoding.DecodeString(body)
	if err != nil || len(raw) != 28 {
		return t, fmt.Errorf("%w: it was cut or has a letter too many", ErrToken)
	}
	sum := sha256.Sum256(raw[:24])
	if string(sum[:4]) != string(raw[24:]) {
		return t, fmt.Errorf("%w: its checksum is wrong, a letter was changed", ErrToken)
	}
	copy(t.Cluster[:], raw[:8])
	copy(t.Secret[:], raw[8:24])
	return t, nil
}

// NewToken draws the token of a new cluster.
func NewToken() Token {
	var t Token
	_, _ = rand.Read(t.Cluster[:]) // crypto/rand.Read never fails (Go 1.24)
	_, _ = rand.Read(t.Secret[:])
	return t
}

// CheckName refuses what is not a DNS label in lower case (RFC 1123 section 2.1):
// 1 to 63 of a-z, 0-9 and '-', no '-' at either end. what is put before the message.
func CheckName(what, s string) error {
	if s == "" {
		return fmt.Errorf("%s: empty name", what)
	}
	if len(s) > 63 {
		return fmt.Errorf("%s %q...: longer than 63 characters", what, s[:20])
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && i > 0 && i < len(s)-1:
		default:
			return fmt.Errorf("%s %q: use a-z, 0-9 and '-' inside", what, s)
		}
	}
	return nil
}

// MaxDomain is how long the domain of a cluster's names may be, in characters: with a network and a name before it, and a service before
// that, it stays within the 253 that a name may have.
const MaxDomain = 64

// CheckDomain refuses what cannot be the domain of a cluster's names.
func CheckDomain(s string) error {
	if len(s) > MaxDomain {
		return fmt.Errorf("domain %.20q...: longer than %d characters", s, MaxDomain)
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if err := CheckName("domain", label); err != nil {
			return err
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" || last == "arpa" || last == "localhost" {
		return fmt.Errorf("domain %q: is no domain of your own; choose one like weft.internal", s)
	}
	return nil
}

// Keys are a host's private keys. They never leave the host.
type Keys struct {
	Sign   ed25519.PrivateKey // the host's identity
	Static *ecdh.PrivateKey   // X25519, for Noise handshakes
}

// String hides the keys from logs.
func (Keys) String() string { return "(keys)" }

// Format hides the keys under every verb of package fmt.
func (k Keys) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue hides the keys from log handlers that encode values themselves.
func (k Keys) LogValue() slog.Value { return slog.StringValue(k.String()) }

// NewKeys draws the keys of a new host.
func NewKeys() (Keys, error) {
	_, sign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Keys{}, fmt.Errorf("draw host key: %w", err)
	}
	static, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return Keys{}, fmt.Errorf("draw host key: %w", err)
	}
	return Keys{Sign: sign, Static: static}, nil
}

// KeysFromSeed rebuilds the keys from what Seed returned.
func KeysFromSeed(b []byte) (Keys, error) {
	if len(b) != 64 {
		return Keys{}, fmt.Errorf("host keys: %d bytes, want 64", len(b))
	}
	static, err := ecdh.X25519().NewPrivateKey(b[32:])
	if err != nil {
		return Keys{}, fmt.Errorf("host keys: %w", err)
	}
	return Keys{Sign: ed25519.NewKeyFromSeed(b[:32]), Static: static}, nil
}

// Seed returns the 64 bytes to keep on disk: Ed25519 seed, X25519 private key.
func (k Keys) Seed() []byte { return append(k.Sign.Seed(), k.Static.Bytes()...) }

// ID returns the host's id.
func (k Keys) ID() HostID { return IDOf(k.Sign.Public().(ed25519.PublicKey)) }

// Card returns the public half, the X25519 key signed by the Ed25519 key.
func (k Keys) Card() Card {
	c := Card{Sign: [32]byte(k.Sign.Public().(ed25519.PublicKey)), Static: [32]byte(k.Static.PublicKey().Bytes())}
	copy(c.Sig[:], ed25519.Sign(k.Sign, c.signed()))
	return c
}

// Card is a host's public identity: anyone can check that the X25519 key belongs to the HostID.
type Card struct {
	Sign   [32]byte `cbor:"1,keyasint"`
	Static [32]byte `cbor:"2,keyasint"`
	Sig    [64]byte `cbor:"3,keyasint"`
}

// CardSize is the length of Card.Bytes.
const CardSize = 128

func (c Card) signed() []byte { return append([]byte("weft static key 1\x00"), c.Static[:]...) }

// ID returns the HostID the card speaks for.
func (c Card) ID() HostID { return IDOf(c.Sign[:]) }

// Check reports whether the X25519 key is signed by the Ed25519 key.
func (c Card) Check() error {
	if !ed25519.Verify(c.Sign[:], c.signed(), c.Sig[:]) {
		return errors.New("host card: the signature does not belong to the key")
	}
	return nil
}

// Bytes returns Sign, Static, Sig: 128 bytes.
func (c Card) Bytes() []byte {
	return append(append(append(make([]byte, 0, CardSize), c.Sign[:]...), c.Static[:]...), c.Sig[:]...)
}

// ParseCard reads what Bytes wrote and checks it.
func ParseCard(b []byte) (Card, error) {
	var c Card
	if len(b) != CardSize {
		return c, fmt.Errorf("host card: %d bytes, want %d", len(b), CardSize)
	}
	copy(c.Sign[:], b)
	copy(c.Static[:], b[32:])
	copy(c.Sig[:], b[64:])
	return c, c.Check()
}
