// Package seal turns plaintext into sealed packets and back: AEAD under a counter, with a replay window.
//
// A Sealer may be used by any number of goroutines; an Opener belongs to one.
package seal

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"

	"github.com/weft-net/weft/internal/gcm"
	"github.com/weft-net/weft/internal/wire"
)

// Suite is an AEAD; both ends of a key must use the same.
type Suite byte

// The suites: AES-256-GCM where the CPU has AES, else ChaCha20-Poly1305.
const (
	SuiteAES    Suite = 1
	SuiteChaCha Suite = 2
)

// Preferred returns the suite that is fast on this CPU.
func Preferred() Suite {
	if cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM {
		return SuiteAES
	}
	return SuiteChaCha
}

// KeySize is the length of a key of either suite in bytes.
const KeySize = 32

// DefaultBudget is the number of packets one key seals before it must be replaced. At 9 KiB a packet an
// attacker's advantage against AES-GCM stays under 2^-50 (its distinguishing bound is blocks^2 / 2^129).
const DefaultBudget = 1 << 30

// ErrSpent says that a key has sealed its budget: rekey.
var ErrSpent = errors.New("seal: key spent")

// Reasons why a packet was not opened. They are also names of drop counters.
var (
	ErrShort  = errors.New("short")
	ErrForged = errors.New("forged")
	ErrReplay = errors.New("replay")
)

// NewAEAD returns the cipher of a suite; key has KeySize bytes. Its user sees to it that no nonce comes twice.
func NewAEAD(s Suite, key []byte) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("seal: key of %d bytes", len(key))
	}
	switch s {
	case SuiteAES:
		return gcm.New(key)
	case SuiteChaCha:
		return chacha20poly1305.New(key)
	}
	return nil, fmt.Errorf("seal: unknown suite %d", s)
}

// Sealer seals packets under one key. The counter is the nonce and is never used twice.
type Sealer struct {
	aead  cipher.AEAD
	index uint32 // the receiver's name of the session (link) ...
	key   uint64 // ... or the key id (group)
	max   uint64
	next  atomic.Uint64
	half                // for a hand-over
	held  atomic.Uint64 // the last counter given out, while frozen
}

// NewLinkSealer makes the sending half of a session; index is the receiver's. budget 0 means DefaultBudget.
func NewLinkSealer(s Suite, key []byte, index uint32, budget uint64) (*Sealer, error) {
	return newSealer(s, key, index, 0, budget)
}

// NewGroupSealer makes a sender key. budget 0 means DefaultBudget.
func NewGroupSealer(s Suite, key []byte, keyID, budget uint64) (*Sealer, error) {
	return newSealer(s, key, 0, keyID, budget)
}

func newSealer(s Suite, key []byte, index uint32, keyID, budget uint64) (*Sealer, error) {
	a, err := NewAEAD(s, key)
	if err != nil {
		return nil, err
	}
	if budget == 0 {
		budget = DefaultBudget
	}
	return &Sealer{aead: a, index: index, key: keyID, max: budget, half: half{s, bytes.Clone(key)}}, nil
}

// Used returns how many packets were sealed.
func (s *Sealer) Used() uint64 {
	if n := s.next.Load(); n < frozen {
		return n
	}
	return s.held.Load()
}

// Budget returns how many packets may be sealed.
func (s *Sealer) Budget() uint64 { return s.max }

// KeyID returns the id of a sender key; 0 for a session's sealer.
func (s *Sealer) KeyID() uint64 { return s.key }

func (s *Sealer) take() (uint64, error) {
	n := s.next.Add(1) // the first counter is 1: 0 never appears on a wire
	if n > s.max {
		return 0, ErrSpent
	}
	return n, nil
}

// SealLink seals buf[LinkHeader:LinkHeader+n] in place and returns the whole packet, a prefix of buf.
// cap(buf) must allow LinkHeader+n+Tag bytes.
func (s *Sealer) SealLink(buf []byte, n int) ([]byte, error) {
	return s.SealLinkFrom(buf, buf[wire.LinkHeader:wire.LinkHeader+n])
}

// SealLinkFrom is SealLink of a plaintext that lies elsewhere; the two must not overlap.
func (s *Sealer) SealLinkFrom(buf, plain []byte) ([]byte, error) {
	ctr, err := s.take()
	if err != nil {
		return nil, err
	}
	buf = buf[:wire.LinkHeader]
	wire.PutLink(buf, s.index, ctr)
	return s.seal(buf, plain), nil
}

