package buskey

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
)

func bus(t testing.TB, tok ident.Token, name string) *Bus {
	t.Helper()
	b, err := New(tok, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOpensOnlyItsOwn: another token, another name, another epoch, stream or type, a changed byte: nothing opens.
func TestOpensOnlyItsOwn(t *testing.T) {
	tok := ident.NewToken()
	b, same := bus(t, tok, "quotes"), bus(t, tok, "quotes")
	name, other := bus(t, tok, "orders"), bus(t, ident.NewToken(), "quotes")
	if b.ID() != same.ID() || b.ID() == name.ID() || b.ID() == other.ID() {
		t.Error("ids do not follow from token and name")
	}
	var nonce [24]byte
	hello := b.SealHello(nil, 1, &nonce, []byte("who"))
	if got, err := same.OpenHello(nil, hello); err != nil || string(got) != "who" {
		t.Errorf("%q, %v", got, err)
	}
	for _, o := range []*Bus{name, other} {
		if _, err := o.OpenHello(nil, hello); !errors.Is(err, ErrForged) {
			t.Errorf("another bus opens a hello: %v", err)
		}
	}
	for _, suite := range []seal.Suite{seal.SuiteAES, seal.SuiteChaCha} {
		c, err := b.Control(suite, 7)
		if err != nil {
			t.Fatal(err)
		}
		pkt := c.Seal(nil, 2, []byte("control"))
		for _, open := range []struct {
			b     *Bus
			epoch uint64
			err   error
		}{{same, 7, nil}, {same, 8, ErrForged}, {name, 7, ErrForged}} {
			o, err := open.b.Control(suite, open.epoch)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.Open(nil, pkt); !errors.Is(err, open.err) {
				t.Errorf("%v, want %v", err, open.err)
			}
			if open.err == nil {
				if _, err := o.Open(nil, pkt); !errors.Is(err, ErrReplay) {
					t.Errorf("opened twice: %v", err)
				}
			}
		}
		s := b.Stream(suite, 7, 3)
		data, err := s.Seal(nil, 3, 99, []byte("payload"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.Seal(nil, 3, 99, []byte("payload"))
		if err != nil || !bytes.Equal(data, again) {
			t.Errorf("a repair is another packet: %v", err)
		}
		if got, err := same.Stream(suite, 7, 3).Open(nil, 99, data); err != nil || string(got) != "payload" {
			t.Errorf("%q, %v", got, err)
		}
		for i := range data {
			bad := bytes.Clone(data)
			bad[i] ^= 1
			_, _, seq, _ := ParseHeader(bad)
			if _, err := same.Stream(suite, 7, 3).Open(nil, seq, bad); !errors.Is(err, ErrForged) {
				t.Fatalf("byte %d changed: %v", i, err)
			}
		}
		if _, err := same.Stream(suite, 7, 4).Open(nil, 99, data); !errors.Is(err, ErrForged) {
			t.Errorf("another stream: %v", err)
		}
	}
}

// TestGenerations: keys change with the number, and repairs of the one before still open.
func TestGenerations(t *testing.T) {
	b := bus(t, ident.NewToken(), "x")
	from, to := b.Stream(seal.SuiteAES, 1, 1), b.Stream(seal.SuiteAES, 1, 1)
	const g = 1 << GenerationBits
	for _, seq := range []uint64{1, g - 1, g, g - 2, g + 1, 2*g - 1, 2 * g, 2*g - 3, 1 << 60} {
		pkt, err := from.Seal(nil, 3, seq, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Open(nil, seq, pkt); err != nil {
			t.Errorf("%d: %v", seq, err)
		}
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	tok := ident.NewToken()
	b := bus(t, tok, "x")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if s := fmt.Sprintf(verb, b); !strings.Contains(s, "(bus key)") {
			t.Errorf("%s: %s", verb, s)
		}
	}
}

// TestStrangersCostNothing: a packet that does not open leaves no allocation behind, nor does one that does.
func TestStrangersCostNothing(t *testing.T) {
	b := bus(t, ident.NewToken(), "x")
	junk := make([]byte, 1400)
	buf := make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(100, func() { _, _ = b.OpenHello(buf, junk) }); n != 0 {
		t.Errorf("a stranger's hello: %v allocations", n)
	}
	s := b.Stream(seal.SuiteAES, 1, 1)
	out := make([]byte, 0, 2048)
	seq := uint64(0)
	if n := testing.AllocsPerRun(100, func() {
		seq++
		pkt, err := s.Seal(out[:0], 3, seq, junk)
		if err == nil {
			_, err = s.Open(buf[:0], seq, pkt)
		}
		if err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("seal and open: %v allocations", n)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, Header+Tag))
	f.Fuzz(func(t *testing.T, b []byte) {
		stream, epoch, n, ok := ParseHeader(b)
		if !ok {
			return
		}
		var h [Header]byte
		PutHeader(h[:], b[0], stream, epoch, n)
		if !bytes.Equal(h[:], b[:Header]) {
			t.Errorf("%x became %x", b[:Header], h)
		}
	})
}
