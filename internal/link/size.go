package link

import (
	"time"

	"github.com/weft-net/weft/internal/wire"
)

// How long a packet the path takes is found as RFC 8899 says: with probes, because routers need not
// say that they drop what is too long. Until a length was answered, only what every path must carry is sent:
// nothing vanishes meanwhile, and one round trip is all it takes where the interfaces' MTU is the truth.
//
// A path can become narrower and say nothing (section 4.3, black holes): while frames of users go there, the length in
// use is asked again and again, and three times in quick succession when no answer comes. From the second time on a
// short packet goes along: only if that one is answered it is the length that is too much. So a path that fails
// altogether, for a moment, keeps its length, and 1.2 s is what a hole takes to be found: confirmGap, three waits,
// and as many steps of the owner's clock.
const (
	probeTries  = 3                      // MAX_PROBES: so many lost ones say too long
	probeClose  = 32                     // the search ends when it is as exact as this
	raiseAfter  = 10 * time.Minute       // PMTU_RAISE_TIMER: a path may have become wider
	confirmGap  = 400 * time.Millisecond // is the length in use still good?
	confirmWait = 150 * time.Millisecond // ... plus twice the round trip, for an answer
)

// sizing is the search for one path's length. A path that fell silent starts it anew.
type sizing struct {
	addr   Addr
	limit  int // as interfaces say; 0: not known yet
	proven int // was answered, or must pass anyway
	failed int // was not answered; limit+1 while nothing failed

	size    int // asked now, 0: none
	id      uint64
	sent    time.Time
	tries   int
	control uint64 // the short packet beside the question
	works   bool   // ... was answered: the path is there

	ended time.Time // of the last question
	used  uint64    // packets sent by then
}

// floor is what every path carries.
func (z *sizing) floor() int {
	if z.addr.IsRelay() {
		return wire.MinPath - wire.RelayTotal
	}
	return wire.MinPath
}

// next returns the length to ask for, 0 when the search is over.
func (z *sizing) next() int {
	switch {
	case z.proven >= z.limit:
		return 0
	case z.failed > z.limit:
		return z.limit
	case z.failed-z.proven <= probeClose:
		return 0
	}
	return (z.proven + z.failed) / 2
}

// Payload returns the longest UDP payload that the path of the moment is known to carry.
func (l *Link) Payload() int { return min(l.sizing.proven, max(l.sizing.limit, l.sizing.floor())) }

// SetLimit says what the interfaces on the path of the moment carry.
func (l *Link) SetLimit(now time.Time, limit int) Out {
	var out Out
	z := &l.sizing
	switch {
	case z.addr != l.addr || z.proven == 0:
		*z = sizing{addr: l.addr, used: l.lastSent}
		z.proven = z.floor()
	case z.limit == limit:
		return out
	}
	z.limit, z.failed, z.size = limit, limit+1, 0
	if size := z.next(); size != 0 {
		l.ask(now, size, &out)
	}
	return out
}

// measure asks for the next length, and doubts what is known while there is traffic.
func (l *Link) measure(now time.Time, env Env, out *Out) {
	z := &l.sizing
	if l.use == 0 || z.addr != l.addr || l.misses > 0 {
		return // a path that answers nothing says nothing about lengths
	}
	if z.size != 0 {
		wait := pingTimeout
		if z.size <= z.proven {
			wait = confirmWait
		}
		if now.Sub(z.sent) < wait+2*l.rtt {
			return
		}
		if z.tries < probeTries || !z.works {
			l.ask(now, z.size, out)
			return
		}
		if z.size <= z.proven { // the path has become narrower
			z.proven, z.failed = z.floor(), z.limit+1
			out.Changed = true
		} else {
			z.failed = z.size
		}
		z.size, z.ended, z.used = 0, now, env.Sent
	}
	switch size := z.next(); {
	case size != 0:
		l.ask(now, size, out)
	case z.failed <= z.limit && now.Sub(z.ended) >= raiseAfter:
		z.failed = z.limit + 1
		l.ask(now, z.limit, out)
	case z.proven > z.floor() && env.Sent != z.used && now.Sub(z.ended) >= confirmGap:
		l.ask(now, z.proven, out)
	}
}

// ask sends a probe: the same again when it repeats one, so that a late answer counts.
func (l *Link) ask(now time.Time, size int, out *Out) {
	z := &l.sizing
	if z.size != size {
		z.size, z.id, z.tries = size, l.nextID, 0
		z.control, z.works = l.nextID+1, false
		l.nextID += 2
	}
	z.tries++
	z.sent = now
	out.Pings = append(out.Pings, Ping{To: z.addr, ID: z.id, Size: size})
	if z.tries > 1 && !z.works {
		out.Pings = append(out.Pings, Ping{To: z.addr, ID: z.control})
	}
}

// sized takes the answer to a probe; false when id is none.
func (l *Link) sized(now time.Time, id uint64, out *Out) bool {
	z := &l.sizing
	if z.size == 0 || z.id != id && z.control != id {
		return false
	}
	if z.control == id {
		z.works = true
		return true
	}
	if z.size > z.proven {
		z.proven = z.size
		out.Changed = true
	}
	z.size, z.ended, z.used = 0, now, l.lastSent
	if size := z.next(); size != 0 {
		l.ask(now, size, out)
	}
	return true
}
