package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/broker"
	"github.com/weft-net/weft/internal/natsproto"
)

// maxEar is how many bytes of messages wait for a caller who reads slowly, and earCost what each counts beside its own.
const (
	maxEar  = 8 << 20
	earCost = 128
)

func (b backend) Buses(context.Context) (api.Buses, error) {
	return api.Buses{Buses: append([]api.Bus{b.s.bus.status()}, b.s.bares.list()...)}, nil
}

func (b backend) Bus(_ context.Context, name string) (api.Bus, error) {
	if name == api.ClusterBus {
		return b.s.bus.status(), nil
	}
	return b.s.bares.get(name)
}

func (b backend) CreateBus(ctx context.Context, r api.BusCreate) (api.Bus, error) {
	if err := b.s.bares.create(ctx, r); err != nil {
		return api.Bus{}, err
	}
	return b.s.bares.get(r.Name)
}

func (b backend) RemoveBus(_ context.Context, name string) error { return b.s.bares.remove(name) }

// on waits until this host is on a bus.
func (b backend) on(ctx context.Context, name string) (done func(), err error) {
	if name != api.ClusterBus {
		if v, err := b.s.bares.get(name); err == nil {
			return nil, api.Errorf(api.CodeInvalid, "bus %s is bare: its messages are on the cluster's own bus", name).WithHint("leave --bus out; the subject is %s", v.Bare.Subject)
		}
		return nil, api.Errorf(api.CodeNotFound, "no bus %q", name).WithHint("weft buses lists them")
	}
	return b.s.bus.use(ctx)
}

func (b backend) Publish(ctx context.Context, name string, p api.BusPublish) (api.BusPublished, error) {
	var out api.BusPublished
	done, err := b.on(ctx, name)
	if err != nil {
		return out, err
	}
	defer done()
	r := b.s.bus.broker.Router()
	for _, m := range p.Messages {
		res, err := send(ctx, r, m, m.Reply)
		if err != nil {
			return out, err
		}
		out.Published++
		if res.Wanted {
			out.Wanted++
		}
	}
	return out, nil
}

// send publishes a message as the API has it.
func send(ctx context.Context, r *broker.Router, m api.BusMessage, reply string) (broker.Result, error) {
	bm := broker.Message{Payload: []byte(m.Payload)}
	if reply != "" {
		bm.Reply = []byte(reply)
	}
	if len(m.PayloadBase64) > 0 {
		bm.Payload = m.PayloadBase64
	}
	if len(m.Headers) > 0 {
		var fields []natsproto.Field
		for name, values := range m.Headers {
			for _, v := range values {
				fields = append(fields, natsproto.Field{Name: name, Value: v})
			}
		}
		slices.SortStableFunc(fields, func(a, b natsproto.Field) int { return cmp.Compare(a.Name, b.Name) })
		bm.Header = natsproto.AppendHeader(nil, fields)
	}
	if n := len(bm.Payload) + len(bm.Header); n > api.MaxBusPayload {
		return broker.Result{}, api.Errorf(api.CodeTooLarge, "a message on %q of %d bytes, headers included: at most %d", m.Subject, n, api.MaxBusPayload)
	}
	res, err := r.Publish(ctx, []byte(m.Subject), &bm, broker.Options{})
	if err != nil {
		return res, refusal(err)
	}
	return res, nil
}

// refusal says in the API's words what a broker refuses.
func refusal(err error) error {
	switch {
	case errors.Is(err, broker.ErrSubject), errors.Is(err, broker.ErrReserved):
		return api.Errorf(api.CodeInvalid, "%w", err)
	case errors.Is(err, broker.ErrFull):
		return api.Errorf(api.CodeUnavailable, "%w: %d on this host", err, broker.MaxSubscriptions)
	}
	return api.Errorf(api.CodeUnavailable, "%w", err)
}

