package link

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// Addr is where a packet goes to or came from: an underlay endpoint, or a relay.
type Addr struct {
	AP    netip.AddrPort
	Relay ident.HostID
}

// Direct returns the address of an endpoint.
func Direct(ap netip.AddrPort) Addr { return Addr{AP: ap} }

// Via returns the address of a host behind a relay.
func Via(relay ident.HostID) Addr { return Addr{Relay: relay} }

// IsRelay reports whether the address names a relay.
func (a Addr) IsRelay() bool { return !a.Relay.IsZero() }

// IsZero reports whether the address names nothing.
func (a Addr) IsZero() bool { return a == Addr{} }

func (a Addr) String() string {
	if a.IsRelay() {
		return "via " + a.Relay.Short()
	}
	return a.AP.String()
}

// Timers and bounds. A path is judged by answered pings alone: packets that merely arrive say
// nothing about the other direction (asymmetric loss).
const (
	pingIdle     = 5 * time.Second        // keepalive of a quiet link, at multiples of this or of Env.Quiet
	pingIdleMost = 15 * time.Second       // ... which stateful packet filters on the way must outlast
	pingNAT      = 2 * time.Second        // ... when a NAT must keep the mapping, and hear of a new one soon
	pingBusy     = time.Second            // ... while users' frames go there
	pingAgain    = 300 * time.Millisecond // after a miss
	stillBusy    = 2 * time.Second        // ... and so long after the last one
	pingTimeout  = 500 * time.Millisecond // plus twice the round trip
	missesDown   = 4                      // misses in a row: the path is down
	upgradeGap   = 2 * time.Second        // relayed: how often direct endpoints are tried,
	firstUpgrade = 300 * time.Millisecond // ... and how soon the first time
	searchGap    = 500 * time.Millisecond // path down: how often all addresses are tried
	helloAfter   = 1200 * time.Millisecond
	unreachable  = 3 * time.Second // path down for so long: no path
	relayAfter   = 800 * time.Millisecond
	searchMax    = 2 * time.Second

	// starved is how late a Tick may be before the host itself, not the path, is taken for slow.
	starved = 2 * time.Second

	// defenceTime, plus twice the round trip, is how long the endpoint in use has to answer when
	// packets come from another one.
	defenceTime = 200 * time.Millisecond

	rekeyAfter   = 120 * time.Second // initiator; the responder waits rekeyExtra longer
	rekeyExtra   = 30 * time.Second
	rejectAfter  = 240 * time.Second
	unconfirmed  = 10 * time.Second // a session nobody used
	backoffFirst = 500 * time.Millisecond
	backoffMax   = 4 * time.Second
	lateness     = 5 * time.Second  // an answer to a ping counts for so long, though it was missed
	backoffLong  = 10 * time.Second // after longAbsence
	longAbsence  = 15 * time.Minute
	yieldTime    = 500 * time.Millisecond // the higher HostID leaves the first word to the lower
	maxDirect    = 16                     // endpoints remembered per host
	tryDirect    = 4                      // ... tried at a time
	tryRelays    = 1
	maxSessions  = 4
	maxPingsOpen = 32
	lossGain     = 1. / 16 // of one ping in Loss
)

// Ping is a probe to send in the current session.
type Ping struct {
	To   Addr
	ID   uint64
	Size int // UDP payload to fill, without a relay's envelope; 0: as short as it can be
}

// Out is what the owner has to do after an input.
type Out struct {
	Hellos  []Addr   // start a handshake with each
	Pings   []Ping   // send each in the session Use
	Release []uint32 // sessions that ended
	Changed bool     // path or session of the moment changed: read Use, Addr, Up
}

type session struct {
	local     uint32
	initiator bool
	confirmed bool // the other end has proved to hold it: we may send in it
	created   time.Time
}

type openPing struct {
	id   uint64
	to   Addr
	sent time.Time
	late time.Duration // this host did not run for so long meanwhile
	miss bool          // counted as missed
}

// Link is the path choice for one host: a state machine driven by its owner with inputs and the time.
type Link struct {
	direct   []netip.AddrPort // candidates, best first
	sessions []session        // newest first
	use      uint32           // session to send in, 0: none

	addr   Addr // path of the moment
	state  pathState
	since  time.Time // of state
	misses int
	rtt    time.Duration
	loss   float64 // part of the pings on addr that were not answered, the last ones count most
	reason string  // why the path is not direct

	doubted bool // something speaks against the path of the moment: the next Tick searches

	pings    []openPing
	nextID   uint64
	lastPing time.Time
	lastTry  time.Time // of search, upgrade or hello round
	backoff  time.Duration
	rotate   int
	hellos   int // rounds of handshakes in search
	lastHi   time.Time
	lastTick time.Time
	rekeying time.Time

	rival    Addr      // another endpoint that packets came from
	rivalry  time.Time // when both were last asked
	rivalUp  bool      // the rival has answered
	defence  uint64    // the ping to the endpoint in use
	lastSent uint64
	lastUsed time.Time // when lastSent was last seen to grow
	born     time.Time
	sizing   sizing
}

