package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/subject"
)

// How often another host is asked for its interest that has not told it, and how often at most: then it is no broker, and
// is taken to want everything.
const (
	askFirst = 100 * time.Millisecond
	askMost  = 5 * time.Second
	askTimes = 20
)

// kind says what a member of the bus is.
type kind byte

const (
	isUnknown kind = iota
	isBroker
	isProgram
)

// peer is another member of the bus: the broker of another host, or a program.
type peer struct {
	epoch   uint64
	name    string
	kind    kind
	known   bool   // its interest is
	version uint64 // of its interest
	subs    map[want]*Subscription
	coming  map[want]int // parts of a snapshot
	part    uint16
	asks    int
}

// uplink is one membership of the bus.
type uplink struct {
	b    *Broker
	bus  Bus
	self uint64
	kick chan struct{}

	news   map[want]int // to be told; b.mu
	owed   bool         // a snapshot was asked for; b.mu
	stale  bool         // what is declared is; b.mu
	ids    map[want]uint32
	lastID uint32

	refusals chan []byte // reply subjects to which nobody is there to answer

	order   sync.Mutex // of what is told; taken before b.mu
	version uint64     // guarded by order
}

// Link is a broker's use of a bus, from Attach to Detach. Its methods that take what came from the bus are for one
// goroutine, those that tell of members for another.
type Link struct {
	u *uplink
	r *Router
}

// Attach makes the broker use a bus on which it is the member of an epoch. It ends when ctx does; one at a time.
func (b *Broker) Attach(ctx context.Context, bus Bus, epoch uint64) *Link {
	u := &uplink{
		b: b, bus: bus, self: epoch, kick: make(chan struct{}, 1), news: map[want]int{}, stale: true, ids: map[want]uint32{}, lastID: newsID,
		refusals: make(chan []byte, maxRefusals),
	}
	b.mu.Lock()
	b.drop() // of the membership before, should its end not have been noticed yet
	b.uplink = u
	b.mu.Unlock()
	go u.run(ctx)
	return &Link{u, b.Router()}
}

// run tells what is to be told, and asks; then it takes the broker off the bus.
func (u *uplink) run(ctx context.Context) {
	defer u.detach()
	ask, declare := time.NewTimer(askFirst), time.NewTimer(0)
	defer ask.Stop()
	defer declare.Stop()
	pause := askFirst
	var may time.Time // declare again
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.kick:
			u.tell(ctx)
			declare.Reset(max(0, time.Until(may)))
			if len(u.unknown(false)) > 0 && pause > askFirst { // somebody came
				pause = askFirst
				ask.Reset(pause)
			}
		case <-declare.C:
			may = time.Now().Add(u.declare())
		case reply := <-u.refusals:
			_ = u.bus.Send(ctx, string(reply), nobodyThere, nil, nil)
		case <-ask.C:
			if who := u.unknown(true); len(who) > 0 {
				u.order.Lock()
				_ = u.send(ctx, &news{kind: newsAsk, asked: who})
				u.order.Unlock()
				ask.Reset(pause)
				pause = min(2*pause, askMost)
				continue
			}
			pause = askMost // nobody to ask: a kick begins anew
		}
	}
}

func (u *uplink) detach() {
	b := u.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uplink == u {
		b.drop()
	}
}

// drop takes the broker off the bus; b.mu is held.
func (b *Broker) drop() {
	for _, p := range b.peers {
		b.forget(p)
	}
	clear(b.peers)
	b.uplink, b.brokers = nil, 0
	b.gen.Add(1)
	b.tellChanged()
}

