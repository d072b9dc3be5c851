package rmcast

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// A stream of the class LastValue is sent as a reliable one; sender and receivers keep the last message of each subject (Values),
// and subscribers read from there. A new receiver gets the stream from now on, and all values of before by a snapshot: a stream of its own
// for one receiver, which ends. Its messages have their number in the stream before their payload. A receiver that lacks
// what the window has no more gets a snapshot, too, in place of word of a loss. Until a snapshot is complete nothing is read,
// so numbers only grow.

// snapshot is a sender's part in one.
type snapshot struct {
	of   *Sender
	only ID // for whom
	rest []*Value
}

// wanted is a snapshot that a receiver is to get.
type wanted struct {
	values []*Value
	to     uint64 // the packet from which on it gets the stream
	msg    uint64
	at     time.Time
	id     uint32 // of the snapshot's stream; 0: none, or none yet
	made   bool
}

// keep notes a value that is about to be sent.
func (s *Sender) keep(subj string, headers, payload []byte) error {
	if size := len(subj) + len(headers) + len(payload) + 16; size > MaxMessage-8 || s.cfg.Window < 4*size && size > s.limit-64 {
		return ErrTooLarge
	}
	if subj == "" {
		subj = s.cfg.Subject
	}
	if !s.values.fits(subj, len(headers)+len(payload)) {
		return ErrValues
	}
	s.values.put(s.message, []byte(subj), headers, payload)
	return nil
}

// Values returns the last values of a stream of that class; nil of another.
func (s *Sender) Values() *Values { return s.values }

// renew has a receiver get the stream from now on, and a snapshot of what was before.
func (s *Sender) renew(now time.Time, t *target) {
	s.close(false)
	t.snap = wanted{values: s.values.all(), to: s.store.next, msg: s.message, at: now}
}

// restart is renew for a receiver to whom the stream is announced.
func (s *Sender) restart(now time.Time, t *target) {
	s.renew(now, t)
	t.from, t.fromMessage, t.acked = t.snap.to, t.snap.msg, t.snap.to
	t.now, t.nowMessage = t.from, t.fromMessage
}

// leapFor tells a receiver that lacks what is kept no more where to go on, and has it get a snapshot.
func (s *Sender) leapFor(now time.Time, t *target) {
	if t.snap.made && t.snap.to >= s.store.first && t.acked < t.snap.to {
		s.sayLeap(t)
		return
	}
	if !t.snap.made && t.snap.to > 0 {
		return // it is about to be
	}
	s.renew(now, t)
	t.leaping = true
}

func (s *Sender) sayLeap(t *target) {
	s.Stats.Skips++
	b, at := record(nil, recSkip)
	s.control(t, done(u32(u64(u64(u32(b, s.id), t.snap.to), t.snap.msg), t.snap.id), at))
}

// snapshots makes the streams of snapshots that are wanted, fills those that are under way and forgets those that are not needed any more.
func (n *Node) snapshots(now time.Time) {
	for _, tx := range slices.Clone(n.senders) {
		switch {
		case tx.cfg.Class == LastValue:
			n.makeSnapshots(now, tx)
		case tx.snapshot != nil:
			n.pump(now, tx)
		}
	}
}

func (n *Node) makeSnapshots(now time.Time, tx *Sender) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	for _, t := range tx.targets {
		if t.snap.made || t.snap.to == 0 {
			continue
		}
		t.snap.made, t.snap.id = true, 0
		n.senders = slices.DeleteFunc(n.senders, func(o *Sender) bool { return o.snapshot != nil && o.snapshot.of == tx && o.snapshot.only == t.id })
		if len(t.snap.values) > 0 {
			bytes := 0
			for _, v := range t.snap.values {
				bytes += v.size()
			}
			n.nextStream++
			side := newSender(n, n.nextStream, SenderConfig{
				Subject: tx.cfg.Subject, Class: snapshotClass, Window: max(tx.cfg.Window, min(2*bytes, maxWindow)), Keep: tx.cfg.Keep, Fanout: tx.cfg.Fanout,
			})
			side.snapshot = &snapshot{of: tx, only: t.id, rest: t.snap.values}
			t.snap.id = side.id
			n.senders = append(n.senders, side)
			if m := n.byID[t.id]; m != nil {
				n.target(now, side, m)
			}
			n.wake(side.tick(now))
		}
		if t.snap.values = nil; t.leaping {
			t.leaping = false
			tx.sayLeap(t)
		}
	}
}

