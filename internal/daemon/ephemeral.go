package daemon

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
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
		l.holder = lease.NewHolder(nil, draw())
		l.ephemeral[self] = true
		l.why = "its lease is not granted yet"
		return l
	}
	l.elector = lease.NewElector(self, l.started)
	return l
}

func draw() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
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

// hold is a turn of a host that comes and goes.
func (l *leases) hold(now time.Time, mail []leaseMail, heard []leaseChange) {
	self := l.s.mesh.Self()
	for _, x := range heard {
		if x.writer == self && x.lease != nil { // of a run before, or from before a loss of the disk
			l.holder.Recall(*x.lease)
		}
	}
	for _, x := range mail {
		l.holder.Handle(x.from, x.m)
	}
	stay := map[ident.HostID]bool{}
	for _, h := range l.s.mesh.Hosts() {
		if !h.Self && h.State != api.HostLeft && l.stays(h.ID) {
			stay[h.ID] = h.Reachable
		}
	}
	write, msgs := l.holder.Tick(now, stay)
	if write {
		b, err := l.holder.Lease().Encode()
		if err == nil {
			err = l.s.mesh.Publish(0, map[string][]byte{keyLease: b}, nil)
		}
		if err != nil {
			l.s.trouble("lease", "lease not written: "+err.Error())
			return
		}
		l.s.trouble("lease", "")
		l.holder.Written()
	}
	for i := range msgs {
		l.send(&msgs[i])
	}
	l.judge(now)
}

func (l *leases) send(m *lease.Message) {
	if err := l.s.mesh.Send(m.To, append([]byte{wire.KindLease}, m.Encode()...)); err != nil {
		l.s.log.Debug("message about a lease not sent", "to", m.To.Short(), "err", err)
	}
}

// judge tells the rest of this host whether the lease holds.
func (l *leases) judge(now time.Time) {
	why, cut := "", false
	if !l.holder.Serving(now) {
		why, cut = l.without(now), now.Sub(l.started) > leaseGrace
	}
	l.mu.Lock()
	before, wasCut := l.why, l.cut
	l.why, l.cut = why, cut
	l.mu.Unlock()
	l.s.ipam.Hold(why)
	if (before == "") != (why == "") {
		l.s.log.Info("lease of this host's addresses", "granted", why == "", "reason", why)
	}
	if cut != wasCut {
		for _, n := range l.s.localNetworks() {
			l.s.rebuild(n)
		}
	}
}

// without says why there is no lease.
func (l *leases) without(now time.Time) string {
	missing, n := l.holder.Missing(now)
	if n == 0 {
		return "this host comes and goes (--ephemeral), and no host that stays is in reach to grant it a lease"
	}
	names := l.s.hostNames()
	list := make([]string, 0, len(missing))
	for _, id := range missing {
		name := names[id]
		if name == "" {
			name = id.Short()
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return fmt.Sprintf("this host comes and goes (--ephemeral), and a majority of the %d that stay has not renewed its lease for %v: %s not heard; see weft links",
		n, lease.ServeFor, strings.Join(list, ", "))
}

// elect is a turn of a host that stays.
func (l *leases) elect(now time.Time, mail []leaseMail, heard []leaseChange) {
	self := l.s.mesh.Self()
	for _, x := range heard {
		switch {
		case x.lease != nil:
			l.elector.SetLease(now, x.writer, *x.lease)
		case x.vote != nil:
			l.elector.SetVote(x.writer, x.about, *x.vote)
		case !x.about.IsZero():
			l.elector.DropVote(x.writer, x.about)
		}
	}
	for _, x := range heard { // after what others still say of it
		if x.lease == nil && x.about.IsZero() {
			l.forget(x.writer)
		}
	}
	for _, x := range mail {
		vote, answer := l.elector.Handle(now, x.from, x.m)
		if vote != nil && !l.vote(self, x.from, *vote) {
			continue
		}
		if answer != nil {
			l.send(answer)
		}
	}
	for id, v := range l.elector.Tick(now, l.s.mesh.Reachable()) {
		if l.vote(self, id, v) {
			l.s.log.Info("a host that comes and goes has not been heard for long", "host", l.s.hostNames()[id], "for", lease.GoneAfter)
		}
	}
	l.retire(now)
}

// vote writes what this host says of a holder.
func (l *leases) vote(self, holder ident.HostID, v lease.Vote) bool {
	b, err := v.Encode()
	if err == nil {
		err = l.s.mesh.Publish(0, map[string][]byte{keyVote + holder.String(): b}, nil)
	}
	if err != nil {
		l.s.trouble("lease", "vote about a lease not written: "+err.Error())
		return false
	}
	l.s.trouble("lease", "")
	l.elector.SetVote(self, holder, v)
	return true
}

// retire removes hosts that a majority has voted about: the lowest living host that stays at once, others when that one fails to.
func (l *leases) retire(now time.Time) {
	names := l.s.hostNames()
	for _, id := range l.elector.Gone() {
		if _, known := names[id]; !known {
			continue // removed, or not heard of
		}
		if l.gone[id].IsZero() {
			l.gone[id] = now
		}
		if !l.s.heir().Self && now.Sub(l.gone[id]) < retireLate {
			continue
		}
		l.s.log.Info("a host that comes and goes is gone: what it borrowed is taken back", "host", names[id])
		if err := l.s.mesh.Retire(id); err != nil && !errors.Is(err, mesh.ErrNoHost) {
			l.s.log.Error("host that is gone not removed", "host", names[id], "err", err)
		}
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

// forget drops what is known of a holder that left or was removed, this host's own vote too.
func (l *leases) forget(id ident.HostID) {
	delete(l.gone, id)
	if l.elector.Forget(id) {
		if err := l.s.mesh.Publish(0, nil, []string{keyVote + id.String()}); err != nil {
			l.s.log.Debug("vote about a host that is gone not deleted", "err", err)
		}
	}
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

// leave takes the lease back. Where this host could not return all that it borrowed the lease ends by itself, and all of that with it.
func (l *leases) leave() error {
	if l.holder == nil || len(l.s.ipam.Lent(l.s.mesh.Self())) > 0 {
		return nil
	}
	return l.s.mesh.Publish(0, nil, []string{keyLease})
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
