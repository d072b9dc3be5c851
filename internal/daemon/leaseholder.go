package daemon

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/lease"
)

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
	if !write || l.write() {
		for i := range msgs {
			l.send(&msgs[i])
		}
	}
	l.judge(now)
}

// write puts the lease into this host's table.
func (l *leases) write() bool {
	b, err := l.holder.Lease().Encode()
	if err == nil {
		err = l.s.mesh.Publish(0, map[string][]byte{keyLease: b}, nil)
	}
	if err != nil {
		l.s.trouble("lease", "lease not written: "+err.Error())
		return false
	}
	l.s.trouble("lease", "")
	l.holder.Written()
	return true
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

// leave takes the lease back. Where this host could not return all that it borrowed the lease ends by itself, and all of that with it.
func (l *leases) leave() error {
	if l.holder == nil || len(l.s.ipam.Lent(l.s.mesh.Self())) > 0 {
		return nil
	}
	return l.s.mesh.Publish(0, nil, []string{keyLease})
}
