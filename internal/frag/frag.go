// Package frag cuts a plaintext that is too large for its path into fragments and joins them again.
//
// Fragments travel inside sealed packets, so nothing vanishes where the underlay's MTU is small. Of a fragment:
//
//	0      1          5       6       7
//	+------+----------+-------+-------+----------------------+
//	| kind | id 4     | index | count | part                 |
//	+------+----------+-------+-------+----------------------+
//
// kind is wire.KindFragment; id is the sender's name of the whole, any number that it does not use again
// within MaxAge. All parts are equally long but the last, which is not longer and not empty.
package frag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/weft-net/weft/internal/wire"
)

const (
	// Header is the length of a fragment's header in bytes, kind included.
	Header = 7
	// MaxCount bounds the fragments of one plaintext: wire.MaxPlain over the smallest path needs 57.
	MaxCount = 255
	// MaxUnfinished bounds the plaintexts that an Assembler joins at a time.
	MaxUnfinished = 64
	// MaxBytes bounds what an Assembler holds in all.
	MaxBytes = 1 << 20
	// MaxAge is how long the parts of a plaintext are waited for.
	MaxAge = 2 * time.Second
)

// ErrSize says that a plaintext cannot be cut to fit: it is longer than wire.MaxPlain, or would take more than MaxCount parts.
var ErrSize = errors.New("too large to be cut")

// Plan returns into how many fragments a plaintext of n bytes must be cut when each sealed plaintext may be
// at most room bytes long, header included, and how much of it each but the last carries. A count of 1 says that
// it fits as it is, without a header. The parts are made equally long, so that none is needlessly close to the path's limit.
func Plan(n, room int) (count, each int, err error) {
	if n <= room && n <= wire.MaxPlain {
		return 1, n, nil
	}
	room -= Header
	if n > wire.MaxPlain || room <= 0 || (n+room-1)/room > MaxCount {
		return 0, 0, fmt.Errorf("frag: %d bytes, %d in a part: %w", n, room, ErrSize)
	}
	count = (n + room - 1) / room
	each = (n + count - 1) / count
	return (n + each - 1) / each, each, nil // equal parts may need one less
}

// PutHeader writes the header of fragment index of count into b, which has at least Header bytes.
func PutHeader(b []byte, id uint32, index, count int) {
	b[0] = wire.KindFragment
	binary.BigEndian.PutUint32(b[1:], id)
	b[5], b[6] = byte(index), byte(count)
}
