package bus

import (
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
)

// sink is what the node hands packets to; the bus's lock is held.
type sink Bus

var _ rmcast.Sink = (*sink)(nil)

// Begin implements rmcast.Sink.
func (k *sink) Begin(st *rmcast.Stream) {
	b := (*Bus)(k)
	var fs []*feed
	seen := map[*Subscription]bool{}
	b.subs.Match(st.Subject, func(e subject.Entry[*Subscription]) {
		if s := e.Value; !seen[s] {
			seen[s] = true
			fs = append(fs, newFeed(s, st, rmcast.StartOf(&s.want, st.Publisher, st.From, st.Next)))
		}
	})
	feeds(st, fs)
}

// Deliver implements rmcast.Sink: all subscriptions get the packets, or none.
func (k *sink) Deliver(st *rmcast.Stream, ps []rmcast.Packet) bool {
	fs, _ := st.Data.([]*feed)
	if st.Values != nil {
		for _, f := range fs {
			f.sub.poke(f)
		}
		return true
	}
	for _, f := range fs {
		if holds(st) && !f.sub.room() {
			(*Bus)(k).full.Add(1)
			return false
		}
	}
	for _, f := range fs {
		f.sub.push(f, ps)
	}
	return true
}

// End implements rmcast.Sink.
func (k *sink) End(st *rmcast.Stream, rest []rmcast.Packet) {
	fs, _ := st.Data.([]*feed)
	for _, f := range fs {
		f.sub.push(f, rest)
	}
	st.Data = nil
}

// Event implements rmcast.Sink.
func (k *sink) Event(e rmcast.Event) {
	b := (*Bus)(k)
	ev := Event{Kind: EventKind(e.Kind), Member: b.memberOf(e.Member)}
	b.log.Debug("member", "event", ev.Kind.String(), "member", ev.Member.Name, "endpoint", ev.Member.Addr)
	b.events.put(ev)
	switch {
	case b.watch == nil:
	case e.Kind == rmcast.Joined || e.Kind == rmcast.Rejoined:
		b.watched(e.Member)
	case e.Kind == rmcast.UnreachableNow || e.Kind == rmcast.Left:
		b.watch.Left(uint64(e.Member.ID))
	}
}
