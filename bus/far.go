package bus

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/rmcast"
)

// What is meant for members that are far from each other and messages that are few: then most of the datagrams are confirmations, and copies that
// could have gone together. It costs latency, and nothing else.

const (
	// MaxGather bounds Config.Gather and Config.GatherControl: members whose signs of life wait longer would be taken for gone.
	MaxGather = 250 * time.Millisecond
	// MaxConfirm bounds WithConfirm.
	MaxConfirm = time.Minute
)

// WithConfirm lets receivers take up to d, 0 to MaxConfirm, to confirm what they have: confirmations then go along with other datagrams to the
// publisher (Config.GatherControl), or are fewer. What was lost at the end of a burst shows after twice that (at most a minute), and the window must hold what is
// sent meanwhile. Wait asks at once, whatever d is. The default is 20 ms.
func WithConfirm(d time.Duration) PublisherOption {
	return func(o *publisherOptions) { o.confirm = d }
}

// WithHub has one member, for all publishers of a bus that have this the same one, pass on what goes by copies: two hops to everyone, and one datagram for what it
// passes on for several publishers to one member, where Config.Gather lets it wait.
func WithHub() PublisherOption { return func(o *publisherOptions) { o.hub = true } }

// checkFar refuses what is out of bounds.
func (c *Config) checkFar() error {
	for name, d := range map[string]time.Duration{"Gather": c.Gather, "GatherControl": c.GatherControl} {
		if d < 0 || d > MaxGather {
			return fmt.Errorf("%w: %s: %v, not 0 to %v", ErrConfig, name, d, MaxGather)
		}
	}
	return nil
}

// gatherer lets datagrams wait before they leave by the bus.
type gatherer struct {
	b *Bus
	*rmcast.Gatherer
}

var _ rmcast.Wire = gatherer{}

// wire returns what the node sends by.
func (b *Bus) wire() rmcast.Wire {
	if b.cfg.Gather == 0 && b.cfg.GatherControl == 0 {
		return b
	}
	size := b.cfg.Datagram
	if size == 0 {
		size = rmcast.DefaultDatagram
	}
	b.gather = rmcast.NewGatherer(b, time.Now, b.cfg.Gather, b.cfg.GatherControl, size)
	return gatherer{b, b.gather}
}

// Send implements rmcast.Wire; the loop sends what waits.
func (g gatherer) Send(buf []byte, segment int, group bool, to []netip.AddrPort) {
	g.Gatherer.Send(buf, segment, group, to)
	if next := g.Next(); !next.IsZero() {
		g.b.by(next)
	}
}

// leave sends what has waited long enough, and returns when the loop is to tick.
func (b *Bus) leave(now, next time.Time) time.Time {
	if b.gather == nil {
		return next
	}
	b.gather.Flush(now)
	if at := b.gather.Next(); !at.IsZero() && at.Before(next) {
		return at
	}
	return next
}