// SealGroup seals buf[GroupHeader:GroupHeader+n] in place under a label of 24 bits and returns the whole packet, a
// prefix of buf. cap(buf) must allow GroupHeader+n+Tag bytes.
func (s *Sealer) SealGroup(buf []byte, n int, label uint32) ([]byte, error) {
	return s.SealGroupFrom(buf, buf[wire.GroupHeader:wire.GroupHeader+n], label)
}

// SealGroupFrom is SealGroup of a plaintext that lies elsewhere; the two must not overlap.
func (s *Sealer) SealGroupFrom(buf, plain []byte, label uint32) ([]byte, error) {
	ctr, err := s.take()
	if err != nil {
		return nil, err
	}
	buf = buf[:wire.GroupHeader]
	wire.PutGroup(buf, label, s.key, ctr)
	return s.seal(buf, plain), nil
}

// seal appends the sealed plaintext to the header.
func (s *Sealer) seal(hdr, plain []byte) []byte {
	return s.aead.Seal(hdr, nonce(hdr, len(hdr)), plain, hdr)
}

// nonce returns the 12 bytes that end with the counter, where the header has it: they are unique under a key as the
// counter is, what stands before it being the key's own name. Taken from the packet, a nonce costs no allocation.
func nonce(pkt []byte, end int) []byte { return pkt[end-12 : end] }

// envelopeNonce is where a relay header's counter ends.
const envelopeNonce = 16

// PutEnvelope writes the relay header and its MAC into buf[:RelayTotal]; the inner packet follows it in buf already.
func (s *Sealer) PutEnvelope(buf []byte, src, dst [16]byte, hops byte) error {
	ctr, err := s.take()
	if err != nil {
		return err
	}
	wire.PutRelay(buf, &wire.RelayInfo{Hops: hops, Index: s.index, Counter: ctr, Src: src, Dst: dst})
	s.aead.Seal(buf[wire.RelayHeader:wire.RelayHeader], nonce(buf, envelopeNonce), nil, buf[:wire.RelayHeader])
	return nil
}

// Opener opens packets of one key and refuses replays. It belongs to one goroutine.
type Opener struct {
	aead   cipher.AEAD
	window Window
	half   // for a hand-over
}

// NewOpener makes the receiving half for a key.
func NewOpener(s Suite, key []byte) (*Opener, error) {
	a, err := NewAEAD(s, key)
	if err != nil {
		return nil, err
	}
	return &Opener{aead: a, half: half{s, bytes.Clone(key)}}, nil
}

// OpenLink opens a link packet in place and returns its plaintext (kind + body), a part of pkt.
func (o *Opener) OpenLink(pkt []byte) ([]byte, error) {
	_, ctr, ok := wire.Link(pkt)
	if !ok {
		return nil, ErrShort
	}
	return o.open(pkt, wire.LinkHeader, ctr)
}

// OpenGroup opens a group packet in place and returns its plaintext, a part of pkt.
func (o *Opener) OpenGroup(pkt []byte) ([]byte, error) {
	_, _, ctr, ok := wire.Group(pkt)
	if !ok {
		return nil, ErrShort
	}
	return o.open(pkt, wire.GroupHeader, ctr)
}

// OpenEnvelope checks the MAC of a relay packet and returns its header and the inner packet, a part of pkt.
func (o *Opener) OpenEnvelope(pkt []byte) (wire.RelayInfo, []byte, error) {
	r, ok := wire.Relay(pkt)
	if !ok {
		return r, nil, ErrShort
	}
	if !o.window.Fresh(r.Counter) { // cheap, before the AEAD
		return r, nil, ErrReplay
	}
	if _, err := o.aead.Open(nil, nonce(pkt, envelopeNonce), pkt[wire.RelayHeader:wire.RelayTotal], pkt[:wire.RelayHeader]); err != nil {
		return r, nil, ErrForged
	}
	if !o.window.Accept(r.Counter) {
		return r, nil, ErrReplay
	}
	return r, pkt[wire.RelayTotal:], nil
}

func (o *Opener) open(pkt []byte, hdr int, ctr uint64) ([]byte, error) {
	if !o.window.Fresh(ctr) { // cheap, before the AEAD
		return nil, ErrReplay
	}
	plain, err := o.aead.Open(pkt[hdr:hdr], nonce(pkt, hdr), pkt[hdr:], pkt[:hdr])
	if err != nil {
		return nil, ErrForged
	}
	if !o.window.Accept(ctr) {
		return nil, ErrReplay
	}
	return plain, nil
}
