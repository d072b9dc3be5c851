package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/weft-net/weft/internal/envelope"
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
)

// route says who gets messages of a subject. It does not change.
type route struct {
	subject string
	plain   []*Subscription // of this host
	groups  []group
	remote  bool    // programs of another host want it
	uplink  *uplink // the way there
}

// here reports whether programs of this host want the subject, some of a queue group maybe that another one serves this time.
func (rt *route) here() bool {
	if slices.ContainsFunc(rt.plain, func(s *Subscription) bool { return !s.closed.Load() }) {
		return true
	}
	for i := range rt.groups {
		if slices.ContainsFunc(rt.groups[i].members, func(s *Subscription) bool { return s.peer == nil && !s.closed.Load() }) {
			return true
		}
	}
	return false
}

// group is a queue group: one of its members gets each message.
type group struct {
	queue   string
	hash    uint32 // on the bus
	members []*Subscription
	upTo    []int // the sum of weights up to each member
}

// Router remembers ways of subjects. One goroutine at a time uses it.
type Router struct {
	b       *Broker
	gen     uint64
	routes  map[string]*route
	scratch []byte
	deals   []rmcast.Deal
	in      Message // from the bus
}

// Router makes a Router.
func (b *Broker) Router() *Router { return &Router{b: b, routes: map[string]*route{}} }

// route finds who gets messages of a subject.
func (r *Router) route(subj []byte) (*route, error) {
	if gen := r.b.gen.Load(); gen != r.gen {
		clear(r.routes)
		r.gen = gen
	}
	if rt := r.routes[string(subj)]; rt != nil {
		return rt, nil
	}
	rt := &route{subject: string(subj)}
	if err := subject.Check(rt.subject); err != nil {
		return nil, err
	}
	r.b.fill(rt)
	if len(r.routes) >= maxRoutes {
		clear(r.routes)
	}
	r.routes[rt.subject] = rt
	return rt, nil
}

func (b *Broker) fill(rt *route) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	rt.uplink = b.uplink
	for _, p := range b.peers {
		rt.remote = rt.remote || !p.known
	}
	at := map[string]int{}
	b.trie.Match(rt.subject, func(e subject.Entry[*Subscription]) {
		s := e.Value
		if e.Queue == "" {
			if s.peer != nil {
				rt.remote = true
			} else {
				rt.plain = append(rt.plain, s)
			}
			return
		}
		i, ok := at[e.Queue]
		if !ok {
			i = len(rt.groups)
			at[e.Queue] = i
			rt.groups = append(rt.groups, group{queue: e.Queue, hash: rmcast.GroupHash(e.Queue)})
		}
		g := &rt.groups[i]
		weight := 1
		if s.peer != nil {
			weight = s.weight
		}
		if n := len(g.upTo); n > 0 {
			weight += g.upTo[n-1]
		}
		g.members, g.upTo = append(g.members, s), append(g.upTo, weight)
	})
}

// draw picks a member by weight, and goes on to the next one while ok refuses; nil when it refuses all.
func (g *group) draw(ok func(*Subscription) bool) *Subscription {
	n := rand.IntN(g.upTo[len(g.upTo)-1])
	i := 0
	for g.upTo[i] <= n {
		i++
	}
	for range g.members {
		if s := g.members[i]; ok(s) {
			return s
		}
		i = (i + 1) % len(g.members)
	}
	return nil
}

// Options of Publish.
type Options struct {
	// Without gets none of it: who publishes and does not want its own.
	Without Sink
}

// Result says what became of a message.
type Result struct {
	// Wanted: somebody gets it, as far as is known.
	Wanted bool
	// Pressed, if not nil, is closed once a receiver has room again.
	Pressed <-chan struct{}
}

