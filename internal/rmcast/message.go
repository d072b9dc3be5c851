package rmcast

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/weft-net/weft/internal/subject"
)

// A data packet holds, sealed:
//
//	0       1                  9          11
//	+-------+------------------+----------+----------------------------+--------------------+
//	| flags | first message 8  | begins 2 | queue groups, if flags & 1 | records            |
//	+-------+------------------+----------+----------------------------+--------------------+
//
// flags & 2 asks receivers to confirm at once. first message is the number of the first one that begins in this packet (or would), begins how many do. Queue groups:
// their number, 1 byte, and for each the group's hash, 4, how many take turns, 1, the turn, 4, and for each of these the epoch of its member, 8, the number of
// its subscription, 4, and what it weighs, 2: the messages that begin in the packet are theirs in turn.
// A record is a varint, its length * 4 + kind, and as many bytes:
const (
	recordPlain  = 0 // a message
	recordExtra  = 1 // [flags: 1 subject, 2 headers, 4 deals][subject length 1, subject][headers length, a varint, headers][number of deals 1, deals]message
	recordFirst  = 2 // [kind of the whole 1][length of the whole 4]: a long message begins; the rest of its first part
	recordNext   = 3 // the next part; one of length 0 ends the packet, the rest is padding
	packetHeader = 11
	firstHeader  = 5
	flagQueues   = 1
	flagConfirm  = 2
	hasSubject   = 1
	hasHeaders   = 2
	hasDeals     = 4
)

// ErrMalformed says that an authentic packet does not hold what it should: another version, or a bug.
var ErrMalformed = errors.New("malformed packet")

// Message is one message of a stream.
type Message struct {
	Number  uint64
	Subject []byte // nil: the stream's own
	Headers []byte
	Deals   []byte // Deal after Deal
	Payload []byte
}

// Begins returns the number of the first message that begins in a packet, and how many do.
func Begins(plain []byte) (first uint64, count int, err error) {
	if len(plain) < packetHeader {
		return 0, 0, ErrMalformed
	}
	return binary.BigEndian.Uint64(plain[1:]), int(binary.BigEndian.Uint16(plain[9:])), nil
}

// Cursor takes the packets of one stream in the order they are handed over and gives the messages in them. It notices
// itself what is missing: whatever was dropped before, by whomever, shows as a gap in numbers. One goroutine owns it.
// The zero value takes the first packet as the beginning.
type Cursor struct {
	pkt     []byte // the packet at hand
	at      int    // where its next record begins: a number, for the collector takes note of every slice that is written
	num     uint64 // of the next message that begins
	due     uint64 // the message number that must come next; 0: any
	seq     uint64 // the packet that must come next
	started bool
	part    []byte // of a long message
	want    int
	kind    byte
	joined  bool // in the middle of a long message from before: its parts are passed over

	seat      Deal   // of a queue group; Group 0: none
	first     uint64 // message that begins in the packet
	table     []byte // of the packet's queue groups
	index     uint64 // of the message given last in it
	long      bool   // it began in another packet
	longTable []byte // of that
	longIndex uint64
}

// Start makes the cursor begin at a message: earlier ones are passed over, and what is missing from there on is a gap.
func (c *Cursor) Start(message uint64) { c.due = message }

// Due returns the number of the next message; 0 before the first packet of a cursor without Start.
func (c *Cursor) Due() uint64 { return c.due }

// Open goes to the next packet. If messages are missing before it, lostTo >= lostFrom tells which. The packet must not change.
func (c *Cursor) Open(seq uint64, plain []byte) (lostFrom, lostTo uint64, err error) {
	first, _, err := Begins(plain)
	if err != nil {
		return 1, 0, err
	}
	table, rest, err := tables(plain)
	if err != nil {
		return 1, 0, err
	}
	lostFrom = 1
	if !c.started || seq != c.seq {
		c.tear()
		if c.due == 0 {
			c.due = first
		}
		if first > c.due {
			lostFrom, lostTo = c.due, first-1
			c.due = first
		}
	} else if first != c.num {
		return 1, 0, ErrMalformed
	}
	c.pkt, c.at, c.num, c.first, c.seq, c.started = plain, len(plain)-len(rest), first, first, seq+1, true
	if table != nil || c.table != nil {
		c.table = table
	}
	return lostFrom, lostTo, nil
}

// tear notes that what comes next does not join what was: a part of a message without the rest is nothing.
func (c *Cursor) tear() {
	if c.want > 0 {
		c.due, c.want, c.part = c.num-1, 0, nil
	}
	c.joined = true
}

// Gone tells that messages before one are lost, and none may follow to show it.
func (c *Cursor) Gone(message uint64) (lostFrom, lostTo uint64) {
	c.tear()
	c.started = false
	if c.due == 0 || message <= c.due {
		return 1, 0
	}
	lostFrom, lostTo = c.due, message-1
	c.due = message
	return lostFrom, lostTo
}

