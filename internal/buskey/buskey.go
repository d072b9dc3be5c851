// Package buskey makes the keys of a bus: from its token and name, one for hellos, and for each member that joins one for
// control packets and one for each stream of messages.
//
// A member is named on the wire by its epoch, 64 random bits drawn when the process joins, and its keys follow from that
// and the bus key (HKDF, RFC 5869): who holds the token can open everything of the bus at once, and nobody hands keys over.
// No key outlives the process, so a counter that starts at 1 never repeats a nonce. Two processes that drew one epoch would
// share nonces: with a million joins under one token the chance is 3 in 10^8.
//
// It is a core.
package buskey

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
)

// Sizes in bytes.
const (
	// Header is the length of the header of control and data packets.
	Header = 20
	// HelloHeader is that of a hello: type, 3 zero, nonce.
	HelloHeader = 4 + chacha20poly1305.NonceSizeX
	// Tag is what sealing adds.
	Tag = 16
)

// GenerationBits says after how many packets a stream's key is replaced: 2^24. At 9 KiB a packet an attacker's advantage against
// AES-GCM stays under 2^-60 (blocks^2 / 2^129).
const GenerationBits = 24

// Reasons why a packet was not opened; also names of drop counters.
var (
	ErrShort  = errors.New("short")
	ErrForged = errors.New("forged")
	ErrReplay = errors.New("replay")
)

// Bus is the key of a bus.
type Bus struct {
	root  []byte
	hello cipher.AEAD
	id    uint64
}

// String hides the key from logs.
func (*Bus) String() string { return "(bus key)" }

// Format hides the key under every verb of package fmt.
func (b *Bus) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(b.String())) }

// New makes the key of the bus of a name under a token. Two names under one token are two buses that cannot read each other.
func New(t ident.Token, name string) (*Bus, error) {
	root, err := hkdf.Key(sha256.New, t.Secret[:], t.Cluster[:], "weft bus 1 "+name, 32)
	if err != nil {
		return nil, fmt.Errorf("bus key: %w", err)
	}
	b := &Bus{root: root}
	h, err := b.derive("hello", 0, 0)
	if err != nil {
		return nil, err
	}
	if b.hello, err = chacha20poly1305.NewX(h); err != nil {
		return nil, fmt.Errorf("bus key: %w", err)
	}
	id, err := b.derive("id", 0, 0)
	if err != nil {
		return nil, err
	}
	b.id = binary.BigEndian.Uint64(id)
	return b, nil
}

// ID is a number that follows from the key and shows nothing of it: the bus's underlay group is made of it.
func (b *Bus) ID() uint64 { return b.id }

// Edge returns what a handshake over TCP is made under: a secret of its own, for nothing else is sealed with it.
func (b *Bus) Edge() (cluster ident.ClusterID, secret ident.Secret, err error) {
	k, err := b.derive("edge", 0, 0)
	if err != nil {
		return cluster, secret, err
	}
	binary.BigEndian.PutUint64(cluster[:], b.id)
	copy(secret[:], k)
	return cluster, secret, nil
}

func (b *Bus) derive(what string, epoch, n uint64) ([]byte, error) {
	info := append([]byte(what), 0)
	info = binary.BigEndian.AppendUint64(info, epoch)
	info = binary.BigEndian.AppendUint64(info, n)
	k, err := hkdf.Expand(sha256.New, b.root, string(info), seal.KeySize)
	if err != nil {
		return nil, fmt.Errorf("bus key: %w", err)
	}
	return k, nil
}

// SealHello appends a hello to dst: header and plain, sealed under a random nonce of 24 bytes.
func (b *Bus) SealHello(dst []byte, typ byte, nonce *[chacha20poly1305.NonceSizeX]byte, plain []byte) []byte {
	at := len(dst)
	dst = append(dst, typ, 0, 0, 0)
	dst = append(dst, nonce[:]...)
	return b.hello.Seal(dst, nonce[:], plain, dst[at:at+HelloHeader])
}

// OpenHello opens a hello into dst, which is overwritten: this is all the work that a stranger's packet costs.
func (b *Bus) OpenHello(dst, pkt []byte) ([]byte, error) {
	if len(pkt) < HelloHeader+Tag {
		return nil, ErrShort
	}
	plain, err := b.hello.Open(dst[:0], pkt[4:HelloHeader], pkt[HelloHeader:], pkt[:HelloHeader])
	if err != nil {
		return nil, ErrForged
	}
	return plain, nil
}

// PutHeader writes the header of a control packet (stream 0) or data packet.
func PutHeader(b []byte, typ byte, stream uint32, epoch, n uint64) {
	binary.BigEndian.PutUint32(b, stream&(1<<24-1))
	b[0] = typ
	binary.BigEndian.PutUint64(b[4:], epoch)
	binary.BigEndian.PutUint64(b[12:], n)
}

