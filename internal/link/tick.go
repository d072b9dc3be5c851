package link

import (
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// Env is what a Tick must know of the world around the link.
type Env struct {
	NATed  bool           // this host's endpoints are behind a NAT
	Relays []ident.HostID // hosts with a direct path, nearest first
	Sent   uint64         // frames of users sent to the host so far: a path in use is watched
	Quiet  time.Duration  // how often a quiet link is asked; at least 5 s, at most 15 s
	Phase  time.Duration  // when this host asks its quiet links: at multiples of Quiet and this
	Spent  bool           // that session has used half of its key's budget
	Yield  bool           // the other end, of the lower HostID, is to speak first
}

// Tick lets time pass. Call it at least every 100 ms while packets flow, every 250 ms otherwise.
func (l *Link) Tick(now time.Time, env Env) Out {
	var out Out
	l.forgive(now)
	l.expireSessions(now, &out)
	l.countMisses(now, &out)
	l.judge(now, &out)
	busy := env.Sent != l.lastSent
	if busy {
		l.lastSent, l.lastUsed = env.Sent, now
	}
	if l.doubted {
		l.doubt(now, &out)
	}
	switch l.state {
	case stateNone:
		l.tryHello(now, env, &out)
	case stateUp:
		l.keepAlive(now, env, busy, &out)
		l.measure(now, env, &out)
		l.rekey(now, env, &out)
	case stateSearch:
		l.search(now, env, &out)
	}
	return out
}

// forgive gives open pings the time in which this host did not run: it could not see their answers
// either. Without it a busy machine takes all its paths for dead, and the search makes it busier
// (the lesson of Lifeguard, arXiv:1707.00788).
func (l *Link) forgive(now time.Time) {
	late := now.Sub(l.lastTick)
	if !l.lastTick.IsZero() && late > starved {
		for i := range l.pings {
			l.pings[i].late += late
		}
	}
	l.lastTick = now
}

func (l *Link) expireSessions(now time.Time, out *Out) {
	l.sessions = slices.DeleteFunc(l.sessions, func(s session) bool {
		age := now.Sub(s.created)
		if age < unconfirmed || (s.confirmed && age < rejectAfter) {
			return false
		}
		out.Release = append(out.Release, s.local)
		if s.local == l.use {
			l.use = 0
		}
		return true
	})
	if l.use != 0 || l.state == stateNone {
		return
	}
	for _, s := range l.sessions { // the newest other one the peer holds
		if s.confirmed {
			l.use = s.local
			out.Changed = true
			return
		}
	}
	l.state, l.since, l.addr, l.rtt = stateNone, now, Addr{}, 0
	l.backoff, l.lastTry = backoffFirst, time.Time{}
	out.Changed = true
}

func (l *Link) countMisses(now time.Time, out *Out) {
	limit := pingTimeout + 2*l.rtt
	for i := range l.pings {
		p := &l.pings[i]
		if !p.miss && now.Sub(p.sent) >= limit+p.late {
			p.miss = true
			if p.to == l.addr {
				l.misses++
				l.loss += (1 - l.loss) * lossGain
			}
		}
	}
	// A late answer shows that the path works, only more slowly than thought: it is waited for.
	l.pings = slices.DeleteFunc(l.pings, func(p openPing) bool { return now.Sub(p.sent) >= lateness+p.late })
	if l.state == stateUp && l.misses >= missesDown {
		if !l.addr.IsRelay() {
			l.reason = "the direct endpoint " + l.addr.AP.String() + " stopped answering"
		}
		l.enter(now, stateSearch, out)
		l.lastTry = time.Time{}
	}
}

func (l *Link) keepAlive(now time.Time, env Env, busy bool, out *Out) {
	idle := min(max(env.Quiet, pingIdle), pingIdleMost)
	gap := idle
	switch {
	case l.misses > 0:
		gap = pingAgain
	case busy:
		gap = pingBusy
	case env.NATed || l.addr.IsRelay():
		gap = pingNAT
	}
	last := l.lastPing
	if gap == idle { // quiet links of a host ask together: one wake-up, not many
		last = last.Add(-env.Phase).Truncate(idle).Add(env.Phase)
	}
	if now.Sub(last) >= gap {
		l.ping(now, l.addr, out)
	}
	if l.addr.IsRelay() && now.Sub(l.lastTry) >= upgradeGap {
		l.lastTry = now
		for _, ep := range l.nextDirect() {
			l.ping(now, ep, out)
		}
	}
}

func (l *Link) rekey(now time.Time, env Env, out *Out) {
	i := slices.IndexFunc(l.sessions, func(s session) bool { return s.local == l.use })
	if i < 0 {
		return
	}
	due := rekeyAfter
	if !l.sessions[i].initiator {
		due += rekeyExtra
	}
	if (env.Spent || now.Sub(l.sessions[i].created) >= due) && now.Sub(l.rekeying) >= 5*time.Second {
		l.rekeying = now
		out.Hellos = append(out.Hellos, l.addr)
	}
}

// search looks for any address that answers in the session; after a while the other end may
// have lost the session (restarted), so handshakes are tried as well.
func (l *Link) search(now time.Time, env Env, out *Out) {
	if now.Sub(l.since) >= unreachable && now.Sub(l.since) < unreachable+time.Second {
		out.Changed = true // Up turned false
	}
	if now.Sub(l.lastTry) < min(searchGap*time.Duration(1+int(now.Sub(l.since)/(10*time.Second))), searchMax) {
		return
	}
	l.lastTry = now
	targets := append(l.nextDirect(), l.nextRelays(env)...)
	if !slices.Contains(targets, l.addr) {
		targets = append(targets, l.addr)
	}
	// A handshake costs both ends a thousand times what a ping does: fewer of them, ever more seldom.
	greet := now.Sub(l.since) >= helloAfter && now.Sub(l.lastHi) >= min(backoffFirst<<min(l.hellos, 4)/2, backoffMax)
	for i, a := range targets {
		l.ping(now, a, out)
		if greet && (i+l.hellos)%len(targets) < 2 {
			out.Hellos = append(out.Hellos, a)
		}
	}
	if greet {
		l.lastHi = now
		l.hellos++
	}
}

func (l *Link) tryHello(now time.Time, env Env, out *Out) {
	if now.Sub(l.lastTry) < l.backoff || env.Yield && now.Sub(l.since) < yieldTime {
		return
	}
	l.lastTry = now
	limit := backoffMax
	if now.Sub(l.since) > longAbsence {
		limit = backoffLong
	}
	direct := l.nextDirect()
	if l.backoff == backoffFirst && len(direct) > 1 {
		direct = direct[:1] // most hosts answer at their first endpoint: the others only if it does not
	}
	l.backoff = min(l.backoff*2, limit)
	out.Hellos = append(out.Hellos, direct...)
	if now.Sub(l.since) >= relayAfter {
		out.Hellos = append(out.Hellos, l.nextRelays(env)...)
	}
}

// nextDirect returns up to tryDirect candidates, other ones at each call.
func (l *Link) nextDirect() []Addr {
	var as []Addr
	for i := range min(tryDirect, len(l.direct)) {
		as = append(as, Direct(l.direct[(l.rotate+i)%len(l.direct)]))
	}
	if len(l.direct) > tryDirect {
		l.rotate = (l.rotate + tryDirect) % len(l.direct)
	}
	return as
}

func (l *Link) nextRelays(env Env) []Addr {
	var as []Addr
	n := len(env.Relays)
	for i := range min(tryRelays, n) {
		as = append(as, Via(env.Relays[(l.rotate+i)%n]))
	}
	if n > tryRelays && len(l.direct) <= tryDirect {
		l.rotate++
	}
	return as
}
