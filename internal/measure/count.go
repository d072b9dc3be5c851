package measure

import "encoding/binary"

// HeaderSize is what a numbered datagram begins with, big endian:
//
//	0         4                 12
//	+---------+-----------------+
//	|   run   |     number      |
//	+---------+-----------------+
const HeaderSize = 12

// PutHeader numbers a datagram of at least HeaderSize bytes. Numbers of a run begin with 0.
func PutHeader(b []byte, run uint32, number uint64) {
	binary.BigEndian.PutUint32(b, run)
	binary.BigEndian.PutUint64(b[4:], number)
}

// ParseHeader reads what PutHeader wrote; false when the datagram is too short.
func ParseHeader(b []byte) (run uint32, number uint64, ok bool) {
	if len(b) < HeaderSize {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:]), true
}

// maxSeen bounds the bitmap of a Counter: a minute at 4 million a second.
const maxSeen = 240e6

// Tally is what came of one run.
type Tally struct {
	Datagrams  uint64 `json:"datagrams"`  // different ones
	Duplicates uint64 `json:"duplicates"` // copies of these
}

// Counter counts the different datagrams of one run after the other. The zero value is ready.
type Counter struct {
	run  uint32
	seen []uint64 // bitmap by number
	t    Tally
}

// Add takes a datagram. One of a later run ends the run before; late ones of that are not counted.
func (c *Counter) Add(b []byte) {
	run, n, ok := ParseHeader(b)
	if !ok || run < c.run || n >= maxSeen {
		return
	}
	if run != c.run {
		c.run, c.t = run, Tally{}
		clear(c.seen)
	}
	word, bit := int(n/64), uint64(1)<<(n%64)
	if word >= len(c.seen) {
		c.seen = append(c.seen, make([]uint64, word+1-len(c.seen)+1024)...)
	}
	if c.seen[word]&bit != 0 {
		c.t.Duplicates++
		return
	}
	c.seen[word] |= bit
	c.t.Datagrams++
}

// Of returns what came of a run; nothing when it is not the latest.
func (c *Counter) Of(run uint32) Tally {
	if c.run != run {
		return Tally{}
	}
	return c.t
}
