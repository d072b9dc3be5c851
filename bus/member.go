package bus

import (
	"context"
	"iter"
	"net/netip"
	"sync"

	"github.com/weft-net/weft/internal/rmcast"
)

// MemberState is how alive a member is.
type MemberState int

// The states.
const (
	Alive       MemberState = iota
	Suspected               // has not answered for a while
	Unreachable             // has not answered for longer: publishers don't wait for it, and it is forgotten after ten minutes
)

// String returns the state in lower case.
func (s MemberState) String() string {
	return [...]string{"alive", "suspected", "unreachable"}[s]
}

// Member is another process on the bus.
type Member struct {
	Name  string // Config.Member
	Epoch uint64 // differs for each process
	Addr  netip.AddrPort
	State MemberState
	// Hears says that it hears this process's multicast, Heard that this process hears its.
	Hears, Heard bool
}

func memberOf(m rmcast.Member) Member {
	return Member{Name: m.Name, Epoch: uint64(m.ID), Addr: m.Addr, State: MemberState(m.State), Hears: m.Hears, Heard: m.Hear}
}

// Members returns the others, in the order in which they came.
func (b *Bus) Members() []Member {
	b.mu.Lock()
	defer b.mu.Unlock()
	ms := b.node.Members()
	out := make([]Member, len(ms))
	for i, m := range ms {
		out[i] = memberOf(m)
	}
	return out
}

// names returns the names of members; one that is gone by now has its number.
func (b *Bus) names(ids []rmcast.ID) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	ms := b.node.Members()
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
		for _, m := range ms {
			if m.ID == id {
				out[i] = m.Name
			}
		}
	}
	return out
}

// EventKind says what happened to a member.
type EventKind int

// The events.
const (
	Joined          EventKind = iota
	MemberSuspected           // it does not answer
	MemberUnreachable
	Rejoined
	Left          // said goodbye, or was unreachable for ten minutes
	MulticastUp   // this process hears its multicast
	MulticastDown // not any more: it serves us by copies
)

// String returns the event in lower case.
func (k EventKind) String() string {
	return [...]string{"joined", "suspected", "unreachable", "rejoined", "left", "multicast up", "multicast down"}[k]
}

// Event is news of a member.
type Event struct {
	Kind   EventKind
	Member Member
}

// maxEvents is how many wait to be read; older ones are dropped.
const maxEvents = 1024

type eventQueue struct {
	mu     sync.Mutex
	events []Event
	closed bool
	news   news
}

func (q *eventQueue) put(e Event) {
	q.mu.Lock()
	if q.events = append(q.events, e); len(q.events) > maxEvents {
		q.events = q.events[1:]
	}
	q.mu.Unlock()
	q.news.tell()
}

func (q *eventQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.news.tell()
}

// Events yields what happens to members, from the last 1,024 events on, until ctx ends or the bus is closed. Each event goes to one reader.
func (b *Bus) Events(ctx context.Context) iter.Seq[Event] {
	q := &b.events
	return func(yield func(Event) bool) {
		for {
			news := q.news.wait()
			q.mu.Lock()
			var e Event
			ok, closed := len(q.events) > 0, q.closed
			if ok {
				e, q.events = q.events[0], q.events[1:]
			}
			q.mu.Unlock()
			switch {
			case ok && !yield(e):
				return
			case ok:
				continue
			case closed:
				return
			}
			select {
			case <-news:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Stats are counters of a member's dealings with the network. Each reason for which a packet was dropped has a name.
type Stats struct {
	Packets, Bytes         uint64            // datagrams or trains received, by unicast and multicast
	Dropped                map[string]uint64 // packets that were not used
	SocketDrops            uint64            // datagrams that the system dropped, the receive buffer being full
	Nacks, Suppressed      uint64            // requests for repair sent, and not sent because another had asked
	RepairsForOthers       uint64            // packets of a publisher that could not answer itself
	RefusedBySubscriptions uint64            // deliveries held back because a queue was full
}

// Stats returns the counters since Join.
func (b *Bus) Stats() Stats {
	b.mu.Lock()
	n := b.node.Stats
	b.mu.Unlock()
	s := Stats{Nacks: n.Nacks, Suppressed: n.Suppressed, RepairsForOthers: n.PeerRepairs, RefusedBySubscriptions: b.full.Load()}
	s.Dropped = map[string]uint64{
		"duplicate": n.Duplicates, "too_far_ahead": n.Ahead, "unknown_stream": n.UnknownStream, "unknown_member": n.UnknownMember, "short": n.Short,
		"forged": n.Forged, "replayed": n.Replayed, "other_version": n.OtherVersion, "malformed": n.Malformed, "no_type": n.NoType,
		"members_full": n.MembersFull, "streams_full": n.StreamsFull, "own": n.Own,
	}
	for _, c := range []socketStats{{b.conn}, {b.group}} {
		m, bytes, d := c.stats()
		s.Packets, s.Bytes, s.SocketDrops = s.Packets+m, s.Bytes+bytes, s.SocketDrops+d
	}
	return s
}
