package state

import (
	"encoding/binary"
	"fmt"

	"github.com/weft-net/weft/internal/ident"
)

// The messages between two hosts, without the kind byte of the link packet. All lists are counted before anything is
// allocated, and nothing may follow them.
//
//	digest    [1][flags 1][held n 2]{scope 4, sum 8}  [mine n 2]{scope 4, version 8}  [yours n 2]{scope 4, version 8}
//	vector    [2][flags 1][scope 4][n 2]{writer 16, version 8, head 8}
//	request   [3][id 4][limit 4][n 2]{writer 16, scope 4, after 8}
//	blocks    [4][flags 1][id 4][parts 2]{length 2, block} to the end
const (
	msgDigest  = 1
	msgVector  = 2
	msgRequest = 3
	msgBlocks  = 4
)

const (
	digestAnswer = 1 << 0 // I have none of yours: answer with it

	vectorAnswer = 1 << 0 // the whole vector: show in turn where you are ahead

	blocksMore     = 1 << 0 // the answer was cut at its limit
	blocksEvidence = 1 << 1 // these contradict blocks you sent
)

// digest says in a few bytes what a host holds: the sum of each scope's vector, its own tables of scopes it does not
// hold (withdrawn, to be fetched), and tables of the receiver in scopes that the receiver does not hold.
type digest struct {
	answer bool
	held   []scopeSum
	mine   []scopeVersion
	yours  []scopeVersion
}

type scopeSum struct {
	scope Scope
	sum   uint64
}

type scopeVersion struct {
	scope   Scope
	version uint64
}

type vector struct {
	answer    bool
	scope     Scope
	positions []Position
}

type request struct {
	id    uint32
	limit uint32 // bytes of the answer
	lacks []lack
}

// lack names what a host misses of a table: all versions above after.
type lack struct {
	tableID
	after uint64
}

type tableID struct {
	writer ident.HostID
	scope  Scope
}

type answer struct {
	more     bool
	evidence bool
	id       uint32 // of the request; 0: pushed
	parts    uint16 // number of messages the answer has
	blocks   []byte // as cutBlock reads them
}

const (
	pairSize     = 12
	positionSize = 32
	lackSize     = 28
	answerHeader = 8
)

func (d *digest) encode() []byte {
	b := make([]byte, 0, 8+pairSize*(len(d.held)+len(d.mine)+len(d.yours)))
	var flags byte
	if d.answer {
		flags = digestAnswer
	}
	b = append(b, msgDigest, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.held)))
	for _, h := range d.held {
		b = binary.BigEndian.AppendUint32(b, uint32(h.scope))
		b = binary.BigEndian.AppendUint64(b, h.sum)
	}
	for _, l := range [][]scopeVersion{d.mine, d.yours} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(l)))
		for _, v := range l {
			b = binary.BigEndian.AppendUint32(b, uint32(v.scope))
			b = binary.BigEndian.AppendUint64(b, v.version)
		}
	}
	return b
}

func (v *vector) encode() []byte {
	b := make([]byte, 0, 8+positionSize*len(v.positions))
	var flags byte
	if v.answer {
		flags = vectorAnswer
	}
	b = append(b, msgVector, flags)
	b = binary.BigEndian.AppendUint32(b, uint32(v.scope))
	b = binary.BigEndian.AppendUint16(b, uint16(len(v.positions)))
	for _, p := range v.positions {
		b = append(b, p.Writer[:]...)
		b = binary.BigEndian.AppendUint64(b, p.Version)
		b = append(b, p.Head[:]...)
	}
	return b
}

func (r *request) encode() []byte {
	b := make([]byte, 0, 11+lackSize*len(r.lacks))
	b = append(b, msgRequest)
	b = binary.BigEndian.AppendUint32(b, r.id)
	b = binary.BigEndian.AppendUint32(b, r.limit)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.lacks)))
	for _, l := range r.lacks {
		b = append(b, l.writer[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(l.scope))
		b = binary.BigEndian.AppendUint64(b, l.after)
	}
	return b
}

