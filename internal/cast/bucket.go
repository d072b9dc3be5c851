package cast

import "time"

// bucket is a token bucket: rate tokens a second, at most one second's worth. It has one owner.
type bucket struct {
	tokens float64
	last   time.Time
}

// fill adds the tokens of the time since the last call; the first call fills the bucket.
func (b *bucket) fill(now time.Time, rate int64) {
	full := float64(rate)
	if b.last.IsZero() {
		b.tokens, b.last = full, now
		return
	}
	if d := now.Sub(b.last); d > 0 {
		b.tokens += d.Seconds() * full
		b.last = now
	}
	b.tokens = min(b.tokens, full)
}

// take takes a token if there is one.
func (b *bucket) take() bool {
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
