// Package bare passes plain UDP datagrams of a multicast group on a LAN to a subject of the bus, and messages on the subject to the
// group: so a script of ten lines that knows nothing but its group is heard, and hears, on other LANs.
//
// Hosts of the cluster that share the LAN choose one of them that passes (election), by authenticated beacons on the group itself.
// Datagrams that a bridge sent are known by their source port and never passed on: nothing goes round. What is on the LAN is
// neither encrypted nor authenticated: whoever can send to the group can speak on the subject.
package bare

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/broker"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/subject"
)

const (
	// tickEvery is how often a bridge looks after itself.
	tickEvery = 100 * time.Millisecond
	// checkEvery is how often it looks whether its interface is still there.
	checkEvery = 3 * time.Second
	// retry is the pause after a failure.
	retry = time.Second
	// keyGrace is how long beacons under the key before are taken: not all hosts change it in the same moment.
	keyGrace = 10 * time.Second
	// ease is how long a datagram waits for a slow receiver on this host, at most.
	ease = 5 * time.Millisecond
)

// CheckGroup refuses what is no group and port to bridge.
func CheckGroup(g netip.AddrPort) error {
	a := g.Addr()
	switch {
	case !g.IsValid() || !a.IsMulticast() || a.Is4In6() || a.Zone() != "":
		return fmt.Errorf("%s: want a multicast group and a port, such as 225.4.5.6:5000 or [ff15::6]:5000", g)
	case g.Port() == 0:
		return fmt.Errorf("%s: port 0", g)
	case g.Port() == Port:
		return fmt.Errorf("%s: bridges talk to each other on port %d", g, Port)
	}
	return nil
}

// CheckSubject refuses what is no subject to bridge: one with wildcards, or weft's own.
func CheckSubject(s string) error {
	if err := subject.Check(s); err != nil {
		return err
	}
	if len(s) >= len(broker.Reserved) && s[:len(broker.Reserved)] == broker.Reserved {
		return fmt.Errorf("%w %q: %s> is weft's own", broker.ErrReserved, s, broker.Reserved)
	}
	return nil
}

// Config is what a bridge needs; all but Log.
type Config struct {
	Place
	Subject string
	Broker  *broker.Broker
	Host    ident.HostID
	// Key of the cluster, that beacons are authenticated by; it may change.
	Key func() (Key, error)
	// Alive tells the living hosts of the cluster.
	Alive func(ident.HostID) bool
	// Join waits until this host is on the bus, done gives that up.
	Join func(context.Context) (done func(), err error)
	// Open is for tests; nil: the package's Open.
	Open func(context.Context, Place) (Socket, error)
	Log  *slog.Logger
}

// Bridge is one group on one LAN.
type Bridge struct {
	cfg    Config
	counts counters
	queue  *queue
	active atomic.Bool

	mu       sync.Mutex // guards all below
	election *election  // nil while there is no socket
	iface    string
	problem  string
	since    time.Time // of the problem
	keys     [2]Key    // the present one first
	both     time.Time
	sockets  uint64 // drops of sockets that are closed
	seen     uint64 // and of this one
}

// New makes a bridge that does nothing before Run.
func New(cfg Config) *Bridge {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Open == nil {
		cfg.Open = Open
	}
	b := &Bridge{cfg: cfg}
	b.queue = newQueue(&b.counts, MaxDatagram)
	return b
}

// Status is what a bridge does.
type Status struct {
	Interface string // in use; empty: none
	Bridging  bool   // this host passes datagrams
	// Bridge is the host that does, zero while none is known; Heard are the hosts of this bus on the LAN.
	Bridge ident.HostID
	Heard  []ident.HostID
	// Datagrams from the LAN that went to the bus, and messages that went to the LAN.
	In, Out, InBytes, OutBytes uint64
	// Passive datagrams came while another host passed them on; Bridged ones another bridge had sent.
	Passive, Bridged uint64
	Drops            map[string]uint64
	Problem          string
	Since            time.Time // of Problem
}

