package gcm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
)

func reference(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func made(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	a, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func fill(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// check seals and opens by both ciphers, elsewhere and in place, with a guard behind each buffer.
func check(t *testing.T, key, nonce, plain, additional []byte) {
	t.Helper()
	a, ref := made(t, key), reference(t, key)
	want := ref.Seal(nil, nonce, plain, additional)
	if got := a.Seal(nil, nonce, plain, additional); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %d additional: sealed to %x, want %x", len(plain), len(additional), got, want)
	}
	guard := []byte("guard behind the buffer, which stays what it is")
	room := append(make([]byte, len(want)), guard...)
	copy(room, plain)
	if got := a.Seal(room[:0], nonce, room[:len(plain)], additional); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %d additional, in place: sealed to %x, want %x", len(plain), len(additional), got, want)
	}
	if !bytes.Equal(room[len(want):], guard) {
		t.Fatalf("%d bytes, %d additional: sealing wrote behind its buffer", len(plain), len(additional))
	}
	if got, err := a.Open(nil, nonce, want, additional); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes, %d additional: opened to %x, %v, want %x", len(plain), len(additional), got, err, plain)
	}
	if got, err := a.Open(room[:0], nonce, room[:len(want)], additional); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes, %d additional, in place: opened to %x, %v, want %x", len(plain), len(additional), got, err, plain)
	}
	if !bytes.Equal(room[len(plain):], append(want[len(plain):len(want):len(want)], guard...)) {
		t.Fatalf("%d bytes, %d additional: opening wrote behind its buffer", len(plain), len(additional))
	}
}

// TestAgainstStandard: every length up to some turns of the loop, and some long ones.
func TestAgainstStandard(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 1100 {
		check(t, fill(r, KeySize), fill(r, NonceSize), fill(r, n), fill(r, r.IntN(40)))
	}
	for n := range 200 {
		check(t, fill(r, KeySize), fill(r, NonceSize), fill(r, r.IntN(300)), fill(r, n))
	}
	for range 50 {
		check(t, fill(r, KeySize), fill(r, NonceSize), fill(r, r.IntN(100_000)), fill(r, r.IntN(1000)))
	}
}

// TestVector is test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation", 2004.
func TestVector(t *testing.T) {
	h := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	a := made(t, h("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"))
	got := a.Seal(nil, h("cafebabefacedbaddecaf888"),
		h("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"),
		h("feedfacedeadbeeffeedfacedeadbeefabaddad2"))
	want := h("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662" +
		"76fc6ece0f4e1768cddf8853bb2d551b")
	if !bytes.Equal(got, want) {
		t.Errorf("sealed to %x, want %x", got, want)
	}
}

// TestForged: no bit of nonce, ciphertext, tag or additional data may change, and what does not open leaves nothing.
func TestForged(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 16, 63, 300} {
		a, nonce, plain, additional := made(t, fill(r, KeySize)), fill(r, NonceSize), fill(r, n), fill(r, 20)
		sealed := a.Seal(nil, nonce, plain, additional)
		for _, b := range [][]byte{nonce, sealed, additional} {
			for i := range 8 * len(b) {
				b[i/8] ^= 1 << (i % 8)
				room := bytes.Repeat([]byte{0xaa}, n)
				if _, err := a.Open(room[:0], nonce, sealed, additional); err == nil {
					t.Fatalf("%d bytes: opened with bit %d changed", n, i)
				}
				if !bytes.Equal(room, make([]byte, n)) {
					t.Fatalf("%d bytes: unauthentic plaintext left behind", n)
				}
				b[i/8] ^= 1 << (i % 8)
			}
		}
		if _, err := a.Open(nil, nonce, sealed, additional); err != nil {
			t.Fatal(err)
		}
		for short := range TagSize {
			if _, err := a.Open(nil, nonce, sealed[:short], additional); err == nil {
				t.Fatalf("opened %d bytes", short)
			}
		}
	}
}

// TestMisuse: as the standard library's.
func TestMisuse(t *testing.T) {
	if _, err := New(make([]byte, 16)); err == nil {
		t.Error("a key of 16 bytes was taken")
	}
	a := made(t, make([]byte, KeySize))
	b := make([]byte, 100)
	for name, f := range map[string]func(){
		"nonce":           func() { a.Seal(nil, make([]byte, 8), b, nil) },
		"nonce, open":     func() { _, _ = a.Open(nil, make([]byte, 13), b, nil) },
		"overlap":         func() { a.Seal(b[1:1], make([]byte, NonceSize), b[:50], nil) },
		"overlap, open":   func() { _, _ = a.Open(b[:0], make([]byte, NonceSize), b[1:50], nil) },
		"overlap, behind": func() { a.Seal(b[:0], make([]byte, NonceSize), b[20:50], nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// TestField: the powers agree with the definition.
func TestField(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	one := element{hi: 1 << 63}
	times := func(a, b element) element { return a.shifted().times(b) }
	for range 1000 {
		a, b, c := element{r.Uint64(), r.Uint64()}, element{r.Uint64(), r.Uint64()}, element{r.Uint64(), r.Uint64()}
		switch {
		case times(a, one) != a || times(a, b) != times(b, a) || a.timesX().byX() != a || a.byX().timesX() != a:
			t.Fatal(a, b)
		case a.timesX() != times(a, one.timesX()) || times(times(a, b), c) != times(a, times(b, c)):
			t.Fatal(a, b, c)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	a, nonce, b := made(t, make([]byte, KeySize)), make([]byte, NonceSize), make([]byte, 1500)
	if n := testing.AllocsPerRun(100, func() {
		sealed := a.Seal(b[:0], nonce, b[:1400], nonce)
		if _, err := a.Open(b[:0], nonce, sealed, nonce); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzAgainstStandard(f *testing.F) {
	f.Add(make([]byte, KeySize), make([]byte, NonceSize), []byte("plain"), []byte("additional"))
	f.Fuzz(func(t *testing.T, key, nonce, plain, additional []byte) {
		if len(key) != KeySize || len(nonce) != NonceSize {
			return
		}
		check(t, key, nonce, plain, additional)
	})
}

func BenchmarkSeal(b *testing.B) {
	bench(b, func(a cipher.AEAD, nonce, buf []byte, n int) {
		a.Seal(buf[:0], nonce, buf[:n], nonce)
	})
}

func BenchmarkOpen(b *testing.B) {
	bench(b, func(a cipher.AEAD, nonce, buf []byte, n int) {
		if _, err := a.Open(buf[:0], nonce, a.Seal(buf[:0], nonce, buf[:n], nonce), nonce); err != nil {
			b.Fatal(err)
		}
	})
}

// bench compares with the standard library's. Of Open it times sealing and opening.
func bench(b *testing.B, f func(a cipher.AEAD, nonce, buf []byte, n int)) {
	key, nonce := make([]byte, KeySize), make([]byte, NonceSize)
	for _, n := range []int{64, 1400, 64_000} {
		for name, a := range map[string]cipher.AEAD{"standard": reference(b, key), "weft": made(b, key)} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				buf := make([]byte, n, n+TagSize)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					f(a, nonce, buf, n)
				}
			})
		}
	}
}

func BenchmarkNew(b *testing.B) {
	key := make([]byte, KeySize)
	b.ReportAllocs()
	for b.Loop() {
		made(b, key)
	}
}
