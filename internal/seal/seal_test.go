package seal

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/weft-net/weft/internal/wire"
)

var key = bytes.Repeat([]byte{7}, KeySize)

func pair(t testing.TB, s Suite, budget uint64) (link, group *Sealer, o *Opener) {
	t.Helper()
	link, err := NewLinkSealer(s, key, 0x11223344, budget)
	if err != nil {
		t.Fatal(err)
	}
	group, err = NewGroupSealer(s, key, 0x8877665544332211, budget)
	if err != nil {
		t.Fatal(err)
	}
	o, err = NewOpener(s, key)
	if err != nil {
		t.Fatal(err)
	}
	return link, group, o
}

// form is one of the three ways of sealing, as tests see them.
type form struct {
	name   string
	header int
	seal   func(s *Sealer, plain []byte) ([]byte, error)
	open   func(o *Opener, pkt []byte) ([]byte, error)
}

var forms = []form{
	{"link", wire.LinkHeader, func(s *Sealer, p []byte) ([]byte, error) {
		b := make([]byte, wire.LinkHeader+len(p), wire.LinkHeader+len(p)+wire.Tag)
		copy(b[wire.LinkHeader:], p)
		return s.SealLink(b, len(p))
	}, (*Opener).OpenLink},
	{"group", wire.GroupHeader, func(s *Sealer, p []byte) ([]byte, error) {
		b := make([]byte, wire.GroupHeader+len(p), wire.GroupHeader+len(p)+wire.Tag)
		copy(b[wire.GroupHeader:], p)
		return s.SealGroup(b, len(p), 0)
	}, (*Opener).OpenGroup},
	{"envelope", wire.RelayTotal, func(s *Sealer, p []byte) ([]byte, error) {
		b := append(make([]byte, wire.RelayTotal), p...)
		return b, s.PutEnvelope(b, [16]byte{1}, [16]byte{2}, 3)
	}, func(o *Opener, pkt []byte) ([]byte, error) {
		r, inner, err := o.OpenEnvelope(pkt)
		if err == nil && (r.Src != [16]byte{1} || r.Dst != [16]byte{2} || r.Hops != 3) {
			err = errors.New("wrong header")
		}
		return inner, err
	}},
}

func each(t *testing.T, f func(t *testing.T, f form, s *Sealer, o *Opener)) {
	for _, suite := range []Suite{SuiteAES, SuiteChaCha} {
		for _, fm := range forms {
			t.Run(map[Suite]string{SuiteAES: "aes", SuiteChaCha: "chacha"}[suite]+"/"+fm.name, func(t *testing.T) {
				link, group, o := pair(t, suite, 0)
				if fm.name == "group" {
					link = group
				}
				f(t, fm, link, o)
			})
		}
	}
}

func TestRoundTrip(t *testing.T) {
	each(t, func(t *testing.T, f form, s *Sealer, o *Opener) {
		for n := range 40 {
			plain := bytes.Repeat([]byte{byte(n)}, n*37+1)
			pkt, err := f.seal(s, plain)
			if err != nil {
				t.Fatal(err)
			}
			if f.name != "envelope" && (len(pkt) != f.header+len(plain)+wire.Tag || n > 0 && bytes.Contains(pkt, plain)) {
				t.Fatalf("%d bytes, or in the clear", len(pkt))
			}
			got, err := f.open(o, bytes.Clone(pkt))
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%d bytes: %v", len(got), err)
			}
			if _, err := f.open(o, pkt); !errors.Is(err, ErrReplay) {
				t.Fatalf("a replay: %v", err)
			}
		}
	})
}

func TestDamage(t *testing.T) {
	each(t, func(t *testing.T, f form, s *Sealer, o *Opener) {
		pkt, err := f.seal(s, []byte("weft and warp"))
		if err != nil {
			t.Fatal(err)
		}
		end := len(pkt)
		if f.name == "envelope" { // the inner packet has a seal of its own
			end = wire.RelayTotal
		}
		for i := range end {
			p := bytes.Clone(pkt)
			p[i] ^= 0x40
			if _, err := f.open(o, p); err == nil {
				t.Fatalf("byte %d changed, and taken", i)
			}
		}
		for i := range end {
			if _, err := f.open(o, bytes.Clone(pkt[:i])); err == nil {
				t.Fatalf("cut at %d, and taken", i)
			}
		}
		// Forgeries must not use up the counter.
		if _, err := f.open(o, pkt); err != nil {
			t.Errorf("after forgeries: %v", err)
		}
	})
}

// TestNoncesDiffer: one key, used for link packets and envelopes by many goroutines, never repeats a counter.
func TestNoncesDiffer(t *testing.T) {
	s, _, o := pair(t, SuiteAES, 0)
	var wg sync.WaitGroup
	pkts := make(chan []byte, 4000)
	for i := range 4 {
		wg.Go(func() {
			for range 1000 {
				p, err := forms[i/2*2].seal(s, []byte("x"))
				if err != nil {
					t.Error(err)
				}
				pkts <- p
			}
		})
	}
	wg.Wait()
	close(pkts)
	for p := range pkts {
		f := forms[0]
		if p[0] == wire.TypeRelay {
			f = forms[2]
		}
		if _, err := f.open(o, p); err != nil {
			t.Fatal(err)
		}
	}
	if s.Used() != 4000 {
		t.Errorf("%d used", s.Used())
	}
}

