package rmcast

import (
	"crypto/ed25519"
	"encoding/binary"
	"testing"

	"github.com/weft-net/weft/internal/buskey"
)

// simIdentity is the identity of a member of the simulator, which follows from a number.
func simIdentity(bus *buskey.Bus, n uint64) *buskey.Identity {
	var seed [ed25519.SeedSize]byte
	var salt [buskey.SaltSize]byte
	binary.BigEndian.PutUint64(seed[:], n)
	binary.BigEndian.PutUint64(salt[:], n)
	id, err := bus.Identity(ed25519.NewKeyFromSeed(seed[:]), salt)
	if err != nil {
		panic(err)
	}
	return id
}

// all has every member of a world sign.
func all(int) bool { return true }

// signedHistories runs histories in which members sign: all of them, or all but some.
func signedHistories(t *testing.T, class Class, most int) (total simCounts, n int) {
	t.Helper()
	unsigned := uint64(0)
	n = eachSeed(t, most, nil, func(seed uint64) (func(), error) {
		s := newSim(seed)
		if seed%2 == 0 {
			s = newSimWithEdges(seed)
		}
		if s.signs = all; seed%5 == 0 {
			s.signs = func(i int) bool { return i%3 != 1 }
		}
		c, err := historyIn(s, seed, class)
		return func() {
			total.add(c)
			for _, x := range s.nodes {
				unsigned += x.n.Stats.Unsigned
			}
		}, err
	})
	t.Logf("%d histories: %+v", n, total)
	if unsigned > 0 {
		t.Errorf("%d packets were taken for forged", unsigned)
	}
	return total, n
}

// TestSignedHistories: members that sign hold the contract through all faults of the simulator, as those that don't; nobody takes the word of
// one for another's.
func TestSignedHistories(t *testing.T) {
	total, n := signedHistories(t, Reliable, 24)
	if n >= 24 && (total.Dropped < 20*n || total.Delivered < 200*n || total.Crashes < n/10 || total.Repairs < 10*n || total.LostTold == 0 ||
		total.PeerRepairs == 0 || total.Relayed < 10*n || total.Fragments < n || total.IslandRelayed < 10*n || total.Parity < n || total.Rebuilt < n) {
		t.Errorf("too little happened: %+v", total)
	}
}

// TestSignedClasses: so do streams of last values and best effort.
func TestSignedClasses(t *testing.T) {
	for _, class := range []Class{BestEffort, LastValue} {
		if total, n := signedHistories(t, class, 6); n >= 6 && total.Delivered < 600 {
			t.Errorf("too little happened: %+v", total)
		}
	}
}
