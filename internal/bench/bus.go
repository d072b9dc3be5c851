package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/load"
	"github.com/weft-net/weft/internal/measure"
	"github.com/weft-net/weft/internal/subject"
)

// Messages is what an Endpoint needs of the cluster's bus.
type Messages interface {
	// Hear calls got for each message on a subject, one after the other, until end is called. got must not wait, nor keep
	// the payload.
	Hear(ctx context.Context, subj string, got func(payload []byte)) (end func(), err error)
	// Publisher returns what publishes, for one goroutine. It waits while receivers are behind; the payload is the caller's
	// again when it returns.
	Publisher() func(ctx context.Context, subj string, payload []byte) error
	// Close says that the bus is needed no more.
	Close()
}

// Operations of a busAsk.
const (
	// busHear counts what comes on Subject from now on, busEcho publishes it again on Subject with echoSuffix, busQuiet ends both.
	busHear  = "hear"
	busEcho  = "echo"
	busQuiet = "quiet"
	// busPublish publishes messages of PayloadBytes on Subject for DurationMS, as fast as it goes, as Run.
	busPublish = "publish"
	// busPing publishes at Rate for DurationMS and answers with Trips of what is echoed.
	busPing = "ping"
	// busCount answers with what came of Run, of which Sent were published, once no more comes.
	busCount = "count"
)

const (
	// busSubjects begin the only subjects that are measured with.
	busSubjects = "_BENCH."
	echoSuffix  = ".back"
	// leastMessage is run, number and stamp; mostMessage bounds what another host can have this one make.
	leastMessage = measure.HeaderSize + 8
	mostMessage  = 64 << 10
	// mostEchoes wait to be published.
	mostEchoes = 4096
	// countQuiet ends a run that lacks messages: repairs take less. countTime bounds the waiting for it.
	countQuiet = time.Second
	countTime  = 10 * time.Second
	countTick  = 10 * time.Millisecond
)

type busAsk struct {
	Op           string `json:"op"`
	Subject      string `json:"subject,omitempty"`
	Run          uint32 `json:"run,omitempty"`
	PayloadBytes int    `json:"payload_bytes,omitempty"`
	Rate         int    `json:"rate,omitempty"`
	DurationMS   int    `json:"duration_ms,omitempty"`
	Sent         uint64 `json:"sent,omitempty"`
}

// check bounds what another host asks for.
func (a busAsk) check() error {
	switch a.Op {
	case busQuiet, busCount:
		return nil
	case busHear, busEcho, busPublish, busPing:
	default:
		return fmt.Errorf("no operation %q", a.Op)
	}
	if !strings.HasPrefix(a.Subject, busSubjects) {
		return fmt.Errorf("subject %q does not begin with %s", a.Subject, busSubjects)
	}
	if err := subject.Check(a.Subject + echoSuffix); err != nil {
		return err
	}
	if a.Op == busHear || a.Op == busEcho {
		return nil
	}
	switch {
	case a.DurationMS < 1 || a.DurationMS > api.MaxBenchMS:
		return fmt.Errorf("%d ms: want 1 to %d", a.DurationMS, api.MaxBenchMS)
	case a.PayloadBytes < leastMessage || a.PayloadBytes > mostMessage:
		return fmt.Errorf("messages of %d bytes: want %d to %d", a.PayloadBytes, leastMessage, mostMessage)
	case a.Op == busPing && (a.Rate < 1 || a.Rate > api.MaxBenchBusRate):
		return fmt.Errorf("%d messages a second: want 1 to %d", a.Rate, api.MaxBenchBusRate)
	}
	return nil
}

func (a busAsk) duration() time.Duration { return time.Duration(a.DurationMS) * time.Millisecond }

// busReply answers: of publish Sent and Seconds, of count what came, of ping Trips.
type busReply struct {
	Sent       uint64      `json:"sent,omitempty"`
	Seconds    float64     `json:"seconds,omitempty"` // of count: from the first message to the last
	Received   uint64      `json:"received,omitempty"`
	Duplicates uint64      `json:"duplicates,omitempty"`
	Misplaced  uint64      `json:"misplaced,omitempty"`
	Trips      *load.Trips `json:"trips,omitempty"`
}

// busEnd is one measurement of the bus at this end.
type busEnd struct {
	bus  Messages
	ends []func()
	wg   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	count measure.Counter
	run   uint32
	next  uint64
	late  uint64
	first time.Time
	last  time.Time
}

var _ Agent = (*busEnd)(nil)

func newBusEnd(ctx context.Context, h Host) (*busEnd, error) {
	if h.Bus == nil {
		return nil, api.Errorf(api.CodeRefused, "it has no bus")
	}
	m, err := h.Bus(ctx)
	if err != nil {
		return nil, err
	}
	return &busEnd{bus: m}, nil
}

// Do implements Agent: there is no network here.
func (b *busEnd) Do(context.Context, load.Request) (load.Reply, error) {
	return load.Reply{}, errors.New("the bus is measured, not a network")
}

// Done implements Agent: it ends with its session only.
func (b *busEnd) Done() <-chan struct{} { return nil }

func (b *busEnd) close() {
	b.quiet()
	b.bus.Close()
}

func (b *busEnd) quiet() {
	for _, end := range b.ends {
		end()
	}
	b.ends = nil
	b.wg.Wait()
}

