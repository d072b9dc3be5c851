package link

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/snapshot"
)

// Export returns what another process needs to go on with the link: sessions, the path of the moment and what it
// carries. Questions under way are left out; their answers count for nothing there.
func (l *Link) Export(now time.Time) snapshot.Link {
	s := snapshot.Link{
		Use: l.use, Address: snapshot.Address{Endpoint: l.addr.AP, Relay: l.addr.Relay}, State: byte(l.state),
		Since: now.Sub(l.since), RTT: l.rtt, Loss: l.loss, Reason: l.reason, NextPing: l.nextID,
	}
	if !l.lastPing.IsZero() {
		s.Pinged = now.Sub(l.lastPing)
	}
	for _, x := range l.sessions {
		s.Sessions = append(s.Sessions, snapshot.LinkSession{Local: x.local, Initiator: x.initiator, Confirmed: x.confirmed, Age: now.Sub(x.created)})
	}
	if z := &l.sizing; z.addr == l.addr {
		s.Limit, s.Proven, s.Failed = z.limit, z.proven, z.failed
		if !z.ended.IsZero() {
			s.Measured = now.Sub(z.ended)
		}
	}
	return s
}

// Adopt returns the link that another process exported, with the endpoints to try.
func Adopt(now time.Time, s snapshot.Link, endpoints []netip.AddrPort) *Link {
	l := New(now)
	l.direct = slices.Clone(endpoints[:min(len(endpoints), maxDirect)])
	l.use, l.addr, l.state = s.Use, Addr{AP: s.Address.Endpoint, Relay: s.Address.Relay}, pathState(s.State)
	l.since, l.rtt, l.loss, l.reason = now.Add(-s.Since), s.RTT, s.Loss, s.Reason
	l.nextID = max(s.NextPing, 1)
	l.lastPing = now.Add(-s.Pinged)
	for _, x := range s.Sessions[:min(len(s.Sessions), maxSessions)] {
		l.sessions = append(l.sessions, session{local: x.Local, initiator: x.Initiator, confirmed: x.Confirmed, created: now.Add(-x.Age)})
	}
	if !slices.ContainsFunc(l.sessions, func(x session) bool { return x.local == l.use }) {
		l.use = 0
	}
	if s.Proven > 0 {
		l.sizing = sizing{addr: l.addr, limit: s.Limit, proven: s.Proven, failed: s.Failed, ended: now.Add(-s.Measured)}
	}
	return l
}

// DropSession forgets a session that could not be taken over.
func (l *Link) DropSession(local uint32) {
	l.sessions = slices.DeleteFunc(l.sessions, func(x session) bool { return x.local == local })
	if l.use == local {
		l.use = 0
	}
}
