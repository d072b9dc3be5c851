package gso

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// super makes a super-frame with a virtio-net header as the kernel would: lengths of the whole, pseudo-header's sum in
// the checksum field.
func super(typ byte, vlan bool, payload, size int) []byte {
	var f []byte
	f = append(f, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)
	if vlan {
		f = append(f, 0x81, 0, 0, 7)
	}
	l4len, off, proto := 32, 16, byte(6)
	if typ == TypeUDP {
		l4len, off, proto = 8, 6, 17
	}
	total := l4len + payload
	v6 := typ == TypeTCP6
	if v6 {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, proto, 64)
		f = append(f, bytes.Repeat([]byte{0xfd, 3}, 16)...)
		binary.BigEndian.PutUint16(f[len(f)-36:], uint16(total))
	} else {
		f = append(f, 8, 0, 0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
		ip := f[len(f)-20:]
		binary.BigEndian.PutUint16(ip[2:], uint16(20+total))
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
	}
	l4 := len(f)
	t := make([]byte, total)
	binary.BigEndian.PutUint16(t, 4000)
	binary.BigEndian.PutUint16(t[2:], 5000)
	if typ == TypeUDP {
		binary.BigEndian.PutUint16(t[4:], uint16(total))
	} else {
		binary.BigEndian.PutUint32(t[4:], 0xfffff000) // wraps round on the way
		t[12], t[13] = 8<<4, 0x10|tcpPSH|tcpFIN|tcpCWR
	}
	for i := range payload {
		t[l4len+i] = byte(i * 31)
	}
	binary.BigEndian.PutUint16(t[off:], fold(pseudo(f, l4, proto, total)))
	f = append(f, t...)
	out := make([]byte, HeaderLen, HeaderLen+len(f))
	h := Header{NeedsChecksum: true, ECN: typ != TypeUDP, Type: typ, Size: uint16(size), Start: uint16(l4), Offset: uint16(off)}
	h.Put(out, l4+l4len)
	return append(out, f...)
}

// pseudo sums the pseudo-header of a frame whose transport header is at l4 (RFC 793 section 3.1, RFC 8200 section 8.1).
func pseudo(f []byte, l4 int, proto byte, n int) uint32 {
	addresses := f[l4-8 : l4]
	if l4 == 54 && f[12] == 0x86 {
		addresses = f[l4-32 : l4]
	}
	return sum(addresses) + uint32(proto) + uint32(n)
}

var shapes = []struct {
	name          string
	typ           byte
	vlan          bool
	payload, size int
	segments      int
}{
	{"tcp4", TypeTCP4, false, 10*1348 + 77, 1348, 11},
	{"tcp4 even", TypeTCP4, false, 4 * 1348, 1348, 4},
	{"tcp4 in a VLAN", TypeTCP4, true, 3000, 1448, 3},
	{"tcp6", TypeTCP6, false, 64000, 1328, 49},
	{"udp4", TypeUDP, false, 5*1200 + 1, 1200, 6},
	{"small", TypeTCP4, false, 60000, 536, 112},
	{"one", TypeTCP4, false, 100, 1448, 1},
	{"none", TypeTCP4, false, 0, 1448, 1},
}

func split(t testing.TB, raw []byte) (out [][]byte) {
	t.Helper()
	var s Splitter
	if err := s.Init(Parse(raw), raw[HeaderLen:], 9); err != nil {
		t.Fatal(err)
	}
	for n := s.Len(); n > 0; n = s.Len() {
		b := make([]byte, n)
		if got := s.Put(b); got != n {
			t.Fatalf("record of %d bytes, said %d", got, n)
		}
		out = append(out, b)
	}
	return out
}