func (b *busEnd) answer(ctx context.Context, a busAsk) (r busReply, err error) {
	if err := a.check(); err != nil {
		return r, api.Errorf(api.CodeInvalid, "%w", err)
	}
	switch a.Op {
	case busQuiet:
		b.quiet()
	case busHear:
		err = b.hear(ctx, a.Subject, b.take)
	case busEcho:
		err = b.echo(ctx, a.Subject)
	case busPublish:
		r, err = b.publish(ctx, a)
	case busPing:
		r, err = b.ping(ctx, a)
	case busCount:
		r, err = b.counted(ctx, a)
	}
	if err != nil && ctx.Err() == nil {
		err = api.Errorf(api.CodeUnavailable, "%w", err)
	}
	return r, err
}

func (b *busEnd) hear(ctx context.Context, subj string, got func([]byte)) error {
	end, err := b.bus.Hear(ctx, subj, got)
	if err == nil {
		b.ends = append(b.ends, end)
	}
	return err
}

// take counts a message.
func (b *busEnd) take(payload []byte) {
	run, number, ok := measure.ParseHeader(payload)
	if !ok {
		return
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if run > b.run {
		b.run, b.next, b.late, b.first = run, 0, 0, now
	}
	if run == b.run {
		b.last = now
		if number < b.next {
			b.late++
		} else {
			b.next = number + 1
		}
	}
	b.count.Add(payload)
}

func (b *busEnd) counted(ctx context.Context, a busAsk) (busReply, error) {
	tick := time.NewTicker(countTick)
	defer tick.Stop()
	began := time.Now()
	for {
		b.mu.Lock()
		t, late, took, last := b.count.Of(a.Run), b.late, b.last.Sub(b.first), b.last
		if b.run != a.Run {
			late, took, last = 0, 0, began
		}
		b.mu.Unlock()
		now := time.Now()
		if t.Datagrams >= a.Sent || now.Sub(last) > countQuiet && now.Sub(began) > countQuiet || now.Sub(began) > countTime {
			return busReply{Received: t.Datagrams, Duplicates: t.Duplicates, Misplaced: late - min(late, t.Duplicates), Seconds: took.Seconds()}, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return busReply{}, ctx.Err()
		}
	}
}

// echo publishes what comes on another subject, apart from who delivers it.
func (b *busEnd) echo(ctx context.Context, subj string) error {
	echoes := make(chan []byte, mostEchoes)
	if err := b.hear(ctx, subj, func(payload []byte) {
		select {
		case echoes <- append([]byte(nil), payload...):
		default: // an echo that does not come is one lost
		}
	}); err != nil {
		return err
	}
	// The request's context ends with the session; the goroutine ends with the subscription.
	ctx, cancel := context.WithCancel(ctx)
	b.ends = append(b.ends, cancel)
	publish := b.bus.Publisher()
	b.wg.Go(func() {
		for {
			select {
			case p := <-echoes:
				if publish(ctx, subj+echoSuffix, p) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// publish sends as fast as it goes.
func (b *busEnd) publish(ctx context.Context, a busAsk) (busReply, error) {
	const between = 64 // messages, looks at the clock
	payload := make([]byte, a.PayloadBytes)
	publish := b.bus.Publisher()
	began := time.Now()
	sent := uint64(0)
	for time.Since(began) < a.duration() {
		for range between {
			measure.PutHeader(payload, a.Run, sent)
			if err := publish(ctx, a.Subject, payload); err != nil {
				return busReply{}, err
			}
			sent++
		}
	}
	return busReply{Sent: sent, Seconds: time.Since(began).Seconds()}, nil
}

// ping sends at a pace and waits for the echoes.
func (b *busEnd) ping(ctx context.Context, a busAsk) (busReply, error) {
	began := time.Now()
	total := max(int(float64(a.Rate)*a.duration().Seconds()), 1)
	var mu sync.Mutex // guards trips
	trips := make([]float64, 0, total)
	all := make(chan struct{})
	end, err := b.bus.Hear(ctx, a.Subject+echoSuffix, func(payload []byte) {
		run, _, ok := measure.ParseHeader(payload)
		if !ok || run != a.Run || len(payload) < leastMessage {
			return
		}
		sent := time.Duration(binary.BigEndian.Uint64(payload[measure.HeaderSize:]))
		mu.Lock()
		defer mu.Unlock()
		if len(trips) < total {
			trips = append(trips, float64(time.Since(began)-sent)/1e6)
			if len(trips) == total {
				close(all)
			}
		}
	})
	if err != nil {
		return busReply{}, err
	}
	defer end()
	payload := make([]byte, a.PayloadBytes)
	publish := b.bus.Publisher()
	pace := time.NewTicker(max(time.Second/time.Duration(a.Rate), time.Millisecond))
	defer pace.Stop()
	start := time.Now()
	for sent := 0; sent < total; {
		for due := min(total, 1+int(float64(a.Rate)*time.Since(start).Seconds())); sent < due; sent++ {
			measure.PutHeader(payload, a.Run, uint64(sent))
			binary.BigEndian.PutUint64(payload[measure.HeaderSize:], uint64(time.Since(began)))
			if err := publish(ctx, a.Subject, payload); err != nil {
				return busReply{}, err
			}
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return busReply{}, ctx.Err()
		}
	}
	took := time.Since(start)
	limit := time.NewTimer(countQuiet)
	defer limit.Stop()
	select {
	case <-all:
	case <-limit.C:
	case <-ctx.Done():
		return busReply{}, ctx.Err()
	}
	mu.Lock()
	defer mu.Unlock()
	t := load.Trips{Sent: total, Answered: len(trips)}
	if len(trips) > 0 {
		t.MinMS, t.P50MS = measure.Quantile(trips, 0), measure.Median(trips)
		t.P99MS, t.MaxMS = measure.Quantile(trips, 0.99), measure.Quantile(trips, 1)
	}
	return busReply{Sent: uint64(total), Seconds: took.Seconds(), Trips: &t}, nil
}
