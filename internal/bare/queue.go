package bare

import (
	"sync"

	"github.com/weft-net/weft/internal/broker"
)

// maxQueue is how many bytes of messages wait to be sent to the group.
const maxQueue = 4 << 20

// queue holds messages on their way to the group, one after the other in one buffer: whoever publishes adds, one goroutine takes all
// at a time.
type queue struct {
	counts *counters
	most   int // the longest payload
	signal chan struct{}

	mu    sync.Mutex // guards all below
	open  bool
	buf   []byte
	ends  []int
	taken chan struct{} // closed and replaced when all is taken
}

var _ broker.Sink = (*queue)(nil)

func newQueue(c *counters, most int) *queue {
	return &queue{counts: c, most: most, signal: make(chan struct{}, 1), taken: make(chan struct{})}
}

// Deliver implements broker.Sink.
func (q *queue) Deliver(_ *broker.Subscription, m *broker.Message) <-chan struct{} {
	if len(m.Payload) > q.most {
		q.counts.drops[dropTooLarge].Add(1)
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.open {
		q.counts.drops[dropYielded].Add(1)
		return nil
	}
	if len(q.buf)+len(m.Payload) > maxQueue || len(q.ends) >= maxQueue/64 {
		q.counts.drops[dropQueueFull].Add(1)
		return q.taken
	}
	q.buf = append(q.buf, m.Payload...)
	q.ends = append(q.ends, len(q.buf))
	select {
	case q.signal <- struct{}{}:
	default:
	}
	if len(q.buf) > maxQueue/4*3 {
		return q.taken
	}
	return nil
}

// take returns what waits, and keeps the buffers that it is given for what comes.
func (q *queue) take(buf []byte, ends []int) ([]byte, []int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	outBuf, outEnds := q.buf, q.ends
	q.buf, q.ends = buf[:0], ends[:0]
	close(q.taken)
	q.taken = make(chan struct{})
	return outBuf, outEnds
}

// set opens the queue, or closes it and drops what waits: another host sends it.
func (q *queue) set(open bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open = open; !open {
		q.counts.drops[dropYielded].Add(uint64(len(q.ends)))
		q.buf, q.ends = q.buf[:0], q.ends[:0]
	}
}