// Status returns the figures of the moment.
func (b *Bridge) Status() Status {
	c := &b.counts
	st := Status{
		Bridging: b.active.Load(), In: c.in.Load(), Out: c.out.Load(), InBytes: c.inBytes.Load(), OutBytes: c.outBytes.Load(),
		Passive: c.passive.Load(), Bridged: c.bridged.Load(), Drops: c.names(),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	st.Interface, st.Problem, st.Since = b.iface, b.problem, b.since
	if e, now := b.election, time.Now(); e != nil {
		st.Bridge, _ = e.bridge(now)
		for _, v := range e.fresh(now) {
			st.Heard = append(st.Heard, v.id)
		}
	}
	return st
}

// Run bridges until ctx ends, and begins anew after whatever fails.
func (b *Bridge) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := b.session(ctx)
		b.mu.Lock()
		b.election, b.iface = nil, ""
		if err != nil && ctx.Err() == nil {
			if b.problem != err.Error() {
				b.cfg.Log.Warn("a bare bus does not work here", "subject", b.cfg.Subject, "group", b.cfg.Group.String(), "err", err)
				b.since = time.Now()
			}
			b.problem = err.Error()
		}
		b.mu.Unlock()
		t := time.NewTimer(retry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// session bridges until something fails.
func (b *Bridge) session(ctx context.Context) error {
	s, err := b.cfg.Open(ctx, b.cfg.Place)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer func() { _ = s.Close() }()
	defer cancel(nil)
	done, err := b.cfg.Join(ctx)
	if err != nil {
		return err
	}
	defer done()
	now := time.Now()
	self := voter{b.cfg.Host, uint64(now.UnixNano())}
	b.mu.Lock()
	b.election, b.iface, b.problem, b.seen = newElection(self, now), s.Interface(), "", 0
	b.mu.Unlock()
	all.Go(func() { cancel(b.receive(ctx, s)) })
	all.Go(func() { cancel(b.send(ctx, s)) })
	err = b.tend(ctx, s, self)
	b.mu.Lock()
	b.sockets += b.seen
	b.seen = 0
	b.mu.Unlock()
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// tend keeps the choice up to date, and says on the group that this host is there.
func (b *Bridge) tend(ctx context.Context, s Socket, self voter) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	var sub *broker.Subscription
	out := beacon{host: self.id, epoch: self.epoch, group: groupHash(b.cfg.Group, b.cfg.Subject)}
	var buf []byte
	say := func(key Key) error {
		out.number++
		buf = out.encode(buf[:0], key)
		return s.Send(buf, Port)
	}
	defer func() {
		b.active.Store(false)
		b.queue.set(false)
		if sub != nil {
			b.cfg.Broker.Unsubscribe(sub)
		}
		if key, err := b.cfg.Key(); err == nil { // the others need not wait until it is missed
			out.flags = flagLeaving
			_ = say(key)
		}
	}()
	var said, checked time.Time
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return nil
		case now = <-tick.C:
		}
		key, err := b.renew(now)
		if err != nil {
			return err
		}
		if now.Sub(checked) >= checkEvery {
			checked = now
			if err := s.Check(); err != nil {
				return err
			}
		}
		b.mu.Lock()
		changed := b.election.tick(now)
		active := b.election.active
		if n := s.Drops(); n != b.seen {
			b.seen = n
			b.counts.drops[dropSocketFull].Store(b.sockets + n)
		}
		b.mu.Unlock()
		switch {
		case changed && active:
			b.queue.set(true)
			if sub, err = b.cfg.Broker.Subscribe(ctx, b.cfg.Subject, "", b.queue, nil); err != nil {
				return err
			}
			out.flags = flagActive
			b.active.Store(true)
		case changed:
			b.active.Store(false)
			b.queue.set(false)
			b.cfg.Broker.Unsubscribe(sub)
			sub, out.flags = nil, 0
		}
		if changed {
			b.cfg.Log.Info("datagrams of a group on this LAN", "group", b.cfg.Group.String(), "subject", b.cfg.Subject, "interface", s.Interface(), "passed_here", active)
		}
		if changed || now.Sub(said) >= beaconEvery {
			said = now
			if err := say(key); err != nil {
				return fmt.Errorf("beacon to %s: %w", b.cfg.Group.Addr(), err)
			}
		}
	}
}

