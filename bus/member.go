package bus

import (
	"context"
	"crypto/ed25519"
	"iter"
	"net/netip"
	"slices"
	"sync"

	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/udp"
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
	// Key is the key with which it signs all that it says, as it has proved; nil: it does not sign, and any member can speak in its name. Refused says that its
	// messages are not taken here (Config.Trust, Config.RequireSigned).
	Key     ed25519.PublicKey
	Refused bool
	// Hears says that it hears this process's multicast, Heard that this process hears its. Where more than 16 members hear each other, some of those
	// that publish nothing send no multicast, and are not heard.
	Hears, Heard bool
	// HearsBy and HeardBy are the families of that multicast, NoFamily while it is not heard. What a process sends to all goes by one of them: Bus.Groups.
	HearsBy, HeardBy Family
	// Path says how packets for it go that do not go by multicast; Via names the member that passes them on, of PathMember. Addr is then where
	// it was, or says to be, by UDP.
	Path Path
	Via  string
	// Why says why it is unreachable, as far as that is known: which ways were tried.
	Why string
}

// memberOf is a member as the node has it; the lock is held.
func (b *Bus) memberOf(m rmcast.Member) Member {
	o := Member{
		Name: m.Name, Epoch: uint64(m.ID), Addr: m.Addr, State: MemberState(m.State), Hears: m.Hears, Heard: m.Hear, Path: Path(m.Path), Why: m.Why,
	}
	if m.Hears {
		o.HearsBy = IPv4 + Family(b.node.Voice())
	}
	if m.Hear {
		o.HeardBy = IPv4 + Family(m.Voice)
	}
	if o.Refused = m.Denied; m.Signs {
		o.Key = slices.Clone(m.Key[:])
	}
	if m.Path == rmcast.ByMember {
		o.Via = b.node.NameOf(m.Via)
	}
	return o
}

// Members returns the others, in the order in which they came. Of more than 256, a process that publishes nothing knows only some.
func (b *Bus) Members() []Member {
	b.mu.Lock()
	defer b.mu.Unlock()
	ms := b.node.Members()
	out := make([]Member, len(ms))
	for i, m := range ms {
		out[i] = b.memberOf(m)
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
		if out[i] = id.String(); id == b.self {
			out[i] = b.cfg.Member
		}
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
	PathChanged   // Member.Path, Via or HeardBy is another: relay changed, or the family of its multicast
)

// String returns the event in lower case.
func (k EventKind) String() string {
	return [...]string{"joined", "suspected", "unreachable", "rejoined", "left", "multicast up", "multicast down", "path changed"}[k]
}

// Event is news of a member.
type Event struct {
	Kind   EventKind
	Member Member
}

// maxEvents is how many wait to be read; older ones are dropped.
const maxEvents = 1024

type eventQueue struct {
	mu      sync.Mutex
	events  []Event
	dropped uint64
	closed  bool
	news    news
}

func (q *eventQueue) put(e Event) {
	q.mu.Lock()
	if q.events = append(q.events, e); len(q.events) > maxEvents {
		q.events = q.events[1:]
		q.dropped++
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
	Dropped                map[string]uint64 // packets that were not used; of a member's words, those that cannot be true or are beyond what one may ask
	SocketDrops            uint64            // datagrams that the system dropped, the receive buffer being full
	Nacks, Suppressed      uint64            // requests for repair sent, and not sent because another had asked
	Rebuilt                uint64            // packets made from parity packets
	RepairsForOthers       uint64            // packets of a publisher that could not answer itself
	RefusedBySubscriptions uint64            // deliveries held back because a queue was full
	Edges                  int               // connections over TCP to members
	EdgeBytes              uint64            // of datagrams received by them
	Forwarded              uint64            // datagrams passed on between two members that cannot reach each other
	GroupChanges           uint64            // from sending by one of the groups to sending by the other (Bus.Groups)
	EventsDropped          uint64            // nobody reads Events, or not fast enough: with more than 1,024 waiting, the oldest
}

// Stats returns the counters since Join.
func (b *Bus) Stats() Stats {
	b.mu.Lock()
	n := b.node.Stats
	b.mu.Unlock()
	s := Stats{Nacks: n.Nacks, Suppressed: n.Suppressed, RepairsForOthers: n.PeerRepairs, Rebuilt: n.Rebuilt, GroupChanges: n.VoiceChanges, RefusedBySubscriptions: b.full.Load()}
	s.Dropped = map[string]uint64{
		"duplicate": n.Duplicates, "too_far_ahead": n.Ahead, "unknown_stream": n.UnknownStream, "unknown_member": n.UnknownMember, "short": n.Short,
		"forged": n.Forged, "replayed": n.Replayed, "other_version": n.OtherVersion, "malformed": n.Malformed, "no_type": n.NoType,
		"members_full": n.MembersFull, "streams_full": n.StreamsFull, "own": n.Own, "unsigned": n.Unsigned, "unchecked": n.Unchecked, "untrusted": n.Untrusted,
		"implausible": n.Implausible, "unanswered": n.Unanswered, "unheeded": n.Unheeded,
	}
	b.edgeStats(&s, &n)
	b.events.mu.Lock()
	s.EventsDropped = b.events.dropped
	b.events.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	got := b.past
	for _, c := range b.sockets() {
		got.add(c.Stats())
	}
	s.Packets, s.Bytes, s.SocketDrops, s.Dropped["truncated"] = got.packets, got.bytes, got.drops, got.truncated
	return s
}

// received counts what sockets received.
type received struct{ packets, bytes, drops, truncated uint64 }

func (r *received) add(st udp.Stats) {
	r.packets, r.bytes, r.drops, r.truncated = r.packets+st.RxMessages, r.bytes+st.RxBytes, r.drops+st.RxDrops, r.truncated+st.RxTruncated
}
