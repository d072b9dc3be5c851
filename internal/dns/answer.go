package dns

import (
	"net/netip"
	"strings"
)

// Section is a part of an answer.
type Section int

// Sections.
const (
	Answer Section = iota
	Authority
	Additional
	sections
)

// maxNames is how many places of names an answer remembers, so that later ones may point to them (RFC 1035 section 4.1.4).
const maxNames = 64

// Name is a name in two parts, without the dot between them and the one at the end: most names are some label in a zone, and
// are so put together without a copy. Labels hold no dots and have at most 63 bytes. The zero Name is the one asked for.
type Name struct{ Head, Tail string }

// cut takes the first label off.
func (n Name) cut() (label string, rest Name) {
	if n.Head == "" {
		n.Head, n.Tail = n.Tail, ""
	}
	label, n.Head, _ = strings.Cut(n.Head, ".")
	return label, n
}

func (n Name) empty() bool { return n.Head == "" && n.Tail == "" }

// Response is an answer that is being written. Its owner uses it again for the next one.
type Response struct {
	buf    []byte
	base   int // where the message begins in buf
	limit  int
	flags  uint16
	rcode  Rcode
	edns   bool
	last   Section // written to: sections come in order
	counts [sections]uint16
	names  [maxNames]uint16
	known  int
}