type pathState byte

const (
	stateNone   pathState = iota // no session yet
	stateUp                      // pings are answered on addr
	stateSearch                  // addr no longer answers; all addresses are tried
)

// New returns the link to a host not yet talked to.
func New(now time.Time) *Link {
	return &Link{since: now, born: now, backoff: backoffFirst, nextID: 1}
}

// Up reports whether packets can be sent: a session and an address that may work.
func (l *Link) Up(now time.Time) bool {
	switch l.state {
	case stateUp:
		return l.use != 0
	case stateSearch:
		return l.use != 0 && now.Sub(l.since) < unreachable
	case stateNone:
	}
	return false
}

// Use returns the local index of the session to send in, 0 when there is none.
func (l *Link) Use() uint32 { return l.use }

// Addr returns the address of the moment.
func (l *Link) Addr() Addr { return l.addr }

// RTT returns the smoothed round trip, 0 when not measured.
func (l *Link) RTT() time.Duration { return l.rtt }

// Loss returns the part of pings on the path that are not answered in time, from 0 to 1, smoothed over about sixteen.
func (l *Link) Loss() float64 { return l.loss }

// Reason says why the path is not better; "" for a direct one.
func (l *Link) Reason() string { return l.reason }

// Since returns when the state of the moment began.
func (l *Link) Since() time.Time { return l.since }

// Postpone says that a handshake asked for was not begun: ask again at the next Tick.
func (l *Link) Postpone() {
	if l.state == stateNone {
		l.lastTry = time.Time{}
	}
}

// Quiet reports whether the link needs no closer attention than a keepalive.
func (l *Link) Quiet() bool {
	return l.state == stateUp && l.misses == 0 && !slices.ContainsFunc(l.pings, func(p openPing) bool { return !p.miss })
}

// Idle reports whether no frames of users go there, and no length is asked for: a Tick a second is enough.
func (l *Link) Idle() bool { return l.sizing.size == 0 && l.lastTick.Sub(l.lastUsed) >= stillBusy }

// Candidates returns the endpoints tried for a direct path.
func (l *Link) Candidates() []netip.AddrPort { return l.direct }

// SetCandidates replaces the endpoints to try, best first. New ones are tried at once; a path to an
// endpoint that is no longer named is in doubt.
func (l *Link) SetCandidates(eps []netip.AddrPort) {
	eps = slices.Clone(eps[:min(len(eps), maxDirect)])
	if slices.Equal(eps, l.direct) {
		return
	}
	if l.addr.AP.IsValid() && slices.Contains(l.direct, l.addr.AP) && !slices.Contains(eps, l.addr.AP) {
		l.doubted = true
	}
	for _, ep := range eps {
		if !slices.Contains(l.direct, ep) {
			l.backoff, l.lastTry = backoffFirst, time.Time{}
			break
		}
	}
	l.direct = eps
}

// Nudge makes the next Tick try again at once: something changed that may help.
func (l *Link) Nudge() {
	l.backoff, l.lastTry = backoffFirst, time.Time{}
}

// Doubt says that the path of the moment may be dead, before a ping was missed: this host's own
// address changed, say. It stays in use while all addresses are asked at once, and the first that
// answers is taken.
func (l *Link) Doubt(now time.Time, env Env) Out {
	var out Out
	l.doubt(now, &out)
	if l.state == stateSearch {
		l.search(now, env, &out)
	}
	return out
}

func (l *Link) doubt(now time.Time, out *Out) {
	l.doubted = false
	if l.state == stateUp && l.use != 0 {
		l.enter(now, stateSearch, out)
		l.lastTry = time.Time{}
	}
}

// Check asks the path of the moment for an answer now.
func (l *Link) Check(now time.Time) Out {
	var out Out
	if l.use != 0 {
		l.ping(now, l.addr, &out)
	}
	return out
}

// Established says that a handshake ended: a new session whose packets came from a.
func (l *Link) Established(now time.Time, local uint32, initiator bool, a Addr) Out {
	var out Out
	l.sessions = slices.Insert(l.sessions, 0, session{local: local, initiator: initiator, confirmed: initiator, created: now})
	for len(l.sessions) > maxSessions {
		last := l.sessions[len(l.sessions)-1]
		l.sessions = l.sessions[:len(l.sessions)-1]
		out.Release = append(out.Release, last.local)
		if last.local == l.use {
			l.use = 0
		}
	}
	if initiator {
		l.rekeying = time.Time{}
		l.adopt(now, local, a, &out)
	}
	return out
}