// TestSegmentsStandAlone: every part is a frame whose lengths and checksums are right, and the data is all there once.
func TestSegmentsStandAlone(t *testing.T) {
	for _, c := range shapes {
		raw := super(c.typ, c.vlan, c.payload, c.size)
		parts := split(t, raw)
		if len(parts) != c.segments {
			t.Fatalf("%s: %d segments, want %d", c.name, len(parts), c.segments)
		}
		var data []byte
		for i, p := range parts {
			r, rest, ok := Next(p)
			if !ok || len(rest) != 0 || int(r.Index) != i || r.Burst != 9 {
				t.Fatalf("%s: record %d: %+v %v", c.name, i, r, ok)
			}
			l, err := parse(r.Frame, r.Type, int(r.Start), int(r.Offset))
			if err != nil || !l.consistent(r.Frame) {
				t.Fatalf("%s: segment %d: %v", c.name, i, err)
			}
			if l.ip4 && ^fold(sum(r.Frame[l.l3:l.l4])) != 0 {
				t.Fatalf("%s: IP checksum of segment %d", c.name, i)
			}
			proto := byte(6)
			if c.typ == TypeUDP {
				proto = 17
			} else {
				last := i == len(parts)-1
				flags := r.Frame[l.l4+13]
				if seq := binary.BigEndian.Uint32(r.Frame[l.l4+4:]); seq != 0xfffff000+uint32(i*c.size) {
					t.Fatalf("%s: segment %d has sequence number %#x", c.name, i, seq)
				}
				if (flags&tcpFIN != 0) != last || (flags&tcpPSH != 0) != last || (flags&tcpCWR != 0) != (i == 0) {
					t.Fatalf("%s: segment %d has flags %#x", c.name, i, flags)
				}
			}
			n := len(r.Frame) - l.l4
			if !FinishChecksum(r.Frame, int(r.Start), int(r.Offset)) {
				t.Fatal("no place for the checksum")
			}
			if got := fold(pseudo(r.Frame, l.l4, proto, n) + sum(r.Frame[l.l4:])); got != 0xffff {
				t.Fatalf("%s: checksum of segment %d: %#x", c.name, i, got)
			}
			data = append(data, r.Frame[l.data:]...)
		}
		if !bytes.Equal(data, raw[len(raw)-c.payload:]) {
			t.Fatalf("%s: %d bytes of data, want %d", c.name, len(data), c.payload)
		}
	}
}

// TestJoin: what was cut comes out as it was; with a part missing, as what is left in order.
func TestJoin(t *testing.T) {
	for _, c := range shapes {
		raw := super(c.typ, c.vlan, c.payload, c.size)
		parts := split(t, raw)
		var j Joiner
		for i, p := range parts {
			r, _, _ := Next(p)
			if i == 0 {
				if !j.Start(r, true) {
					t.Fatalf("%s: not begun", c.name)
				}
			} else if !j.Add(r) {
				t.Fatalf("%s: part %d not taken", c.name, i)
			}
		}
		got := bytes.Join(j.Finish(), nil)
		want := raw
		if c.segments == 1 { // no super-frame any more
			want = bytes.Clone(raw)
			h := Parse(raw)
			h.Type, h.ECN = TypeNone, false
			h.Put(want, 0)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: not as it was:\n% x\n% x", c.name, got[:80], want[:80])
		}
		if len(parts) < 4 {
			continue
		}
		first, _, _ := Next(parts[0])
		third, _, _ := Next(parts[2])
		last, _, _ := Next(parts[len(parts)-1])
		if j.Start(first, true); j.Add(third) {
			t.Errorf("%s: a gap was joined", c.name)
		}
		if j.Start(last, true); j.Add(first) {
			t.Errorf("%s: something after the end", c.name)
		}
		j.Start(first, true)
		n := 1
		for next := first; ; n++ { // more than one frame can hold
			if next.Index++; !j.Add(next) {
				break
			}
		}
		if got := bytes.Join(j.Finish(), nil); len(got) > MaxFrame || n > maxParts || len(got) < 60000 && n < maxParts {
			t.Errorf("%s: %d records in %d bytes", c.name, n, len(got))
		}
	}
}

func TestPlainRecords(t *testing.T) {
	var b []byte
	frames := [][]byte{{1, 2, 3}, {}, bytes.Repeat([]byte{7}, 60)}
	for i, f := range frames {
		var r Record
		if err := r.Plain(Header{NeedsChecksum: i == 2, Start: 34, Offset: 6}, f); err != nil {
			t.Fatal(err)
		}
		at := len(b)
		b = append(b, make([]byte, r.Overhead()+len(f))...)
		if n := r.Put(b[at:]); n != len(b)-at {
			t.Fatalf("%d bytes, said %d", n, len(b)-at)
		}
	}
	for i, f := range frames {
		r, rest, ok := Next(b)
		if !ok || !bytes.Equal(r.Frame, f) || r.NeedsChecksum != (i == 2) {
			t.Fatalf("record %d: %+v", i, r)
		}
		b = rest
	}
	if _, _, ok := Next(b); ok {
		t.Error("a record out of nothing")
	}
	f := make([]byte, 400)
	var r Record
	if err := r.Plain(Header{NeedsChecksum: true, Start: 300, Offset: 16}, f); err != nil || r.NeedsChecksum || f[316] == 0 && f[317] == 0 {
		t.Errorf("a checksum far back: %v %+v", err, r.NeedsChecksum)
	}
	if err := r.Plain(Header{NeedsChecksum: true, Start: 399, Offset: 300}, f); err == nil {
		t.Error("a checksum beyond the frame")
	}
}

