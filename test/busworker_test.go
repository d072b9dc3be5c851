package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weft-net/weft/bus"
)

// tokenVariable carries the token of a worker's bus.
const tokenVariable = "WEFT_TEST_BUS_TOKEN"

// busWorker is a Go program on the cluster's own bus: NAME BUS SEED... It answers on svc.NAME in capitals, works in the queue group workers on job.>
// (twice if its name ends in 2), takes what comes on order.>, and does what it is asked for on ctl.NAME.
func busWorker() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a := os.Args[1:]
	b, err := bus.Join(ctx, bus.Config{Name: a[1], Token: os.Getenv(tokenVariable), Member: a[0], Seeds: a[2:]})
	if err != nil {
		return err
	}
	w := &worker{b: b, name: a[0], jobs: map[int]int{}}
	groups := 1 + strings.Count(a[0], "2")
	for range groups {
		s, err := b.Subscribe("job.>", bus.WithQueue("workers"))
		if err != nil {
			return err
		}
		go w.work(ctx, s)
	}
	order, err := b.Subscribe("order.>")
	if err != nil {
		return err
	}
	go w.follow(ctx, order)
	for subj, h := range map[string]bus.Handler{"svc." + w.name: w.answer, "ctl." + w.name: w.control} {
		if _, err := b.Respond(subj, h, bus.WithWorkers(4)); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintln(os.Stdout, "ready")
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return b.Close(ctx)
}

type worker struct {
	b    *bus.Bus
	name string

	mu      sync.Mutex // guards all below
	jobs    map[int]int
	next    int // what must come next on order.>
	problem string
}

func (w *worker) answer(_ context.Context, m bus.Message) (bus.Outgoing, error) {
	if len(m.Payload) == 0 {
		return bus.Outgoing{}, errors.New("nothing to say")
	}
	return bus.Outgoing{Payload: bytes.ToUpper(m.Payload), Header: bus.Header{"By": {w.name}, "For": {m.Header().Get("From")}}}, nil
}

func (w *worker) work(ctx context.Context, s *bus.Subscription) {
	for m, err := range s.Messages(ctx) {
		n, bad := strconv.Atoi(string(m.Payload))
		w.mu.Lock()
		if err = errors.Join(err, bad); err != nil {
			w.problem = err.Error()
		}
		w.jobs[n]++
		w.mu.Unlock()
	}
}

func (w *worker) follow(ctx context.Context, s *bus.Subscription) {
	for m, err := range s.Messages(ctx) {
		w.mu.Lock()
		switch text := string(m.Payload); {
		case err != nil:
			w.problem = err.Error()
		case text == "begin":
			w.next = 1
		case text == strconv.Itoa(w.next):
			w.next++
		default:
			w.problem = fmt.Sprintf("%s on %s, not %d", text, m.Subject, w.next)
		}
		w.mu.Unlock()
	}
}

// control does what a message says, and answers what came of it.
func (w *worker) control(ctx context.Context, m bus.Message) (o bus.Outgoing, err error) {
	var text string
	switch f := strings.Fields(string(m.Payload)); f[0] {
	case "jobs": // those that came since it was asked last
		w.mu.Lock()
		for n, times := range w.jobs {
			for range times {
				text += fmt.Sprint(n, " ")
			}
		}
		clear(w.jobs)
		w.mu.Unlock()
	case "ordered": // how many came, one after the other
		w.mu.Lock()
		text = fmt.Sprint(w.next - 1)
		w.mu.Unlock()
	case "request": // SUBJECT TEXT
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		answer, err := w.b.RequestMessage(ctx, bus.Outgoing{Subject: f[1], Payload: []byte(f[2]), Header: bus.Header{"From": {w.name}}})
		if err != nil {
			return o, err
		}
		text = fmt.Sprintf("%s %v", answer.Payload, answer.Header())
	case "publish": // PATTERN SUBJECT FIRST COUNT
		p, err := w.b.Publisher(f[1])
		if err != nil {
			return o, err
		}
		for i := range number(f[4]) {
			if err := p.SendMessage(ctx, bus.Outgoing{Subject: f[2], Payload: fmt.Append(nil, number(f[3])+i)}); err != nil {
				return o, err
			}
		}
		if err := p.Close(ctx); err != nil {
			return o, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problem != "" {
		return o, errors.New(w.problem)
	}
	return bus.Outgoing{Payload: []byte(text)}, nil
}