// Received says that an authentic packet of session local came from a. The owner may call it
// for the first packet of a session and for changes of address only.
func (l *Link) Received(now time.Time, local uint32, a Addr) Out {
	var out Out
	i := slices.IndexFunc(l.sessions, func(s session) bool { return s.local == local })
	if i < 0 {
		return out
	}
	if !l.sessions[i].confirmed {
		l.sessions[i].confirmed = true
		l.adopt(now, local, a, &out)
		return out
	}
	if a == l.addr {
		return out
	}
	switch {
	case l.state != stateUp:
		if now.Sub(l.rivalry) >= pingAgain {
			l.rivalry = now
			l.ping(now, a, &out) // taken when it answers
		}
	case !a.IsRelay() && !l.addr.IsRelay():
		l.contest(now, a, &out)
	case !a.IsRelay():
		if now.Sub(l.rivalry) >= pingAgain {
			l.rivalry = now
			l.ping(now, a, &out) // relayed, and a direct packet came: taken when it answers
		}
	case !l.addr.IsRelay() && now.Sub(l.lastPing) >= pingAgain:
		// The other end has reason to use a relay: it hears no answer on the direct path.
		l.ping(now, l.addr, &out)
		l.doubt(now, &out)
	}
	return out
}

// contest asks both the endpoint in use and another one from which a packet came. The host may have
// roamed, its NAT may have chosen another port (RFC 4787 section 4.1: a new mapping), or it has two
// addresses that both work: then the two ends must not chase each other from one to the other.
func (l *Link) contest(now time.Time, a Addr, out *Out) {
	if now.Sub(l.rivalry) < pingAgain {
		return
	}
	l.rival, l.rivalry, l.rivalUp = a, now, false
	l.defence = l.nextID
	l.ping(now, l.addr, out)
	l.ping(now, a, out)
}

// judge ends a contest: the other endpoint has answered, and the one in use has had its time.
func (l *Link) judge(now time.Time, out *Out) {
	if l.rival.IsZero() || !l.rivalUp || now.Sub(l.rivalry) < defenceTime+2*l.rtt {
		return
	}
	a := l.rival
	l.rival = Addr{}
	l.move(now, a, out)
}

// Pong says that the answer to ping id arrived.
func (l *Link) Pong(now time.Time, id uint64) Out {
	var out Out
	if l.sized(now, id, &out) {
		return out
	}
	if id == l.defence {
		l.rival = Addr{}
	}
	i := slices.IndexFunc(l.pings, func(p openPing) bool { return p.id == id })
	if i < 0 {
		return out
	}
	p := l.pings[i]
	l.pings = slices.Delete(l.pings, i, i+1)
	rtt := now.Sub(p.sent)
	better := p.to.AP.IsValid() && l.addr.IsRelay() // direct beats relayed
	if p.to != l.addr && (l.state == stateSearch || better) {
		l.rtt = rtt
		l.move(now, p.to, &out)
	}
	if p.to != l.addr {
		l.rivalUp = l.rivalUp || p.to == l.rival
		return out
	}
	l.misses = 0
	l.loss -= l.loss * lossGain
	if l.rtt == 0 {
		l.rtt = rtt
	} else {
		l.rtt += (rtt - l.rtt) / 8 // RFC 6298 section 2, alpha = 1/8
	}
	if l.state != stateUp {
		l.enter(now, stateUp, &out)
	}
	if !l.addr.IsRelay() {
		l.reason = ""
	}
	return out
}

// adopt makes a session the one to send in, on the address it was proved on.
func (l *Link) adopt(now time.Time, local uint32, a Addr, out *Out) {
	l.use = local
	out.Changed = true
	keep := l.state == stateUp && l.misses == 0 && !(l.addr.IsRelay() && !a.IsRelay())
	if !keep {
		l.addr = a
		l.enter(now, stateUp, out)
	}
	l.backoff = backoffFirst
	l.ping(now, l.addr, out) // proves the session to the other end, and the path to us
}

func (l *Link) move(now time.Time, a Addr, out *Out) {
	l.addr = a
	l.misses, l.loss = 0, 0
	out.Changed = true
	l.enter(now, stateUp, out)
	l.ping(now, a, out)
}

func (l *Link) enter(now time.Time, s pathState, out *Out) {
	if l.state != s {
		l.state, l.since = s, now
		out.Changed = true
	}
	l.misses, l.hellos = 0, 0
	l.lastTry = now
	if s == stateSearch {
		l.sizing = sizing{} // what answers next may go another way
	}
	if s == stateUp && l.addr.IsRelay() {
		l.lastTry = now.Add(firstUpgrade - upgradeGap)
		if l.reason == "" {
			l.reason = "no direct endpoint answers"
		}
	}
}

func (l *Link) ping(now time.Time, a Addr, out *Out) {
	if len(l.pings) >= maxPingsOpen {
		l.pings = slices.Delete(l.pings, 0, 1)
	}
	l.pings = append(l.pings, openPing{id: l.nextID, to: a, sent: now})
	out.Pings = append(out.Pings, Ping{To: a, ID: l.nextID})
	l.nextID++
	if a == l.addr {
		l.lastPing = now
	}
}