func TestBudget(t *testing.T) {
	s, _, _ := pair(t, SuiteAES, 3)
	for range 3 {
		if _, err := forms[0].seal(s, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []form{forms[0], forms[2]} {
		if _, err := f.seal(s, []byte("x")); !errors.Is(err, ErrSpent) {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	if s.Budget() != 3 {
		t.Errorf("budget %d", s.Budget())
	}
}

func TestBadKeys(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := NewOpener(SuiteAES, make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes", n)
		}
		if _, err := NewLinkSealer(SuiteChaCha, make([]byte, n), 1, 0); err == nil {
			t.Errorf("a key of %d bytes", n)
		}
	}
	if _, err := NewOpener(9, key); err == nil {
		t.Error("an unknown suite")
	}
	if p := Preferred(); p != SuiteAES && p != SuiteChaCha {
		t.Error(p)
	}
}

// TestSuitesDiffer: a packet of one suite is garbage to the other, and so is one of another form.
func TestSuitesDiffer(t *testing.T) {
	s, g, _ := pair(t, SuiteAES, 0)
	_, _, o := pair(t, SuiteChaCha, 0)
	p, _ := forms[0].seal(s, []byte("x"))
	if _, err := o.OpenLink(p); !errors.Is(err, ErrForged) {
		t.Errorf("%v", err)
	}
	_, _, o = pair(t, SuiteAES, 0)
	p, _ = forms[1].seal(g, []byte("a plaintext that is long enough for any header"))
	p[0] = wire.TypeLink
	if _, err := o.OpenLink(p); err == nil {
		t.Error("a group packet passes for a link packet")
	}
}

func TestWindow(t *testing.T) {
	var w Window
	for _, c := range []struct {
		n    uint64
		want bool
	}{
		{0, false},
		{1, true},
		{1, false},
		{3, true},
		{2, true},
		{2, false},
		{64, true},
		{63, true},
		{65, true},
		{64, false},
		{WindowSize + 65, true},
		{65, false},
		{66, true},
		{66, false},
		{WindowSize + 64, true},
		{1 << 40, true},
		{1<<40 - WindowSize, false},
		{1<<40 - WindowSize + 1, true},
		{1 << 40, false},
		{WindowSize, false},
		{1<<64 - 1, true},
		{1<<64 - 1, false},
		{1<<64 - 2, true},
		{1 << 40, false},
	} {
		if f := w.Fresh(c.n); f != c.want {
			t.Errorf("Fresh(%d) = %v", c.n, f)
		}
		if got := w.Accept(c.n); got != c.want {
			t.Errorf("Accept(%d) = %v", c.n, got)
		}
	}
	if w.High() != 1<<64-1 {
		t.Error(w.High())
	}
}

// FuzzWindow compares the ring with a set: each counter once, nothing too old.
func FuzzWindow(f *testing.F) {
	f.Add([]byte{1, 2, 2, 3, 200, 1, 255, 255, 7})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var w Window
		seen := map[uint64]bool{}
		at, high := uint64(1), uint64(0)
		for i := 0; i+1 < len(steps); i += 2 {
			switch steps[i] % 4 {
			case 0:
				at += uint64(steps[i+1])
			case 1:
				at -= min(at-1, uint64(steps[i+1])*80)
			case 2:
				at += uint64(steps[i+1]) * 100
			case 3:
				at -= min(at-1, uint64(steps[i+1]))
			}
			want := !seen[at] && at+WindowSize > high
			if got := w.Accept(at); got != want {
				t.Fatalf("Accept(%d) = %v with %d the highest", at, got, high)
			}
			if want {
				seen[at] = true
				high = max(high, at)
			}
		}
	})
}

func TestNoAllocation(t *testing.T) {
	each(t, func(t *testing.T, f form, s *Sealer, o *Opener) {
		buf := make([]byte, 1400)
		var err error
		n := testing.AllocsPerRun(100, func() {
			var pkt []byte
			switch f.name {
			case "link":
				pkt, err = s.SealLink(buf, 1300)
			case "group":
				pkt, err = s.SealGroup(buf, 1300, 0)
			default:
				err, pkt = s.PutEnvelope(buf, [16]byte{1}, [16]byte{2}, 3), buf
			}
			if err == nil {
				_, err = f.open(o, pkt)
			}
		})
		if err != nil || n != 0 {
			t.Errorf("%v allocations, %v", n, err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	link, group, _ := pair(f, SuiteAES, 0)
	for i, s := range []*Sealer{link, group, link} {
		b, err := forms[i].seal(s, []byte("seed"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{})
	_, _, o := pair(f, SuiteAES, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, fm := range forms[:2] {
			if _, err := fm.open(o, bytes.Clone(b)); err == nil {
				t.Error("a forgery was opened")
			}
		}
		_, _, _ = o.OpenEnvelope(b)
	})
}

func BenchmarkLink(b *testing.B) {
	for name, suite := range map[string]Suite{"aes": SuiteAES, "chacha": SuiteChaCha} {
		b.Run(name, func(b *testing.B) {
			s, _, o := pair(b, suite, 1<<62)
			buf := make([]byte, 1500)
			b.SetBytes(1400)
			b.ReportAllocs()
			for b.Loop() {
				pkt, err := s.SealLink(buf, 1400)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := o.OpenLink(pkt); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
