package gcm

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/cpu"
)

// The assembly knows these numbers.
const (
	rounds    = 14                // of AES-256
	stride    = 16                // blocks a turn of its loop takes
	firstPow  = 3                 // entry of the highest power, so that that of stride lies on a cache line
	powers    = stride + 1        // a last turn has the block of lengths besides
	powsSlack = 3                 // it loads four entries at a time, and multiplies those after the last by zero
	lastPow   = firstPow + powers // the entry after that of H
)

// schedule is a key ready for use. The assembly knows its layout.
type schedule struct {
	// pow[lastPow-i] is H^i/x, the least significant byte first: a product without carries of numbers so mirrored is one bit
	// short, which the division makes up for (Gueron and Kounavis, Intel's white paper on carry-less multiplication, 2010).
	pow [lastPow + powsSlack][16]byte
	rk  [rounds + 1][16]byte
}

// expand makes the round keys of AES-256 (FIPS 197, section 5.2).
//
//go:noescape
func expand(key *[KeySize]byte, rk *[rounds + 1][16]byte)

// crypt encrypts, or decrypts when seal is false, n bytes from src to dst, which are the same or do not overlap, and makes the
// tag of them and of the additional data. The counter is the nonce and the number 1 in four bytes.
//
//go:noescape
func crypt(k *schedule, counter *[16]byte, dst, src *byte, n int, aad *byte, aadLen int, tag *[TagSize]byte, seal bool)

var hasVectors = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ &&
	cpu.X86.HasAVX512VAES && cpu.X86.HasAVX512VPCLMULQDQ && cpu.X86.HasBMI2 && cpu.X86.HasAES

// aead is a cipher.AEAD.
type aead struct{ k schedule }

// wide returns nil where the CPU lacks what it needs.
func wide(b cipher.Block, key []byte) cipher.AEAD {
	if !hasVectors {
		return nil
	}
	a := new(aead)
	expand((*[KeySize]byte)(key), &a.k.rk)
	var zero [16]byte
	b.Encrypt(zero[:], zero[:])
	h := decode(zero)
	timesH := h.shifted()
	for i, p := 1, h; i <= powers; i, p = i+1, timesH.times(p) {
		entry, e := &a.k.pow[lastPow-i], p.byX()
		binary.LittleEndian.PutUint64(entry[:8], e.lo)
		binary.LittleEndian.PutUint64(entry[8:], e.hi)
	}
	return a
}

func (a *aead) NonceSize() int { return NonceSize }
func (a *aead) Overhead() int  { return TagSize }

// maxLen is how many bytes a nonce serves, in blocks that 32 bits count.
const maxLen = (1<<32 - 2) * 16

// Seal is that of cipher.AEAD.
func (a *aead) Seal(dst, nonce, plaintext, additional []byte) []byte {
	if len(nonce) != NonceSize {
		panic("gcm: nonce of another length")
	}
	if uint64(len(plaintext)) > maxLen {
		panic("gcm: message too long")
	}
	all, out := grow(dst, len(plaintext)+TagSize)
	if overlapOtherwise(out[:len(plaintext)], plaintext) {
		panic("gcm: buffers overlap")
	}
	var tag [TagSize]byte
	a.crypt(out, nonce, plaintext, additional, &tag, true)
	copy(out[len(plaintext):], tag[:])
	return all
}

// Open is that of cipher.AEAD.
func (a *aead) Open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	if len(nonce) != NonceSize {
		panic("gcm: nonce of another length")
	}
	if len(ciphertext) < TagSize || uint64(len(ciphertext)) > maxLen+TagSize {
		return nil, errOpen
	}
	n := len(ciphertext) - TagSize
	all, out := grow(dst, n)
	if overlapOtherwise(out, ciphertext[:n]) {
		panic("gcm: buffers overlap")
	}
	var tag, sent [TagSize]byte
	copy(sent[:], ciphertext[n:]) // out may grow over it
	a.crypt(out, nonce, ciphertext[:n], additional, &tag, false)
	if subtle.ConstantTimeCompare(tag[:], sent[:]) != 1 {
		clear(out)
		return nil, errOpen
	}
	return all, nil
}

func (a *aead) crypt(out, nonce, in, additional []byte, tag *[TagSize]byte, seal bool) {
	var counter [16]byte
	copy(counter[:], nonce)
	counter[15] = 1
	crypt(&a.k, &counter, unsafe.SliceData(out), unsafe.SliceData(in), len(in), unsafe.SliceData(additional), len(additional), tag, seal)
}

// grow appends n bytes of any content to a slice, and returns all and the new ones.
func grow(b []byte, n int) (all, added []byte) {
	if total := len(b) + n; cap(b) >= total {
		all = b[:total]
	} else {
		all = make([]byte, total)
		copy(all, b)
	}
	return all, all[len(b):]
}

// overlapOtherwise reports whether two slices share bytes without beginning at the same one.
func overlapOtherwise(x, y []byte) bool {
	if len(x) == 0 || len(y) == 0 || &x[0] == &y[0] {
		return false
	}
	x0, y0 := uintptr(unsafe.Pointer(&x[0])), uintptr(unsafe.Pointer(&y[0]))
	return x0 < y0+uintptr(len(y)) && y0 < x0+uintptr(len(x))
}
