package dns

import "bytes"

// Query is a question that somebody asks. Its owner uses it again for the next one.
type Query struct {
	ID      uint16
	Type    uint16
	Class   uint16
	EDNS    bool
	Version byte   // of EDNS
	Size    uint16 // the longest answer by UDP that the asker takes, in bytes: what its EDNS record says, MinUDP at least
	DO      bool   // it wants DNSSEC records

	flags    uint16
	question []byte // name, type and class as they came; in the packet
	text     [MaxName]byte
	length   int
}

// Name returns the name asked for in lower case, labels separated by dots, without the dot at the end; empty for the root. A
// label that holds a dot itself has a 0 byte in its place, so that it is no other name. It holds until the next Parse.
func (q *Query) Name() []byte { return q.text[:q.length] }

// Question returns name, type and class as they came. It holds as long as the packet.
func (q *Query) Question() []byte { return q.question }

// Recursive reports whether the asker wants others to be asked.
func (q *Query) Recursive() bool { return q.flags&flagRD != 0 }

// Clone returns a query that holds longer than the packet.
func (q *Query) Clone() *Query {
	c := *q
	c.question = bytes.Clone(q.question)
	return &c
}

// Kind tells queries for the same question apart whose answers may differ: by recursion, DNSSEC and EDNS.
func (q *Query) Kind() byte {
	k := byte(q.flags&(flagAD|flagCD))>>4 | byte(q.flags>>8&1)<<2
	if q.EDNS {
		k |= 1 << 3
	}
	if q.DO {
		k |= 1 << 4
	}
	return k
}

// ParseQuery reads a query. Whatever the error, q's ID is that of the packet when this has a header, and AppendFail answers it.
func ParseQuery(b []byte, q *Query) error {
	q.EDNS, q.Version, q.Size, q.DO, q.question, q.length = false, 0, MinUDP, false, nil, 0
	q.ID, q.Type, q.Class, q.flags = 0, 0, 0, 0
	if len(b) < HeaderLen {
		return ErrShort
	}
	q.ID, q.flags = be16(b), be16(b[2:])
	switch {
	case q.flags&flagQR != 0:
		return ErrResponse
	case q.flags>>11&15 != 0:
		return ErrOpcode
	case be16(b[4:]) != 1 || be16(b[6:]) != 0 || be16(b[8:]) != 0:
		return ErrForm
	}
	end, ok := q.name(b)
	if !ok || len(b) < end+4 {
		return ErrForm
	}
	q.Type, q.Class, q.question = be16(b[end:]), be16(b[end+2:]), b[HeaderLen:end+4]
	if !q.additional(b[end+4:], int(be16(b[10:]))) {
		q.question = nil
		return ErrForm
	}
	return nil
}

// name reads the name in question. Nothing comes before it that a pointer could lead to, so a pointer is an error.
func (q *Query) name(b []byte) (end int, ok bool) {
	at := HeaderLen
	for {
		if at >= len(b) {
			return 0, false
		}
		n := int(b[at])
		if n == 0 {
			return at + 1, true
		}
		if n > maxLabel || at+1+n >= len(b) || at+1+n-HeaderLen >= MaxName {
			return 0, false
		}
		if q.length > 0 {
			q.text[q.length] = '.'
			q.length++
		}
		for _, c := range b[at+1 : at+1+n] {
			switch {
			case c >= 'A' && c <= 'Z': // ASCII only (RFC 4343)
				c += 'a' - 'A'
			case c == '.':
				c = 0
			}
			q.text[q.length] = c
			q.length++
		}
		at += 1 + n
	}
}

// maxAdditional is how many records a query may bring along: the EDNS record and a signature, which is not looked at.
const maxAdditional = 2

// additional looks for the EDNS record.
func (q *Query) additional(b []byte, count int) bool {
	if count > maxAdditional {
		return false
	}
	for range count {
		n := 0
		for n < len(b) && b[n] != 0 { // owner; pointers are in no record that a query brings along
			if b[n] > maxLabel || n > MaxName {
				return false
			}
			n += 1 + int(b[n])
		}
		if len(b) < n+optLen {
			return false
		}
		typ, data := be16(b[n+1:]), int(be16(b[n+9:]))
		if len(b) < n+optLen+data {
			return false
		}
		if typ == typeOPT {
			if n != 0 || q.EDNS { // RFC 6891 section 6.1.1
				return false
			}
			q.EDNS, q.Size, q.Version, q.DO = true, max(be16(b[3:]), MinUDP), b[6], be16(b[7:])&flagDO != 0
		}
		b = b[n+optLen+data:]
	}
	return true
}

// AppendQuery appends the query for another server: the question as it came, with this id. The EDNS record is made anew, for it
// is between two neighbours: what else the asker put into it, its cookie say, is not for others.
func (q *Query) AppendQuery(b []byte, id uint16) []byte {
	b = append16(b, id)
	b = append16(b, flagRD|q.flags&(flagAD|flagCD))
	b = append(b, 0, 1, 0, 0, 0, 0, 0)
	if !q.EDNS {
		return append(append(b, 0), q.question...)
	}
	b = append(append(b, 1), q.question...)
	var do uint16
	if q.DO {
		do = flagDO
	}
	return appendOPT(b, 0, do)
}

func appendOPT(b []byte, rcode byte, flags uint16) []byte {
	b = append(b, 0)
	b = append16(b, typeOPT)
	b = append16(b, MaxUDP)
	b = append(b, rcode, 0)
	b = append16(b, flags)
	return append(b, 0, 0)
}

// Answers reports whether b, from another server, answers the query that AppendQuery made with this id, and how. Names are
// compared without regard to case.
func (q *Query) Answers(b []byte, id uint16) (Rcode, bool) {
	n := len(q.question)
	if n == 0 || len(b) < HeaderLen+n || be16(b) != id || be16(b[2:])&flagQR == 0 || be16(b[4:]) != 1 {
		return 0, false
	}
	for i, c := range q.question {
		d := b[HeaderLen+i]
		if c != d && (i >= n-4 || lower(c) != lower(d)) {
			return 0, false
		}
	}
	return Rcode(be16(b[2:]) & 15), true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// Readdress makes an answer of another server one to this query: with its id, and the name in the case in which it was asked
// for. What is longer than limit bytes becomes a truncated answer without records. Precondition: Answers.
func (q *Query) Readdress(b []byte, limit int) []byte {
	put16(b, q.ID)
	n := copy(b[HeaderLen:], q.question)
	if len(b) <= limit {
		return b
	}
	b[2] |= byte(flagTC >> 8)
	b = b[:HeaderLen+n]
	clear(b[6:HeaderLen])
	return b
}

// AppendFail appends an answer that holds nothing but an rcode to the packet that q was read from, however far that went. There
// is none to ErrShort and ErrResponse.
func (q *Query) AppendFail(b []byte, rc Rcode) []byte {
	count := byte(0)
	if len(q.question) > 0 {
		count = 1
	}
	flags := flagQR | flagRA | q.flags&(15<<11|flagRD|flagCD) | uint16(rc)&15
	b = append16(b, q.ID)
	b = append16(b, flags)
	b = append(b, 0, count, 0, 0, 0, 0, 0)
	if !q.EDNS {
		return append(append(b, 0), q.question...)
	}
	return appendOPT(append(append(b, 1), q.question...), byte(rc>>4), 0)
}
