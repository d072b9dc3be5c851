package rmcast

import (
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
// their number, 1 byte, and for each the group's hash, 4, and the epoch of the member that shall have this packet, 8.
// A record is a varint, its length * 4 + kind, and as many bytes:
const (
	recordPlain  = 0 // a message
	recordExtra  = 1 // [flags: 1 subject, 2 headers][subject length 1, subject][headers length 2, headers]message
	recordFirst  = 2 // [kind of the whole 1][length of the whole 4]: a long message begins; the rest of its first part
	recordNext   = 3 // the next part; one of length 0 ends the packet, the rest is padding
	packetHeader = 11
	firstHeader  = 5
	flagQueues   = 1
	flagConfirm  = 2
	hasSubject   = 1
	hasHeaders   = 2
)

// ErrMalformed says that an authentic packet does not hold what it should: another version, or a bug.
var ErrMalformed = errors.New("malformed packet")

// Message is one message of a stream.
type Message struct {
	Number  uint64
	Subject []byte // nil: the stream's own
	Headers []byte
	Payload []byte
}

// Begins returns the number of the first message that begins in a packet, and how many do.
func Begins(plain []byte) (first uint64, count int, err error) {
	if len(plain) < packetHeader {
		return 0, 0, ErrMalformed
	}
	return binary.BigEndian.Uint64(plain[1:]), int(binary.BigEndian.Uint16(plain[9:])), nil
}

// records returns where the records begin, and who of a queue group shall have the packet.
func records(plain []byte, queue uint32) (rest []byte, who ID, err error) {
	if len(plain) < packetHeader {
		return nil, 0, ErrMalformed
	}
	rest = plain[packetHeader:]
	if plain[0]&flagQueues == 0 {
		return rest, 0, nil
	}
	if len(rest) < 1 {
		return nil, 0, ErrMalformed
	}
	n := int(rest[0])
	if rest = rest[1:]; len(rest) < 12*n {
		return nil, 0, ErrMalformed
	}
	for i := range n {
		if queue != 0 && binary.BigEndian.Uint32(rest[12*i:]) == queue {
			who = ID(binary.BigEndian.Uint64(rest[12*i+4:]))
		}
	}
	return rest[12*n:], who, nil
}

// QueueHash names a queue group in a packet; it is never 0.
func QueueHash(group string) uint32 {
	h := uint32(2166136261) // FNV-1a
	for i := range len(group) {
		h = (h ^ uint32(group[i])) * 16777619
	}
	return max(h, 1)
}

// Assigned returns who of a queue group shall have a packet, 0 if nobody is named.
func Assigned(plain []byte, queue uint32) ID {
	_, who, err := records(plain, queue)
	if err != nil {
		return 0
	}
	return who
}

// Cursor takes the packets of one stream in the order they are handed over and gives the messages in them. It notices
// itself what is missing: whatever was dropped before, by whomever, shows as a gap in numbers. One goroutine owns it.
// The zero value takes the first packet as the beginning.
type Cursor struct {
	rest    []byte
	num     uint64 // of the next message that begins
	count   int    // messages that begin in the packet
	due     uint64 // the message number that must come next; 0: any
	seq     uint64 // the packet that must come next
	started bool
	part    []byte // of a long message
	want    int
	kind    byte
	joined  bool // in the middle of a long message from before: its parts are passed over
}

// Start makes the cursor begin at a message: earlier ones are passed over, and what is missing from there on is a gap.
func (c *Cursor) Start(message uint64) { c.due = message }

// Due returns the number of the next message; 0 before the first packet of a cursor without Start.
func (c *Cursor) Due() uint64 { return c.due }

// Open goes to the next packet. If messages are missing before it, lostTo >= lostFrom tells which. The packet must not change.
func (c *Cursor) Open(seq uint64, plain []byte) (lostFrom, lostTo uint64, err error) {
	first, count, err := Begins(plain)
	if err != nil {
		return 1, 0, err
	}
	rest, _, err := records(plain, 0)
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
	c.rest, c.num, c.count, c.seq, c.started = rest, first, count, seq+1, true
	return lostFrom, lostTo, nil
}

// Pass goes over the packet at hand: its messages are another's.
func (c *Cursor) Pass() {
	c.num += uint64(c.count)
	c.due = max(c.due, c.num)
	c.rest, c.want, c.part = nil, 0, nil
	c.joined = true
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
	for len(c.rest) > 0 {
		v, n := binary.Uvarint(c.rest)
		if n <= 0 || v>>2 > uint64(len(c.rest)-n) {
			c.rest = nil
			return false, ErrMalformed
		}
		size := int(v >> 2)
		body := c.rest[n : n+size]
		c.rest = c.rest[n+size:]
		kind := byte(v & 3)
		switch kind {
		case recordNext:
			if size == 0 {
				c.rest = nil
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
		return true, nil
	}
	return false, nil
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
		if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
			return ErrMalformed
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		m.Headers, b = b[2:n], b[n:]
	}
	m.Payload = b
	return nil
}

// appendExtra writes the body of a message with a subject of its own or headers.
func appendExtra(b []byte, subj string, headers []byte) []byte {
	at := len(b)
	b = append(b, 0)
	if subj != "" {
		b[at] |= hasSubject
		b = append(b, byte(len(subj)))
		b = append(b, subj...)
	}
	if len(headers) > 0 {
		b[at] |= hasHeaders
		b = binary.BigEndian.AppendUint16(b, uint16(len(headers)))
		b = append(b, headers...)
	}
	return b
}

// A subject's length must fit its byte.
var _ [255 - subject.MaxLength]struct{}
