package daemon

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/lease"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/wire"
)

// A host started with --ephemeral comes and goes: it owns no addresses (ipam lends them), and when it is gone the others take
// back what it borrowed, without anybody's help. That it is gone, and does not only sit on the other side of a cut, its lease
// says (package lease): this is where holder and electors meet the mesh.

const (
	keyLease = "lease"  // scope 0: lease.Lease, by each host that comes and goes
	keyVote  = "lease/" // scope 0, + HostID: lease.Vote about that host, by each of its electors

	leaseTick  = time.Second
	leaseHurry = 250 * time.Millisecond // while it is not granted
	leaseGrace = 10 * time.Second       // a start, an upgrade too, may take so long until a majority has renewed the lease
	// retireLate: not all remove a host that is gone at once, though it would do no harm.
	retireLate   = 10 * time.Second
	maxLeaseMail = 1024
)

// leases is this host's part in the leases of the cluster. run owns holder and elector.
type leases struct {
	s       *System
	started time.Time
	wake    chan struct{}

	mu        sync.Mutex // guards all down to the line
	mail      []leaseMail
	heard     []leaseChange
	lost      uint64                // messages dropped because too many waited
	refused   uint64                // records and messages that could not be read
	ephemeral map[ident.HostID]bool // hosts known to come and go
	why       string                // this host must not take addresses; "": it may
	cut       bool                  // nor carry frames
	// ---

	holder  *lease.Holder // nil on a host that stays
	elector *lease.Elector
	gone    map[ident.HostID]time.Time // hosts that a majority has voted about, since when this host knows
}

type leaseMail struct {
	from ident.HostID
	m    lease.Message
}

// leaseChange is a record of a table; lease and vote nil: it was deleted.
type leaseChange struct {
	writer, about ident.HostID // about is zero in a lease
	lease         *lease.Lease
	vote          *lease.Vote
}

func newLeases(s *System, self ident.HostID) *leases {
	l := &leases{s: s, started: time.Now(), wake: make(chan struct{}, 1), ephemeral: map[ident.HostID]bool{}, gone: map[ident.HostID]time.Time{}}
	if s.id.Ephemeral {
		l.holder = lease.NewHolder(nil, rand.Uint64())
		l.ephemeral[self] = true
		l.why = "its lease is not granted yet"
		return l
	}
	l.elector = lease.NewElector(self, l.started)
	return l
}

// stays reports whether a host is not known to come and go.
func (l *leases) stays(id ident.HostID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.ephemeral[id]
}

// isLease reports whether a change in scope 0 is for follow.
func isLease(key string) bool { return key == keyLease || strings.HasPrefix(key, keyVote) }

// follow takes a change of a lease or a vote.
func (l *leases) follow(c state.Change) {
	x := leaseChange{writer: c.Writer}
	var err error
	if c.Key == keyLease {
		if !c.Gone {
			var r lease.Lease
			r, err = lease.DecodeLease(c.Value)
			x.lease = &r
		}
	} else if x.about, err = ident.ParseHostID(c.Key[len(keyVote):]); err == nil && !c.Gone {
		var v lease.Vote
		v, err = lease.DecodeVote(c.Value)
		x.vote = &v
	}
	l.mu.Lock()
	if err != nil {
		l.refused++
	} else {
		l.heard = append(l.heard, x) // bounded by the tables
		if c.Key == keyLease {
			l.note(c.Writer, !c.Gone)
		}
	}
	l.mu.Unlock()
	if err != nil {
		l.s.log.Debug("record refused", "host", c.Writer.Short(), "err", err)
	}
	l.poke()
}

// note says whether a host comes and goes. Called with mu held.
func (l *leases) note(id ident.HostID, ephemeral bool) {
	if ephemeral {
		l.ephemeral[id] = true
	} else if id != l.s.mesh.Self() {
		delete(l.ephemeral, id)
	}
}

// handle takes a link message of kind wire.KindLease.
func (l *leases) handle(from ident.HostID, body []byte) {
	m, err := lease.DecodeMessage(body)
	l.mu.Lock()
	switch {
	case err != nil:
		l.refused++
	case len(l.mail) >= maxLeaseMail:
		l.lost++
	default:
		l.mail = append(l.mail, leaseMail{from, m})
	}
	l.mu.Unlock()
	l.poke()
}

func (l *leases) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run follows leases until the daemon ends.
func (l *leases) run() {
	t := time.NewTimer(leaseTick)
	defer t.Stop()
	for {
		l.turn(time.Now())
		if l.why == "" { // only written here
			t.Reset(leaseTick)
		} else {
			t.Reset(leaseHurry)
		}
		select {
		case <-l.s.ctx.Done():
			return
		case <-t.C:
		case <-l.wake:
		}
	}
}

func (l *leases) turn(now time.Time) {
	l.mu.Lock()
	mail, heard := l.mail, l.heard
	l.mail, l.heard = nil, nil
	l.mu.Unlock()
	if l.holder != nil {
		l.hold(now, mail, heard)
	} else {
		l.elect(now, mail, heard)
	}
}

func (l *leases) send(m *lease.Message) {
	if err := l.s.mesh.Send(m.To, append([]byte{wire.KindLease}, m.Encode()...)); err != nil {
		l.s.log.Debug("message about a lease not sent", "to", m.To.Short(), "err", err)
	}
}

// removed hears of a host that was removed from the cluster, or left.
func (l *leases) removed(id ident.HostID) {
	l.mu.Lock()
	l.note(id, false)
	l.heard = append(l.heard, leaseChange{writer: id})
	l.mu.Unlock()
	l.poke()
}

// silent reports whether this host must carry no frames: what it borrowed may be somebody else's.
func (l *leases) silent() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// warning is what weft status says of the lease.
func (l *leases) warning() []api.Warning {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == "" {
		return nil
	}
	text := l.why + "; it takes no addresses"
	if l.cut {
		text += ", and its networks carry nothing to other hosts"
	}
	return []api.Warning{{Code: "lease", Text: text}}
}

// drops are counters for metrics.
func (l *leases) drops() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return map[string]uint64{"lease_unreadable": l.refused, "lease_full": l.lost}
}

// count returns how many hosts come and go.
func (l *leases) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ephemeral)
}

// staying returns those hosts that do not come and go.
func (l *leases) staying(hosts []mesh.HostStatus) []mesh.HostStatus {
	return slices.DeleteFunc(hosts, func(h mesh.HostStatus) bool { return !l.stays(h.ID) })
}
