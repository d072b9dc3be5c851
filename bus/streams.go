package bus

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// streams are publishers that the bus keeps by itself, by subject: for requests and for answers. Those not used for a while are
// closed, and the one not used for longest when there are too many.
type streams struct {
	mu sync.Mutex
	by map[string]*kept
}

type kept struct {
	p    *Publisher
	in   int // calls that use it now
	used time.Time
}

const (
	maxStreams  = 64
	mostStreams = 1024 // all of them in use
	streamIdle  = time.Minute
	streamDrain = 10 * time.Second
)

// get returns the publisher of a subject until put. What is sent on a new one is behind the news of it.
func (c *streams) get(b *Bus, subj string) (*Publisher, error) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.by[subj]
	if k == nil {
		if c.makeRoom(b, now); len(c.by) >= mostStreams {
			return nil, fmt.Errorf("%w: messages on %d subjects wait for room", ErrRequests, len(c.by))
		}
		p, err := b.Publisher(subj)
		if err != nil {
			return nil, err
		}
		b.mu.Lock()
		if !b.closed {
			b.arm(b.node.Tick(time.Now())) // not now, which is before its beginning
		}
		b.mu.Unlock()
		if c.by == nil {
			c.by = map[string]*kept{}
		}
		k = &kept{p: p}
		c.by[subj] = k
	}
	k.in++
	k.used = now
	return k.p, nil
}

func (c *streams) put(p *Publisher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.by[p.subject]; k != nil && k.p == p {
		k.in--
		k.used = time.Now()
	}
}

// makeRoom closes what is not needed; c.mu is held.
func (c *streams) makeRoom(b *Bus, now time.Time) {
	var oldest *kept
	for _, k := range c.by {
		switch {
		case k.in > 0:
		case now.Sub(k.used) > streamIdle:
			c.drop(b, k)
		case oldest == nil || k.used.Before(oldest.used):
			oldest = k
		}
	}
	if len(c.by) >= maxStreams && oldest != nil {
		c.drop(b, oldest)
	}
}

// drop closes a publisher; what was sent on it is repaired for as long as receivers ask, within limits.
func (c *streams) drop(b *Bus, k *kept) {
	delete(c.by, k.p.subject)
	k.p.end()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return // it sees to all publishers
	}
	b.wg.Go(func() {
		ctx, cancel := context.WithTimeout(b.life, streamDrain)
		defer cancel()
		_ = k.p.drained(ctx) // who has not confirmed by then is not there
	})
}
