package daemon

import (
	"errors"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/lease"
	"github.com/weft-net/weft/internal/mesh"
)

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
		if x.lease == nil && x.vote == nil && x.about.IsZero() {
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

// forget drops what is known of a holder that left or was removed, this host's own vote too.
func (l *leases) forget(id ident.HostID) {
	delete(l.gone, id)
	if l.elector.Forget(id) {
		if err := l.s.mesh.Publish(0, nil, []string{keyVote + id.String()}); err != nil {
			l.s.log.Debug("vote about a host that is gone not deleted", "err", err)
		}
	}
}
