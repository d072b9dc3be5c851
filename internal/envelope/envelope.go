// Package envelope holds what goes with a message of a bus beside its subject and its payload: where an answer is wanted, and
// headers. Messages without either have none.
//
//	0       1                      2            2+n
//	+-------+----------------------+------------+----------+
//	| flags | reply, if flags & 1: | length n 1 | headers, |
//	|       |                      | reply      | or none  |
//	+-------+----------------------+------------+----------+
//
// Headers are as NATS has them, from NATS/1.0 to the empty line (package natsproto). It is a codec: bytes and values.
package envelope

import "errors"

const hasReply = 1

// MaxReply is the longest reply subject in bytes.
const MaxReply = 255

// ErrMalformed says that bytes are no envelope of this version.
var ErrMalformed = errors.New("malformed envelope")

// Envelope is what goes with a message.
type Envelope struct {
	Reply  []byte // nil: no answer is wanted; at most MaxReply bytes
	Header []byte // from NATS/1.0 to the empty line; nil: none
}

// Append writes an envelope; one that holds nothing has no bytes.
func Append(b []byte, e Envelope) []byte {
	if len(e.Reply) == 0 && len(e.Header) == 0 {
		return b
	}
	at := len(b)
	b = append(b, 0)
	if len(e.Reply) > 0 {
		b[at] |= hasReply
		b = append(b, byte(len(e.Reply)))
		b = append(b, e.Reply...)
	}
	return append(b, e.Header...)
}

// Decode reads an envelope. Its slices are parts of b.
func Decode(b []byte) (e Envelope, err error) {
	if len(b) == 0 {
		return e, nil
	}
	flags := b[0]
	if b = b[1:]; flags&^hasReply != 0 {
		return e, ErrMalformed
	}
	if flags&hasReply != 0 {
		if len(b) < 1 || b[0] == 0 || len(b) < 1+int(b[0]) {
			return e, ErrMalformed
		}
		n := 1 + int(b[0])
		e.Reply, b = b[1:n:n], b[n:]
	}
	if len(b) > 0 {
		e.Header = b
	}
	return e, nil
}