func (b backend) Request(ctx context.Context, name string, r api.BusRequest) (api.BusMessage, error) {
	done, err := b.on(ctx, name)
	if err != nil {
		return api.BusMessage{}, err
	}
	defer done()
	e := &ear{signal: make(chan struct{}, 1)}
	inbox := "_INBOX." + rand.Text()
	sub, err := b.s.bus.broker.Subscribe(ctx, inbox, "", e, nil)
	if err != nil {
		return api.BusMessage{}, refusal(err)
	}
	defer b.s.bus.broker.Unsubscribe(sub)
	limit := time.Duration(cmp.Or(r.TimeoutMS, api.DefaultRequestMS)) * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	res, err := send(ctx, b.s.bus.broker.Router(), r.BusMessage, inbox)
	if err != nil {
		return api.BusMessage{}, err
	}
	if !res.Wanted {
		return api.BusMessage{}, api.Errorf(api.CodeUnavailable, "nobody is there to answer on %q", r.Subject)
	}
	for {
		if got, _ := e.take(); len(got) > 0 {
			if got[0].Status == "503" {
				return api.BusMessage{}, api.Errorf(api.CodeUnavailable, "nobody is there to answer on %q", r.Subject)
			}
			return got[0], nil
		}
		select {
		case <-e.signal:
		case <-ctx.Done():
			return api.BusMessage{}, api.Errorf(api.CodeTimeout, "no answer on %q within %v", r.Subject, limit)
		}
	}
}

func (b backend) Subscribe(ctx context.Context, name string, q api.BusSubscribe, tell func(api.BusEvent) error) error {
	done, err := b.on(ctx, name)
	if err != nil {
		return err
	}
	defer done()
	e := &ear{signal: make(chan struct{}, 1)}
	sub, err := b.s.bus.broker.Subscribe(ctx, q.Subject, q.Queue, e, nil)
	if err != nil {
		return refusal(err)
	}
	defer b.s.bus.broker.Unsubscribe(sub)
	if err := tell(api.BusEvent{Ready: true}); err != nil {
		return err
	}
	for {
		got, dropped := e.take()
		for i := range got {
			if err := tell(api.BusEvent{Message: &got[i]}); err != nil {
				return err
			}
		}
		if dropped > 0 {
			if err := tell(api.BusEvent{Dropped: dropped}); err != nil {
				return err
			}
		}
		select {
		case <-e.signal:
		case <-ctx.Done():
			return nil
		case <-b.s.ctx.Done():
			return api.Errorf(api.CodeUnavailable, "this host is stopping")
		}
	}
}

// ear keeps messages for a caller of the API, so many and no more.
type ear struct {
	signal chan struct{}

	mu      sync.Mutex // guards all below
	got     []api.BusMessage
	bytes   int
	dropped uint64
}

var _ broker.Sink = (*ear)(nil)

// Deliver implements broker.Sink.
func (e *ear) Deliver(_ *broker.Subscription, m *broker.Message) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bytes >= maxEar || e.dropped > 0 { // what was dropped is told before anything else
		e.dropped++
	} else {
		out := api.BusMessage{Subject: m.Subject, Reply: string(m.Reply)}
		if utf8.Valid(m.Payload) {
			out.Payload = string(m.Payload)
		} else {
			out.PayloadBase64 = slices.Clone(m.Payload)
		}
		if status, fields, ok := natsproto.ParseHeader(m.Header); ok {
			out.Status = status
			for _, f := range fields {
				if out.Headers == nil {
					out.Headers = map[string][]string{}
				}
				out.Headers[f.Name] = append(out.Headers[f.Name], f.Value)
			}
		}
		e.got = append(e.got, out)
		e.bytes += earCost + len(m.Header) + len(m.Payload)
	}
	select {
	case e.signal <- struct{}{}:
	default:
	}
	return nil
}

func (e *ear) take() (got []api.BusMessage, dropped uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	got, dropped = e.got, e.dropped
	e.got, e.bytes, e.dropped = nil, 0, 0
	return got, dropped
}