func FuzzSplit(f *testing.F) {
	for _, c := range shapes {
		f.Add(super(c.typ, c.vlan, min(c.payload, 3000), c.size))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < HeaderLen {
			return
		}
		raw = bytes.Clone(raw) // Take writes
		var s Splitter
		if s.Init(Parse(raw), raw[HeaderLen:], 1) != nil {
			return
		}
		total := 0
		for n := s.Len(); n > 0; n = s.Len() {
			if b := s.Take(len(raw) % 7); b != nil {
				total += len(b)
			} else {
				total += s.Put(make([]byte, n))
			}
			if total > 256*(1<<16) {
				t.Fatal("no end")
			}
		}
	})
}

func FuzzJoin(f *testing.F) {
	for _, c := range shapes {
		f.Add(bytes.Join(split(f, super(c.typ, c.vlan, min(c.payload, 5000), c.size)), nil))
	}
	for _, v6 := range []bool{false, true} {
		var b []byte
		for i := range 3 {
			r := datagramRecord(v6, i, 100, nil)
			b = append(b, make([]byte, r.Overhead()+len(r.Frame))...)
			r.Put(b[len(b)-r.Overhead()-len(r.Frame):])
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var j Joiner
		open, datagrams := false, true
		for {
			r, rest, ok := Next(b)
			if !ok {
				return
			}
			b = rest
			if open && j.Add(r) {
				continue
			}
			if open {
				if out := bytes.Join(j.Finish(), nil); len(out) > MaxFrame {
					t.Fatalf("%d bytes", len(out))
				}
			}
			open = j.Start(r, datagrams)
			datagrams = !datagrams
		}
	})
}

func BenchmarkSplitAndJoin(b *testing.B) {
	raw := super(TypeTCP4, false, 44*1348, 1348)
	h := Parse(raw)
	out := make([]byte, 1<<16+45*(1348+66+MaxRecord))
	var s Splitter
	var j Joiner
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Init(h, raw[HeaderLen:], 1); err != nil {
			b.Fatal(err)
		}
		at := 0
		for i := 0; s.Len() > 0; i++ {
			n := s.Put(out[at:])
			r, _, _ := Next(out[at : at+n])
			at += n
			if i == 0 {
				j.Start(r, true)
			} else if !j.Add(r) {
				b.Fatal("not joined")
			}
		}
		j.Finish()
	}
}

// TestTake: records written where their data lies are those that are written elsewhere.
func TestTake(t *testing.T) {
	const room = 4
	for _, c := range shapes {
		raw := super(c.typ, c.vlan, c.payload, c.size)
		want := split(t, raw)
		var s Splitter
		if err := s.Init(Parse(raw), raw[HeaderLen:], 9); err != nil {
			t.Fatal(err)
		}
		taken := 0
		for i := 0; s.Len() > 0; i++ {
			n := s.Len()
			b := s.Take(room)
			if b == nil {
				b = make([]byte, room+n)
				if s.Put(b[room:]) != n {
					t.Fatalf("%s: record %d of another length", c.name, i)
				}
			} else {
				taken++
			}
			if !bytes.Equal(b[room:], want[i]) {
				t.Fatalf("%s: record %d differs", c.name, i)
			}
			clear(b[:room]) // it is the user's
		}
		if taken != c.segments-1 {
			t.Errorf("%s: %d of %d records taken, want all but the first", c.name, taken, c.segments)
		}
	}
	raw := super(TypeTCP4, false, 1000, 60) // data shorter than headers
	var s Splitter
	if err := s.Init(Parse(raw), raw[HeaderLen:], 9); err != nil {
		t.Fatal(err)
	}
	s.Put(make([]byte, s.Len()))
	if s.Take(room) != nil {
		t.Error("headers written over headers")
	}
}