// Begin starts the answer to q, appended to b, of at most limit bytes. The name service is the authority for it until said
// otherwise.
func (r *Response) Begin(q *Query, b []byte, limit int) {
	r.buf, r.base, r.limit, r.rcode, r.edns, r.last, r.counts, r.known = b, len(b), limit, NoError, q.EDNS, Answer, [sections]uint16{}, 0
	r.flags = flagQR | flagAA | flagRA | q.flags&(flagRD|flagCD)
	if r.edns {
		r.limit -= optLen
	}
	r.buf = append16(r.buf, q.ID)
	r.buf = append(r.buf, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	r.buf = append(r.buf, q.question...)
	for at := HeaderLen; at < HeaderLen+len(q.question)-4 && q.question[at-HeaderLen] != 0; at += 1 + int(q.question[at-HeaderLen]) {
		r.remember(at)
	}
}

// SetRcode says how the query ended.
func (r *Response) SetRcode(rc Rcode) { r.rcode = rc }

// Truncated reports whether an answer was left out because it did not fit.
func (r *Response) Truncated() bool { return r.flags&flagTC != 0 }

// Len returns the number of records of a section.
func (r *Response) Len(s Section) int { return int(r.counts[s]) }

// Finish returns what Begin was given with the answer behind it.
func (r *Response) Finish() []byte {
	b := r.buf[r.base:]
	put16(b[2:], r.flags|uint16(r.rcode)&15)
	additional := r.counts[Additional]
	if r.edns {
		additional++
	}
	put16(b[6:], r.counts[Answer])
	put16(b[8:], r.counts[Authority])
	put16(b[10:], additional)
	if r.edns {
		r.buf = appendOPT(r.buf, byte(r.rcode>>4), 0)
	}
	return r.buf
}

// Address adds an A or an AAAA record. Like all that add records it reports whether it fitted; what does not fit is left out, as is
// what belongs into a section before the last one; an answer that lacks some of its first section says so.
func (r *Response) Address(s Section, owner Name, ttl uint32, a netip.Addr) bool {
	a = a.Unmap()
	typ := TypeAAAA
	if a.Is4() {
		typ = TypeA
	}
	m := r.begin(owner, typ, ttl)
	if a.Is4() {
		v := a.As4()
		r.buf = append(r.buf, v[:]...)
	} else {
		v := a.As16()
		r.buf = append(r.buf, v[:]...)
	}
	return r.end(s, m)
}

// Pointer adds a PTR or an NS record.
func (r *Response) Pointer(s Section, owner Name, typ uint16, ttl uint32, to Name) bool {
	m := r.begin(owner, typ, ttl)
	r.name(to, true)
	return r.end(s, m)
}

// SRV adds the place of a service (RFC 2782). Its target is not to be compressed.
func (r *Response) SRV(s Section, owner Name, ttl uint32, priority, weight, port uint16, target Name) bool {
	m := r.begin(owner, TypeSRV, ttl)
	r.buf = append16(append16(append16(r.buf, priority), weight), port)
	r.name(target, false)
	return r.end(s, m)
}

// TXT adds texts of at most 255 bytes each; none is one that is empty (RFC 6763 section 6.1).
func (r *Response) TXT(s Section, owner Name, ttl uint32, texts []string) bool {
	m := r.begin(owner, TypeTXT, ttl)
	if len(texts) == 0 {
		r.buf = append(r.buf, 0)
	}
	for _, t := range texts {
		t = t[:min(len(t), 255)]
		r.buf = append(append(r.buf, byte(len(t))), t...)
	}
	return r.end(s, m)
}

// HINFO adds what a query for everything gets in place of everything (RFC 8482 section 4.2).
func (r *Response) HINFO(s Section, owner Name, ttl uint32) bool {
	m := r.begin(owner, TypeHINFO, ttl)
	r.buf = append(append(append(r.buf, 7), "RFC8482"...), 0)
	return r.end(s, m)
}

// SOA adds the start of a zone of authority; its last field, how long a negative answer holds, is its TTL (RFC 2308 section 5).
func (r *Response) SOA(s Section, owner Name, ttl uint32, server, mailbox Name) bool {
	m := r.begin(owner, TypeSOA, ttl)
	r.name(server, true)
	r.name(mailbox, true)
	for _, v := range [...]uint32{1, 3600, 600, 86400, ttl} { // serial, refresh, retry, expire: nobody copies the zone
		r.buf = append32(r.buf, v)
	}
	return r.end(s, m)
}

// mark is where a record begins, for its undoing, and where its data does.
type mark struct{ start, data, known int }

func (r *Response) begin(owner Name, typ uint16, ttl uint32) mark {
	m := mark{start: len(r.buf), known: r.known}
	if owner.empty() {
		r.buf = append16(r.buf, 0xc000|HeaderLen)
	} else {
		r.name(owner, true)
	}
	r.buf = append16(append16(r.buf, typ), ClassIN)
	r.buf = append32(r.buf, ttl)
	r.buf = append16(r.buf, 0)
	m.data = len(r.buf)
	return m
}

func (r *Response) end(s Section, m mark) bool {
	n := len(r.buf) - m.data
	if len(r.buf)-r.base > r.limit || n > MaxTCP || s < r.last {
		r.buf, r.known = r.buf[:m.start], m.known
		if s == Answer {
			r.flags |= flagTC
		}
		return false
	}
	put16(r.buf[m.data-2:], uint16(n))
	r.last = s
	r.counts[s]++
	return true
}

// name appends a name, from where it has been written before on as a pointer to that place.
func (r *Response) name(n Name, compress bool) {
	for !n.empty() {
		if at := r.find(n); at > 0 && compress {
			r.buf = append16(r.buf, 0xc000|uint16(at))
			return
		}
		r.remember(len(r.buf) - r.base)
		var label string
		label, n = n.cut()
		label = label[:min(len(label), maxLabel)]
		r.buf = append(append(r.buf, byte(len(label))), label...)
	}
	r.buf = append(r.buf, 0)
}

// remember notes that a name begins at an offset that a pointer can hold.
func (r *Response) remember(at int) {
	if r.known < maxNames && at < 1<<14 {
		r.names[r.known] = uint16(at)
		r.known++
	}
}

// find returns the offset of a name that was written before, 0 when there is none.
func (r *Response) find(n Name) int {
	for _, at := range r.names[:r.known] {
		if r.same(int(at), n) {
			return int(at)
		}
	}
	return 0
}

// same compares the name at an offset with another. Names here were written by us, or have been read: their pointers lead back, and
// they end, but for the one that is being written.
func (r *Response) same(at int, n Name) bool {
	b := r.buf[r.base:]
	for at < len(b) {
		size := int(b[at])
		if size >= 0xc0 {
			if at+1 >= len(b) {
				return false
			}
			at = (size&0x3f)<<8 | int(b[at+1])
			continue
		}
		if size == 0 || n.empty() {
			return size == 0 && n.empty()
		}
		var label string
		label, n = n.cut()
		if len(label) != size || at+1+size > len(b) {
			return false
		}
		for i := range size {
			if lower(b[at+1+i]) != lower(label[i]) {
				return false
			}
		}
		at += 1 + size
	}
	return false
}
