// Package island learns whose native multicast a host hears, per ordered pair: who hears whom is no one's guess.
//
// Every host sends numbered beacons to the underlay group, often at first and then at most one in 10 s. Ear counts
// those of others: two in a row make a host heard, missing ones raise its loss, silence ends it. What each host
// hears is published, so that a sender knows who hears it, and whom another would serve.
//
// It is a core: beacons and now go in.
package island

import (
	"bytes"
	"math"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

const (
	// BeaconEvery is the pause between beacons at rest.
	BeaconEvery = 10 * time.Second
	// beaconSoon is the pause after a start, or when another host came; it grows from there.
	beaconSoon = time.Second
	// deafAfter is how long a host counts as heard after its last beacon.
	deafAfter = 35 * time.Second
	// MaxHeard bounds the hosts that are listened to.
	MaxHeard = 1024
	// MaxLoss is the share of lost beacons from which a host does not count as heard.
	MaxLoss = 0.25
	// lossWeight is the weight of one beacon in the loss.
	lossWeight = 1.0 / 8
	// lossStep is how much the loss must change to be published again.
	lossStep = 0.1
	// maxGap is how many beacons may be missing in a row before counting starts anew: the host has restarted.
	maxGap = 16
)

// Heard is one host that is heard.
type Heard struct {
	Host ident.HostID
	Loss float64 // of beacons, 0 to 1, smoothed
}

// Ear learns whom this host hears. One goroutine owns it.
type Ear struct {
	voices map[ident.HostID]*voice
	told   []Heard // as last published
}

type voice struct {
	seq    uint64
	inARow int
	loss   float64
	last   time.Time
}

// NewEar returns an Ear that has heard nobody.
func NewEar() *Ear { return &Ear{voices: map[ident.HostID]*voice{}} }

// Voices returns how many hosts' beacons came.
func (e *Ear) Voices() int { return len(e.voices) }

// Beacon takes an authenticated beacon.
func (e *Ear) Beacon(now time.Time, from ident.HostID, seq uint64) {
	v := e.voices[from]
	if v == nil {
		if len(e.voices) >= MaxHeard {
			return
		}
		v = &voice{}
		e.voices[from] = v
	}
	gap := seq - v.seq // 1 when none is missing; a restarted host counts from anywhere
	if v.last.IsZero() || gap == 0 || gap > maxGap {
		*v = voice{seq: seq, inARow: 1, last: now}
		return
	}
	for range gap - 1 {
		v.loss += lossWeight * (1 - v.loss)
		v.inARow = 0
	}
	v.loss -= lossWeight * v.loss
	v.inARow++
	v.seq, v.last = seq, now
}

// Tick lets time pass and returns whom this host hears, sorted; changed says that it differs from what the last
// call that said so returned, by more than a little loss.
func (e *Ear) Tick(now time.Time) (heard []Heard, changed bool) {
	for h, v := range e.voices {
		if now.Sub(v.last) >= deafAfter {
			delete(e.voices, h)
			continue
		}
		was := slices.ContainsFunc(e.told, func(t Heard) bool { return t.Host == h })
		if v.loss < MaxLoss && (v.inARow >= 2 || was) {
			heard = append(heard, Heard{h, v.loss})
		}
	}
	slices.SortFunc(heard, func(a, b Heard) int { return bytes.Compare(a.Host[:], b.Host[:]) })
	changed = !slices.EqualFunc(heard, e.told, func(a, b Heard) bool {
		return a.Host == b.Host && math.Abs(a.Loss-b.Loss) < lossStep
	})
	if changed {
		e.told = slices.Clone(heard)
	}
	return heard, changed
}

// Mouth says when to send beacons. One goroutine owns it.
type Mouth struct {
	next  time.Time
	pause time.Duration
	seq   uint64
}

// NewMouth returns a Mouth that speaks at once; first numbers its beacons and differs from start to start.
func NewMouth(first uint64) *Mouth { return &Mouth{seq: first} }

// News says that another host came: it shall not have to wait for the next beacon at rest. It may not have the key
// to understand the first ones, so the pauses grow step by step.
func (m *Mouth) News() { m.pause = 0 }

// Now has the next beacon be due at once, and those after it as after News: whom it reaches has changed.
func (m *Mouth) Now() { m.pause, m.next = 0, time.Time{} }

// Due reports whether a beacon is due, its number, and when to ask again.
func (m *Mouth) Due(now time.Time) (seq uint64, due bool, again time.Time) {
	if soon := now.Add(beaconSoon); m.pause == 0 && m.next.After(soon) {
		m.next = soon
	}
	if now.Before(m.next) {
		return 0, false, m.next
	}
	m.pause = min(max(beaconSoon, m.pause*3/2), BeaconEvery)
	m.next = now.Add(m.pause)
	m.seq++
	return m.seq, true, m.next
}
