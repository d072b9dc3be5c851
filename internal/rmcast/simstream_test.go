package rmcast

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/subject"
)

// What publishers of the simulator send, what its subscribers must get, and whether they did.

// simPub is a stream and what was sent on it.
type simPub struct {
	node *simNode
	tx   *Sender
	subj string
	sent uint64
	last map[string]uint64 // of class LastValue, by subject
}

// simSub is what one node got of one stream.
type simSub struct {
	st    *Stream
	cur   Cursor
	next  uint64 // of messages
	ended bool
	last  map[string]uint64 // of class LastValue, by subject
}

// Begin implements Sink.
func (x *simNode) Begin(st *Stream) {
	k := streamKey{st.Publisher, st.ID}
	if o := x.heard[k]; o != nil {
		x.s.fail("%d begins %v/%d twice", x.index, st.Publisher, st.ID)
	}
	sub := &simSub{st: st}
	start := uint64(1<<64 - 1)
	for i := range x.want {
		if subject.Overlap(x.want[i].Pattern, st.Subject) {
			start = min(start, from(&x.want[i], st.Publisher, st.From, st.Next))
		}
	}
	sub.next = start
	sub.cur.Start(start)
	st.Lent = x.index%2 == 1 && st.Values == nil
	x.heard[k] = sub
}

// Deliver implements Sink: nothing twice, nothing out of order, nothing missing without a word, and as it was sent.
func (x *simNode) Deliver(st *Stream, ps []Packet) bool {
	if x.s.rnd.Float64() < x.slow {
		x.s.count.Refused++
		return false
	}
	sub := x.heard[streamKey{st.Publisher, st.ID}]
	if sub == nil {
		return true
	}
	if st.Values != nil {
		x.readValues(sub)
		return true
	}
	lost := func(from, to uint64) {
		if to < from {
			return
		}
		if from != sub.next {
			x.s.fail("%d of %v: told of loss %d-%d, expected %d", x.index, st.Publisher, from, to, sub.next)
		}
		if st.Class == BestEffort {
			x.s.count.Missed += int(to - from + 1)
			sub.next = to + 1
			return
		}
		if x.lossless {
			x.s.fail("%d of %v: lost %d-%d without need", x.index, st.Publisher, from, to)
		}
		x.s.count.Lost += int(to - from + 1)
		x.s.count.LostTold++
		sub.next = to + 1
	}
	for _, p := range ps {
		if p.Plain == nil {
			lost(sub.cur.Gone(p.Gone))
			continue
		}
		x.borrow(p)
		from, to, err := sub.cur.Open(p.Seq, p.Plain)
		if err != nil {
			x.s.fail("%d: open: %v", x.index, err)
			return true
		}
		lost(from, to)
		var m Message
		for {
			ok, err := sub.cur.Next(&m)
			if err != nil {
				x.s.fail("%d: packet %d: %v", x.index, p.Seq, err)
				return true
			}
			if !ok {
				break
			}
			if m.Number != sub.next {
				x.s.fail("%d of %v: message %d, expected %d", x.index, st.Publisher, m.Number, sub.next)
			}
			if want := simPayload(st.Publisher, st.ID, m.Number); !bytes.Equal(want, m.Payload) {
				x.s.fail("%d of %v: message %d is another: %d bytes, want %d", x.index, st.Publisher, m.Number, len(m.Payload), len(want))
			}
			sub.next++
			x.s.count.Delivered++
			if x.s.got != nil {
				x.s.got(x, st, m.Number)
			}
		}
	}
	return true
}

// simLent is a packet that a node is lent.
type simLent struct {
	p   Packet
	sum uint32
}

// borrow holds a packet for as long as a hundred others come, and shows that it has not changed meanwhile.
func (x *simNode) borrow(p Packet) {
	if p.in == nil {
		return
	}
	p.Hold()
	x.lent = append(x.lent, simLent{p, crc32.ChecksumIEEE(p.Plain)})
	if x.s.filled[p.in] += len(p.Plain); x.s.filled[p.in] > cap(p.in.space) {
		x.s.filled[p.in] = 0
		x.s.count.Reused++
	}
	if len(x.lent) > 100 {
		if l := &x.lent[0]; crc32.ChecksumIEEE(l.p.Plain) != l.sum {
			x.s.fail("%d: packet %d has changed while it was held", x.index, l.p.Seq)
		} else {
			l.p.Release()
		}
		x.lent = x.lent[1:]
	}
}

// End implements Sink.
func (x *simNode) End(st *Stream, rest []Packet) {
	slow := x.slow
	x.slow = 0
	x.Deliver(st, rest)
	x.slow = slow
	if sub := x.heard[streamKey{st.Publisher, st.ID}]; sub != nil {
		sub.ended = true
	}
}

// Event implements Sink.
func (x *simNode) Event(Event) {}

