package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"syscall"
	"time"
)

// A message of the bus benchmark has 64 bytes, little endian, and the C client's are the same:
//
//	0     4       8          16                  24
//	+-----+-------+----------+-------------------+------+
//	| run | flags | number 8 | CLOCK_MONOTONIC 8 | zero |
//	+-----+-------+----------+-------------------+------+
//
// Numbers begin at 0 in each run. The stamp, in nanoseconds, is 0 where nobody asks for latency. The last message of a run
// has flag 1, and in place of its number how many there were.
const (
	messageSize = 64
	flagLast    = 1
)

// busOptions are what a client of the bus benchmark is told.
type busOptions struct {
	peer        string // address of whom to speak to: the broker or the publisher
	own, dev    string // of this host
	subscribers int    // that a publisher waits for
	token       string // of the bus
	multicast   bool   // the underlay carries it: wait until it is used
	profile     string // a file for a CPU profile
}

// busPublisher is a system's way to publish.
type busPublisher interface {
	// publish hands messages over; they are the caller's again when it returns.
	publish(block [][]byte) error
	// finish sends the last message of a run and returns when the system has taken everything.
	finish(last []byte) error
}

// repeating is a publisher whose last message may be lost: it says it again when the time was taken.
type repeating interface {
	repeat(last []byte) error
}

// busClient is how this binary speaks to a system.
type busClient struct {
	block     int // messages handed over at once, as far as they are due
	publisher func(ctx context.Context, o busOptions) (busPublisher, error)
	// subscribe calls got for each message until ctx ends; it calls ready when it hears everything from now on.
	subscribe func(ctx context.Context, o busOptions, ready func(), got func([]byte)) error
}

var busClients = map[string]busClient{
	"weft":   {64, publishWeft, subscribeWeft},
	"nats":   {64, publishNATS, subscribeNATS},
	"redis":  {64, publishRedis, subscribeRedis},
	"single": {64, publishRaw(1, 1), subscribeRaw(messageSize)},
	"packed": {rawPacked * 16, publishRaw(rawPacked, 1), subscribeRaw(rawRecord)},
	"gso":    {rawPacked * rawTrain, publishRaw(rawPacked, rawTrain), subscribeRaw(rawRecord)},
}