// renew takes up the key that the cluster has now.
func (b *Bridge) renew(now time.Time) (Key, error) {
	key, err := b.cfg.Key()
	if err != nil {
		return Key{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.keys[0] != key {
		b.keys[1], b.both = b.keys[0], now.Add(keyGrace)
		b.keys[0] = key
	}
	return key, nil
}

// receive takes what comes to the group.
func (b *Bridge) receive(ctx context.Context, s Socket) error {
	buf := make([]byte, 64<<10)
	in := b.inlet()
	for {
		n, err := s.Read(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("receive from %s: %w", b.cfg.Group, err)
		}
		in.take(ctx, buf[:n], time.Now())
		if ctx.Err() != nil {
			return nil
		}
	}
}

// inlet is the way of packets from the LAN to the bus. One goroutine uses it.
type inlet struct {
	b      *Bridge
	decode func([]byte) (datagram, error)
	router *broker.Router
	subj   []byte
	limit  pace
	m      broker.Message
	ease   *time.Timer
}

func (b *Bridge) inlet() *inlet {
	in := &inlet{b: b, decode: decode4, router: b.cfg.Broker.Router(), subj: []byte(b.cfg.Subject), ease: time.NewTimer(0)}
	if !b.cfg.Group.Addr().Is4() {
		in.decode = func(p []byte) (datagram, error) { d, _, err := decodeUDP(p); return d, err }
	}
	return in
}

// take passes one packet on, or counts why not.
func (in *inlet) take(ctx context.Context, packet []byte, now time.Time) {
	b := in.b
	d, err := in.decode(packet)
	switch {
	case errors.Is(err, errChecksum):
		b.counts.drops[dropChecksum].Add(1)
		return
	case err != nil:
		b.counts.drops[dropMalformed].Add(1)
		return
	case d.to == Port:
		b.hear(d.payload, now)
		return
	case d.to != b.cfg.Group.Port(): // another program's
		return
	case d.from == Port:
		if !b.active.Load() { // else it is its own
			b.counts.bridged.Add(1)
		}
		return
	case !b.active.Load():
		b.counts.passive.Add(1)
		return
	case in.limit.take(now) > 0:
		b.counts.drops[dropRate].Add(1)
		return
	}
	in.m = broker.Message{Payload: d.payload}
	res, err := in.router.Publish(ctx, in.subj, &in.m, broker.Options{Without: b.queue})
	if err != nil {
		b.counts.drops[dropBus].Add(1)
		return
	}
	b.counts.in.Add(1)
	b.counts.inBytes.Add(uint64(len(d.payload)))
	if res.Pressed != nil {
		in.ease.Reset(ease)
		select {
		case <-res.Pressed:
		case <-in.ease.C:
		}
	}
}

// hear takes a beacon.
func (b *Bridge) hear(p []byte, now time.Time) {
	b.mu.Lock()
	keys := b.keys[:1]
	if now.Before(b.both) {
		keys = b.keys[:2]
	}
	keys = slices.Clone(keys)
	b.mu.Unlock()
	in, err := decodeBeacon(p, keys...)
	if err != nil {
		b.counts.drops[dropBadBeacon].Add(1)
		return
	}
	if in.group != groupHash(b.cfg.Group, b.cfg.Subject) {
		return // another bus on the same group
	}
	alive := b.cfg.Alive(in.host)
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.election
	switch {
	case e == nil, in.host == e.self.id && in.epoch == e.self.epoch:
	case !alive && in.flags&flagLeaving == 0:
		b.counts.drops[dropDeadBeacon].Add(1)
	default:
		switch e.hear(in, now) {
		case old:
			b.counts.drops[dropOldBeacon].Add(1)
		case full:
			b.counts.drops[dropHeardFull].Add(1)
		case taken:
		}
	}
}

// send sends what gathers to the group.
func (b *Bridge) send(ctx context.Context, s Socket) error {
	var buf []byte
	var ends []int
	var limit pace
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.queue.signal:
		}
		buf, ends = b.queue.take(buf, ends)
		at := 0
		for i, end := range ends {
			for wait := limit.take(time.Now()); wait > 0; wait = limit.take(time.Now()) {
				timer.Reset(wait)
				select {
				case <-timer.C:
				case <-ctx.Done():
					return nil
				}
			}
			if !b.active.Load() { // another host passes them now
				b.counts.drops[dropYielded].Add(uint64(len(ends) - i))
				break
			}
			if err := s.Send(buf[at:end], b.cfg.Group.Port()); err != nil {
				b.counts.drops[dropSendFailed].Add(1)
				if b.counts.drops[dropSendFailed].Load()%1000 == 1 {
					b.cfg.Log.Warn("a message was not sent to a group", "group", b.cfg.Group.String(), "bytes", end-at, "err", err)
				}
			} else {
				b.counts.out.Add(1)
				b.counts.outBytes.Add(uint64(end - at))
			}
			at = end
		}
	}
}
