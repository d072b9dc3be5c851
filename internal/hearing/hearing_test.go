package hearing

import (
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

var (
	alice = ident.HostID{1}
	bob   = ident.HostID{2}
)

// run ticks once a second; answer says what arrives of a round's frames, at once.
func run(e *Ears, now *time.Time, d time.Duration, expect []ident.HostID, answer func(id ident.HostID, long bool) bool) (rounds int) {
	for end := now.Add(d); now.Before(end); *now = now.Add(time.Second) {
		round, due := e.Tick(*now, expect)
		if !due {
			continue
		}
		rounds++
		for _, id := range expect {
			for _, long := range []bool{false, true} {
				if answer(id, long) {
					e.Heard(id, round, long)
				}
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
	run(&e, &now, 16*time.Second, both, func(id ident.HostID, _ bool) bool { return id == alice })
	want("one silent", Hears, Deaf)
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
		run(&e, &now, time.Second, []ident.HostID{alice}, func(ident.HostID, bool) bool { i++; return i%3 == 0 })
		if v := e.Verdict(alice); v == Deaf {
			t.Fatalf("deaf after %d frames of which every third arrived", i)
		}
	}
	run(&e, &now, 7*time.Second, []ident.HostID{bob}, none)
	if v := e.Verdict(bob); v != Deaf {
		t.Errorf("verdict %v after 7 s of silence", v)
	}
	e.Heard(bob, 17, false) // of another run
	if v := e.Verdict(bob); v != Deaf {
		t.Errorf("verdict %v after an answer to a round that was not", v)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(Frame{VNI: 7, Round: 9, From: alice, Long: true}.Append(nil, [6]byte{2}, 100))
	f.Add(Answer{VNI: 7, Round: 9}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := ParseFrame(b); err == nil {
			again, err := ParseFrame(v.Append(nil, [6]byte{2}, len(b)))
			if err != nil || again != v {
				t.Errorf("%+v became %+v, %v", v, again, err)
			}
		}
		if v, err := ParseAnswer(b); err == nil && string(v.Append(nil)) != string(b) {
			t.Errorf("%x became %x", b, v.Append(nil))
		}
	})
}
