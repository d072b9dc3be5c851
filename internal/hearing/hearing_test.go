package hearing

import (
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

var (
	alice = ident.HostID{1}
	bob   = ident.HostID{2}
)

// run ticks once a second; heard says what arrives of a round's frames. A host that is in down does not answer.
func run(e *Ears, now *time.Time, d time.Duration, expect []ident.HostID, heard func(id ident.HostID, long bool) bool, down ...ident.HostID) (rounds int) {
	for end := now.Add(d); now.Before(end); *now = now.Add(time.Second) {
		send, ask := e.Tick(*now, expect)
		if send != 0 {
			rounds++
		}
		if ask == 0 {
			continue
		}
		for _, id := range expect {
			if !slices.Contains(down, id) {
				e.Report(id, ask, heard(id, false), heard(id, true))
			}
		}
	}
	return rounds
}

func all(ident.HostID, bool) bool  { return true }
func none(ident.HostID, bool) bool { return false }

func TestVerdicts(t *testing.T) {
	var e Ears
	e.Start(1 << 40)
	now := time.Unix(1000, 0)
	both := []ident.HostID{alice, bob}
	want := func(when string, a, b Verdict) {
		t.Helper()
		if e.Verdict(alice) != a || e.Verdict(bob) != b {
			t.Errorf("%s: verdicts %v and %v, want %v and %v", when, e.Verdict(alice), e.Verdict(bob), a, b)
		}
	}
	want("before all", Unknown, Unknown)
	run(&e, &now, 3*time.Second, both, all)
	want("heard", Hears, Hears)
	if n := run(&e, &now, 100*time.Second, both, all); n > 11 {
		t.Errorf("%d rounds in 100 s with nothing in doubt", n)
	}
	run(&e, &now, 30*time.Second, both, none, bob)
	want("one deaf, one down", Deaf, Hears)
	run(&e, &now, 14*time.Second, both, func(id ident.HostID, _ bool) bool { return id == alice })
	want("one back, one deaf", Hears, Deaf)
	run(&e, &now, 60*time.Second, both, func(id ident.HostID, long bool) bool { return id == alice || !long })
	want("short ones only", Hears, ShortOnly)
	if n := run(&e, &now, 100*time.Second, both, func(id ident.HostID, long bool) bool { return id == alice || !long }); n > 11 {
		t.Errorf("%d rounds in 100 s with nothing in doubt any more", n)
	}
	run(&e, &now, 11*time.Second, both, all)
	want("back", Hears, Hears)
	run(&e, &now, 2*time.Second, both[:1], all)
	want("not expected", Hears, Unknown)
	run(&e, &now, 3*time.Second, both, none)
	want("new, and not asked often enough", Hears, Unknown)
}

// TestLostOnes: a few frames that are lost mean nothing, and a host that never answers is silent within seconds.
func TestLostOnes(t *testing.T) {
	var e Ears
	now := time.Unix(1000, 0)
	i := 0
	for range 200 {
		run(&e, &now, time.Second, []ident.HostID{alice}, func(ident.HostID, bool) bool { i++; return i%4 > 1 })
		if v := e.Verdict(alice); v == Deaf || v == ShortOnly {
			t.Fatalf("verdict %v after %d frames of which half arrived", v, i)
		}
	}
	run(&e, &now, 8*time.Second, []ident.HostID{bob}, none)
	if v := e.Verdict(bob); v != Deaf {
		t.Errorf("verdict %v after 8 s of silence", v)
	}
	e.Report(bob, 17, true, true) // of another run
	if v := e.Verdict(bob); v != Deaf {
		t.Errorf("verdict %v after a report of a round that was not", v)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(Frame{VNI: 7, Round: 9, From: alice, Long: true}.Append(nil, [6]byte{2}, 100))
	f.Add(Note{VNI: 7, Round: 9}.Append(nil))
	f.Add(Note{VNI: 7, Round: 9, Report: true, Long: true}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := ParseFrame(b); err == nil {
			again, err := ParseFrame(v.Append(nil, [6]byte{2}, len(b)))
			if err != nil || again != v {
				t.Errorf("%+v became %+v, %v", v, again, err)
			}
		}
		if v, err := ParseNote(b); err == nil && string(v.Append(nil)) != string(b) {
			t.Errorf("%x became %x", b, v.Append(nil))
		}
	})
}
