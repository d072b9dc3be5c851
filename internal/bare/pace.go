package bare

import "time"

// Rates of datagrams, in each direction. A LAN that says more than that is not meant to be carried by messages.
const (
	MaxRate  = 20_000 // a second
	maxBurst = 2_000
)

// pace is a bucket of tokens (RFC 2697 has the idea): one for each datagram.
type pace struct {
	tokens float64
	last   time.Time
}

// take takes a token, or says how long until there is one.
func (p *pace) take(now time.Time) (wait time.Duration) {
	if p.last.IsZero() {
		p.tokens = maxBurst
	} else {
		p.tokens = min(maxBurst, p.tokens+now.Sub(p.last).Seconds()*MaxRate)
	}
	p.last = now
	if p.tokens < 1 {
		return time.Duration((1 - p.tokens) / MaxRate * float64(time.Second))
	}
	p.tokens--
	return 0
}
