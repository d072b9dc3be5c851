package bus

import (
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
)

// Subscriptions read streams with last values from a table: of this process's publisher, or of the receiving half of the stream. What waits
// in the queue is only word that there is something new.

// valuesAtOnce is how many values are taken off a table under one lock.
const valuesAtOnce = 64

// poke puts word into the queue that a table has something new, once.
func (s *Subscription) poke(f *feed) {
	s.mu.Lock()
	if s.ended || f.poked {
		s.mu.Unlock()
		return
	}
	f.poked = true
	s.items = append(s.items, item{f: f})
	s.bytes += itemCost
	s.mu.Unlock()
	s.tell()
}

// readValues yields what is new in a table; false when the reader wants no more for now.
func (f *feed) readValues(yield func(Message, error) bool) bool {
	return f.eachNew(func(v *rmcast.Value) bool {
		if !subject.Overlap(f.sub.pattern, v.Subject) {
			return true
		}
		m := Message{Subject: v.Subject, Payload: v.Payload, Publisher: f.st.Name, Epoch: uint64(f.st.Publisher), Number: v.Number}
		if v.Headers != nil {
			m.extra = f.extraOf(v.Headers)
		}
		return yield(m, nil)
	})
}

// eachNew calls do for what is new in a table, until that returns false; then it does, too.
func (f *feed) eachNew(do func(*rmcast.Value) bool) bool {
	f.sub.mu.Lock()
	f.poked = false // what comes from now on is told again
	f.sub.mu.Unlock()
	if f.batch == nil {
		f.batch = make([]*rmcast.Value, 0, valuesAtOnce)
	}
	for {
		vs := f.st.Values.Next(f.seen, f.batch[:0])
		if len(vs) == 0 {
			return true
		}
		for _, v := range vs {
			f.seen = v.Number
			if !do(v) {
				return false
			}
		}
	}
}
