package wire

import (
	"bytes"
	"testing"
)

func TestLink(t *testing.T) {
	b := bytes.Repeat([]byte{0xff}, LinkHeader+Tag)
	PutLink(b, 0x01020304, 0x05060708090a0b0c)
	want := []byte{TypeLink, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	if !bytes.Equal(b[:LinkHeader], want) {
		t.Errorf("% x", b[:LinkHeader])
	}
	if i, c, ok := Link(b); !ok || i != 0x01020304 || c != 0x05060708090a0b0c {
		t.Errorf("%x %x %v", i, c, ok)
	}
	if _, _, ok := Link(b[:len(b)-1]); ok {
		t.Error("without room for the tag")
	}
	b[0] = TypeGroup
	if _, _, ok := Link(b); ok {
		t.Error("another type")
	}
}

func TestGroup(t *testing.T) {
	b := bytes.Repeat([]byte{0xff}, GroupHeader+Tag)
	PutGroup(b, 0x111213, 0x0102030405060708, 0x090a0b0c0d0e0f10)
	want := []byte{TypeGroup, 0x11, 0x12, 0x13, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	if !bytes.Equal(b[:GroupHeader], want) {
		t.Errorf("% x", b[:GroupHeader])
	}
	if l, k, c, ok := Group(b); !ok || l != 0x111213 || k != 0x0102030405060708 || c != 0x090a0b0c0d0e0f10 {
		t.Errorf("%x %x %x %v", l, k, c, ok)
	}
	if _, _, _, ok := Group(b[:len(b)-1]); ok {
		t.Error("without room for the tag")
	}
	b[0] = TypeLink
	if _, _, _, ok := Group(b); ok {
		t.Error("another type")
	}
}

func TestRelay(t *testing.T) {
	in := RelayInfo{Hops: MaxHops, Index: 7, Counter: 9, Src: [16]byte{1, 15: 2}, Dst: [16]byte{3, 15: 4}}
	b := bytes.Repeat([]byte{0xff}, RelayTotal+1)
	PutRelay(b, &in)
	if got, ok := Relay(b); !ok || got != in {
		t.Errorf("%+v %v", got, ok)
	}
	if b[0] != TypeRelay || b[1] != MaxHops || b[2]|b[3] != 0 || b[7] != 7 || b[15] != 9 || b[16] != 1 || b[31] != 2 || b[32] != 3 || b[47] != 4 {
		t.Errorf("% x", b)
	}
	if _, ok := Relay(b[:RelayTotal]); ok {
		t.Error("an envelope with nothing in it")
	}
	b[1] = MaxHops + 1
	if _, ok := Relay(b); ok {
		t.Error("too many hops")
	}
}

// TestTypesAreApart: the first byte tells UDP types, and a TCP connection, from each other.
func TestTypesAreApart(t *testing.T) {
	seen := map[byte]bool{StreamMagic: true}
	for _, typ := range []byte{TypeHello, TypeReply, TypeFinish, TypeCookie, TypeRefuse, TypeLink, TypeGroup, TypeRelay} {
		if seen[typ] {
			t.Errorf("type %d twice", typ)
		}
		seen[typ] = true
	}
}

func FuzzHeaders(f *testing.F) {
	for _, n := range []int{0, 1, LinkHeader + Tag, GroupHeader + Tag, RelayTotal + 1} {
		for _, typ := range []byte{TypeLink, TypeGroup, TypeRelay} {
			b := make([]byte, n)
			if n > 0 {
				b[0] = typ
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		if i, c, ok := Link(b); ok {
			n++
			again := bytes.Clone(b)
			PutLink(again, i, c)
			same(t, b, again, LinkHeader)
		}
		if l, k, c, ok := Group(b); ok {
			n++
			again := bytes.Clone(b)
			PutGroup(again, l, k, c)
			same(t, b, again, GroupHeader)
		}
		if r, ok := Relay(b); ok {
			n++
			if r.Hops > MaxHops {
				t.Errorf("%d hops", r.Hops)
			}
			again := bytes.Clone(b)
			PutRelay(again, &r)
			same(t, b, again, RelayHeader)
		}
		if n > 1 {
			t.Error("one packet of two types")
		}
	})
}

// same compares headers but for the reserved bytes.
func same(t *testing.T, a, b []byte, n int) {
	t.Helper()
	if !bytes.Equal(a[4:n], b[4:n]) || a[0] != b[0] {
		t.Errorf("% x became % x", a[:n], b[:n])
	}
}