// Publish gives a message to all plain subscriptions and one of each queue group that match. m.Subject is passed as subj,
// in bytes; all is the caller's again when it returns. It waits only for the bus. Errors: a bad or reserved subject, or the bus's.
func (r *Router) Publish(ctx context.Context, subj []byte, m *Message, o Options) (Result, error) {
	var res Result
	rt, err := r.route(subj)
	if err != nil {
		return res, err
	}
	if reserved(rt.subject) {
		return res, fmt.Errorf("%w %q: %s> is weft's own", ErrReserved, rt.subject, Reserved)
	}
	if len(m.Reply) > 0 {
		if err := subject.Check(string(m.Reply)); err != nil {
			return res, fmt.Errorf("reply: %w", err)
		}
	}
	m.Subject = rt.subject
	r.b.counters.in.Add(1)
	for _, s := range rt.plain {
		if !s.closed.Load() && (o.Without == nil || s.sink != o.Without) {
			r.deliver(s, m, &res)
		}
	}
	r.deals = r.deals[:0]
	for i := range rt.groups {
		g := &rt.groups[i]
		s := g.draw(func(s *Subscription) bool {
			return !s.closed.Load() && (o.Without == nil || s.sink != o.Without)
		})
		switch {
		case s == nil:
		case s.peer != nil:
			r.deals = append(r.deals, s.deal(g.hash))
		default:
			r.deliver(s, m, &res)
		}
	}
	if !rt.remote && len(r.deals) == 0 {
		return res, nil
	}
	res.Wanted = true
	return res, r.send(ctx, rt.uplink, m)
}

func (r *Router) deliver(s *Subscription, m *Message, res *Result) {
	res.Wanted = true
	r.b.counters.out.Add(1)
	if p := s.sink.Deliver(s, m); p != nil {
		res.Pressed = p
	}
}

// send puts a message on the bus. Others want it, so there is an uplink: where it has just ended, the bus says so.
func (r *Router) send(ctx context.Context, u *uplink, m *Message) error {
	r.scratch = envelope.Append(r.scratch[:0], envelope.Envelope{Reply: m.Reply, Header: m.Header})
	err := u.bus.Send(ctx, m.Subject, r.scratch, r.deals, m.Payload)
	if cap(r.scratch) > 64<<10 {
		r.scratch = nil
	}
	if err != nil {
		r.b.counters.unsent.Add(1)
		return fmt.Errorf("to other hosts: %w", err)
	}
	r.b.counters.remoteOut.Add(1)
	return nil
}

// deal names a peer's member of a queue group on the bus.
func (s *Subscription) deal(group uint32) rmcast.Deal {
	d := rmcast.Deal{Group: group, Member: rmcast.ID(s.peer.epoch)}
	if n := len(s.seats); n > 0 {
		d.Sub = s.seats[rand.IntN(n)]
	}
	return d
}

// receive gives a message of another member to the programs of this host.
func (r *Router) receive(in *Incoming) {
	e, err := envelope.Decode(in.Envelope)
	if err == nil && e.Reply != nil {
		err = subject.Check(string(e.Reply))
	}
	if err != nil {
		r.b.counters.malformed.Add(1)
		return
	}
	rt, err := r.route(in.Subject)
	if err != nil {
		r.b.counters.malformed.Add(1)
		return
	}
	r.b.counters.remoteIn.Add(1)
	r.in = Message{Subject: rt.subject, Reply: e.Reply, Header: e.Header, Payload: in.Payload}
	m := &r.in
	var res Result
	for _, s := range rt.plain {
		if !s.closed.Load() {
			r.deliver(s, m, &res)
		}
	}
	here := func(s *Subscription) bool { return s.peer == nil && !s.closed.Load() }
	if in.All {
		for i := range rt.groups {
			if s := rt.groups[i].draw(here); s != nil {
				r.deliver(s, m, &res)
			}
		}
		return
	}
	for _, hash := range in.Groups {
		var s *Subscription
		for i := range rt.groups {
			if rt.groups[i].hash == hash {
				s = rt.groups[i].draw(here)
			}
		}
		if s == nil { // it has gone while the message was on its way
			r.b.counters.queueGone.Add(1)
			continue
		}
		r.deliver(s, m, &res)
	}
	if e.Reply != nil && !res.Wanted && !rt.here() {
		r.b.nobody(in.Epoch, e.Reply)
	}
}
