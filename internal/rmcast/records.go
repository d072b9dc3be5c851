package rmcast

import (
	"errors"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/subject"
)

// control takes records of another member.
func (n *Node) control(now time.Time, from netip.AddrPort, group bool, pkt []byte) {
	_, epoch, number, ok := buskey.ParseHeader(pkt)
	if !ok {
		n.Stats.Short++
		return
	}
	m := n.byID[ID(epoch)]
	if m == nil {
		if ID(epoch) != n.cfg.Self {
			n.Stats.UnknownMember++
		}
		return
	}
	plain, err := n.openControl(now, m, group, pkt)
	switch {
	case err == errUnsigned: //nolint:errorlint // it is returned as it is
		return // and counted
	case errors.Is(err, buskey.ErrReplay):
		n.Stats.Replayed++
		return
	case err != nil:
		n.Stats.Forged++
		return
	}
	n.Stats.Control++
	n.byGroup, n.counter = group, number
	m.believed = true
	if !group {
		n.met(now, m, from)
	}
	n.heard(now, m, group)
	if eachRecord(plain, func(kind byte, r reader) { n.record(now, m, kind, r) }) != nil {
		n.Stats.Malformed++
	}
	n.said = said{}
}

func (n *Node) record(now time.Time, m *member, kind byte, r reader) {
	if n.byID[m.ID] != m {
		return // it said goodbye in the record before
	}
	switch kind {
	case recPing, recPong:
		if p := r.ping(); !r.bad {
			n.ping(now, m, kind, p)
		}
	case recState:
		n.state(now, m, &r)
	case recPeers:
		for len(r.b) > 0 && !r.bad {
			if id, addr := r.peer(); !r.bad && id != n.cfg.Self && n.byID[id] == nil {
				if n.candidate(now, addr); n.edges != nil {
					n.edges.told(now, id, addr)
				}
			}
		}
	case recLeave:
		n.depart(m, true)
		n.forget(now, m, Left)
	case recAnnounce:
		if a := r.announce(); !r.bad {
			n.announced(now, m, a)
		}
	case recHeartbeat:
		if h := r.heartbeat(); !r.bad {
			n.heartbeat(now, m, h)
		}
	case recStatus:
		if s := r.status(); !r.bad {
			if !n.overtaken(m) {
				n.hears(now, m, s.flags&flagHears != 0)
			}
			if tx := n.sender(s.stream); tx != nil {
				if tx.cfg.Confirm < lazy {
					m.busyAt = now
				}
				if tx.status(now, m.ID, s); tx.snapshot != nil {
					n.pump(now, tx)
				}
				n.wake(now.Add(beatFirst))
			}
		}
	case recNack:
		n.ranges = n.ranges[:0]
		origin, stream, mark, rs := r.nack(n.ranges)
		if n.ranges = rs; !r.bad {
			n.nacked(now, m, origin, stream, mark, rs)
		}
	case recSkip:
		stream, first, message := r.u32(), r.u64(), r.u64()
		if x := n.streams[streamKey{m.ID, stream}]; x != nil && !r.bad && first > x.next && x.st.Values != nil {
			if snap := r.u32(); !r.bad {
				x.leapTo(first, message, snap)
			}
		} else if x != nil && !r.bad && first > x.next && x.st.Class != BestEffort {
			n.Stats.LostRanges++
			x.keepWord(first)
			x.leap(first, message)
			x.answer = true
			n.touch(x)
		}
	case recRelay:
		if stream, plan, peers := r.u32(), r.u32(), r.peers(); !r.bad {
			n.relayFor(now, m, stream, plan, peers)
		}
	case recRelayed:
		if stream, plan, ids := r.u32(), r.u32(), r.ids(); !r.bad {
			if tx := n.sender(stream); tx != nil {
				tx.relayed(now, m.ID, plan, ids)
			}
		}
	case recServe:
		if x := n.streams[streamKey{ID(r.u64()), r.u32()}]; x != nil && !r.bad && n.byGroup {
			x.serve(now, m)
		}
	case recProbe, recProbed:
		if st := r.u32(); !r.bad && n.edges != nil {
			n.probed(now, m, kind, st)
		}
	case recHold:
		if n.edges != nil {
			n.hold(now, m)
		}
	case recSeek, recFound:
		if id := ID(r.u64()); !r.bad && n.edges != nil && id != n.cfg.Self {
			if kind == recSeek {
				n.sought(now, m, id)
			} else {
				n.found(now, m, id)
			}
		}
	case recWord:
		n.word(now, &r)
	case recTail:
		origin, stream, next, message := ID(r.u64()), r.u32(), r.u64(), r.u64()
		// It is the publisher's own word while it lives, but for relays.
		switch x := n.streams[streamKey{origin, stream}]; {
		case x == nil || r.bad:
		case x.m.signs != nil:
			n.Stats.Unsigned++ // its own word is passed on, or its packets
		case x.m.State != Alive || x.via.m == m || x.within >= lazy:
			x.tail(now, next, message)
		}
	}
	if r.bad {
		n.Stats.Malformed++
	}
}