// simPayload is what message number says: its length and bytes follow from who sent it and its number.
func simPayload(id ID, stream uint32, number uint64) []byte {
	mix := (uint64(id) ^ uint64(stream)<<40 ^ number) * 0x9e3779b97f4a7c15
	mix = (mix ^ mix>>31) * 0xbf58476d1ce4e5b9
	size := 16 + int(mix>>57)
	switch {
	case number%997 == 0:
		size = 60_000
	case number%61 == 0:
		size = 3000
	case number%17 == 0:
		size = 0
	}
	out := make([]byte, size)
	for i := range out {
		out[i] = byte(mix>>(i%8*8)) ^ byte(i)
	}
	return out
}

func (x *simNode) publish(subj string, cfg SenderConfig) *simPub {
	cfg.Subject = subj
	p := &simPub{node: x, subj: subj, tx: x.n.NewSender(x.s.now, cfg, nil)}
	if cfg.Class == LastValue {
		p.last = map[string]uint64{}
	}
	x.pubs = append(x.pubs, p)
	x.arm(x.s.now)
	return p
}

// send sends up to n messages and returns how many were taken.
func (p *simPub) send(n int) int {
	x := p.node
	sent := 0
	for range n {
		pl := simPayload(x.id, p.tx.ID(), p.sent+1)
		subj := ""
		if p.last != nil {
			subj = simKey(p.sent + 1)
		}
		number, full, err := p.tx.Send(subj, nil, pl)
		if errors.Is(err, ErrWouldBlock) {
			break
		}
		if err != nil || number != p.sent+1 {
			x.s.fail("send %d: %d, %v", p.sent+1, number, err)
			break
		}
		p.sent++
		sent++
		if p.last != nil {
			p.last[subj] = p.sent
		}
		x.s.count.Messages++
		if len(pl) > 600 {
			x.s.count.Fragments++
		}
		if full {
			p.tx.FlushFull(x.s.now)
		}
	}
	p.tx.Flush(x.s.now)
	x.arm(x.s.now.Add(beatFirst))
	return sent
}

// pump sends now and then until a time.
func (p *simPub) pump(until time.Time, every time.Duration, most int) {
	p.node.s.after(time.Duration(p.node.s.rnd.Int64N(int64(every)))+time.Microsecond, func() {
		if !p.node.up || !p.node.s.now.Before(until) {
			return
		}
		p.node.act(func() { p.send(1 + p.node.s.rnd.IntN(most)) })
		p.pump(until, every, most)
	})
}

// calm ends all faults.
func (s *simNet) calm() {
	s.loss, s.dup, s.burst = 0, 0, false
	s.jitter = 100 * time.Microsecond
	clear(s.cut)
	for _, x := range s.nodes {
		x.slow = 0
	}
}

// settled says what is not as it must be when the faults are over, or nil.
func (s *simNet) settled() error {
	for _, x := range s.nodes {
		if !x.up {
			continue
		}
		for _, o := range s.nodes {
			if o == x {
				continue
			}
			for _, p := range o.pubs {
				if !slices.ContainsFunc(x.want, func(i Interest) bool { return subject.Overlap(i.Pattern, p.subj) }) {
					continue
				}
				sub := x.heard[streamKey{o.id, p.tx.ID()}]
				if o.up {
					if sub == nil {
						return fmt.Errorf("%d does not get %s of %d", x.index, p.subj, o.index)
					}
					if p.last != nil {
						x.readValues(sub)
						if !maps.Equal(sub.last, p.last) {
							return fmt.Errorf("%d has of %s of %d %v, not %v", x.index, p.subj, o.index, sub.last, p.last)
						}
						continue
					}
					if sub.next != p.sent+1 {
						return fmt.Errorf("%d has %s of %d up to %d of %d", x.index, p.subj, o.index, sub.next-1, p.sent)
					}
					continue
				}
				if sub == nil {
					continue
				}
				if sub.st.Class != Reliable {
					continue
				}
				// Of one that is dead all that live have as much, or were told.
				for _, y := range s.nodes {
					if other := y.heard[streamKey{o.id, p.tx.ID()}]; y.up && other != nil && other.next > sub.next {
						return fmt.Errorf("%d has %s of the dead %d up to %d, %d up to %d", x.index, p.subj, o.index, sub.next-1, y.index, other.next-1)
					}
				}
			}
		}
	}
	return nil
}

// converge lets time pass until all is settled, at most for d.
func (s *simNet) converge(d time.Duration) error {
	end := s.now.Add(d)
	var err error
	for s.now.Before(end) && s.err == nil {
		s.run(s.now.Add(50 * time.Millisecond))
		if err = s.settled(); err == nil {
			break
		}
	}
	for _, x := range s.nodes {
		s.count.PeerRepairs += int(x.n.Stats.PeerRepairs)
		s.count.Suppressed += int(x.n.Stats.Suppressed)
		s.count.Relayed += int(x.n.Stats.Relayed)
		s.count.IslandRelayed += int(x.n.Stats.IslandRelayed)
		s.count.IslandRepairs += int(x.n.Stats.IslandRepairs)
		s.count.Rebuilt += int(x.n.Stats.Rebuilt)
		for _, p := range x.pubs {
			s.count.Repairs += int(p.tx.Snapshot().Repairs)
			s.count.Parity += int(p.tx.Snapshot().Parity)
		}
	}
	return errors.Join(s.err, err)
}