// newAnswer begins a message of blocks; appendBlock adds to it, finishAnswer sets what is known at the end.
func newAnswer(flags byte, id uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{msgBlocks, flags}, id)
	return append(b, 0, 1)
}

func finishAnswer(msg []byte, parts int, more bool) {
	binary.BigEndian.PutUint16(msg[6:], uint16(parts))
	if more {
		msg[1] |= blocksMore
	}
}

func appendBlock(msg []byte, b *Block) []byte {
	msg = binary.BigEndian.AppendUint16(msg, uint16(len(b.raw)))
	return append(msg, b.raw...)
}

// cutBlock reads the first block of an answer.
func cutBlock(b []byte) (Block, []byte, error) {
	if len(b) < 2 {
		return Block{}, nil, malformed("blocks")
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return Block{}, nil, malformed("blocks")
	}
	block, err := ParseBlock(b[2 : 2+n : 2+n])
	return block, b[2+n:], err
}

func malformed(what string) error { return fmt.Errorf("state %s: %w", what, ErrMalformed) }

// list reads a count and that many records of size bytes, at most limit.
func list(b []byte, size, limit int) (records, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > limit || len(b) < 2+n*size {
		return nil, nil, false
	}
	return b[2 : 2+n*size], b[2+n*size:], true
}

func parseDigest(b []byte) (d digest, err error) {
	var held, mine, yours []byte
	ok := len(b) > 1 && b[1]&^digestAnswer == 0
	if ok {
		d.answer = b[1] == digestAnswer
		held, b, ok = list(b[2:], pairSize, MaxScopes)
	}
	if ok {
		mine, b, ok = list(b, pairSize, MaxScopes)
	}
	if ok {
		yours, b, ok = list(b, pairSize, MaxScopes)
	}
	if !ok || len(b) != 0 {
		return d, malformed("digest")
	}
	for ; len(held) > 0; held = held[pairSize:] {
		d.held = append(d.held, scopeSum{Scope(binary.BigEndian.Uint32(held)), binary.BigEndian.Uint64(held[4:])})
	}
	d.mine, d.yours = versions(mine), versions(yours)
	return d, nil
}

func versions(b []byte) (out []scopeVersion) {
	for ; len(b) > 0; b = b[pairSize:] {
		out = append(out, scopeVersion{Scope(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint64(b[4:])})
	}
	return out
}

func parseVector(b []byte) (v vector, err error) {
	if len(b) < 8 || b[1]&^vectorAnswer != 0 {
		return v, malformed("vector")
	}
	v.answer, v.scope = b[1]&vectorAnswer != 0, Scope(binary.BigEndian.Uint32(b[2:]))
	records, rest, ok := list(b[6:], positionSize, MaxWriters)
	if !ok || len(rest) != 0 {
		return v, malformed("vector")
	}
	for ; len(records) > 0; records = records[positionSize:] {
		v.positions = append(v.positions, Position{
			Writer:  ident.HostID(records[:16]),
			Version: binary.BigEndian.Uint64(records[16:]),
			Head:    [8]byte(records[24:32]),
		})
	}
	return v, nil
}

func parseRequest(b []byte) (r request, err error) {
	if len(b) < 11 {
		return r, malformed("request")
	}
	r.id, r.limit = binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[5:])
	records, rest, ok := list(b[9:], lackSize, maxAsked)
	if !ok || len(rest) != 0 {
		return r, malformed("request")
	}
	for ; len(records) > 0; records = records[lackSize:] {
		r.lacks = append(r.lacks, lack{
			tableID: tableID{ident.HostID(records[:16]), Scope(binary.BigEndian.Uint32(records[16:]))},
			after:   binary.BigEndian.Uint64(records[20:]),
		})
	}
	return r, nil
}

func parseAnswer(b []byte) (a answer, err error) {
	if len(b) < answerHeader || b[1]&^(blocksMore|blocksEvidence) != 0 {
		return a, malformed("blocks")
	}
	a.more, a.evidence = b[1]&blocksMore != 0, b[1]&blocksEvidence != 0
	a.id, a.parts, a.blocks = binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint16(b[6:]), b[answerHeader:]
	return a, nil
}
