package state

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"unicode/utf8"

	"github.com/weft-net/weft/internal/ident"
)

// Entry is one key of a table at one version.
type Entry struct {
	Key     string
	Value   []byte // shared with the block: not to be written to
	Gone    bool   // a tombstone
	Version uint64
}

// Block is a signed piece of a table's log, as parsed by ParseBlock. It is immutable and holds its encoding:
//
//	0        1       33     37    45     53    69         71
//	+--------+-------+------+-----+------+-----+----------+------------------+---------+
//	| format | key   | scope| from| floor| prev| entries n| n entries        | sig 64  |
//	+--------+-------+------+-----+------+-----+----------+------------------+---------+
//	entry: [0][key length 1][key][value length 2][value]  or, a tombstone:  [1][key length 1][key]
//
// key is the writer's Ed25519 key, whose hash is the HostID, so a block certifies itself. prev is the hash of the block
// before (zeros: there is none, or its writer lost it).
type Block struct {
	Writer ident.HostID
	Scope  Scope
	From   uint64 // version of the first entry, at least 1
	To     uint64 // version of the last entry
	Floor  uint64 // versions up to it are not needed any more; below From
	prev   blockHash
	raw    []byte
}

// blockHash is the truncated SHA-256 of a block's signed part.
type blockHash [16]byte

const (
	blockFormat = 1
	blockHeader = 71
	blockLeast  = blockHeader + 3 + ed25519.SignatureSize
	// maxVersion leaves room: no honest writer gets there (2^48 changes), and arithmetic never wraps.
	maxVersion = 1 << 48
)

// Bytes returns the block's encoding, not to be written to.
func (b *Block) Bytes() []byte { return b.raw }

func (b *Block) signedPart() []byte { return b.raw[:len(b.raw)-ed25519.SignatureSize] }

func (b *Block) hash() blockHash {
	sum := sha256.Sum256(b.signedPart())
	return blockHash(sum[:16])
}

// Entries yields the block's entries in the order of their versions.
func (b *Block) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		rest, v := b.signedPart()[blockHeader:], b.From
		for len(rest) > 0 {
			var e Entry
			e, rest, _ = cutEntry(rest) // checked by ParseBlock
			e.Version = v
			if !yield(e) {
				return
			}
			v++
		}
	}
}

// ParseBlock reads a block and checks its form, not its signature. It keeps raw.
func ParseBlock(raw []byte) (Block, error) {
	if len(raw) < blockLeast || len(raw) > MaxBlock {
		return Block{}, fmt.Errorf("state block of %d bytes: %w", len(raw), ErrMalformed)
	}
	if raw[0] != blockFormat {
		return Block{}, fmt.Errorf("state block of format %d: %w", raw[0], ErrMalformed)
	}
	b := Block{
		Writer: ident.IDOf(raw[1:33]),
		Scope:  Scope(binary.BigEndian.Uint32(raw[33:])),
		From:   binary.BigEndian.Uint64(raw[37:]),
		Floor:  binary.BigEndian.Uint64(raw[45:]),
		prev:   blockHash(raw[53:69]),
		raw:    raw,
	}
	n := uint64(binary.BigEndian.Uint16(raw[69:]))
	if n == 0 || b.From == 0 || b.From > maxVersion || b.Floor >= b.From {
		return Block{}, fmt.Errorf("state block with %d entries from %d, floor %d: %w", n, b.From, b.Floor, ErrMalformed)
	}
	b.To = b.From + n - 1
	rest := b.signedPart()[blockHeader:]
	for range n {
		var ok bool
		if _, rest, ok = cutEntry(rest); !ok {
			return Block{}, fmt.Errorf("state block: entry cut or out of bounds: %w", ErrMalformed)
		}
	}
	if len(rest) != 0 {
		return Block{}, fmt.Errorf("state block: %d bytes too many: %w", len(rest), ErrMalformed)
	}
	return b, nil
}

// cutEntry reads the first entry of b, without a version.
func cutEntry(b []byte) (e Entry, rest []byte, ok bool) {
	if len(b) < 3 || b[0] > 1 || b[1] == 0 || b[1] > MaxKey || len(b) < 2+int(b[1]) {
		return e, nil, false
	}
	e.Gone = b[0] == 1
	key := b[2 : 2+int(b[1])]
	if !utf8.Valid(key) {
		return e, nil, false
	}
	e.Key = string(key)
	b = b[2+len(key):]
	if e.Gone {
		return e, b, true
	}
	if len(b) < 2 {
		return e, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > MaxValue || len(b) < 2+n {
		return e, nil, false
	}
	e.Value = b[2 : 2+n : 2+n]
	return e, b[2+n:], true
}

// entrySize returns the encoded length of a put.
func entrySize(key string, value []byte) int { return 4 + len(key) + len(value) }

// sealBlock encodes and signs a block of a writer's log.
func sealBlock(keys ed25519.PrivateKey, cluster ident.ClusterID, scope Scope, from, floor uint64, prev blockHash, entries []Entry) Block {
	size := blockHeader + ed25519.SignatureSize
	for _, e := range entries {
		size += entrySize(e.Key, e.Value)
	}
	raw := make([]byte, 0, size)
	raw = append(raw, blockFormat)
	raw = append(raw, keys.Public().(ed25519.PublicKey)...)
	raw = binary.BigEndian.AppendUint32(raw, uint32(scope))
	raw = binary.BigEndian.AppendUint64(raw, from)
	raw = binary.BigEndian.AppendUint64(raw, floor)
	raw = append(raw, prev[:]...)
	raw = binary.BigEndian.AppendUint16(raw, uint16(len(entries)))
	for _, e := range entries {
		if e.Gone {
			raw = append(raw, 1, byte(len(e.Key)))
			raw = append(raw, e.Key...)
			continue
		}
		raw = append(raw, 0, byte(len(e.Key)))
		raw = append(raw, e.Key...)
		raw = binary.BigEndian.AppendUint16(raw, uint16(len(e.Value)))
		raw = append(raw, e.Value...)
	}
	raw = append(raw, ed25519.Sign(keys, signedContext(cluster, raw))...)
	return Block{
		Writer: ident.IDOf(keys.Public().(ed25519.PublicKey)), Scope: scope,
		From: from, To: from + uint64(len(entries)) - 1, Floor: floor, prev: prev, raw: raw,
	}
}

// signedContext is what the signature covers: the cluster is in it, so a block means nothing in another one (or in a bus).
func signedContext(cluster ident.ClusterID, body []byte) []byte {
	out := make([]byte, 0, 32+len(body))
	out = append(out, "weft state block 1\x00"...)
	out = append(out, cluster[:]...)
	return append(out, body...)
}

// verify reports whether the block is signed by the key it names, for this cluster.
func (b *Block) verify(cluster ident.ClusterID) bool {
	body := b.signedPart()
	return ed25519.Verify(b.raw[1:33], signedContext(cluster, body), b.raw[len(body):])
}

// same reports whether two blocks say the same.
func (b *Block) same(o *Block) bool { return bytes.Equal(b.signedPart(), o.signedPart()) }