// ParseHeader reads a header of control or data; ok is false when pkt is too short for one with a tag.
func ParseHeader(pkt []byte) (stream uint32, epoch, n uint64, ok bool) {
	if len(pkt) < Header+Tag {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint32(pkt) & (1<<24 - 1), binary.BigEndian.Uint64(pkt[4:]), binary.BigEndian.Uint64(pkt[12:]), true
}

// nonce is the last 12 bytes of a header: unique under a key as the number in it is.
func nonce(hdr []byte) []byte { return hdr[Header-12 : Header] }

// Control seals and opens the control packets of one epoch. Seal may be called by any goroutine, Open by one.
type Control struct {
	aead   cipher.AEAD
	epoch  uint64
	next   atomic.Uint64
	window seal.Window
}

// Control returns the control key of an epoch.
func (b *Bus) Control(s seal.Suite, epoch uint64) (*Control, error) {
	k, err := b.derive("control", epoch, uint64(s))
	if err != nil {
		return nil, err
	}
	a, err := seal.NewAEAD(s, k)
	if err != nil {
		return nil, err
	}
	return &Control{aead: a, epoch: epoch}, nil
}

// Seal appends a control packet to dst.
func (c *Control) Seal(dst []byte, typ byte, plain []byte) []byte {
	at := len(dst)
	return c.Finish(c.Begin(dst, typ), at, plain)
}

// Begin appends the header of the next control packet to dst, and Finish seals plain behind the header that is at a place in dst: in between
// the two can be signed together.
func (c *Control) Begin(dst []byte, typ byte) []byte {
	at := len(dst)
	var hdr [Header]byte
	dst = append(dst, hdr[:]...)
	PutHeader(dst[at:], typ, 0, c.epoch, c.next.Add(1))
	return dst
}

// Finish is the second half of Seal, behind Begin.
func (c *Control) Finish(dst []byte, at int, plain []byte) []byte {
	h := dst[at : at+Header]
	return c.aead.Seal(dst, nonce(h), plain, h)
}

// Open opens a control packet into dst, which is overwritten, once.
func (c *Control) Open(dst, pkt []byte) ([]byte, error) {
	plain, err := c.Peek(dst, pkt)
	if err == nil {
		err = c.Took(pkt)
	}
	if err != nil {
		return nil, err
	}
	return plain, nil
}

// Peek is Open of a packet that may still turn out to be somebody else's: only Took makes it one that came. Else whoever has the bus's key could
// use up the counters of another.
func (c *Control) Peek(dst, pkt []byte) ([]byte, error) {
	_, _, n, ok := ParseHeader(pkt)
	if !ok {
		return nil, ErrShort
	}
	if !c.window.Fresh(n) { // cheap, before the AEAD
		return nil, ErrReplay
	}
	plain, err := c.aead.Open(dst[:0], nonce(pkt), pkt[Header:], pkt[:Header])
	if err != nil {
		return nil, ErrForged
	}
	return plain, nil
}

// Took notes that a packet that Peek has opened came; ErrReplay says that it did before.
func (c *Control) Took(pkt []byte) error {
	if _, _, n, ok := ParseHeader(pkt); !ok || !c.window.Accept(n) {
		return ErrReplay
	}
	return nil
}

// Stream seals and opens the data packets of one stream, by number. That a number comes twice is for the receive window
// to notice; to seal one number again for a repair is safe, because it is the same plaintext. One goroutine owns it.
type Stream struct {
	bus   *Bus
	what  string // the key's label
	suite seal.Suite
	epoch uint64
	id    uint32
	aeads [2]generation // by parity: repairs of the last generation and packets of this one are mixed for a while
}

type generation struct {
	n    uint64 // generation + 1; 0: none
	aead cipher.AEAD
}

// Stream returns the key of a stream of an epoch; id has 24 bits.
func (b *Bus) Stream(s seal.Suite, epoch uint64, id uint32) *Stream {
	return &Stream{bus: b, what: "data", suite: s, epoch: epoch, id: id}
}

// Parity returns the key of a stream's parity packets, whose numbers are others than those of its packets.
func (b *Bus) Parity(s seal.Suite, epoch uint64, id uint32) *Stream {
	return &Stream{bus: b, what: "parity", suite: s, epoch: epoch, id: id}
}

func (s *Stream) aead(seq uint64) (cipher.AEAD, error) {
	gen := seq >> GenerationBits
	g := &s.aeads[gen&1]
	if g.n != gen+1 {
		k, err := s.bus.derive(s.what, s.epoch, uint64(s.id)<<40|gen)
		if err != nil {
			return nil, err
		}
		a, err := seal.NewAEAD(s.suite, k)
		if err != nil {
			return nil, err
		}
		*g = generation{gen + 1, a}
	}
	return g.aead, nil
}

// Seal appends packet seq to dst.
func (s *Stream) Seal(dst []byte, typ byte, seq uint64, plain []byte) ([]byte, error) {
	a, err := s.aead(seq)
	if err != nil {
		return dst, err
	}
	at := len(dst)
	var hdr [Header]byte
	dst = append(dst, hdr[:]...)
	PutHeader(dst[at:], typ, s.id, s.epoch, seq)
	h := dst[at : at+Header]
	return a.Seal(dst, nonce(h), plain, h), nil
}

// Open appends what packet seq holds to dst, which needs room for it to be free of allocation.
func (s *Stream) Open(dst []byte, seq uint64, pkt []byte) ([]byte, error) {
	if len(pkt) < Header+Tag {
		return dst, ErrShort
	}
	a, err := s.aead(seq)
	if err != nil {
		return dst, err
	}
	out, err := a.Open(dst, nonce(pkt), pkt[Header:], pkt[:Header])
	if err != nil {
		return dst, ErrForged
	}
	return out, nil
}
