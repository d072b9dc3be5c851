// Package record encodes control messages and entries of the state tables: CBOR (RFC 8949) in one form only,
// within bounds.
package record

import "github.com/fxamacker/cbor/v2"

// Encoding returns the mode of all that weft writes: core deterministic (RFC 8949 section 4.2.1), so that equal
// values are equal bytes and an unchanged entry is no change.
func Encoding() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // constant options
	}
	return m
}

// Bounds of what is decoded; each at least 16, for the library takes no less, but Depth, which is at least 4.
type Bounds struct {
	Elements int // of an array
	Pairs    int // of a map
	Depth    int // of arrays and maps in each other

	// Closed refuses fields that the type does not have: for what may never gain any.
	Closed bool
}

// Decoding returns a mode that refuses what Encoding never writes (duplicate keys, indefinite lengths, tags) and
// what exceeds the bounds.
func Decoding(b Bounds) cbor.DecMode {
	extra := cbor.ExtraDecErrorNone
	if b.Closed {
		extra = cbor.ExtraDecErrorUnknownField
	}
	m, err := cbor.DecOptions{
		ExtraReturnErrors: extra,
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   b.Depth,
		MaxArrayElements:  b.Elements,
		MaxMapPairs:       b.Pairs,
	}.DecMode()
	if err != nil {
		panic(err) // the caller's constants
	}
	return m
}
