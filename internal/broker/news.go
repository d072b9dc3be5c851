package broker

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/weft-net/weft/internal/subject"
)

// errMalformed says that a member of the bus sent what this version does not understand.
var errMalformed = errors.New("malformed")

// take cuts a piece off, whose length is in the first n bytes.
func take(b []byte, n int) (piece, rest []byte, ok bool) {
	if len(b) < n {
		return nil, nil, false
	}
	size := 0
	for _, c := range b[:n] {
		size = size<<8 | int(c)
	}
	if b = b[n:]; size > len(b) {
		return nil, nil, false
	}
	return b[:size:size], b[size:], true
}

// subjectNews is what brokers talk about interest on: it is in the stream of their messages, and so in order with them.
const subjectNews = Reserved + "interest"

// News is, by its first byte:
//
//	ask       1, then epochs of 8 bytes: these are asked for all that their programs want; none: everyone
//	snapshot  2, version 8, part 2, 1 if more parts follow 1, then wants: all that programs want at that version
//	change    3, version 8, then wants: what makes this version of the one before
//
// A want is a count (uvarint, 0: not any more), the length of the pattern 1, the pattern, that of the queue group 1, the queue group.
const (
	newsAsk      = 1
	newsSnapshot = 2
	newsChange   = 3

	// maxNews is about how long a part of a snapshot gets, in bytes.
	maxNews = 256 << 10
)

// news is what a broker says about interest.
type news struct {
	kind    byte
	version uint64
	part    uint16
	more    bool
	wants   []wanted
	asked   []uint64
}

type wanted struct {
	want
	count int
}

func (n *news) encode() []byte {
	b := []byte{n.kind}
	if n.kind == newsAsk {
		for _, e := range n.asked {
			b = binary.BigEndian.AppendUint64(b, e)
		}
		return b
	}
	b = binary.BigEndian.AppendUint64(b, n.version)
	if n.kind == newsSnapshot {
		b = binary.BigEndian.AppendUint16(b, n.part)
		more := byte(0)
		if n.more {
			more = 1
		}
		b = append(b, more)
	}
	for _, w := range n.wants {
		b = binary.AppendUvarint(b, uint64(w.count))
		b = append(b, byte(len(w.pattern)))
		b = append(b, w.pattern...)
		b = append(b, byte(len(w.queue)))
		b = append(b, w.queue...)
	}
	return b
}

func decodeNews(b []byte) (n news, err error) {
	if len(b) < 1 {
		return n, errMalformed
	}
	n.kind, b = b[0], b[1:]
	if n.kind == newsAsk {
		if len(b)%8 != 0 || len(b) > 8*MaxPeers {
			return news{}, errMalformed
		}
		for ; len(b) > 0; b = b[8:] {
			n.asked = append(n.asked, binary.BigEndian.Uint64(b))
		}
		return n, nil
	}
	if n.kind != newsSnapshot && n.kind != newsChange || len(b) < 8 {
		return news{}, errMalformed
	}
	n.version, b = binary.BigEndian.Uint64(b), b[8:]
	if n.kind == newsSnapshot {
		if len(b) < 3 || b[2] > 1 {
			return news{}, errMalformed
		}
		n.part, n.more, b = binary.BigEndian.Uint16(b), b[2] == 1, b[3:]
	}
	for len(b) > 0 {
		count, k := binary.Uvarint(b)
		if k <= 0 || count > MaxSubscriptions || n.kind == newsSnapshot && count == 0 {
			return news{}, errMalformed
		}
		var pattern, queue []byte
		var ok bool
		if pattern, b, ok = take(b[k:], 1); !ok {
			return news{}, errMalformed
		}
		if queue, b, ok = take(b, 1); !ok || !utf8.Valid(queue) {
			return news{}, errMalformed
		}
		w := wanted{want{string(pattern), string(queue)}, int(count)}
		if subject.CheckPattern(w.pattern) != nil || CheckQueue(w.queue) != nil || len(n.wants) >= MaxSubscriptions {
			return news{}, errMalformed
		}
		n.wants = append(n.wants, w)
	}
	return n, nil
}
