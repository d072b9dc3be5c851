package bare

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// host is one in the simulation: it says what it is every beaconEvery, as a bridge does.
type simHost struct {
	e      *election
	number uint64
	said   time.Time
}

func (h *simHost) beacon(flags byte) beacon {
	h.number++
	if h.e.active {
		flags |= flagActive
	}
	return beacon{host: h.e.self.id, epoch: h.e.self.epoch, number: h.number, flags: flags}
}

// lan is a simulated LAN: who is up, and what part of beacons is lost.
type simLAN struct {
	hosts map[byte]*simHost
	now   time.Time
	loss  float64
	rand  *rand.Rand
	cut   func(from, to byte) bool
}

func (l *simLAN) start(id byte) {
	l.hosts[id] = &simHost{e: newElection(voter{ident.HostID{id}, uint64(l.now.UnixNano())}, l.now)}
}

func (l *simLAN) say(from byte, flags byte) {
	b := l.hosts[from].beacon(flags)
	for to, h := range l.hosts {
		if to != from && l.rand.Float64() >= l.loss && (l.cut == nil || !l.cut(from, to)) {
			h.e.hear(b, l.now)
		}
	}
}

// run lets time pass; it returns for how long at most two were active at once, and nobody was.
func (l *simLAN) run(d time.Duration) (both, none time.Duration) {
	var two, zero time.Duration
	for end := l.now.Add(d); l.now.Before(end); {
		l.now = l.now.Add(tickEvery)
		for id, h := range l.hosts {
			if h.e.tick(l.now) || l.now.Sub(h.said) >= beaconEvery {
				h.said = l.now
				l.say(id, 0)
			}
		}
		switch n := len(l.active()); {
		case n > 1:
			two += tickEvery
			zero = 0
		case n == 0:
			zero += tickEvery
			two = 0
		default:
			two, zero = 0, 0
		}
		both, none = max(both, two), max(none, zero)
	}
	return both, none
}

func (l *simLAN) active() (out []byte) {
	for id := range l.hosts {
		if l.hosts[id].e.active {
			out = append(out, id)
		}
	}
	return out
}

func newLAN(seed uint64) *simLAN {
	return &simLAN{hosts: map[byte]*simHost{}, now: time.Unix(1_000_000, 0), rand: rand.New(rand.NewPCG(seed, 0))}
}

// Of hosts that begin together the lowest passes; who passes goes on when a lower one comes; a goodbye is acted on at once, a death
// within silence and a tick.
func TestElection(t *testing.T) {
	l := newLAN(1)
	for id := byte(2); id < 6; id++ {
		l.start(id)
	}
	if both, _ := l.run(5 * time.Second); both > 0 || fmt.Sprint(l.active()) != "[2]" {
		t.Fatalf("%v pass, %v together", l.active(), both)
	}
	l.start(1)
	if both, none := l.run(5 * time.Second); both > 0 || none > 0 || fmt.Sprint(l.active()) != "[2]" {
		t.Errorf("a lower one came: %v pass, %v together, %v nobody", l.active(), both, none)
	}
	l.say(2, flagLeaving)
	delete(l.hosts, 2)
	if both, none := l.run(5 * time.Second); both > 0 || none > tickEvery || fmt.Sprint(l.active()) != "[1]" {
		t.Errorf("a goodbye: %v pass, %v together, %v nobody", l.active(), both, none)
	}
	delete(l.hosts, 1) // and now without a word
	if both, none := l.run(5 * time.Second); both > 0 || none > silence+2*tickEvery || fmt.Sprint(l.active()) != "[3]" {
		t.Errorf("a death: %v pass, %v together, %v nobody", l.active(), both, none)
	}
	if id, ok := l.hosts[4].e.bridge(l.now); !ok || id != (ident.HostID{3}) {
		t.Errorf("4 takes %v for the one", id)
	}
}

// A LAN that was cut has one in each half; healed, the lowest within a beacon or two.
func TestElectionHeals(t *testing.T) {
	l := newLAN(2)
	for id := byte(1); id < 5; id++ {
		l.start(id)
	}
	l.cut = func(from, to byte) bool { return from%2 != to%2 }
	l.run(6 * time.Second)
	if n := len(l.active()); n != 2 {
		t.Fatalf("cut: %v pass", l.active())
	}
	l.cut = nil
	if both, none := l.run(3 * time.Second); both > beaconEvery+tickEvery || none > 0 || fmt.Sprint(l.active()) != "[1]" {
		t.Errorf("healed: %v pass, %v together, %v nobody", l.active(), both, none)
	}
}

// Histories with loss, deaths and returns: once they stop, one passes. Two do only as long as beacons are lost.
func TestElectionHistories(t *testing.T) {
	for seed := range uint64(300) {
		l := newLAN(seed)
		l.loss = l.rand.Float64() / 3
		for id := byte(1); id < 8; id++ {
			l.start(id)
		}
		for range 30 {
			l.run(time.Duration(l.rand.IntN(3000)) * time.Millisecond)
			id := byte(1 + l.rand.IntN(7))
			if l.hosts[id] != nil && len(l.hosts) > 1 {
				if l.rand.IntN(2) == 0 {
					l.say(id, flagLeaving)
				}
				delete(l.hosts, id)
			} else if l.hosts[id] == nil {
				l.start(id)
			}
		}
		l.loss = 0
		l.run(5 * time.Second)
		if both, none := l.run(5 * time.Second); both > 0 || none > 0 || len(l.active()) != 1 {
			t.Errorf("seed %d: %v pass, %v together, %v nobody", seed, l.active(), both, none)
		}
	}
}

// The daemon that takes another's place in an upgrade has the same HostID: it waits for the other's end.
func TestElectionUpgrade(t *testing.T) {
	now := time.Unix(1000, 0)
	e := newElection(voter{ident.HostID{1}, 20}, now)
	for i := range 50 {
		now = now.Add(tickEvery)
		e.hear(beacon{host: ident.HostID{1}, epoch: 10, number: uint64(i + 1), flags: flagActive}, now)
		if e.tick(now); e.active {
			t.Fatal("active beside the one before")
		}
	}
	e.hear(beacon{host: ident.HostID{1}, epoch: 10, number: 51, flags: flagLeaving}, now)
	if e.tick(now); !e.active {
		t.Error("not active after its goodbye")
	}
}

func TestElectionBounds(t *testing.T) {
	now := time.Unix(1000, 0)
	e := newElection(voter{ident.HostID{255, 255}, 1}, now)
	b := beacon{epoch: 5, number: 5}
	for i := range MaxHeard {
		b.host = ident.HostID{byte(i), byte(i >> 8), 1}
		if got := e.hear(b, now); got != taken {
			t.Fatalf("host %d: %v", i, got)
		}
	}
	if got := e.hear(b, now); got != old {
		t.Errorf("a replay: %v", got)
	}
	b.epoch, b.number = 4, 9
	if got := e.hear(b, now); got != old {
		t.Errorf("of the run before: %v", got)
	}
	b.host = ident.HostID{1, 2, 3}
	if got := e.hear(b, now); got != full {
		t.Errorf("one too many: %v", got)
	}
}