// pump sends what a receiver has room for.
func (n *Node) pump(now time.Time, side *Sender) {
	side.mu.Lock()
	p := side.snapshot
	over := len(side.targets) == 0
	for _, t := range side.targets {
		var b []byte
		for len(p.rest) > 0 && t.known && t.live {
			v := p.rest[0]
			b = append(u64(b[:0], v.Number), v.Payload...)
			subj := v.Subject
			if subj == side.cfg.Subject {
				subj = ""
			}
			if _, err := side.send(subj, v.Headers, b, nil); errors.Is(err, ErrWouldBlock) {
				break
			}
			p.rest = p.rest[1:]
		}
	}
	side.flush(now)
	if len(p.rest) == 0 && !side.ended {
		side.ended = true
		side.beatAt, side.beatPause = now, beatFirst
	}
	side.mu.Unlock()
	if over || side.Ended() {
		n.Remove(side)
	}
}

// begin prepares a stream of a class that has values; false: it cannot be received.
func (r *rx) begin(other uint32) bool {
	switch r.st.Class {
	case LastValue:
		r.awaits = other
		r.st.Values = newValues(MaxValues, other == 0)
		r.cur.Start(r.st.From)
	case snapshotClass:
		if r.main = r.n.streams[streamKey{r.m.ID, other}]; r.main == nil || r.main.st.Values == nil {
			return false // it is announced again
		}
		for _, o := range slices.Clone(r.n.order) { // its publisher has begun anew: what is here of another will not go on
			if o.main == r.main && o.st.ID < r.st.ID {
				r.n.dirty = slices.DeleteFunc(r.n.dirty, func(d *rx) bool { return d == o })
				r.n.drop(o)
			}
		}
		r.cur.Start(1)
	case Reliable, BestEffort:
	}
	return true
}

// learn puts what came into the table.
func (r *rx) learn() {
	into := r.st.Values
	if r.main != nil {
		into = r.main.st.Values
	}
	for _, p := range r.ready {
		if p.Plain == nil {
			r.cur.Gone(p.Gone)
			continue
		}
		if _, _, err := r.cur.Open(p.Seq, p.Plain); err != nil {
			r.n.Stats.Malformed++
			continue
		}
		var m Message
		for {
			ok, err := r.cur.Next(&m)
			if err != nil {
				r.n.Stats.Malformed++
			}
			if !ok {
				break
			}
			if m.Subject == nil {
				m.Subject = []byte(r.st.Subject)
			}
			if r.main != nil {
				if len(m.Payload) < 8 {
					r.n.Stats.Malformed++
					continue
				}
				m.Number, m.Payload = binary.BigEndian.Uint64(m.Payload), m.Payload[8:]
			}
			r.n.Stats.ValuesForgotten += into.put(m.Number, m.Subject, m.Headers, m.Payload)
		}
	}
}

// learnt tells the sink, and ends the waiting for a snapshot that is complete.
func (r *rx) learnt(news bool) {
	if r.main == nil {
		if news && r.awaits == 0 {
			r.n.cfg.Sink.Deliver(r.st, nil)
		}
		return
	}
	if main := r.main; r.finished() && main.had < r.st.ID {
		// A later one than it awaits has all of that, too: the publisher took this member for gone, and began anew.
		if main.had = r.st.ID; main.awaits <= r.st.ID {
			main.complete()
		}
	}
}

// complete has what is here read.
func (r *rx) complete() {
	if r.st.Values == nil || r.awaits == 0 {
		return
	}
	r.awaits = 0
	r.st.Values.setWhole(true)
	r.n.cfg.Sink.Deliver(r.st, nil)
}

// leapTo goes on at a packet when a snapshot of what was before is here.
func (r *rx) leapTo(seq, message uint64, id uint32) {
	if seq <= r.next {
		return
	}
	if id > r.had { // before anything that comes from the leap is read
		r.awaits = id
		r.st.Values.setWhole(false)
	}
	r.keepWord(seq)
	r.leap(seq, message)
	r.answer = true
	r.n.touch(r)
}