// announced begins to receive a stream that its publisher offers.
func (n *Node) announced(now time.Time, m *member, a announce) {
	if m.Denied {
		n.Stats.Untrusted++
		return
	}
	if !n.plausible(a.from, a.next) {
		return
	}
	k := streamKey{m.ID, a.stream}
	r := n.streams[k]
	if r == nil {
		if a.from == 0 || a.next < a.from || a.class > snapshotClass || subject.CheckPattern(a.subject) != nil || !n.interested(a.subject) {
			return // we have just lost interest; or it makes no sense
		}
		if m.streams >= MaxStreams {
			n.Stats.StreamsFull++
			return
		}
		if r = newRx(n, m, a); !r.begin(a.other) {
			return
		}
		m.streams++
		n.streams[k] = r
		n.order = append(n.order, r)
		if r.main == nil {
			n.cfg.Sink.Begin(r.st)
		}
		r.answer = true
		r.keepWord(a.next)
	}
	r.sawReceivers(a.receivers, a.within)
	r.tail(now, a.next, a.nextMessage)
	r.asked(now)
	n.touch(r)
}

func (n *Node) interested(subj string) bool {
	for i := range n.interests {
		if subject.Overlap(n.interests[i].Pattern, subj) {
			return true
		}
	}
	return false
}

func (n *Node) heartbeat(now time.Time, m *member, h heartbeat) {
	if !n.plausible(h.first, h.next) {
		return
	}
	r := n.streams[streamKey{m.ID, h.stream}]
	if r == nil {
		if h.flags&flagAnswer != 0 && n.mayAnswer(now, m) { // an end that we had already, or a stream that we know nothing of
			s := status{stream: h.stream, next: h.next, room: uint32(n.cfg.Room), flags: flagUnknown}
			if h.flags&flagEnd != 0 {
				s.flags = flagEnded
			}
			s.flags |= flag(m.hear, flagHears)
			n.say(m, s.append)
		}
		return
	}
	lacks := h.next > r.next
	r.sawReceivers(h.receivers, h.within)
	if n.byGroup {
		r.marked(now, h.mark)
	} else if h.flags&flagRepaired != 0 {
		r.answered(now)
		return
	}
	r.tail(now, h.next, h.nextMessage)
	if h.flags&flagEnd != 0 {
		r.answer = r.answer || !r.ending && h.flags&flagAnswer != 0
		r.ending, r.end, n.ending = true, h.next, true
	}
	if h.flags&flagAnswer != 0 {
		r.asked(now)
	}
	if h.flags&flagByGroup != 0 && lacks {
		r.doubt(now, h.mark)
	}
	if h.next > r.next {
		r.behind(now)
	}
	n.touch(r)
}
