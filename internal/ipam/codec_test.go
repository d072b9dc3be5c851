package ipam

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// fullBook is a book at all its limits, with numbers that take most bytes.
func fullBook() ring.Book {
	id := func(i int) (v ident.HostID) {
		binary.BigEndian.PutUint64(v[:], uint64(i)*0x9e3779b97f4a7c15)
		return v
	}
	holding := func(i int) ring.Holding {
		h := ring.Holding{Range: ring.Range{First: 1<<24 + uint32(i)*1000, Last: 1<<24 + uint32(i)*1000 + 500}, Version: 1 << 20, Root: id(0), Estates: 1 << 17}
		for k := range 2 { // ranges inherited twice are rare enough
			h.Line = append(h.Line, ring.Succession{Heir: id(i*4 + k), At: 1 << 20})
		}
		return h
	}
	b := ring.Book{Serial: math.MaxUint64, Seq: math.MaxUint64}
	for i := range ring.MaxOwned {
		h := holding(i % 50)
		h.Range = holding(i).Range
		b.Owned = append(b.Owned, h)
	}
	for i := range ring.MaxGives {
		b.Gives = append(b.Gives, ring.Give{Holding: holding(i % 50), From: id(1 << 20), Seq: 1<<40 + uint64(i), To: id(i)})
	}
	for i := range ring.MaxCursors {
		b.Cursors = append(b.Cursors, ring.Cursor{To: id(1 << 20), From: id(i), Seq: 1 << 40})
	}
	for i := range ring.MaxEstates {
		b.Estates = append(b.Estates, ring.Estate{Host: id(i), Serial: 1 << 40})
	}
	return b
}

func TestBookCodec(t *testing.T) {
	b := fullBook()
	v, err := encodeBook(&entry{b, []byte{0xfd, 1, 2, 3, 4, 5}, true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", len(v))
	got, err := decodeBook(v)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b, got.book); d != "" || !got.left || !bytes.Equal(got.ula, []byte{0xfd, 1, 2, 3, 4, 5}) {
		t.Fatal(d)
	}
}

func TestAskCodec(t *testing.T) {
	p := netip.MustParsePrefix("10.32.16.0/20")
	v, err := encodeAsk(math.MaxUint32, p, math.MaxUint32, math.MaxUint64, true)
	if err != nil {
		t.Fatal(err)
	}
	a, q, err := decodeAsk(v)
	if err != nil || q != p || a.Scope != math.MaxUint32 || a.Want != math.MaxUint32 || a.Serial != math.MaxUint64 {
		t.Fatalf("%+v %v %v", a, q, err)
	}
}

func FuzzDecodeBook(f *testing.F) {
	small := ring.Book{Serial: 1, Seq: 1, Owned: []ring.Holding{{Range: ring.Range{First: 1, Last: 5}, Version: 1}}}
	for _, b := range []ring.Book{small, fullBook()} {
		v, err := encodeBook(&entry{book: b})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		e, err := decodeBook(v)
		if err != nil {
			return
		}
		if len(e.ula) != 0 && len(e.ula) != 6 {
			t.Fatal("ULA of another length")
		}
		// Whatever can be read can be noted without harm.
		r := ring.New(ident.HostID{1}, ring.Range{First: 0, Last: math.MaxUint32}, func(ident.HostID) bool { return true })
		if _, err := r.Set(ident.HostID{2}, e.book); err != nil {
			return
		}
		if next, ok := r.Settle(nil); ok {
			if err := r.Commit(next); err != nil {
				t.Fatal(err)
			}
		}
		if next, err := r.TakeOver(ident.HostID{2}); err == nil {
			if err := r.Commit(next); err != nil {
				t.Fatal(err)
			}
		}
		r.Shares()
		r.Conflicts()
	})
}

func FuzzDecodeAsk(f *testing.F) {
	v, _ := encodeAsk(7, netip.MustParsePrefix("10.32.16.0/20"), 5, 6, false)
	f.Add(v)
	f.Fuzz(func(t *testing.T, v []byte) {
		a, p, err := decodeAsk(v)
		if err != nil {
			return
		}
		again, err := encodeAsk(a.Scope, p, a.Want, a.Serial, a.Need)
		if err != nil {
			t.Fatal(err)
		}
		if b, q, err := decodeAsk(again); err != nil || q != p || b.Scope != a.Scope || b.Want != a.Want || b.Serial != a.Serial || b.Need != a.Need {
			t.Fatalf("%v %v %v", a, p, err)
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add("ring/10.32.0.0/12", []byte{0, 0, 0, 1})
	f.Add("ip/web", []byte{10, 32, 0, 2})
	f.Add("sub/3", []byte{0, 0, 0, 7})
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		s := New(Config{Self: ident.HostID{1}})
		for _, scope := range []uint32{0, 7} {
			s.OnChange(scope, ident.HostID{2}, key, value, false)
			s.OnChange(scope, ident.HostID{1}, key, value, false)
			s.OnChange(scope, ident.HostID{2}, key, value, true)
		}
		s.Status()
	})
}
