package test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/weft-net/weft/bus"
)

// busCommanded is a member that does what it reads: "publish SUBJECT MESSAGES RATE [again]" sends messages of 64 bytes to all that listen
// (rate in messages a second, 0: all it can; again: without parity packets) and prints what came of it;
// "stream SUBJECT RATE WINDOW" goes on doing so; "hears" prints how many hear its multicast, "heap" what memory it uses, "stats" its counters;
// the end of its input ends it. With expected > 0 it listens to "load.*", and prints the hash chain of a subject when
// it has had as many messages of it, and each loss.
func busCommanded(ctx context.Context, b *bus.Bus, expected int) error {
	if expected > 0 {
		s, err := b.Subscribe("load.*", bus.WithSlow(bus.SlowBlock))
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintln(os.Stdout, "subscribed")
		go busChains(ctx, s, expected)
	} else if _, err := b.Publisher("load.first"); err != nil { // among many only who publishes is sure to send beacons
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		f := strings.Fields(in.Text())
		switch f[0] {
		case "publish":
			if err := busBurst(ctx, b, f[1], number(f[2]), number(f[3]), len(f) > 4); err != nil {
				return err
			}
		case "stream":
			go func() {
				if err := busStream(ctx, b, f[1], number(f[2]), number(f[3])); err != nil {
					_, _ = fmt.Fprintln(os.Stdout, "stream:", err)
				}
			}()
		case "heap":
			busHeap()
		case "hears":
			n := 0
			for _, m := range b.Members() {
				if m.Hears {
					n++
				}
			}
			_, _ = fmt.Fprintln(os.Stdout, "heard by", n)
		case "stats":
			s := b.Stats()
			_, _ = fmt.Fprintln(os.Stdout, "stats", s.Nacks, s.RepairsForOthers, s.Dropped["forged"], s.Dropped["duplicate"], s.Dropped["too_far_ahead"], s.SocketDrops)
		default:
			return fmt.Errorf("unknown command %q", in.Text())
		}
	}
	return in.Err()
}

// busBurst sends messages on a subject and waits until all have them.
func busBurst(ctx context.Context, b *bus.Bus, subject string, messages, rate int, again bool) error {
	var options []bus.PublisherOption
	if again {
		options = append(options, bus.WithoutParity())
	}
	p, err := b.Publisher(subject, options...)
	if err != nil {
		return err
	}
	receivers := len(b.Members())
	if err := p.Ready(ctx, receivers); err != nil {
		return err
	}
	c := chain{Hash: sha256.New()}
	r := rand.New(rand.NewPCG(1, uint64(messages)))
	var buf [64]byte
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range messages {
		for j := 0; j < len(buf); j += 8 {
			binary.BigEndian.PutUint64(buf[j:], r.Uint64())
		}
		if rate > 0 && i%(rate/100) == 0 {
			<-tick.C
		}
		c.add(buf[:])
		if err := p.Send(ctx, buf[:]); err != nil {
			return err
		}
	}
	if err := p.Wait(ctx, bus.All); err != nil {
		return err
	}
	took := time.Since(start)
	st := p.Stats()
	_, _ = fmt.Fprintln(os.Stdout, "sent", subject, &c, took.Milliseconds(), st.Packets, st.Bytes, st.Repairs, st.RepairBytes, st.Nacks, st.Parity)
	return p.Close(ctx)
}

// busChains prints the chain of each subject when it is as long as expected.
func busChains(ctx context.Context, s *bus.Subscription, expected int) {
	chains := map[string]*chain{}
	for m, err := range s.Messages(ctx) {
		if err != nil {
			_, _ = fmt.Fprintln(os.Stdout, "lost:", err)
			if lost := new(bus.Lost); errors.As(err, &lost) {
				continue
			}
			return
		}
		c := chains[m.Subject]
		if c == nil {
			c = &chain{Hash: sha256.New()}
			chains[m.Subject] = c
		}
		if c.add(m.Payload); c.n == expected {
			_, _ = fmt.Fprintln(os.Stdout, "got", m.Subject, c)
		}
	}
}
