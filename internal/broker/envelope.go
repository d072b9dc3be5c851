package broker

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/weft-net/weft/internal/subject"
)

// A message on the bus is, beside its subject:
//
//	0       1                      2            2+n
//	+-------+----------------------+------------+-----------------------+------------------+---------+
//	| flags | reply, if flags & 1: | length n 1 | headers, if flags & 2:| groups, if & 4   | payload |
//	|       |                      | reply      | length 4, headers     | see below        |         |
//	+-------+----------------------+------------+-----------------------+------------------+---------+
//
// Groups: their number 2, and for each the length of its name 1, the name, and the epoch of the host that serves it 8.
const (
	hasReply  = 1
	hasHeader = 2
	hasGroups = 4

	// maxTargets bounds the queue groups of one message.
	maxTargets = 1024
)

// errMalformed says that a member of the bus sent what this version does not understand.
var errMalformed = errors.New("malformed")

// target is the host that serves a queue group this time.
type target struct {
	queue string
	epoch uint64
}

func appendEnvelope(b []byte, m *Message, targets []target) []byte {
	at := len(b)
	b = append(b, 0)
	if len(m.Reply) > 0 {
		b[at] |= hasReply
		b = append(b, byte(len(m.Reply)))
		b = append(b, m.Reply...)
	}
	if len(m.Header) > 0 {
		b[at] |= hasHeader
		b = binary.BigEndian.AppendUint32(b, uint32(len(m.Header)))
		b = append(b, m.Header...)
	}
	if targets = targets[:min(len(targets), maxTargets)]; len(targets) > 0 {
		b[at] |= hasGroups
		b = binary.BigEndian.AppendUint16(b, uint16(len(targets)))
		for _, t := range targets {
			b = append(b, byte(len(t.queue)))
			b = append(b, t.queue...)
			b = binary.BigEndian.AppendUint64(b, t.epoch)
		}
	}
	return append(b, m.Payload...)
}

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

func decodeEnvelope(b []byte, targets []target) (m Message, _ []target, err error) {
	if len(b) < 1 || b[0] > hasReply|hasHeader|hasGroups {
		return m, targets, errMalformed
	}
	var ok bool
	flags := b[0]
	b = b[1:]
	if flags&hasReply != 0 {
		if m.Reply, b, ok = take(b, 1); !ok || subject.Check(string(m.Reply)) != nil {
			return Message{}, targets, errMalformed
		}
	}
	if flags&hasHeader != 0 {
		if m.Header, b, ok = take(b, 4); !ok || len(m.Header) == 0 {
			return Message{}, targets, errMalformed
		}
	}
	if flags&hasGroups != 0 {
		if len(b) < 2 {
			return Message{}, targets, errMalformed
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; n == 0 || n > maxTargets {
			return Message{}, targets, errMalformed
		}
		for range n {
			var name []byte
			if name, b, ok = take(b, 1); !ok || len(name) == 0 || len(b) < 8 {
				return Message{}, targets, errMalformed
			}
			targets = append(targets, target{string(name), binary.BigEndian.Uint64(b)})
			b = b[8:]
		}
	}
	m.Payload = b
	return m, targets, nil
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