// Next gives the next message; false when the packet is used up. What it points to stays as it is.
func (c *Cursor) Next(m *Message) (bool, error) {
	for rest := c.pkt[c.at:]; len(rest) > 0; rest = c.pkt[c.at:] {
		v, n := uint64(rest[0]), 1
		switch { // most lengths have one byte or two
		case v < 0x80:
		case len(rest) > 1 && rest[1] < 0x80:
			v, n = v&0x7f|uint64(rest[1])<<7, 2
		default:
			v, n = binary.Uvarint(rest)
		}
		if n <= 0 || v>>2 > uint64(len(rest)-n) {
			c.at = len(c.pkt)
			return false, ErrMalformed
		}
		size := int(v >> 2)
		body := rest[n : n+size]
		c.at += n + size
		kind := byte(v & 3)
		c.index, c.long = c.num-c.first, false
		switch kind {
		case recordNext:
			if size == 0 {
				c.at = len(c.pkt)
				return false, nil
			}
			if c.want == 0 {
				if !c.joined {
					return false, ErrMalformed
				}
				continue
			}
			if len(c.part)+size > c.want {
				c.want, c.part = 0, nil
				return false, ErrMalformed
			}
			if c.part = append(c.part, body...); len(c.part) < c.want {
				continue
			}
			body, kind = c.part, c.kind
			c.part, c.want = nil, 0
			c.num-- // it was counted when it began
			c.long = true
		case recordFirst:
			if size < firstHeader || c.want > 0 {
				return false, ErrMalformed
			}
			total := int(binary.BigEndian.Uint32(body[1:]))
			if total > MaxMessage+MaxHeaders || total < size-firstHeader || body[0] > recordExtra {
				return false, ErrMalformed
			}
			c.num++
			c.joined = false
			if c.num-1 < c.due { // begun before what we want
				c.joined = true
				continue
			}
			c.kind, c.want = body[0], total
			if c.table != nil || c.longTable != nil {
				c.longTable, c.longIndex = bytes.Clone(c.table), c.index // the packet may be gone when the message is whole
			}
			c.part = append(make([]byte, 0, min(total, 64<<10)), body[firstHeader:]...)
			continue
		default:
			if c.want > 0 {
				return false, ErrMalformed
			}
			c.joined = false
		}
		*m = Message{Number: c.num, Payload: body}
		c.num++
		if m.Number < c.due {
			continue
		}
		c.due = m.Number + 1
		if kind == recordExtra {
			if err := m.extra(body); err != nil {
				return false, err
			}
		}
		if !c.mine(m) {
			continue
		}
		return true, nil
	}
	return false, nil
}

// Plain gives the next message if it is one that most are: whole, on the stream's subject, without headers; else Next does. It
// writes no pointer, which while the collector runs would cost more than the rest of it.
func (c *Cursor) Plain() (payload []byte, number uint64, ok bool) {
	rest := c.pkt[c.at:]
	if len(rest) < 2 || c.want > 0 || c.num < c.due || c.seat.Group != 0 {
		return nil, 0, false
	}
	v, n := int(rest[0]), 1
	if v >= 0x80 {
		if rest[1] >= 0x80 {
			return nil, 0, false
		}
		v, n = v&0x7f|int(rest[1])<<7, 2
	}
	end := n + v>>2
	if v&3 != recordPlain || end > len(rest) {
		return nil, 0, false
	}
	number = c.num
	c.at += end
	c.num++
	c.due = c.num
	c.joined = false
	return rest[n:end:end], number, true
}

func (m *Message) extra(b []byte) error {
	if len(b) < 1 {
		return ErrMalformed
	}
	flags := b[0]
	b = b[1:]
	if flags&hasSubject != 0 {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return ErrMalformed
		}
		m.Subject, b = b[1:1+int(b[0])], b[1+int(b[0]):]
	}
	if flags&hasHeaders != 0 {
		v, k := binary.Uvarint(b)
		if k <= 0 || v > uint64(len(b)-k) {
			return ErrMalformed
		}
		n := k + int(v)
		m.Headers, b = b[k:n:n], b[n:]
	}
	if flags&hasDeals != 0 {
		if len(b) < 1 || len(b) < 1+int(b[0])*dealSize {
			return ErrMalformed
		}
		n := 1 + int(b[0])*dealSize
		m.Deals, b = b[1:n:n], b[n:]
	}
	m.Payload = b
	return nil
}

// appendExtra writes the body of a message with a subject of its own, headers or deals.
func appendExtra(b []byte, subj string, headers, deals []byte) []byte {
	at := len(b)
	b = append(b, 0)
	if subj != "" {
		b[at] |= hasSubject
		b = append(b, byte(len(subj)))
		b = append(b, subj...)
	}
	if len(headers) > 0 {
		b[at] |= hasHeaders
		b = binary.AppendUvarint(b, uint64(len(headers)))
		b = append(b, headers...)
	}
	if len(deals) > 0 {
		b[at] |= hasDeals
		b = append(append(b, byte(len(deals)/dealSize)), deals...)
	}
	return b
}

// A subject's length must fit its byte.
var _ [255 - subject.MaxLength]struct{}
