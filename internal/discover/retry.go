package discover

import "time"

// Pace is how often a source is asked.
type Pace struct {
	Looking time.Duration // while this host has reached nobody
	Calm    time.Duration // else: registrations are renewed then
	Slow    time.Duration // between tries of a source that fails, at most
}

// Lease is how long a registration lasts when it is not renewed: three times Calm, so that an answer lost costs nothing.
const Lease = 75 * time.Second

// stores is the pace of sources that somebody else runs, local that of hosts of one segment.
var (
	stores = Pace{Looking: 2 * time.Second, Calm: 25 * time.Second, Slow: 20 * time.Second}
	local  = Pace{Looking: time.Second, Calm: 5 * time.Second, Slow: 10 * time.Second}
)

// firstRetry is the pause after a first failure; each further one doubles it.
const firstRetry = time.Second

// tries is what the next try depends on.
type tries struct {
	last     time.Time // when the source was last asked; zero: never
	failures int       // since it last answered
	jitter   float64   // from -1 to 1: hosts that start at once must not ask at once for ever
}

// next returns when a source is to be asked: give or take a fifth of the time that Pace says.
func (t tries) next(p Pace, looking bool) time.Time {
	if t.last.IsZero() {
		return t.last
	}
	wait := p.Calm
	if looking {
		wait = p.Looking
	}
	if t.failures > 0 {
		wait = min(firstRetry<<min(t.failures-1, 10), p.Slow)
	}
	return t.last.Add(wait + time.Duration(t.jitter*float64(wait)/5))
}
