package bare

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// Times of the choice who passes datagrams.
const (
	// beaconEvery is how often each host says on the group that it is there.
	beaconEvery = 500 * time.Millisecond
	// silence is how long a host counts after its last beacon: four of them.
	silence = 2 * time.Second
	// settle is how long a host listens before it may begin: three beacons.
	settle = 1500 * time.Millisecond
	// MaxHeard bounds the hosts that are remembered.
	MaxHeard = 256
)

// election chooses the one host of a LAN that passes a group's datagrams: who does goes on, and of several that begin or meet,
// the lowest HostID does. All hosts that hear each other come to the same.
//
// It is a core: no clock, no socket. Not safe for concurrent use.
type election struct {
	self   voter
	began  time.Time
	active bool
	heard  map[ident.HostID]*voice
}

// voter is a host in one run: the daemon that an upgrade puts in another's place has its HostID and an epoch of its own.
type voter struct {
	id    ident.HostID
	epoch uint64
}

func (v voter) compare(o voter) int {
	return cmp.Or(bytes.Compare(v.id[:], o.id[:]), cmp.Compare(v.epoch, o.epoch))
}

// voice is a host as it was heard last. It stays when the host falls silent, so that nothing it said is taken twice.
type voice struct {
	voter
	number uint64
	active bool
	at     time.Time
}

func newElection(self voter, now time.Time) *election {
	return &election{self: self, began: now, heard: map[ident.HostID]*voice{}}
}

// verdict is what became of a beacon.
type verdict int

const (
	taken verdict = iota
	old           // it was heard before, or a later one was
	full          // no room to remember the host
)

// hear takes a beacon whose origin was checked.
func (e *election) hear(b beacon, now time.Time) verdict {
	v := e.heard[b.host]
	switch {
	case v == nil && len(e.heard) >= MaxHeard:
		return full
	case v == nil:
		v = &voice{}
		e.heard[b.host] = v
	case b.epoch < v.epoch || b.epoch == v.epoch && b.number <= v.number:
		return old
	}
	*v = voice{voter: voter{b.host, b.epoch}, number: b.number, active: b.flags&flagActive != 0, at: now}
	if b.flags&flagLeaving != 0 {
		v.at = time.Time{}
	}
	return taken
}

// fresh are the hosts that were heard lately, by HostID.
func (e *election) fresh(now time.Time) []voice {
	var out []voice
	for _, v := range e.heard {
		if !v.at.IsZero() && now.Sub(v.at) < silence {
			out = append(out, *v)
		}
	}
	slices.SortFunc(out, func(a, b voice) int { return a.compare(b.voter) })
	return out
}

// tick decides anew, and reports whether that changed anything.
func (e *election) tick(now time.Time) (changed bool) {
	was := e.active
	others := e.fresh(now)
	i := slices.IndexFunc(others, func(v voice) bool { return v.active })
	switch {
	case e.active:
		e.active = i < 0 || e.self.compare(others[i].voter) < 0
	case i >= 0 || now.Sub(e.began) < settle:
	default:
		e.active = len(others) == 0 || e.self.compare(others[0].voter) < 0
	}
	return e.active != was
}

// bridge returns the host that passes datagrams now, as far as is known.
func (e *election) bridge(now time.Time) (ident.HostID, bool) {
	if e.active {
		return e.self.id, true
	}
	for _, v := range e.fresh(now) {
		if v.active {
			return v.id, true
		}
	}
	return ident.HostID{}, false
}