func (u *uplink) wake() {
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// unknown returns the epochs of those to ask, and counts it if they are.
func (u *uplink) unknown(asking bool) (out []uint64) {
	u.b.mu.Lock()
	defer u.b.mu.Unlock()
	for e, p := range u.b.peers {
		if p.kind == isBroker && !p.known && p.asks < askTimes {
			if asking {
				p.asks++
			}
			out = append(out, e)
		}
	}
	return out
}

// tell sends what has changed, or everything if somebody asked. What is sent on the bus after it returns is behind it.
func (u *uplink) tell(ctx context.Context) {
	u.order.Lock()
	defer u.order.Unlock()
	u.b.mu.Lock()
	owed, changes := u.owed, u.news
	if !owed && len(changes) == 0 {
		u.b.mu.Unlock()
		return
	}
	var all []wanted
	if u.owed, u.news = false, map[want]int{}; owed {
		all = make([]wanted, 0, len(u.b.wants))
		for w, n := range u.b.wants {
			all = append(all, wanted{w, n})
		}
	} else {
		for w, n := range changes {
			all = append(all, wanted{w, n})
		}
	}
	u.b.mu.Unlock()
	u.version++
	if !owed {
		_ = u.send(ctx, &news{kind: newsChange, version: u.version, wants: all}) // the others notice a missing version
		return
	}
	for part := uint16(0); ; part++ {
		n, size := 0, 0
		for n < len(all) && size < maxNews {
			size += 8 + len(all[n].pattern) + len(all[n].queue)
			n++
		}
		more := n < len(all)
		if u.send(ctx, &news{kind: newsSnapshot, version: u.version, part: part, more: more, wants: all[:n]}) != nil || !more {
			return
		}
		all = all[n:]
	}
}

func (u *uplink) send(ctx context.Context, n *news) error {
	return u.bus.Send(ctx, subjectNews, nil, nil, n.encode())
}

// Incoming is a message that came from the bus. What it refers to is only lent.
type Incoming struct {
	Epoch    uint64 // of its sender
	Subject  []byte
	Envelope []byte
	Payload  []byte
	// Groups are the hashes of the queue groups (rmcast.GroupHash) of which this host is to serve a member; All says: of all it has.
	Groups []uint32
	All    bool
}

// Receive takes a message that came from the bus. What is this host's own is passed over.
func (l *Link) Receive(in *Incoming) {
	switch {
	case in.Epoch == l.u.self:
	case string(in.Subject) == subjectNews:
		l.heard(in.Epoch, in.Payload)
	default:
		l.r.receive(in)
	}
}

// Lost takes note that messages of a member were lost: what it wants may have been among them.
func (l *Link) Lost(epoch, messages uint64) {
	if epoch == l.u.self {
		return
	}
	b := l.u.b
	b.counters.lost.Add(messages)
	b.mu.Lock()
	if p := b.peers[epoch]; p != nil && p.kind != isProgram {
		b.doubt(p)
	}
	b.mu.Unlock()
	l.u.wake()
}

// Joined takes note of a member that came, or came back.
func (l *Link) Joined(epoch uint64, name string) {
	b := l.u.b
	b.mu.Lock()
	switch p := b.peers[epoch]; {
	case b.uplink != l.u:
	case p == nil:
		b.meet(epoch, name)
	case p.kind != isProgram:
		b.doubt(p)
	}
	b.mu.Unlock()
	l.u.wake()
}

// Left takes note of a member that has gone or cannot be reached.
func (l *Link) Left(epoch uint64) {
	b := l.u.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.peers[epoch]; p != nil && b.uplink == l.u {
		b.forget(p)
		b.setKind(p, isProgram)
		delete(b.peers, epoch)
		b.gen.Add(1)
		b.tellChanged()
	}
}

// forget takes a peer's wants out of the tables; b.mu is held.
func (b *Broker) forget(p *peer) {
	for _, s := range p.subs {
		s.closed.Store(true)
		b.trie.Remove(s.Pattern, subject.Entry[*Subscription]{Value: s, Queue: s.Queue})
	}
	clear(p.subs)
}

// doubt makes a peer's interest unknown; what was known stays for queue groups. b.mu is held.
func (b *Broker) doubt(p *peer) {
	p.known, p.coming, p.asks = false, nil, 0
	b.gen.Add(1)
	b.tellChanged()
}

// heard takes what another broker says about interest.
func (l *Link) heard(epoch uint64, payload []byte) {
	b := l.u.b
	n, err := decodeNews(payload)
	if err != nil {
		b.counters.malformed.Add(1)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uplink != l.u {
		return
	}
	if n.kind == newsAsk { // also of a member that we do not know yet: it knows us
		if len(n.asked) == 0 || slices.Contains(n.asked, l.u.self) {
			l.u.owed = true
			l.u.wake()
		}
		return
	}
	p := b.peers[epoch]
	if p == nil {
		b.counters.strange.Add(1) // it is asked when it is known to have come
		return
	}
	b.setKind(p, isBroker)
	if n.kind == newsChange {
		switch {
		case !p.known && p.coming == nil: // the answer is on its way
		case !p.known || n.version != p.version+1:
			b.doubt(p)
			l.u.wake()
		default:
			p.version = n.version
			b.apply(p, n.wants)
		}
		return
	}
	switch {
	case n.part == 0:
		p.coming, p.part, p.version = map[want]int{}, 0, n.version
	case p.coming == nil || n.part != p.part+1 || n.version != p.version:
		b.doubt(p)
		l.u.wake()
		return
	}
	p.part = n.part
	if len(p.coming)+len(n.wants) > MaxSubscriptions {
		b.counters.interestFull.Add(1)
		p.coming = nil
		return
	}
	for _, w := range n.wants {
		p.coming[w.want] = w.count
	}
	if n.more {
		return
	}
	var all []wanted
	for w := range p.subs {
		if p.coming[w] == 0 {
			all = append(all, wanted{w, 0})
		}
	}
	for _, w := range slices.Collect(maps.Keys(p.coming)) {
		all = append(all, wanted{w, p.coming[w]})
	}
	p.known, p.coming = true, nil
	b.apply(p, all)
	b.tellChanged()
}

// apply puts what a peer wants into the tables; b.mu is held.
func (b *Broker) apply(p *peer, wants []wanted) {
	for _, w := range wants {
		s := p.subs[w.want]
		switch {
		case w.count == 0 && s != nil:
			s.closed.Store(true)
			b.trie.Remove(s.Pattern, subject.Entry[*Subscription]{Value: s, Queue: s.Queue})
			delete(p.subs, w.want)
		case w.count == 0:
		case s != nil:
			s.weight = w.count
		case len(p.subs) >= MaxSubscriptions:
			b.counters.interestFull.Add(1)
			b.doubt(p)
			p.asks = askTimes
			return
		default:
			s = &Subscription{Pattern: w.pattern, Queue: w.queue, peer: p, weight: w.count}
			p.subs[w.want] = s
			b.trie.Add(w.pattern, subject.Entry[*Subscription]{Value: s, Queue: w.queue})
		}
	}
	b.gen.Add(1)
}