// busCommand is a client: a publisher, which sends a run for each line "RUN RATE MILLISECONDS" (rate 0: as fast as it goes) and
// answers "sent RUN MESSAGES NANOSECONDS", or a subscriber, which says "got ..." (see tally) after each run.
func busCommand(ctx context.Context, role string, args []string, in io.Reader, out io.Writer) (err error) {
	f := flag.NewFlagSet(role, flag.ContinueOnError)
	var o busOptions
	system := f.String("system", "", "whose client")
	f.StringVar(&o.peer, "peer", "", "address of the broker or the publisher")
	f.StringVar(&o.own, "own", "", "address of this host")
	f.StringVar(&o.dev, "dev", "eth0", "interface for multicast")
	f.IntVar(&o.subscribers, "subscribers", 1, "how many to wait for")
	f.StringVar(&o.token, "token", "", "of the bus")
	f.BoolVar(&o.multicast, "multicast", false, "wait until multicast is used")
	f.StringVar(&o.profile, "profile", "", "file for a CPU profile")
	if err := f.Parse(args); err != nil {
		return err
	}
	c, ok := busClients[*system]
	if !ok {
		return fmt.Errorf("--system: there is no client for %q", *system)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	if o.profile != "" {
		file, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if role == roleSubscribe {
		t := &tally{out: out}
		return c.subscribe(ctx, o, func() { fmt.Fprintln(out, "ready") }, t.add)
	}
	p, err := c.publisher(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	ended := make(chan error, 1)
	go func() { ended <- publishRuns(p, c.block, in, out) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

const (
	rolePublish   = "bus-publish"
	roleSubscribe = "bus-subscribe"
)

func publishRuns(p busPublisher, block int, in io.Reader, out io.Writer) error {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var run uint32
		var rate, ms int64
		if _, err := fmt.Sscan(lines.Text(), &run, &rate, &ms); err != nil {
			return fmt.Errorf("want RUN RATE MILLISECONDS: %w", err)
		}
		sent, took, err := publishRun(p, block, run, rate, time.Duration(ms)*time.Millisecond)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "sent", run, sent, took.Nanoseconds())
	}
	return nil
}

// coarse is the pause between bursts of a pace for which one message at a time is too many wake-ups, fine the shortest pause.
const (
	coarse = 500 * time.Microsecond
	fine   = 100 * time.Microsecond
)

// stamped is the highest pace at which messages are stamped: to sort millions of times is not what is measured.
const stamped = 100_000

// publishRun sends one run. The time is that until the system has taken the last message.
func publishRun(p busPublisher, block int, run uint32, rate int64, d time.Duration) (sent uint64, took time.Duration, err error) {
	space := make([]byte, block*messageSize)
	messages := make([][]byte, block)
	for i := range messages {
		messages[i] = space[i*messageSize:][:messageSize]
		binary.LittleEndian.PutUint32(messages[i], run)
	}
	tick, total := coarse, uint64(1)<<62
	if rate > 0 {
		total = uint64(float64(rate) * d.Seconds())
		if pause := time.Second / time.Duration(rate); pause >= fine {
			tick = pause
		}
	}
	began := monotonic()
	next := began
	for sent < total {
		now := monotonic()
		due := uint64(block)
		if rate > 0 {
			due = min(total, 1+uint64(float64(rate)*float64(now-began)/1e9)) - sent
		} else if now-began >= int64(d) {
			break
		}
		for due > 0 {
			n := min(due, uint64(block))
			stamp := int64(0)
			if rate > 0 && rate <= stamped {
				stamp = monotonic()
			}
			for i, m := range messages[:n] {
				binary.LittleEndian.PutUint64(m[8:], sent+uint64(i))
				binary.LittleEndian.PutUint64(m[16:], uint64(stamp))
			}
			if err := p.publish(messages[:n]); err != nil {
				return sent, 0, err
			}
			sent, due = sent+n, due-n
		}
		if rate > 0 {
			next = max(next+int64(tick), now)
			sleepUntil(next)
		}
	}
	last := make([]byte, messageSize)
	binary.LittleEndian.PutUint32(last, run)
	binary.LittleEndian.PutUint32(last[4:], flagLast)
	binary.LittleEndian.PutUint64(last[8:], sent)
	if err := p.finish(last); err != nil {
		return sent, 0, err
	}
	took = time.Duration(monotonic() - began)
	if r, ok := p.(repeating); ok {
		err = r.repeat(last)
	}
	return sent, took, err
}

// tally is what one subscriber counts of a run. At its end it writes
//
//	got RUN MESSAGES OF MISPLACED NANOSECONDS P50 P99
//
// where misplaced ones came twice or out of order, and the time is from the first message to the end. The latencies are in
// nanoseconds, 0 of a run without stamps.
type tally struct {
	out       io.Writer
	run       uint32
	over      bool
	count     uint64
	misplaced uint64
	next      uint64
	began     int64
	latency   []int64
}

func (t *tally) add(m []byte) {
	if len(m) < messageSize {
		t.misplaced++
		return
	}
	run := binary.LittleEndian.Uint32(m)
	number := binary.LittleEndian.Uint64(m[8:])
	if run != t.run || t.over {
		if run <= t.run { // what is late of a run that is told
			return
		}
		*t = tally{out: t.out, run: run, began: monotonic(), latency: t.latency[:0]}
	}
	if binary.LittleEndian.Uint32(m[4:])&flagLast != 0 {
		t.over = true
		took := monotonic() - t.began
		p50, p99 := t.quantiles()
		fmt.Fprintln(t.out, "got", t.run, t.count, number, t.misplaced, took, p50, p99)
		return
	}
	if number < t.next {
		t.misplaced++
	} else {
		t.count++
		t.next = number + 1
	}
	if stamp := int64(binary.LittleEndian.Uint64(m[16:])); stamp != 0 {
		t.latency = append(t.latency, monotonic()-stamp)
	}
}

func (t *tally) quantiles() (p50, p99 int64) {
	if len(t.latency) == 0 {
		return 0, 0
	}
	slices.Sort(t.latency)
	return t.latency[len(t.latency)/2], t.latency[len(t.latency)*99/100]
}
