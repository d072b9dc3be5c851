package gcm

import "encoding/binary"

// element is one of GF(2^128) as GCM writes it: the bytes of a block, the coefficient of x^0 in the first bit (SP 800-38D,
// section 6.3). As a number, hi and lo, that is bit 127, and multiplying by x is a shift to the right.
type element struct{ hi, lo uint64 }

func decode(b [16]byte) element {
	return element{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// timesX multiplies by x: x^128 is x^7 + x^2 + x + 1.
func (e element) timesX() element {
	carry := -(e.lo & 1)
	return element{e.hi>>1 ^ carry&(0xe1<<56), e.lo>>1 | e.hi<<63}
}

// byX divides by x: 1/x is x^127 + x^6 + x + 1.
func (e element) byX() element {
	carry := -(e.hi >> 63)
	return element{(e.hi<<1 | e.lo>>63) ^ carry&(0xc2<<56), e.lo<<1 ^ carry&1}
}

// shifted is an element times each power of x, x^0 first: what multiplies others by it fast.
type shifted [128]element

func (e element) shifted() *shifted {
	var s shifted
	for i := range s {
		s[i] = e
		e = e.timesX()
	}
	return &s
}

// times multiplies, in a time that does not depend on the values.
func (s *shifted) times(e element) element {
	var product element
	for i := range 64 {
		high, low := -(e.hi >> (63 - i) & 1), -(e.lo >> (63 - i) & 1)
		product.hi ^= high&s[i].hi ^ low&s[i+64].hi
		product.lo ^= high&s[i].lo ^ low&s[i+64].lo
	}
	return product
}
