package island

import (
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

var (
	start = time.Unix(1_000_000, 0)
	alice = ident.HostID{1}
	bob   = ident.HostID{2}
)

func hears(t *testing.T, e *Ear, now time.Time, want ...ident.HostID) (changed bool) {
	t.Helper()
	heard, changed := e.Tick(now)
	var got []ident.HostID
	for _, h := range heard {
		got = append(got, h.Host)
	}
	if len(got) != len(want) {
		t.Fatalf("hears %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("hears %v, want %v", got, want)
		}
	}
	return changed
}

func TestTwoBeaconsMakeAHostHeard(t *testing.T) {
	e := NewEar()
	e.Beacon(start, bob, 5)
	if hears(t, e, start) {
		t.Error("changed by one beacon")
	}
	e.Beacon(start.Add(time.Second), bob, 6)
	if !hears(t, e, start.Add(time.Second), bob) {
		t.Error("not changed by the second")
	}
	if hears(t, e, start.Add(time.Second), bob) {
		t.Error("changed by nothing")
	}
}

func TestSilenceEnds(t *testing.T) {
	e := NewEar()
	e.Beacon(start, alice, 1)
	e.Beacon(start, alice, 2)
	e.Beacon(start, bob, 1)
	e.Beacon(start, bob, 2)
	hears(t, e, start, alice, bob)
	e.Beacon(start.Add(30*time.Second), bob, 3)
	if !hears(t, e, start.Add(deafAfter), bob) {
		t.Error("not changed")
	}
}

func TestLossIsCounted(t *testing.T) {
	e := NewEar()
	now := start
	for seq := uint64(1); seq < 100; seq++ {
		now = now.Add(BeaconEvery)
		if seq%10 != 0 {
			e.Beacon(now, bob, seq)
		}
	}
	heard, _ := e.Tick(now)
	if len(heard) != 1 || heard[0].Loss < 0.02 || heard[0].Loss > 0.2 {
		t.Errorf("one of ten lost: %+v", heard)
	}
	for seq := uint64(100); seq < 150; seq++ {
		now = now.Add(BeaconEvery)
		if seq%2 == 0 {
			e.Beacon(now, bob, seq)
		}
	}
	hears(t, e, now) // every second one lost
}

func TestARestartedHostIsHeardAnew(t *testing.T) {
	e := NewEar()
	e.Beacon(start, bob, 1000)
	e.Beacon(start, bob, 1001)
	hears(t, e, start, bob)
	e.Beacon(start.Add(time.Second), bob, 7)
	hears(t, e, start.Add(time.Second), bob) // goes on as before
	e.Beacon(start.Add(2*time.Second), bob, 8)
	hears(t, e, start.Add(2*time.Second), bob)
}

func TestEarIsBounded(t *testing.T) {
	e := NewEar()
	for i := range 2 * MaxHeard {
		e.Beacon(start, ident.HostID{byte(i), byte(i >> 8)}, 1)
	}
	if len(e.voices) != MaxHeard {
		t.Errorf("%d voices", len(e.voices))
	}
}

func TestBeaconsAreOftenAtFirst(t *testing.T) {
	m := NewMouth(77)
	count := func(from time.Time, d time.Duration) (n int) {
		for now := from; now.Before(from.Add(d)); {
			_, due, again := m.Due(now)
			if due {
				n++
			}
			if !again.After(now) {
				t.Fatal("asks to be asked in the past")
			}
			now = again
		}
		return n
	}
	if n := count(start, 100*time.Second); n != 6+8 {
		t.Errorf("%d beacons in the first 100 s", n)
	}
	m.News()
	if n := count(start.Add(101*time.Second), 4*time.Second); n != 3 {
		t.Errorf("%d beacons in the 4 s after news", n)
	}
}

func TestABeaconAtOnce(t *testing.T) {
	m := NewMouth(1)
	first, _, again := m.Due(start)
	if _, due, _ := m.Due(start.Add(time.Millisecond)); due {
		t.Fatal("due again at once")
	}
	m.Now()
	if seq, due, again2 := m.Due(start.Add(2 * time.Millisecond)); !due || seq != first+1 || !again2.After(again) {
		t.Errorf("beacon %d, due %v, the next one at %v", seq, due, again2)
	}
}
